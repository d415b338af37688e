"""What the flags of a config are made of, as JSON: the fields of networks and processes, the presets.

`train --help` needs them and should not import JAX. They are therefore kept in described.json, which is
valid as long as the declarations in the source have not changed; otherwise they are gathered
anew. After a change of a field or a preset: `python -m experiments.parts.describe`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import inspect
import json
import pathlib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import score_jax
from score_jax._files import write_text

from .. import config as sections
from ..late import late

with late():
    from score_jax.convert import published, records

    from .. import presets, run_config

FILE = pathlib.Path(__file__).with_name("described.json")
Precision = Literal["float32", "bfloat16"] | None
_PLAIN: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


def description() -> dict[str, Any]:
    """The description: of described.json if it is valid, otherwise gathered now."""
    try:
        kept: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
        if kept["digest"] == digest():
            return kept
    except (OSError, ValueError, KeyError):
        pass
    return gather()


def digest() -> str:
    """A checksum of the declarations: fields and their comments, and the presets as a whole."""
    library, commands = pathlib.Path(score_jax.__file__).parent, FILE.parent.parent
    # A class and its bases, a field, a comment, or the line of a docstring on a field.
    declared = [*library.glob("nets/*.py"), *library.glob("sde/*.py")]
    declared += [library / "parametrization.py", commands / "run_config.py"]
    lines = _lines(sorted(declared), r"class |    \w+: |    # |      (\w+, )*\w+: ")
    # The comments of sections are read when they are needed, and only their defaults are kept here.
    files = [commands / name for name in ("config.py", "data_config.py", "parts/reading.py")]
    lines += _lines(files, r"class |    \w+: ")
    whole = [*sorted(commands.glob("presets/*.py")), library / "convert" / "published.py"]
    return hashlib.sha256("\n".join(lines + _lines(whole, "")).encode()).hexdigest()


def _lines(paths: Iterable[pathlib.Path], pattern: str) -> list[str]:
    """The lines of files that begin with a pattern."""
    lines = (line for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if re.match(pattern, line)]


def gather() -> dict[str, Any]:
    """Gather the description from the classes and presets themselves."""
    fields = {f.name: f for f in dataclasses.fields(run_config.Config)}
    helps = comments(run_config.Config, fields)
    config: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    for name, field in fields.items():
        entry: dict[str, Any] = {"help": helps[name]}
        if field.type in records.KINDS:
            objects[name] = _objects(records.KINDS[field.type])
            entry["object"] = True
        elif hasattr(sections, getattr(field.type, "__name__", "")):
            entry["section"] = getattr(field.type, "__name__", "")
        else:
            entry["hint"] = _named(field.type) or encode(field.type)
        config[name] = entry
    default = run_config.to_record(run_config.Config())
    configs: Any = presets.CONFIGS
    known = {k: _changes(default, run_config.to_record(c)) for k, c in configs.items()}
    return {
        "digest": digest(),
        "config": config,
        "objects": objects,
        "default": default,
        "presets": known,
        "aliases": {k: v for k, v in published.ALIASES.items() if v in known},
    }


def _named(hint: Any) -> Any:
    """The form of a field that holds one of several named objects, or None."""
    for kind, known in records.NAMED.items():
        if hint in (kind, kind | None):
            # A parametrization may have a number: "edm(0.7)".
            numbered = [f"{name}(NUMBER)" for name in known if name in records.NUMBERED]
            if numbered:
                return {"named": [*known, *numbered]}
            some = {"one of": list(known)}
            return some if hint is kind else {"or none": some}
    return None


def _objects(known: dict[str, type]) -> dict[str, Any]:
    """The classes that flags can describe: of each its purpose and its fields."""
    found = {}
    for kind, cls in known.items():
        hidden = run_config.DERIVED
        fields = {k: f for k, f in records.fields_of(cls).items() if k not in hidden}
        hints = {k: Precision if k == "dtype" else f.type for k, f in fields.items()}
        forms = {k: encode(hint) for k, hint in hints.items()}
        if None in forms.values():
            continue
        texts, rows = comments(cls, fields), {}
        for name, field in fields.items():
            rows[name] = {"hint": forms[name], "help": texts[name]}
            if field.default is not dataclasses.MISSING:
                rows[name]["default"] = records.to_record(field.default)
        purpose = (cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        found[kind] = {"purpose": purpose, "fields": rows}
    return found


def encode(hint: Any) -> Any:
    """A type as JSON, None if no flag can have it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN.values():
        return hint.__name__
    if origin is Literal:
        return {"one of": list(args)}
    if origin in (types.UnionType, typing.Union) and args[1:] == (type(None),):
        return {"or none": encode(args[0])}
    if origin is tuple:
        many = args[1:] == (...,)
        return {"many": encode(args[0])} if many else {"tuple": [encode(a) for a in args]}
    return None


def decode(form: Any) -> Any:
    """The type that `encode` wrote."""
    if isinstance(form, str):
        return _PLAIN[form]
    ((kind, value),) = form.items()
    makers: dict[str, Any] = {
        "one of": lambda: Literal[tuple(value)],
        "or none": lambda: decode(value) | None,
        "named": lambda: str,
        "many": lambda: tuple[decode(value), ...],  # type: ignore[misc]
        "tuple": lambda: tuple[tuple(map(decode, value))],  # type: ignore[misc]
    }
    return makers[kind]()


def names(form: Any) -> str | None:
    """The names of a form that has open names, for the help."""
    return f"{{{','.join(form['named'])}}}" if isinstance(form, dict) and "named" in form else None


def _changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config that differ from the default's; an object of another kind as a whole."""
    found = {}
    for name, value in new.items():
        before = old[name]
        if isinstance(value, dict) and isinstance(before, dict):
            if value.get("kind") == before.get("kind"):
                value = {k: v for k, v in value.items() if v != before[k]}
            if value:
                found[name] = value
        elif value != before:
            found[name] = value
    return found


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """All fields of a config by their dotted names: {"optim.lr": 1e-3, ...}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        inner = value.items() if isinstance(value, dict) else ()
        found |= {f"{name}.{k}": v for k, v in inner} or {name: value}
    return found


def merged(old: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A config with changes: the reverse of the above."""
    found = dict(old)
    for name, value in changes.items():
        kept = isinstance(value, dict) and isinstance(old.get(name), dict) and "kind" not in value
        found[name] = {**old[name], **value} if kept else value
    return found


def comments(cls: type, names: Iterable[str]) -> dict[str, str]:
    """The help texts of fields of a class, in its source.

    In comments above or beside a field, or in a line `field: text` of the class's docstring.
    """
    found = dict.fromkeys(names, "")
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


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.parts.describe`."""
    argparse.ArgumentParser(description="Write described.json anew.").parse_args(argv)
    write_text(FILE, json.dumps(gather(), indent=1) + "\n")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
