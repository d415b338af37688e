"""Sources of examples: what the examples of one look like, and how to take some of them.

A source is Grain's `RandomAccessDataSource` with a `Description` beside it (`score_jax.types.Source`).
`Dataset` is one in memory; the readers of this package make them of files. The network sees

    (2)  x_net = scale x + shift,

by channel or for all at once. For data with L levels this is eq. (1) of `score_jax.data`, in which x is
k + u: scale = (high - low) / L and shift = low. Continuous data are standardised by
scale = 1 / std and shift = -mean / std, or left as they are.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np

from score_jax._check import check, check_count, check_interval
from score_jax.types import Source

MOST_LEVELS = 65_536
INT_LEVELS = {"uint8": 256, "uint16": MOST_LEVELS}  # the most levels of a type

Interval = tuple[float, float]
Examples = dict[str, np.ndarray]  # one example, or several along a first axis


@dataclass(frozen=True)
class Description:
    """What the examples of a source look like.

    shape: of one x as stored; dtype: of x, by NumPy's name; levels: the number of grey levels, in
    [2, 65,536], or None for continuous data; num_classes: of the labels, or None without; class_names:
    the name of each class, where known; scale, shift: of eq. (2), one number or one for each channel
    (by default the range (-1, 1) for levels and the identity for continuous data); made: how the source
    was made, as JSON values.

    Raises ValueError for values that contradict each other.

    >>> Description((32, 32, 3), "uint8", 256, 10).with_range((0.0, 1.0)).scale
    (0.00390625,)
    """

    shape: tuple[int, ...]
    dtype: str
    levels: int | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check("shape", self.shape, len(self.shape) and min(self.shape) > 0, "axes of length >= 1")
        if self.levels is not None:
            check_count(2, levels=self.levels)
            most = INT_LEVELS.get(self.dtype, 0)
            check("levels", self.levels, self.levels <= most, f"at most {most} for {self.dtype}")
        if self.num_classes is not None:
            check_count(num_classes=self.num_classes)
        named = self.class_names is None or len(self.class_names) == self.num_classes
        check("class_names", self.class_names, named, f"{self.num_classes} names")
        object.__setattr__(self, "made", json.loads(json.dumps(dict(self.made))))
        per_level = 2.0 / self.levels if self.levels else 1.0
        if not self.scale:
            object.__setattr__(self, "scale", (per_level,))
        if not self.shift:
            object.__setattr__(self, "shift", (-1.0 if self.levels else 0.0,))
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            ok = len(value) in (1, self.shape[-1]) and np.isfinite(value).all()
            check(name, value, ok, f"1 or {self.shape[-1]} finite numbers")
        check("scale", self.scale, 0 not in self.scale, "different from 0")

    def with_range(self, range: Interval) -> "Description":
        """Take the levels to the range (low, high) by eq. (1); ValueError for continuous data."""
        check_interval("range", range)
        check("levels", self.levels, self.levels is not None, "given for a range")
        low, high = range
        scale = (high - low) / (self.levels or 1)
        return dataclasses.replace(self, scale=(float(scale),), shift=(float(low),))

    def with_moments(self, mean: Any, std: Any) -> "Description":
        """Standardise continuous data by means and standard deviations, numbers or one by channel.

        Raises ValueError for data with levels and for a standard deviation that is not > 0.
        """
        check("levels", self.levels, self.levels is None, "None for standardisation")
        mean, std = (np.atleast_1d(np.asarray(v, np.float64)) for v in (mean, std))
        check("std", std.tolist(), (std > 0).all(), "> 0")
        scale, shift = 1.0 / std, -mean / std
        return dataclasses.replace(self, scale=_floats(scale), shift=_floats(shift))

    def to_record(self) -> dict[str, Any]:
        """A JSON value that `from_record` reads."""
        record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return record

    @classmethod
    def from_record(cls, record: Any) -> "Description":
        """Read what `to_record` made; ValueError for anything else."""
        names = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(record, dict) or not {"shape", "dtype"} <= set(record) <= names:
            found = sorted(record) if isinstance(record, dict) else record
            raise ValueError(
                f"a description must have the fields {sorted(names)}, got {found!r:.200}"
            )
        lists = {k: tuple(v) for k, v in record.items() if isinstance(v, list)}
        try:
            return cls(**record | lists)
        except TypeError as error:
            raise ValueError(f"a description has a value of the wrong type: {error}") from None


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, values.ravel()))


def describe(source: Any) -> Description:
    """The description of a source; without one, what its first example says.

    uint8 and uint16 are taken as all the levels of the type, and labels as unknown: `Described` says
    more. Raises ValueError for a source without examples or whose examples have no "x".
    """
    found = getattr(source, "description", None)
    if isinstance(found, Description):
        return found
    check("source", len(source), len(source) > 0, "of at least one example")
    first = source[0]
    if not isinstance(first, Mapping) or "x" not in first:
        raise ValueError(f"an example of a source must be a dict with 'x', got {first!r:.80}")
    x = np.asarray(first["x"])
    return Description(x.shape, x.dtype.name, INT_LEVELS.get(x.dtype.name))


@dataclass(frozen=True, eq=False)
class Described:
    """A source of another library with a description beside it.

    >>> Described(grain_source, Description((32, 32, 3), "uint8", 256, num_classes=10))
    """

    source: Any
    description: Description

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        return _example(self.source[index])

    def __getitems__(self, indices: Sequence[SupportsIndex] | np.ndarray) -> Examples:
        """The examples of these numbers, stacked."""
        return take(self.source, indices)


def as_source(source: Any) -> Source:
    """A source of any object with a length and examples by number, described by `describe`.

    Objects of Hugging Face's `datasets` are read by `from_datasets`.
    """
    if isinstance(getattr(source, "description", None), Description):
        described: Source = source
        return described
    if hasattr(source, "select_columns") and hasattr(source, "features"):
        from score_jax.data.parquet import from_datasets

        return from_datasets(source)
    return Described(source, describe(source))


@dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of a source, in the order of `indices` (m,)."""

    source: Source
    indices: np.ndarray

    @property
    def description(self) -> Description:
        """That of the whole source."""
        return describe(self.source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        return dict(self.source[int(self.indices[index])])

    def __getitems__(self, indices: Sequence[SupportsIndex] | np.ndarray) -> Examples:
        """The examples of these numbers, stacked."""
        return take(self.source, self.indices[np.asarray(indices)])


def take(source: Any, indices: Sequence[SupportsIndex] | np.ndarray) -> Examples:
    """The examples of these numbers, stacked along a first axis: {"x": (b, *d), "y": (b,)}.

    A source's own `__getitems__` is used where it has one; it may return the examples stacked, or a list
    of them, as sources of tensorflow-datasets do. Labels become int32. Raises ValueError, naming the
    number of the example, where one has another form than the first.
    """
    if many := getattr(source, "__getitems__", None):
        found = many(indices)
        if isinstance(found, Mapping):
            return dict(found)
    else:
        found = [source[int(i)] for i in indices]
    examples = [_example(example) for example in found]
    form = {k: v.shape for k, v in examples[0].items()}
    for i, example in zip(indices, examples, strict=True):
        other = {k: v.shape for k, v in example.items()}
        if other != form:
            raise ValueError(
                f"example {int(i)} has the shapes {other}, but example {int(indices[0])} has {form}"
            )
    return {k: np.stack([example[k] for example in examples]) for k in form}


def _example(example: Any) -> Examples:
    if not isinstance(example, Mapping):
        raise ValueError(f"an example of a source must be a dict with 'x', got {example!r:.80}")
    found = {k: np.asarray(v) for k, v in example.items() if v is not None}
    if "y" in found and np.issubdtype(found["y"].dtype, np.integer):
        found["y"] = found["y"].astype(np.int32)
    return found
