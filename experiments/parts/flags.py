"""Flags for the objects in a config: generated from the fields of a network, an SDE or a noise input.

The kind of an object (`--net.kind UNet`) decides the other flags (`--net.channels 64`).
Fields that two kinds share keep their value when the kind changes.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro

from .. import config as sections
from ..late import late, real
from . import describe

with late():
    from score_jax.convert import records

    from .. import run_config
    from ..run_config import Config

SUFFIXES = (".json", ".yaml", ".yml")  # of the files that --config may name
Tree = dict[str, Any]  # a config as a JSON value


@functools.cache
def description() -> Tree:
    """The description of the flags, read once."""
    return describe.description()


def objects() -> dict[str, Any]:
    """The classes that the objects of a config may have, by the name of the object and the kind."""
    found: dict[str, Any] = description()["objects"]
    return found


def presets() -> tuple[str, ...]:
    """The names of the presets."""
    return tuple(description()["presets"])


def preset(name: str) -> Tree:
    """The preset of this name as a JSON value; ValueError with the nearest one if there is none."""
    known = description()
    name = known["aliases"].get(name, name)
    if name not in known["presets"]:
        near = difflib.get_close_matches(name, known["presets"], n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown config {name!r}{hint}; the command presets lists all")
    return describe.merged(known["default"], known["presets"][name])


def tree(name: str) -> Tree:
    """The config of --config as a JSON value: a preset, or a file of a config.

    Raises ValueError for an unknown preset and for a file that does not hold a config.
    """
    path = pathlib.Path(name)
    if path.suffix not in SUFFIXES:
        return preset(name)
    found: Tree = run_config.to_record(run_config.read_file(path))
    return found


def first_flags(default: str) -> Any:
    """The dataclass of the flags that decide the others: --config, --net.kind and so on."""
    made: list[Any] = [("config", str, default)]
    for name, kinds in objects().items():
        cls = dataclasses.make_dataclass(name, [("kind", Literal[tuple(kinds)] | None, None)])
        made.append((name, cls, dataclasses.field(default_factory=cls)))
    return dataclasses.make_dataclass("First", made)


def config_flags(tree: Tree, kinds: Mapping[str, str | None]) -> Any:
    """A dataclass with a field for every flag of a config, whose values are the defaults.

    kinds: by name of the object, the kind that was chosen, or None to keep that of the config.
    """
    made: list[Any] = []
    for name, entry in description()["config"].items():
        value, help, shown = tuples(tree[name]), entry["help"], None
        if "object" in entry:
            hint, value = _flags(name, kinds[name] or value["kind"], value)
        elif "section" in entry:
            hint = getattr(sections, entry["section"])
            value, help = hint(**value), hint.__doc__
        else:
            hint, shown = describe.decode(entry["hint"]), describe.names(entry["hint"])
        made.append((name, Annotated[hint, tyro.conf.arg(help=help, metavar=shown)], value))
    cls = dataclasses.make_dataclass("Config", [part[:2] for part in made], frozen=True)
    return cls(*(part[2] for part in made))


def tree_of(flags: Any) -> Tree:
    """The config that flags describe, as a JSON value."""
    tree = {f.name: getattr(flags, f.name) for f in dataclasses.fields(flags)}
    return {k: _plain(v) for k, v in tree.items()}


def config_of(flags: Any) -> Config:
    """The config that flags describe; ValueError for values that the objects do not allow."""
    values = {}
    for field in dataclasses.fields(real(Config)):
        value = getattr(flags, field.name)
        if description()["config"][field.name].get("section") is None:
            value = records.from_record(field.type, _plain(value), field.name)
        values[field.name] = value
    return Config(**values)


def _plain(value: Any) -> Any:
    """The fields of a record as a JSON value; any other value as it is."""
    record = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if record else value


def tuples(value: Any) -> Any:
    """A JSON value with tuples for its lists."""
    if isinstance(value, dict):
        return {k: tuples(v) for k, v in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def _flags(name: str, kind: str, old: Tree) -> tuple[Any, Any]:
    """A dataclass of flags for an object of a kind, and its defaults, which `old` has or the class."""
    known = objects()[name]
    flag = f"--{name.replace('_', '-')}.kind"
    help = f"Its kind, which decides the other flags (`{flag} KIND --help` lists those of KIND)."
    made: list[Any] = [("kind", Annotated[Literal[tuple(known)], tyro.conf.arg(help=help)])]
    values: list[Any] = [kind]
    for field, entry in known[kind]["fields"].items():
        hint = describe.decode(entry["hint"])
        made.append((field, Annotated[hint, tyro.conf.arg(help=_sentence(field, entry["help"]))]))
        values.append(old[field] if field in old else tuples(entry.get("default", tyro.MISSING)))
    cls = dataclasses.make_dataclass(kind, made, frozen=True)
    cls.__doc__ = known[kind]["purpose"]
    return cls, cls(*values)


def _sentence(field: str, text: str) -> str:
    """The comment of a field as a sentence: "of the hidden layers" is said of its name."""
    text = f"{field.replace('_', ' ')} {text}" if text.startswith("of ") else text
    return text[:1].upper() + text[1:].removesuffix(".") + "."
