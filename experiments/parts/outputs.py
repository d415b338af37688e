"""The files that a command writes: never over others unasked, and what was done before an interrupt."""

import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def files(out: pathlib.Path, endings: Sequence[str], *, overwrite: bool) -> list[pathlib.Path]:
    """OUT with each of the endings; ValueError naming --out if one is there and not to be replaced."""
    found = [out.with_name(out.name + ending) for ending in endings]
    there = [path for path in found if path.exists()]
    if there and not overwrite:
        raise ValueError(
            f"--out {str(out)!r}: {', '.join(path.name for path in there)} exists already: choose "
            "another --out, or write over it by --overwrite"
        )
    return found


def listed(paths: Sequence[pathlib.Path]) -> str:
    """Paths as a sentence has them: "a, b and c"."""
    names = [str(path) for path in paths]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def collect(items: Iterable[Item], found: list[Item]) -> bool:
    """Append the items to a list as they are made; True if an interrupt ended it after the first one."""
    try:
        for item in items:
            found.append(item)
    except KeyboardInterrupt:
        if not found:
            raise
        print("\ninterrupted: what has been made is kept", file=sys.stderr)
        return True
    return False
