"""The kinds of data by name: the values of --data.name.

To add a kind: one entry in `KINDS`. Functions here take the `DataConfig` as `c`.
"""

import importlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from score_jax import data

Open = Callable[[Any, str | None, str], Any]  # (config, path, split) -> a source


class Kind(NamedTuple):
    """A kind of data by name.

    open: the source of a path and a split, "train" or "test"; needs: fields of the config that must be
    given; own_split: whether the data of a path have a test split of their own.
    """

    open: Open
    needs: tuple[str, ...] = ("path",)
    own_split: Callable[[Any, str], bool] = lambda c, path: False


def _always(c: Any, path: str) -> bool:
    return True


def _array(c: Any, path: str | None, split: str) -> Any:
    options = {"levels": c.levels, "as_is": c.as_is, "missing": c.missing == "mask"}
    return data.load_array(str(path), **options)


def _tfds(c: Any, path: str | None, split: str) -> Any:
    label_key = None if c.num_classes is None else "label"
    folder = data.default_data_dir() if path is None else pathlib.Path(path)
    return data.load_tfds(str(c.builder), split, data_dir=folder, label_key=label_key)


def _moons(c: Any, path: str | None, split: str) -> Any:
    return data.two_moons(
        *((c.num_points,) if split == "train" else (2_000,)), seed=split != "train"
    )


KINDS: dict[str, Kind] = {
    "digits": Kind(lambda c, path, split: data.load_digits(split), (), _always),
    "two_moons": Kind(_moons, (), _always),
    "array": Kind(_array),
    "tfds": Kind(_tfds, ("builder",), _always),
    "source": Kind(lambda c, path, split: None, ("source",)),
}


def called(name: str) -> Any:
    """What the function "package.module:function" returns, called without arguments.

    Modules of the current folder are found, here and in worker processes. Raises ValueError for a name
    that is not there.
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"data.source {name!r} cannot be imported: {error}") from None
    return made()
