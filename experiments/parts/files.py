"""Files that are written whole or not at all."""

import json
import os
import pathlib
from typing import Any

import numpy as np


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a text file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_npz(path: pathlib.Path, **arrays: Any) -> None:
    """Write arrays to a .npz file whole or not at all."""
    part = path.with_name(path.name + ".part.npz")
    try:
        np.savez(part, **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")
