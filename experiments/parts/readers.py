"""The kinds of data by name: the values of --data.name.

To add a kind: one entry in `KINDS`. Functions here take the `DataConfig` as `c`. The library is imported
when a source is opened, because the options of every command are made of this table.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .named import function_named

Names = Sequence[str] | None  # of the classes of the training data, for another split
Open = Callable[[Any, pathlib.Path, str, Names], Any]  # (config, path, split, names) -> a source
IN_MEMORY = 2**30  # bytes of an array file that is read whole


class Kind(NamedTuple):
    """A kind of data by name.

    open: the source of a path and a split, "train" or "test"; needs: fields of the config that must be
    given; uses: those that it uses, of the fields that not all kinds do; own_split: whether the data of a
    path have a test split of their own.
    """

    open: Open
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    own_split: Callable[[pathlib.Path], bool] = lambda path: False


def _always(path: pathlib.Path) -> bool:
    return True


def _digits(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import load_digits

    return load_digits(split)


def _two_moons(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import two_moons

    return two_moons(c.num_points) if split == "train" else two_moons(2_000, seed=1)


def _values(c: Any) -> dict[str, Any]:
    """The options that readers of arrays share."""
    return {"levels": c.levels, "as_is": c.as_is, "missing": c.missing == "mask"}


def _array(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import load_array, read_arrays

    if c.key is not None:
        return _named_array(c, path)
    small = path.is_file() and path.stat().st_size <= IN_MEMORY
    return (read_arrays if path.is_dir() or (not small and path.exists()) else load_array)(
        path, **_values(c)
    )


def _named_array(c: Any, path: pathlib.Path) -> Any:
    """One array of a .npz file."""
    import numpy as np

    from score_jax.data import from_arrays

    with np.load(path, allow_pickle=False) as file:
        known = getattr(file, "files", [])
        if c.key not in known:
            raise ValueError(f"{path} has no array {c.key!r}, but {sorted(known)}")
        return from_arrays(file[c.key], **_values(c))


def _image_options(c: Any) -> Any:
    from score_jax.data import ImageOptions, center_crop, stretch

    bits = {256: 8, 65_536: 16}.get(c.levels)
    return ImageOptions(
        c.image_size, {"crop": center_crop, "plain": stretch}[c.resize], c.enlarge, c.channels, bits
    )


def _labelling(c: Any) -> Any:
    from score_jax import data

    return {
        "found": data.labels_found,
        "folders": data.labels_of_folders,
        "names": data.labels_of_names,
        "json": data.labels_of_json,
        "none": data.no_labels,
    }[c.labels]


def _folder(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_folder

    inside = path / split if _has_splits(path) else path
    return read_folder(inside, _image_options(c), labels=_labelling(c), class_names=names)


def _has_splits(path: pathlib.Path) -> bool:
    return all((path / split).is_dir() for split in ("train", "test"))


def _zip(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_zip

    return read_zip(path, _image_options(c), labels=_labelling(c), class_names=names)


def _idx(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_idx

    return read_idx(path, split, levels=c.levels, as_is=c.as_is)


def _cifar(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_cifar

    return read_cifar(path, split)


def _records(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_records

    return read_records(path, split)


def _records_have_a_test_split(path: pathlib.Path) -> bool:
    from score_jax.data.records import read_record

    return "test" in read_record(path)["splits"]


def _parquet(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_parquet

    return read_parquet(
        path, split if _parquet_has_splits(path) else None, _image_options(c), image_key=c.key,
        label_key=c.label_key, **_values(c),
    )  # fmt: skip


def _parquet_has_splits(path: pathlib.Path) -> bool:
    return path.is_dir() and all(any(path.glob(f"{split}*")) for split in ("train", "test"))


def _zarr(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_zarr

    return read_zarr(path, key=c.key, label_key=c.label_key, **_values(c))


def _hdf5(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import read_hdf5

    return read_hdf5(path, key=c.key, label_key=c.label_key, **_values(c))


def _tfds(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    from score_jax.data import default_data_dir, read_tfds

    options: dict[str, Any] = {
        "data_dir": default_data_dir() if c.path is None else path,
        "label_key": c.label_key or (None if c.num_classes is None else "label"),
        "image_key": c.key or "image",
    }
    try:
        source = read_tfds(str(c.builder), split, **options)
    except ValueError:
        if c.size is None:
            raise
    else:
        if c.size is None or source.description.shape[:2] == c.image_size:
            return source
    return read_tfds(str(c.builder), split, _image_options(c), **options)


def _source(c: Any, path: pathlib.Path, split: str, names: Names) -> Any:
    return function_named("data.source", str(c.source))()


# Fields that several kinds use.
_LEVELS = ("range", "dequantize")
_PICTURES = (*_LEVELS, "flip", "low_res_factor")
_DIVIDED = ("path", "test_path", "test_fraction")
_READ = ("num_classes", "cond", "workers", "processes")
_SIZES = ("size", "resize", "enlarge", "channels", "levels")
_FILES = (*_PICTURES, *_SIZES, "labels", *_DIVIDED, *_READ)
_NUMBERS = (
    *_PICTURES, "levels", "as_is", "missing", "standardize", "key", *_DIVIDED, *_READ,
)  # fmt: skip

KINDS: dict[str, Kind] = {
    "digits": Kind(_digits, (), _PICTURES, _always),
    "two_moons": Kind(_two_moons, (), ("num_points", "standardize"), _always),
    "array": Kind(_array, ("path",), _NUMBERS),
    "folder": Kind(_folder, ("path",), _FILES, _has_splits),
    "zip": Kind(_zip, ("path",), _FILES),
    "idx": Kind(
        _idx, ("path",),
        (*_PICTURES, "size", "channels", "levels", "as_is", *_DIVIDED, *_READ), pathlib.Path.is_dir,
    ),
    "cifar": Kind(_cifar, ("path",), (*_PICTURES, "path", *_READ), _always),
    "records": Kind(
        _records, ("path",),
        (*_PICTURES, "standardize", "missing", *_DIVIDED, *_READ), _records_have_a_test_split,
    ),
    "parquet": Kind(
        _parquet, ("path",),
        (*_NUMBERS, "label_key", *_SIZES), _parquet_has_splits,
    ),
    "zarr": Kind(_zarr, ("path",), (*_NUMBERS, "label_key")),
    "hdf5": Kind(_hdf5, ("path",), (*_NUMBERS, "label_key")),
    "tfds": Kind(
        _tfds, ("builder",),
        (*_PICTURES, *_SIZES, "builder", "path", "key", "label_key", *_READ), _always,
    ),
    "source": Kind(
        _source, ("source",),
        (*_PICTURES, "source", "levels", "missing", "standardize", "test_fraction", "resume", *_READ),
    ),
}  # fmt: skip
