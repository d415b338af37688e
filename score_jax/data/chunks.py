"""Zarr stores and HDF5 files, read along the first axis as they are needed.

x is the array "x" of the store, or its only array; labels are its array "y". The last chunks that were
read are kept. Complex numbers become two channels. Attributes (or arrays) "mean" and "std" of x, of one
number or one for each channel, say how continuous data are standardised.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from score_jax._check import check
from score_jax.data._handles import Cache, Handle, needed, warn_of_slow_reading
from score_jax.data.checks import (
    MOST_CHANNELS,
    Form,
    cast,
    check_labels,
    check_layout,
    check_values,
    form_of,
)
from score_jax.data.parquet import with_classes
from score_jax.data.sources import Description, Examples

PathLike = str | os.PathLike[str]
X, Y, MEAN, STD = "x", "y", "mean", "std"
PROBED = 256  # examples whose values are looked at when a store is opened
LEAST_CHUNK = 2**20  # bytes that are read at once, at least


def channels_of(x: np.ndarray) -> np.ndarray:
    """Complex numbers (n, *d) as two channels, the real and the imaginary part.

    They are (n, *d, 2), or, where the last axis has up to four entries and is therefore taken for
    channels, twice as many there. Real arrays are returned as they are.
    """
    if not np.iscomplexobj(x):
        return x
    parts = np.stack([x.real, x.imag], axis=-1)
    if x.ndim > 2 and x.shape[-1] <= MOST_CHANNELS:
        return parts.reshape(*x.shape[:-1], -1)
    return parts


@dataclass(frozen=True, eq=False)
class ChunkedArray:
    """A source of an array whose chunks along the first axis are read whole; the last ones are kept."""

    where: str
    handle: Handle = field(repr=False)
    length: int
    rows: int  # of a chunk
    y: np.ndarray | None = field(repr=False)
    form: Form
    missing: bool
    description: Description
    cache: Cache = field(repr=False)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> Examples:
        return {k: v[0] for k, v in self.__getitems__([range(len(self))[index]]).items()}

    def __getitems__(self, indices: Any) -> Examples:
        """The examples of these numbers, stacked."""
        rows = np.asarray(indices, np.int64)
        rows = np.where(rows < 0, rows + len(self), rows)
        x = np.empty((len(rows), *self.description.shape), self.form.dtype)
        chunks = rows // self.rows
        for chunk in np.unique(chunks):
            here = chunks == chunk
            block = self.cache.get(int(chunk), functools.partial(self._read, int(chunk)))
            x[here] = block[rows[here] - chunk * self.rows]
        return {"x": x} | ({} if self.y is None else {"y": self.y[rows]})

    def _read(self, chunk: int) -> tuple[np.ndarray, int]:
        start = chunk * self.rows
        where = f"{self.where}, examples from {start} on"
        try:
            with self.handle.lock:
                block = np.asarray(self.handle.get()[start : start + self.rows])
        except Exception as error:  # of each library's own kinds
            raise ValueError(f"{where} cannot be read: {error}") from None
        block = cast(where, channels_of(block), self.form, missing=self.missing)
        return block, block.nbytes


def _numbers(array: Any, group: Any, name: str) -> np.ndarray | None:
    """A mean or a standard deviation, an attribute of the array or the group, or an array beside it."""
    for attributes in (array.attrs, group.attrs):
        if name in attributes:
            return np.asarray(attributes[name], np.float64).ravel()
    if group is not array and name in group:
        return np.asarray(group[name][...], np.float64).ravel()
    return None


class _Options(NamedTuple):
    key: str | None
    label_key: str | None
    levels: int | None
    as_is: bool
    missing: bool


class _Store(NamedTuple):
    """An opened store: its path, its group of arrays or single array, and how to open one again."""

    path: str
    group: Any
    array_type: type
    open: Callable[[str, str], Any]

    def arrays(self) -> list[str]:
        """The names of its arrays."""
        if isinstance(self.group, self.array_type):
            return []
        return sorted(name for name in self.group if isinstance(self.group[name], self.array_type))

    def array_of_x(self, options: _Options) -> tuple[str, Any]:
        """The name and the array of x; ValueError where it is not clear which one that is."""
        if isinstance(self.group, self.array_type):
            return "", self.group
        names = self.arrays()
        others = [n for n in names if n not in (options.label_key or Y, MEAN, STD)]
        name = options.key or (X if X in names else others[0] if len(others) == 1 else X)
        if name not in names:
            raise ValueError(f"{self.path} has no array {name!r}: it has {names}")
        return name, self.group[name]

    def labels(self, options: _Options, n: int) -> np.ndarray | None:
        """The labels (n,), where there are some."""
        names, wanted = self.arrays(), options.label_key or Y
        check("label_key", wanted, wanted in names or not options.label_key, f"one of {names}")
        if wanted not in names:
            return None
        return check_labels(f"{self.path}: {wanted}", np.asarray(self.group[wanted][...]), n)


def _source(store: _Store, options: _Options) -> ChunkedArray:
    name, array = store.array_of_x(options)
    where = f"{store.path}: {name}" if name else store.path
    check_layout(where, tuple(array.shape), as_is=options.as_is)
    n, chunk = array.shape[0], array.chunks[0] if array.chunks else 1
    size = int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize
    # Whole chunks, and several of them where they are small.
    rows = chunk * max(1, min(LEAST_CHUNK // (size * chunk), -(-n // chunk)))
    warn_of_slow_reading(where, "chunks", size * n, -(-n // rows))
    first = channels_of(np.asarray(array[: min(rows, PROBED)]))
    form = form_of(where, first.dtype, options.levels)
    check_values(where, first, options.levels, as_is=options.as_is)
    cast(where, first, form, missing=options.missing)
    description = Description(first.shape[1:], form.dtype, form.levels)
    mean, std = (_numbers(array, store.group, k) for k in (MEAN, STD))
    if mean is not None and std is not None and form.levels is None:
        try:
            description = description.with_moments(mean, std)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    y = store.labels(options, n)
    return ChunkedArray(
        where,
        Handle(functools.partial(store.open, store.path, name)),
        n, rows, y, form, options.missing, with_classes(description, y, None), Cache(),
    )  # fmt: skip


def _open_zarr(path: str, name: str = "") -> Any:
    group = needed("zarr").open(path, mode="r")
    return group[name] if name else group


def _open_hdf5(path: str, name: str = "") -> Any:
    file = needed("h5py").File(path, "r")
    return file[name] if name else file


def _opened(path: PathLike, array_type: type, open: Callable[..., Any], kind: str) -> _Store:
    where = os.fspath(path)
    if not pathlib.Path(where).exists():
        raise FileNotFoundError(f"there is no file or folder {where}")
    try:
        return _Store(where, open(where), array_type, open)
    except Exception as error:  # of each library's own kinds
        raise ValueError(f"{where} cannot be read as {kind}: {error}") from None


def read_zarr(
    path: PathLike,
    *,
    key: str | None = None,
    label_key: str | None = None,
    levels: int | None = None,
    as_is: bool = False,
    missing: bool = False,
) -> ChunkedArray:
    """A source of a zarr store (format 2 or 3), read chunk by chunk along the first axis.

    key, label_key: the arrays of x and of the labels; by default "x", or the only array, and "y", if
    there is one. The other options are those of `from_arrays`. Values are checked as they are read.

    Raises FileNotFoundError, and ValueError naming the store and what does not fit, or the extra to
    install where zarr is missing.

    >>> read_zarr("fields.zarr", missing=True)
    """
    store = _opened(path, needed("zarr").Array, _open_zarr, "a zarr store")
    return _source(store, _Options(key, label_key, levels, as_is, missing))


def read_hdf5(
    path: PathLike,
    *,
    key: str | None = None,
    label_key: str | None = None,
    levels: int | None = None,
    as_is: bool = False,
    missing: bool = False,
) -> ChunkedArray:
    """A source of an HDF5 file, read chunk by chunk along the first axis; options of `read_zarr`.

    Raises FileNotFoundError, and ValueError naming the file and what does not fit, or the extra to
    install where h5py is missing.

    >>> read_hdf5("camelyonpatch_level_2_split_train_x.h5")
    """
    store = _opened(path, needed("h5py").Dataset, _open_hdf5, "HDF5")
    return _source(store, _Options(key, label_key, levels, as_is, missing))
