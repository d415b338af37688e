"""Objects of NVIDIA's programs, which embed the source code of their classes, as records.

The source is never run (`score_jax._pickles.Record`): of an object its class name, its arguments and its
state are taken.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from score_jax._check import brief, check, is_number
from score_jax._pickles import Record

OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
MOST_MODULES, DEEPEST = 10_000, 30
MOST_CHANNELS, MOST_LEVELS, MOST_BLOCKS, LARGEST = 1 << 14, 16, 64, 1 << 14


class Embedded(NamedTuple):
    """An object that embeds its source: the name of its class, and its state."""

    kind: str
    state: Mapping[Any, Any]


def embedded(value: Any, what: str) -> Embedded:
    """The object that a record stands for; ValueError, naming `what` it should be, if there is none."""
    if not isinstance(value, Record) or value.name != OBJECT or len(value.arguments) != 1:
        raise ValueError(f"{what} is not an object of NVIDIA's programs, but {brief(value)}")
    meta = value.arguments[0]
    kind, state = (meta.get(k) if isinstance(meta, dict) else None for k in ("class_name", "state"))
    if not isinstance(kind, str) or not isinstance(state, dict):
        raise ValueError(f"{what} has no class name or no state")
    return Embedded(kind, state)


def _state(value: Any) -> Any:
    """What a module's attributes are, of an object with or without its source."""
    if isinstance(value, Record) and value.name == OBJECT:
        return embedded(value, "a module").state
    return value.state if isinstance(value, Record) else None


def tensors_of(module: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """All parameters and buffers of a module by their names, as its state dict would have them."""
    found: dict[str, np.ndarray] = {}
    waiting: list[tuple[str, int, Any]] = [("", 0, module)]
    for _ in range(MOST_MODULES):
        if not waiting:
            return found
        prefix, depth, state = waiting.pop()
        if not isinstance(state, Mapping) or depth > DEEPEST:
            raise ValueError(f"{prefix[:80] or 'the network'} is not a module")
        for kind in ("_parameters", "_buffers"):
            for name, value in (state.get(kind) or {}).items():
                if isinstance(value, np.ndarray):
                    found[f"{prefix}{name}"] = value
        for name, value in (state.get("_modules") or {}).items():
            waiting.append((f"{prefix}{name}.", depth + 1, _state(value)))
    raise ValueError(f"the network has more than {MOST_MODULES:,} modules")


class Fields(NamedTuple):
    """The arguments of a network's class, checked, and the size and channels of an image."""

    given: dict[str, Any]
    size: int
    channels: int

    @property
    def attended(self) -> tuple[int, ...]:
        """The levels with attention."""
        levels = range(len(self.given["channel_mult"]))
        return tuple(n for n in levels if self.size >> n in self.given["attn_resolutions"])


def are_counts(value: Any, most: int, length: int) -> bool:
    """Whether a value is a list of at most `length` whole numbers from 1 to `most`."""
    ok = isinstance(value, list | tuple) and len(value) <= length
    return ok and all(type(n) is int and 1 <= n <= most for n in value)


def fields_of(model: Embedded, defaults: Mapping[str, Any], channels: tuple[str, ...]) -> Fields:
    """The arguments with which the network was made; ValueError, naming one, if it is not usable.

    `channels` are the names of the numbers of channels of x, and of the output if it has another.
    """
    given = model.state.get("_init_kwargs")
    if not isinstance(given, dict):
        raise ValueError(f"the {model.kind} has no _init_kwargs, the arguments of its class")
    known = {*defaults, "img_resolution", *channels}
    for name, value in given.items():
        check(f"an argument of {model.kind}", brief(name), name in known, f"one of {sorted(known)}")
        if isinstance(value, str) and len(value) > 40:
            raise ValueError(f"{name} of {model.kind} is {brief(value)}")
    values = {**defaults, **given}
    rules = {
        "model_channels": (MOST_CHANNELS, 1), "num_blocks": (MOST_BLOCKS, 1),
        "img_resolution": (LARGEST, 1), channels[0]: (MOST_CHANNELS, 1), "label_dim": (1 << 20, 0),
    }  # fmt: skip
    for name, (most, least) in rules.items():
        value = values.get(name)
        ok = type(value) is int and least <= value <= most
        check(f"{name} of {model.kind}", brief(value), ok, f"from {least} to {most}")
    for name, most, length in (
        ("channel_mult", MOST_CHANNELS, MOST_LEVELS), ("attn_resolutions", LARGEST, MOST_LEVELS),
    ):  # fmt: skip
        ok = are_counts(values[name], most, length)
        check(f"{name} of {model.kind}", brief(values[name]), ok, f"at most {length} whole numbers")
    ok = is_number(values["dropout"]) and 0 <= values["dropout"] < 1
    check(f"dropout of {model.kind}", brief(values["dropout"]), ok, "in [0, 1)")
    check(
        "channel_mult", brief(values["channel_mult"]), len(values["channel_mult"]) > 0, "not empty"
    )
    return Fields(values, values["img_resolution"], values[channels[0]])


def chosen(fields: Fields, name: str, known: Mapping[str, Any]) -> Any:
    """What an argument that is one of some words stands for; ValueError for another."""
    value = fields.given[name]
    ok = isinstance(value, str) and value in known
    check(name, brief(value), ok, f"one of {list(known)}")
    return known[value]


def number_of(outer: Embedded, name: str, default: float) -> float:
    """An attribute of an object that is a number; ValueError for another."""
    value = outer.state.get(name, default)
    check(f"{name} of {outer.kind}", brief(value), is_number(value), "a number")
    return float(value)
