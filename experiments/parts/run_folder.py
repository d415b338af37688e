"""The folder of a run, as far as it is known from its JSON files alone, without the library."""

import json
import pathlib
from typing import Any

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"


def check_run(workdir: pathlib.Path | str) -> pathlib.Path:
    """The path of the folder's config; ValueError that names the folder if it holds no run."""
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"workdir {str(workdir)!r} holds no run ({CONFIG_FILE} is missing)")
    return path


def data_name(workdir: pathlib.Path | str) -> str | None:
    """The kind of the run's data, data.name; None where it cannot be seen."""
    name = _entry(pathlib.Path(workdir) / CONFIG_FILE, "data", "name")
    return name if isinstance(name, str) else None


def data_shape(workdir: pathlib.Path | str) -> tuple[int, ...] | None:
    """The shape of the run's examples; None where it cannot be seen."""
    shape = _entry(pathlib.Path(workdir) / DATA_FILE, "x", "shape")
    return tuple(shape) if isinstance(shape, list) else None


def _entry(path: pathlib.Path, *names: str) -> Any:
    """A value of a JSON file; None without it: what is wrong is said where the file is read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in names:
            found = found[name]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found
