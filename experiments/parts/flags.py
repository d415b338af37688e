"""Flags for the objects in a config: generated from the fields of a network, an SDE or a noise input.

The kind of an object (`--net.kind UNet`) decides the other flags (`--net.channels 64`).
Fields that two kinds share keep their value when the kind changes.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from score_jax.convert import records
from score_jax.parametrization import Parametrization

from ..config import DERIVED, Config

Precision = Literal["float32", "bfloat16"] | None
FIELDS = {f.name: f for f in dataclasses.fields(Config)}
OBJECTS = tuple(name for name, f in FIELDS.items() if f.type in records.KINDS)


def _hints(cls: type) -> dict[str, Any]:
    """The types of the flags of a class, None for what has no flag."""
    fields = {k: f.type for k, f in records.fields_of(cls).items() if k not in DERIVED}
    return {k: {"dtype": Precision}.get(k) if v is Any else v for k, v in fields.items()}


# The flags of each class that an object may have, and the kinds that flags can describe.
HINTS = {cls: _hints(cls) for known in records.KINDS.values() for cls in known.values()}
CHOICES = {
    name: tuple(k for k, cls in records.KINDS[f.type].items() if None not in HINTS[cls].values())
    for name, f in FIELDS.items()
    if name in OBJECTS
}


def first_flags(default: str) -> Any:
    """The dataclass of the flags that decide the others: --config, --net.kind and so on."""
    made: list[Any] = [("config", str, default)]
    for name in OBJECTS:
        cls = dataclasses.make_dataclass(name, [("kind", Literal[CHOICES[name]] | None, None)])
        made.append((name, cls, dataclasses.field(default_factory=cls)))
    return dataclasses.make_dataclass("First", made)


def config_flags(config: Config, kinds: Mapping[str, str | None]) -> Any:
    """A dataclass with a field for every flag of a config, whose values are the defaults.

    kinds: by name of the object, the kind that was chosen, or None to keep that of the config.
    """
    made: list[Any] = []
    for name, help in _help(Config, FIELDS).items():
        hint, value, shown = FIELDS[name].type, getattr(config, name), None
        if name in OBJECTS:
            cls = records.KINDS[hint][kinds[name] or type(value).__name__]
            hint, value = _flags(cls, CHOICES[name], value)
        else:
            for kind, known in records.NAMED.items():
                if hint in (kind, kind | None):
                    some: Any = Literal[tuple(known)]
                    hint, value = some if hint is kind else some | None, records.to_record(value)
            if FIELDS[name].type is Parametrization:
                hint, shown = str, f"{{{','.join(records.NAMED[Parametrization])},edm(SIGMA_DATA)}}"
        made.append((name, Annotated[hint, tyro.conf.arg(help=help, metavar=shown)], value))
    cls = dataclasses.make_dataclass("Config", [part[:2] for part in made], frozen=True)
    return cls(*(part[2] for part in made))


def config_of(flags: Any) -> Config:
    """The config that flags describe; ValueError for values that the objects do not allow."""
    objects = (*OBJECTS, "parametrization", "variance")
    values = {name: getattr(flags, name) for name in FIELDS}
    for name in objects:
        tree = dataclasses.asdict(values[name]) if name in OBJECTS else values[name]
        values[name] = records.from_record(FIELDS[name].type, tree, name)
    return Config(**values)


def _flags(cls: Any, kinds: Sequence[str], old: Any) -> tuple[Any, Any]:
    """A dataclass of flags for the fields of `cls`, and its defaults, which `old` has or the class."""
    helps, given = _help(cls, HINTS[cls]), records.to_record(old)
    made: list[Any] = [("kind", Literal[tuple(kinds)])]
    values: list[Any] = [cls.__name__]
    for name, hint in HINTS[cls].items():
        made.append((name, Annotated[hint, tyro.conf.arg(help=helps[name])]))
        value = given.get(name, cls.__dataclass_fields__[name].default)
        value = tyro.MISSING if value is dataclasses.MISSING else value
        values.append(tuple(value) if isinstance(value, list) else value)
    new = dataclasses.make_dataclass(cls.__name__, made, frozen=True)
    new.__doc__ = (cls.__doc__ or "").split("\n\n")[0]
    return new, new(*values)


def _help(cls: type, names: Iterable[str]) -> dict[str, str]:
    """The help texts of fields of a class, in its source.

    In comments above or beside a field, or in a line `field: text` of the class's docstring.
    """
    found = dict.fromkeys(records.fields_of(cls), "")
    for base in reversed(cls.__mro__):
        if not found.keys() & vars(base).get("__annotations__", {}).keys():
            continue
        above: list[str] = []
        for line in inspect.getsource(base).splitlines():
            comment = re.fullmatch(r"    # (.*)", line)
            field = re.match(r"    (\w+): (?:.*  # (.*))?", line)
            listed = re.match(r"      ((?:\w+, )*\w+): (.*)", line)
            if field and field[1] in found:
                text = " ".join([*above, field[2] or ""]).strip()
                found[field[1]] = text or found[field[1]]
            elif listed:
                found |= {name: listed[2] for name in listed[1].split(", ") if name in found}
            above = [*above, comment[1]] if comment else []
    return found
