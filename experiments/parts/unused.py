"""Which options a choice leaves unused: the one place that says what a sampler, data or a loss uses.

Each function takes a section of a config and returns {field: the choice that does not use it}.
Commands refuse such an option where it is given, and mention it where a config has it
(`cli.check_unused`).
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any

from ..config import DataConfig, LossConfig, OptimConfig, SampleConfig, TrainConfig
from .readers import KINDS
from .samplers import CORRECTED, SAMPLERS


def of_choice(owner: str, choice: str, uses: Mapping[str, Any]) -> dict[str, str]:
    """The fields that other choices use and this one does not, by a table of what each uses."""
    some = {name for names in uses.values() for name in names}
    return dict.fromkeys(sorted(some - set(uses[choice])), f"{owner} {choice!r}")


def of_sample(c: SampleConfig) -> dict[str, str]:
    """Unused by the sampler, or by its corrector."""
    found = of_choice("sampler", c.sampler, {name: k.uses() for name, k in SAMPLERS.items()})
    if c.corrector == "none" and "corrector" not in found:
        found |= dict.fromkeys(CORRECTED, f"corrector {c.corrector!r}")
    return found


def of_data(c: DataConfig) -> dict[str, str]:
    """Unused by the kind of data."""
    return of_choice("data.name", c.name, {name: kind.uses for name, kind in KINDS.items()})


def _nothing(field: str) -> dict[str, tuple[str, ...]]:
    """No option for any choice of this field of a loss."""
    none: tuple[str, ...] = ()
    return dict.fromkeys(typing.get_args(typing.get_type_hints(LossConfig)[field]), none)


def of_loss(c: LossConfig) -> dict[str, str]:
    """Unused by the objective, or by learned indices."""
    uses: dict[str, tuple[str, ...]] = {"simple": (), "variational": ()}
    uses |= {"dsm": ("weighting", "reduction"), "hybrid": ("weight",)}
    uses |= {"consistency": ("reduction", "intervals", "teacher", "teacher_preset")}
    found = of_choice("loss.objective", c.objective, uses)
    weighting = _nothing("weighting")
    weighting |= {"min_snr": ("gamma",), "p2": ("gamma",), "sigmoid": ("bias",)}
    found |= of_choice("loss.weighting", c.weighting, weighting)
    times = _nothing("times")
    times |= {"log_normal": ("log_sigma_mean", "log_sigma_std")}
    times |= {"logit_normal": ("logit_mean", "logit_std")}
    found |= of_choice("loss.times", c.times, times)
    return found | ({"times": f"loss.indices {c.indices!r}"} if c.indices != "uniform" else {})


def of_optim(c: OptimConfig) -> dict[str, str]:
    """Unused by the rule, or by the schedule of the rate."""
    found = of_choice("optim.rule", c.rule, {"adam": ("eps",), "adamw": ("eps",), "lion": ()})
    falling = ("cosine", "linear", "exponential", "polynomial", "one_cycle")
    uses: dict[str, tuple[str, ...]] = dict.fromkeys(falling, ("final_lr",))
    uses |= {"constant": (), "inverse_sqrt": ("decay_after",)}
    return found | of_choice("optim.schedule", c.schedule, uses)


def of_train(c: TrainConfig, optim: OptimConfig) -> dict[str, str]:
    """Unused without further averages."""
    none = not (optim.averages or optim.power_averages)
    return (
        {"snapshot_every": "a run without optim.averages and optim.power-averages"} if none else {}
    )


SECTIONS: dict[str, Callable[[Any], dict[str, str]]] = {
    "data": of_data,
    "loss": of_loss,
    "optim": of_optim,
    "sample": of_sample,
}


def of_config(config: Any) -> dict[str, str]:
    """All unused fields of a config by their dotted names; `config` has the sections as attributes."""
    found = {k: of(getattr(config, k)) for k, of in SECTIONS.items()}
    found["train"] = of_train(config.train, config.optim)
    return {f"{k}.{name}": why for k, names in found.items() for name, why in names.items()}


def changed(config: Any, names: Mapping[str, str]) -> dict[str, str]:
    """Those of the unused fields whose value is not the default: somebody has meant them."""

    def differs(dotted: str) -> bool:
        section, _, name = dotted.rpartition(".")
        record = getattr(config, section) if section else config
        return bool(getattr(record, name) != getattr(type(record)(**_needed(record)), name))

    return {name: why for name, why in names.items() if differs(name)}


def _needed(record: Any) -> dict[str, Any]:
    """What the defaults of a section cannot be made without."""
    return {"name": "digits"} if isinstance(record, DataConfig) else {}
