"""Checks of files for pre-commit: `python -m docs.checks [FILES]`; standard library only.

Notebooks are stored with the outputs of one run from top to bottom, so that a reader sees the pictures,
and are small; no other file may be large, except the reference numbers of the tests and released weights.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

LARGEST = 500_000  # bytes
LARGEST_NOTEBOOK = 300_000
# Reference numbers: tests/golden is kept under 16 MB as a whole (docs/adr/0018).
LARGE_ALLOWED = ("tests/golden/",)
# What a reader needs who opens a notebook in Colab: a link, and the package.
COLAB = "colab.research.google.com/github/score-jax/score_jax/blob/main/notebooks/"
INSTALLS = '%pip install -q "score_jax[notebooks] @ git+https://github.com/score-jax/score_jax"'
HERE = ("/work/", "/root/", "/home/", "/usr/share/")  # folders of one machine
LARGEST_WEIGHTS = 8_500_000  # of a release in pretrained/ (docs/adr/0030)


def notebook_faults(path: pathlib.Path) -> list[str]:
    """Name what a notebook lacks: outputs of one run in order, with a picture, and a start in Colab."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        counts = [cell.get("execution_count") for cell in code]
        outputs = [output for cell in code for output in cell.get("outputs", [])]
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        text = "\n".join("".join(cell.get("source", "")) for cell in cells)
        first = "".join(code[0].get("source", "")) if code else ""
    except (ValueError, KeyError, TypeError) as error:
        return [f"{path}: not a notebook ({type(error).__name__})"]
    faults = []
    if counts != list(range(1, len(code) + 1)):
        faults.append(f"{path}: its cells were not run once in order: execute it before the commit")
    if any(output.get("output_type") == "error" for output in outputs):
        faults.append(f"{path}: a cell ended with an error")
    if not pictures:
        faults.append(f"{path}: no output is a picture")
    if f"{COLAB}{path.name}" not in text or INSTALLS not in first:
        faults.append(f"{path}: no link to Colab, or its first cell does not install the package")
    if found := [folder for folder in HERE if folder in text]:
        faults.append(f"{path}: it names {found[0]}, which other machines do not have")
    if path.stat().st_size > LARGEST_NOTEBOOK:
        faults.append(f"{path}: more than {LARGEST_NOTEBOOK:,} bytes: make its pictures smaller")
    return faults


def size_faults(path: pathlib.Path) -> list[str]:
    """Name a file that is larger than `LARGEST` bytes, unless it lies where that is allowed."""
    size = path.stat().st_size
    released = path.as_posix().startswith("pretrained/") and path.suffix == ".npz"
    most = LARGEST_WEIGHTS if released else LARGEST
    if size <= most or path.as_posix().startswith(LARGE_ALLOWED):
        return []
    return [f"{path}: {size:,} bytes, more than {most:,}"]


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
