"""The files that a command writes: never over others unasked, and what was done before an interrupt."""

import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def free(paths: Sequence[pathlib.Path], *, overwrite: bool, out: str = "") -> None:
    """Raise ValueError naming the files that are there, unless they are to be replaced.

    out: the value of --out, where another one avoids them.
    """
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        names = listed([path.name if out else path for path in there])
        where, other = (f"--out {out!r}: ", "choose another --out, or ") if out else ("", "")
        verb = "exists" if len(there) == 1 else "exist"
        raise ValueError(f"{where}{names} {verb} already: {other}write over it by --overwrite")


def files(out: pathlib.Path, endings: Sequence[str], *, overwrite: bool) -> list[pathlib.Path]:
    """OUT with each of the endings, of which OUT may have one already; ValueError as `free`."""
    if out.suffix in endings:
        out = out.with_suffix("")
    found = [out.with_name(out.name + ending) for ending in endings]
    free(found, overwrite=overwrite, out=str(out))
    return found


def listed(paths: Sequence[pathlib.Path | str]) -> str:
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
