"""Reference numbers of the authors' own programs (tests/golden/README.md), read once each."""

import functools
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "golden"


@functools.cache
def golden(name):
    """All arrays of one file as a dict."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
