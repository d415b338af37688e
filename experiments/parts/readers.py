"""The kinds of data by name: the values of --data.name.

To add a kind: one entry in `KINDS`. Functions here take the `DataConfig` as `c`. The library is imported
when a source is opened, because the options of every command are made of this table.
"""

import importlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

Open = Callable[[Any, str | None, str], Any]  # (config, path, split) -> a source


class Kind(NamedTuple):
    """A kind of data by name.

    open: the source of a path and a split, "train" or "test"; needs: fields of the config that must be
    given; uses: those that it uses, of the fields that not all kinds do; own_split: whether the data of a
    path have a test split of their own.
    """

    open: Open
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    own_split: Callable[[Any, str], bool] = lambda c, path: False


# What a run of every kind of files may have.
FILES = ("path", "test_path", "test_fraction", "cond", "num_classes")
LEVELS = ("range", "dequantize", "levels")
IMAGES = ("flip", "low_res_factor")
CONTINUOUS = ("standardize", "missing")


def _always(c: Any, path: str) -> bool:
    return True


def _digits(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import load_digits

    return load_digits(split)


def _two_moons(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import two_moons

    return two_moons(c.num_points) if split == "train" else two_moons(2_000, seed=1)


def _array(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import load_array

    options = {"levels": c.levels, "as_is": c.as_is, "missing": c.missing == "mask"}
    return load_array(str(path), **options)


def _tfds(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import default_data_dir, load_tfds

    label_key = None if c.num_classes is None else "label"
    folder = default_data_dir() if path is None else pathlib.Path(path)
    return load_tfds(str(c.builder), split, data_dir=folder, label_key=label_key)


def _called(c: Any, path: str | None, split: str) -> Any:
    return called(str(c.source))


KINDS: dict[str, Kind] = {
    "digits": Kind(_digits, (), ("range", "dequantize", *IMAGES), _always),
    "two_moons": Kind(_two_moons, (), ("num_points", *CONTINUOUS), _always),
    "array": Kind(_array, ("path",), (*FILES, *LEVELS, *IMAGES, *CONTINUOUS, "as_is")),
    "tfds": Kind(
        _tfds, ("builder",),
        ("path", "builder", "size", "channels", "num_classes", "range", "dequantize", *IMAGES), _always,
    ),
    "source": Kind(
        _called, ("source",),
        ("source", "test_fraction", "cond", "num_classes", "resume", *LEVELS, *IMAGES, *CONTINUOUS),
    ),
}  # fmt: skip


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
