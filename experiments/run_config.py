"""The configuration of a run: its sections, and the library's own objects; as JSON and back.

`net`, `sde` and `noise_input` are a module, an SDE and a noise input of score_jax, written by kind and
fields of their own. Fields of a network that follow from the data or the process (`DERIVED`) are left
out here and filled in by `experiments.runs.build`.
"""

import dataclasses
import json
import pathlib
from dataclasses import field
from typing import Any

import flax.linen as nn

from score_jax.convert import records
from score_jax.nets import NCSNpp
from score_jax.parametrization import (
    NOISE,
    IndexInput,
    NoiseInput,
    Parametrization,
    TimeInput,
    Variance,
)
from score_jax.sde import VP, NoiseSchedule
from score_jax.types import SDE, ends_in_noise

from .config import DataConfig, LossConfig, MeshConfig, OptimConfig, SampleConfig, TrainConfig
from .parts import describe, upgrade

# Fields of networks that `runs.build` fills in.
DERIVED = (
    "num_classes", "out_channels", "dims", "centered", "sigmas", "num_levels", "super_resolution",
    "cond_size", "augment_size",
)  # fmt: skip
SCHEDULE_OBJECTIVES = ("simple", "hybrid", "variational")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run needs: saved in its folder as config.json."""

    data: DataConfig = field(default_factory=DataConfig)
    # The network.
    net: nn.Module = field(
        default_factory=lambda: NCSNpp(
            channels=32, channel_mult=(1, 2), num_blocks=1, attention=(4,), dropout=0.0
        )
    )
    # The forward process.
    sde: SDE = field(default_factory=VP)
    # What the network is given of the time.
    noise_input: NoiseInput = field(default_factory=TimeInput)
    # What the network returns.
    parametrization: Parametrization = NOISE
    # Variance of the reverse steps of a noise schedule: the posterior's (small), beta (large), or
    # learned by twice the channels.
    variance: Variance | None = None
    # Condition the network on the data's class labels.
    class_conditional: bool = False
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    # Seed of the parameters, the noise and the order of the data.
    seed: int = 0
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        schedule, loss = isinstance(self.sde, NoiseSchedule), self.loss
        kind = type(self.sde).__name__
        for name, value, needs in (
            ("loss.objective", loss.objective, loss.objective in SCHEDULE_OBJECTIVES),
            ("loss.indices", loss.indices, loss.indices != "uniform"),
            ("noise_input", self.noise_input, isinstance(self.noise_input, IndexInput)),
        ):
            if needs and not schedule:
                raise ValueError(f"{name}={value!r} needs a noise schedule, got sde.kind={kind!r}")
        if schedule and (loss.times == "logit_normal" or loss.shift != 1):
            raise ValueError(
                f"loss.times='logit_normal' and loss.shift need a process without timesteps, got "
                f"sde.kind={kind!r}"
            )
        rates = loss.weighting == "likelihood" or loss.times == "importance"
        if rates and ends_in_noise(self.sde):
            raise ValueError(
                f"loss.weighting={loss.weighting!r} needs sde.t1 < 1 on sde.kind={kind!r}, whose "
                "diffusion is infinite at pure noise: use 0.999"
            )
        if loss.objective == "hybrid" and not self.learns_variance:
            given = self.variance and self.variance.name
            raise ValueError(f"loss.objective='hybrid' needs a learned variance, got {given!r}")
        boundary = self.parametrization.t0
        if (loss.objective == "consistency") != (boundary is not None):
            raise ValueError(
                "loss.objective 'consistency' and parametrization 'consistency' belong together, got "
                f"{loss.objective!r} and {self.parametrization.name!r}"
            )
        if boundary is not None and loss.t0 < boundary:
            raise ValueError(
                f"loss.t0 must be at least {boundary}, the first time of parametrization "
                f"{self.parametrization.name!r}, got {loss.t0}"
            )
        if self.sample.t0 < loss.t0:
            # Checked before training rather than at its first picture.
            raise ValueError(
                f"sample.t0 must be at least loss.t0={loss.t0}, where training ends, "
                f"got {self.sample.t0}"
            )
        if loss.label_dropout and not self.class_conditional:
            raise ValueError(
                f"loss.label_dropout={loss.label_dropout} needs class_conditional: otherwise there "
                "are no labels to hide"
            )

    @property
    def learns_variance(self) -> bool:
        """Whether the network returns the variance of a step too."""
        return self.variance is not None and self.variance.learned


# Fields that may differ when a run resumes: they change how long it is and what is written, not what
# is computed at a step, or only its rounding (a learning-rate schedule and the intervals of consistency
# training, which depend on the last step, are the exception, checked in `differences`).
RESUMABLE = (
    "train.steps", "train.log_every", "train.sample_every", "train.checkpoint_every", "train.keep",
    "train.checkpoint_metric", "train.microbatches", "train.remat", "train.matmul_precision",
    "train.nonfinite_limit", "train.save_error", "train.snapshot_every", "train.ahead",
    "train.fid_every", "train.fid_num", "train.inception", "train.features",
    "mesh.mapping", "mesh.shard", "mesh.space", "net.remat",
    "data.path", "data.test_path", "data.workers", "data.processes",
    "data.resume", "data.verify", *(f"sample.{f.name}" for f in dataclasses.fields(SampleConfig)),
)  # fmt: skip


def to_record(config: Config) -> dict[str, Any]:
    """A config as a JSON value."""
    tree: dict[str, Any] = records.to_record(config, omit=DERIVED)
    return tree


def to_json(config: Config) -> str:
    """A config as indented JSON."""
    return records.to_json(config, omit=DERIVED)


def from_json(text: str) -> Config:
    """Read a config written by `to_json`; ValueError for unknown fields or wrong types."""
    config: Config = records.read_json(Config, text)
    return config


def read_file(path: pathlib.Path) -> Config:
    """Read the config in a JSON or YAML file; fields that are left out are those of digits_vp.

    Raises ValueError naming the file and what is wrong in it.
    """
    if not path.is_file():
        raise ValueError(f"--config {str(path)!r} is not a file")
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        import yaml  # which flax requires

        try:
            text = json.dumps(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: the config is not YAML: {error}") from None
    try:
        return from_json(upgrade.upgraded(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def flatten(config: Config) -> dict[str, Any]:
    """All fields by their dotted names: {"optim.lr": 1e-3, ...}."""
    return describe.flat(to_record(config))


def differences(old: Config, new: Config) -> list[str]:
    """Changes with which a run of `old` cannot resume as `new`: lines "optim.lr: 0.001 -> 0.0001"."""
    lasting = new.optim.schedule == "constant" and new.loss.objective != "consistency"
    free = set(RESUMABLE) - (set() if lasting else {"train.steps"})
    a, b = flatten(old), flatten(new)
    names = [*b, *(name for name in a if name not in b)]
    show = lambda flat, name: repr(flat[name]) if name in flat else "absent"
    return [
        f"{name}: {show(a, name)} -> {show(b, name)}"
        for name in names
        if name not in free and (name not in a or name not in b or a[name] != b[name])
    ]
