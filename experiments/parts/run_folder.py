"""The folder of a run, as far as it is known without reading it."""

import pathlib

CONFIG_FILE = "config.json"


def check_run(workdir: pathlib.Path | str) -> pathlib.Path:
    """The path of the folder's config; ValueError that names the folder if it holds no run."""
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"workdir {str(workdir)!r} holds no run ({CONFIG_FILE} is missing)")
    return path
