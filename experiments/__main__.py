"""All commands as one program: `python -m experiments train ...`, installed as `score-jax train ...`."""

import difflib
import importlib
import pathlib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import score_jax

from . import cli

_FOLDER = pathlib.Path(__file__).parent


class Command(NamedTuple):
    """A command: its module, and what it does in a few words."""

    module: str
    purpose: str


def commands() -> dict[str, Command]:
    """The commands by name: every module or package here that runs as a program."""
    found = {}
    for path in [*_FOLDER.glob("*.py"), *_FOLDER.glob("*/__main__.py")]:
        text = path.read_text(encoding="utf-8")
        if "cli.main(main)" in text and path.parent / path.stem != _FOLDER / "__main__":
            inner = path.relative_to(_FOLDER).with_suffix("").parts
            found[inner[0]] = Command(".".join(inner), _purpose(text))
    return dict(sorted(found.items()))


def _purpose(text: str) -> str:
    """The first sentence of a module's docstring, without the command line after a colon."""
    first = text.removeprefix('"""').split("\n")[0].removesuffix('"""')
    return re.split(r": `|\.$", first)[0]


def _usage(known: dict[str, Command]) -> str:
    width = max(map(len, known))
    hang: dict[str, Any] = {"width": 79, "subsequent_indent": " " * (width + 4)}
    rows = (f"  {name.ljust(width)}  {command.purpose}" for name, command in known.items())
    lines = [textwrap.fill(row, **hang) for row in rows]
    return "\n".join(
        [
            f"usage: {cli.program()} COMMAND [OPTIONS]",
            "",
            "Train score-based generative models, sample from them and evaluate them.",
            "",
            *lines,
            "",
            f"The options of a command: {cli.program('COMMAND')} --help",
            f"Completion by the tab key:  {cli.program('completion')} --help",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `score-jax` and of `python -m experiments`."""
    given, known = list(sys.argv[1:] if argv is None else argv), commands()
    if not given or given[0] in ("-h", "--help"):
        print(_usage(known))
    elif given[0] in ("-V", "--version"):
        print(f"score_jax {score_jax.__version__}")
    else:
        name, *rest = given
        cli.main(lambda: _module(name, known).main(rest))


def _module(name: str, known: dict[str, Command]) -> Any:
    """The module of a command; ValueError listing all for an unknown one."""
    stem = name.replace("-", "_")
    if stem not in known:
        near = difflib.get_close_matches(stem, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown command {name!r}{hint}; known: {', '.join(known)}")
    return importlib.import_module(f".{known[stem].module}", __package__)


if __name__ == "__main__":
    main()
