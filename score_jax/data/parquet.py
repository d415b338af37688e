"""Parquet files as the Hugging Face hub stores data sets, and `datasets` objects.

The column of x holds images (encoded, as bytes or as struct{bytes, path}) or arrays of one shape (nested
lists, or fixed-size tensors). Row groups are read whole and the last ones are kept.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from score_jax._check import check
from score_jax.data._handles import Cache, needed, warn_of_slow_reading
from score_jax.data.checks import Form, cast, check_labels, check_layout, check_values, form_of
from score_jax.data.images import Decoder, ImageOptions, bits_of, decoder_for, opened
from score_jax.data.sources import Description, Examples

PathLike = str | os.PathLike[str]
IMAGE_KEYS = ("image", "img", "images", "x", "pixel_values")  # usual names of columns
SPLITS = ("train", "test", "val")  # starts of the names of files
MOST_OPEN = 64  # files that stay open
LABEL_KEYS = ("label", "labels", "fine_label", "y", "class")


@dataclass(frozen=True)
class Cell:
    """Makes x of the content of a cell: an encoded image, an opened one, or numbers."""

    decoder: Decoder | None
    form: Form | None
    shape: tuple[int, ...]
    missing: bool

    def __call__(self, value: Any, where: str) -> np.ndarray:
        """The x of a cell; ValueError naming where it is if it does not fit."""
        content = _content(value, where)
        if self.decoder is not None:
            if isinstance(content, bytes):
                return self.decoder(content, where)
            return self.decoder.fit(content, bits_of(content), where)
        x = np.asarray(content)
        if x.shape != self.shape or self.form is None:
            raise ValueError(f"{where} has the shape {x.shape}, but the first has {self.shape}")
        return cast(where, x, self.form, missing=self.missing)


def _content(value: Any, where: str) -> Any:
    """Bytes of an image, an image of Pillow, or an array."""
    if value is None:
        raise ValueError(f"{where} is empty")
    if isinstance(value, Mapping):
        if value.get("bytes") is None:
            raise ValueError(f"{where} has no bytes, only the path {value.get('path')!r}")
        value = value["bytes"]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return value if hasattr(value, "convert") else np.asarray(value)


def cell_for(
    first: Any,
    where: str,
    options: ImageOptions,
    *,
    levels: int | None,
    as_is: bool,
    missing: bool,
) -> tuple[Cell, Description]:
    """What reads the cells of a column whose first one is given, and the description of x."""
    content = _content(first, where)
    if isinstance(content, bytes) or hasattr(content, "convert"):
        encoded = isinstance(content, bytes)
        image, bits = opened(content, where) if encoded else (content, bits_of(content))
        decoder = decoder_for(image, bits, where, options)
        description = decoder.description(None, None)
        return Cell(decoder, None, description.shape, missing), description
    check_layout(where, (1, *content.shape), as_is=as_is)
    form = form_of(where, content.dtype, levels)
    check_values(where, content[None], levels, as_is=as_is)
    description = Description(content.shape, form.dtype, form.levels)
    return Cell(None, form, content.shape, missing), description


def _value(scalar: Any, where: str) -> Any:
    """The content of an Arrow scalar; nested lists of numbers as an array of their type."""
    import pyarrow as pa
    import pyarrow.compute

    lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
    if isinstance(scalar.type, pa.FixedShapeTensorType):
        return scalar.to_numpy()
    if not isinstance(scalar.type, lists) or not scalar.is_valid:
        return scalar.as_py()
    values, shape = scalar.values, [len(scalar.values)]
    while isinstance(values.type, lists):
        lengths = pyarrow.compute.list_value_length(values).unique()
        if len(lengths) != 1 or not lengths[0].is_valid:
            raise ValueError(f"{where} has lists of several lengths, {lengths.to_pylist()[:4]}")
        shape.append(lengths[0].as_py())
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _column(names: Sequence[str], key: str | None, usual: Sequence[str]) -> str | None:
    if key is not None:
        return key if key in names else None
    return next((name for name in usual if name in names), None)


def _hub_features(schema: Any) -> Mapping[str, Any]:
    """What the hub's `datasets` notes of the columns in a file's metadata."""
    try:
        note = json.loads((schema.metadata or {})[b"huggingface"])
        features: Mapping[str, Any] = note["info"]["features"]
        return features
    except (KeyError, ValueError, TypeError):
        return {}


def _files(path: pathlib.Path, split: str | None) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file or folder {path}")
    found = sorted(p for p in path.rglob("*.parquet"))
    if not found:
        raise ValueError(f"{path} has no .parquet files")
    named = [p for p in found if split and p.name.startswith(split)]
    unnamed = [p for p in found if not p.name.startswith(SPLITS)]
    return named or unnamed or found


class _File(NamedTuple):
    """What is known of a file before its rows are read."""

    path: str
    counts: list[int]  # rows of each row group
    bytes: int
    labels: np.ndarray | None


def _opened(path: str) -> Any:
    try:
        return needed("pyarrow.parquet").ParquetFile(path)
    except Exception as error:  # of pyarrow's own kinds
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from None


def _looked_at(path: str, column: str, label: str | None) -> _File:
    """Look at a file, which is closed again; ValueError where it lacks a column."""
    with _opened(path) as file:
        names, metadata = file.schema_arrow.names, file.metadata
        for key in (column, label):
            if key is not None and key not in names:
                raise ValueError(f"{path} has no column {key!r}: it has {names}")
        groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
        labels = None if label is None else _labels(path, file, label)
    size = sum(group.total_byte_size for group in groups)
    return _File(path, [group.num_rows for group in groups], size, labels)


def _labels(path: str, file: Any, key: str) -> np.ndarray:
    column = file.read(columns=[key]).column(key)
    if column.null_count:
        raise ValueError(f"{path}: {key} is empty in {column.null_count} rows")
    if not len(column):
        return np.zeros(0, np.int32)
    return check_labels(f"{path}: {key}", column.to_numpy(), len(column))


@dataclass(frozen=True, eq=False)
class ParquetFiles:
    """A source of the rows of Parquet files; row groups are read whole, and the last ones are kept."""

    groups: Sequence[tuple[str, int]] = field(repr=False)  # (file, row group within it)
    ends: np.ndarray = field(repr=False)
    column: str
    y: np.ndarray | None = field(repr=False)
    cell: Cell
    description: Description
    cache: Cache = field(default_factory=Cache, repr=False)
    opened: Cache = field(default_factory=lambda: Cache(MOST_OPEN), repr=False)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: SupportsIndex) -> Examples:
        i = range(len(self))[index]
        group = int(np.searchsorted(self.ends, i, side="right"))
        row = i - (int(self.ends[group - 1]) if group else 0)
        rows = self.cache.get(group, lambda: self._read(group))
        path, within = self.groups[group]
        where = f"{path}, row {row} of its row group {within}"
        x = self.cell(_value(rows[row], where), where)
        return {"x": x} | ({} if self.y is None else {"y": self.y[i]})

    def _read(self, group: int) -> tuple[Any, int]:
        path, within = self.groups[group]
        file = self.opened.get(path, lambda: (_opened(path), 1))
        try:
            found = file.read_row_group(within, columns=[self.column])
        except Exception as error:  # of pyarrow's own kinds
            raise ValueError(f"{path} cannot be read: {error}") from None
        return found.column(self.column).combine_chunks(), found.nbytes


def read_parquet(
    path: PathLike,
    split: str | None = None,
    options: ImageOptions | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    levels: int | None = None,
    as_is: bool = False,
    missing: bool = False,
) -> ParquetFiles:
    """A source of a Parquet file or of the Parquet files of a folder, in the order of their names.

    split: only the files whose names start with it, if there are any, as the hub names them
    (train-00000-of-00002.parquet). image_key, label_key: the columns; by default "image", "img" or "x",
    and "label", "labels" or "y". The classes' names are those that the hub stores. The other options are
    those of `read_folder` and `from_arrays`.

    Raises FileNotFoundError, and ValueError naming the file that does not fit, or the extra to install
    where pyarrow is missing.

    >>> read_parquet("cifar10/plain_text", "train")
    """
    needed("pyarrow.parquet")
    paths = [str(p) for p in _files(pathlib.Path(path), split)]
    with _opened(paths[0]) as file:
        first = file.schema_arrow
    column = _column(first.names, image_key, IMAGE_KEYS)
    if column is None:
        wanted = image_key or " or ".join(IMAGE_KEYS)
        raise ValueError(f"{paths[0]} has no column {wanted}: it has {first.names}")
    label = _column(first.names, label_key, LABEL_KEYS)
    check("label_key", label_key, label_key is None or label, f"one of {first.names} of {paths[0]}")
    files = [_looked_at(p, column, label) for p in paths]
    groups = [(file.path, k) for file in files for k in range(len(file.counts))]
    ends = np.cumsum([count for file in files for count in file.counts], dtype=np.int64)
    if not len(ends) or not ends[-1]:
        raise ValueError(f"{path} has no rows")
    warn_of_slow_reading(str(path), "row groups", sum(f.bytes for f in files), len(groups))
    where = f"{paths[0]}: the first {column}"
    cell, description = cell_for(
        _first(groups[int(np.searchsorted(ends, 0, side="right"))], column, where), where,
        options or ImageOptions(), levels=levels, as_is=as_is, missing=missing,
    )  # fmt: skip
    labels = [file.labels for file in files if file.labels is not None]
    y = np.concatenate(labels) if labels else None
    names = _hub_features(first).get(label or "", {}).get("names")
    description = with_classes(description, y, names)
    return ParquetFiles(groups, ends, column, y, cell, description)


def _first(group: tuple[str, int], column: str, where: str) -> Any:
    """The first cell of a row group, of which no more is read."""
    with _opened(group[0]) as file:
        batch = next(file.iter_batches(1, row_groups=[group[1]], columns=[column]))
        return _value(batch.column(0)[0], where)


def with_classes(
    description: Description, y: np.ndarray | None, names: Sequence[str] | None
) -> Description:
    """The description with the classes of labels y (n,), which end at the largest without names."""
    if y is None:
        return description
    classes = len(names or ()) or int(y.max()) + 1
    return dataclasses.replace(
        description, num_classes=classes, class_names=None if not names else tuple(names)
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """A source of an object of Hugging Face's `datasets`."""

    rows: Any
    column: str
    dtype: str | None  # of arrays, whose type lists of numbers do not keep
    y: np.ndarray | None = field(repr=False)
    cell: Cell
    description: Description

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        i = range(len(self))[index]
        x = self.cell(_typed(self.rows[i][self.column], self.dtype), f"row {i}")
        return {"x": x} | ({} if self.y is None else {"y": self.y[i]})


def _typed(value: Any, dtype: str | None) -> Any:
    plain = dtype is None or value is None or hasattr(value, "convert")
    return value if plain else np.asarray(value, dtype)


def _dtype_of(feature: Any) -> str | None:
    """The type of the numbers of a feature, or None for images and others."""
    while not hasattr(feature, "dtype") and hasattr(feature, "feature"):
        feature = feature.feature
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) and dtype in np.sctypeDict else None


def from_datasets(
    rows: Any,
    options: ImageOptions | None = None,
    *,
    image_key: str | None = None,
    label_key: str | None = None,
    levels: int | None = None,
    as_is: bool = False,
    missing: bool = False,
) -> Rows:
    """A source of an object of Hugging Face's `datasets`: one split, with an image or array column.

    Options as in `read_parquet`. Raises ValueError where it has no such column.

    >>> from_datasets(datasets.load_dataset("cifar10", split="train"))
    """
    names = list(rows.features)
    column = _column(names, image_key, IMAGE_KEYS)
    check("image_key", image_key, column, f"one of the columns {names}")
    label = _column(names, label_key, LABEL_KEYS)
    check("label_key", label_key, label_key is None or label, f"one of the columns {names}")
    check("rows", len(rows), len(rows) > 0, "at least one")
    dtype = _dtype_of(rows.features[column])
    cell, description = cell_for(
        _typed(rows[0][column], dtype), f"the first {column}", options or ImageOptions(),
        levels=levels, as_is=as_is, missing=missing,
    )  # fmt: skip
    y = None
    if label is not None:
        y = check_labels(label, np.asarray(rows.select_columns(label)[:][label]), len(rows))
    classes = None if label is None else getattr(rows.features[label], "names", None)
    return Rows(rows, str(column), dtype, y, cell, with_classes(description, y, classes))
