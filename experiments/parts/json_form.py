"""Configs as JSON, flat tables and differences; nothing here knows a field by name."""

import dataclasses
import json
import types
import typing
from typing import Any, Literal


def to_json(config: Any) -> str:
    """Write a config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def read(cls: Any, text: str) -> Any:
    """Read the JSON of a config; ValueError for unknown fields or wrong types."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the config is not JSON: {error}") from None
    return _build(cls, tree, "config")


def kinds(hint: Any) -> dict[str, Any]:
    """The records of a union of records, by their field `kind`; empty for anything else."""
    found: dict[str, Any] = {}
    for cls in typing.get_args(hint) or (hint,):
        if dataclasses.is_dataclass(cls) and "kind" in (f.name for f in dataclasses.fields(cls)):
            names = typing.get_args(typing.get_type_hints(cls)["kind"])
            found |= dict.fromkeys(names, cls)
    return found


def _build(cls: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must be an object, got {tree!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(tree) - set(hints))
    if unknown:
        raise ValueError(f"{where} has unknown fields {unknown}; known: {sorted(hints)}")
    return cls(**{name: _value(hints[name], v, f"{where}.{name}") for name, v in tree.items()})


def _record(hint: Any, value: Any, where: str) -> Any:
    """One of several records, told apart by `kind`; without one the first."""
    known = kinds(hint)
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {value!r}")
    kind = value.get("kind", next(iter(known)))
    if kind not in known:
        raise ValueError(f"{where}.kind must be one of {tuple(known)}, got {kind!r}")
    return _build(known[kind], value, where)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and all(dataclasses.is_dataclass(a) for a in args):
        return _record(hint, value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {args}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        each = args[:1] * len(value) if args[1:] == (...,) else args
        if len(each) == len(value):
            return tuple(_value(k, v, where) for k, v in zip(each, value, strict=True))
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return _value(args[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def flatten(config: Any) -> dict[str, Any]:
    """All fields by their dotted names: {"optim.lr": 1e-3, ...}."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{field}": v for field, v in value.items()}
        else:
            flat[name] = value
    return flat


def changes(old: Any, new: Any, free: set[str]) -> list[str]:
    """Lines "optim.lr: 0.001 -> 0.0001" of the fields that differ, but for those in `free`."""
    a, b = flatten(old), flatten(new)
    names = [*b, *(name for name in a if name not in b)]
    show = lambda flat, name: repr(flat[name]) if name in flat else "absent"
    return [
        f"{name}: {show(a, name)} -> {show(b, name)}"
        for name in names
        if name not in free and (name not in a or name not in b or a[name] != b[name])
    ]
