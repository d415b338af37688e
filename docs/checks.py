"""Checks of files for pre-commit: `python -m docs.checks [FILES]`; standard library only.

Notebooks must hold no outputs (the tests execute them, and a reader's run draws the pictures), and no
file may be large, except the reference numbers of the tests.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

LARGEST = 500_000  # bytes
# Reference numbers: tests/golden is kept under 16 MB as a whole (docs/adr/0018).
LARGE_ALLOWED = ("tests/golden/",)


def notebook_faults(path: pathlib.Path) -> list[str]:
    """Name every cell of a notebook that keeps outputs or a count of executions."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{path}: not a notebook ({type(error).__name__})"]
    return [
        f"{path}: cell {i} has outputs: clear them before the commit"
        for i, cell in enumerate(cells)
        if cell.get("outputs") or cell.get("execution_count") is not None
    ]


def size_faults(path: pathlib.Path) -> list[str]:
    """Name a file that is larger than `LARGEST` bytes, unless it lies where that is allowed."""
    size = path.stat().st_size
    if size <= LARGEST or path.as_posix().startswith(LARGE_ALLOWED):
        return []
    return [f"{path}: {size:,} bytes, more than {LARGEST:,}"]


def check(paths: Sequence[pathlib.Path]) -> list[str]:
    """Run every check that fits on every file; returns one line a fault."""
    faults = []
    for path in paths:
        faults += size_faults(path)
        if path.suffix == ".ipynb":
            faults += notebook_faults(path)
    return faults


if __name__ == "__main__":
    found = check([pathlib.Path(name) for name in sys.argv[1:]])
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    sys.exit(1 if found else 0)
