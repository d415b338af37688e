"""Data sets of ours on disk: shards of array_record with records of one size, and a description.

A record is the bytes of its leaves, one after the other: x, then, where the source has them, y (int32),
"cond" and "mask". `description.json` has the description of the source, the form of the leaves, and for
each split its shards: file, number of records, bytes and sha256.
"""

import functools
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from score_jax._check import check
from score_jax._files import sha256_of
from score_jax.data._handles import Handle
from score_jax.data.sources import Description, Examples

PathLike = str | os.PathLike[str]
DESCRIPTION_FILE = "description.json"
FORMAT = "score_jax records 1"
# A record alone is what is read at random; images compress little, and this costs time.
WRITE, READ = "group_size:1,uncompressed", "readahead_buffer_size:0,max_parallelism:0"
BUFFER = 32_768  # bytes that a reader of a shard keeps


class Leaf(NamedTuple):
    """The form of one leaf of a record."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Shard:
    """A file of records as `description.json` has it."""

    file: str
    count: int
    bytes: int
    sha256: str


def leaves_of(example: Mapping[str, Any]) -> dict[str, Leaf]:
    """The form of the records of a source with such examples."""
    arrays = {k: np.asarray(v) for k, v in example.items()}
    return {k: Leaf(v.dtype.str.lstrip("|"), v.shape) for k, v in arrays.items()}


def encode(example: Mapping[str, Any], leaves: Mapping[str, Leaf], name: str) -> bytes:
    """An example as a record; ValueError, with its name, where it has another form."""
    found = leaves_of(example)
    if found != leaves:
        raise ValueError(f"{name} has the leaves {found}, but the records have {dict(leaves)}")
    return b"".join(np.ascontiguousarray(example[k]).tobytes() for k in leaves)


def decode(records: Sequence[bytes], leaves: Mapping[str, Leaf]) -> Examples:
    """Records as examples, stacked."""
    size = sum(leaf.size for leaf in leaves.values())
    raw = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), size)
    examples, start = {}, 0
    for name, leaf in leaves.items():
        part = np.ascontiguousarray(raw[:, start : start + leaf.size])
        examples[name] = part.view(leaf.dtype).reshape(len(records), *leaf.shape)
        start += leaf.size
    return examples


def _open_shard(path: str) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(path, options=READ, file_reader_buffer_size=BUFFER)


@dataclass(frozen=True, eq=False)
class RecordFiles:
    """A source of the shards of one split; a shard is opened when it is first used."""

    paths: Sequence[str]
    handles: Sequence[Handle] = field(repr=False)
    ends: np.ndarray = field(repr=False)
    leaves: Mapping[str, Leaf]
    description: Description

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: SupportsIndex) -> Examples:
        return {k: v[0] for k, v in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[SupportsIndex] | np.ndarray) -> Examples:
        """The examples of these numbers, stacked."""
        rows = np.asarray(indices, np.int64)
        rows = np.where(rows < 0, rows + len(self), rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"indices must be below {len(self)}")
        which = np.searchsorted(self.ends, rows, side="right")
        records: list[bytes] = [b""] * len(rows)
        for shard in np.unique(which):
            places = np.flatnonzero(which == shard)
            start = self.ends[shard - 1] if shard else 0
            found = self._read(int(shard), (rows[places] - start).tolist())
            for place, record in zip(places, found, strict=True):
                records[place] = record
        return decode(records, self.leaves)

    def _read(self, shard: int, rows: list[int]) -> list[bytes]:
        path = self.paths[shard]
        try:
            with self.handles[shard].lock:
                found: list[bytes] = self.handles[shard].get().read(rows)
        except Exception as error:  # of array_record's own kinds
            raise ValueError(f"{path} cannot be read: {error}") from None
        size = sum(leaf.size for leaf in self.leaves.values())
        if any(len(record) != size for record in found):
            raise ValueError(f"{path} has records of other sizes than {size} bytes")
        return found


def read_record(folder: PathLike) -> dict[str, Any]:
    """What `description.json` of a folder says; ValueError naming it where it is damaged."""
    path = pathlib.Path(folder) / DESCRIPTION_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {DESCRIPTION_FILE}: it is not a prepared data set"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}, not {FORMAT!r}")
        Description.from_record(record["description"])
        record["leaves"] = {k: Leaf(d, tuple(s)) for k, (d, s) in record["leaves"].items()}
        record["splits"] = {k: [Shard(**s) for s in v] for k, v in record["splits"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    return dict(record)


def record_splits(folder: PathLike) -> list[str]:
    """The names of the splits of a prepared data set; errors as `read_records`."""
    return sorted(read_record(folder)["splits"])


def check_shards(folder: PathLike, shards: Sequence[Shard], *, verify: bool) -> None:
    """Raise ValueError naming the first shard that is missing or has another size or sha256."""
    for shard in shards:
        path = pathlib.Path(folder) / shard.file
        if not path.is_file():
            raise ValueError(f"{path} is missing, which {DESCRIPTION_FILE} names")
        size = path.stat().st_size
        if size != shard.bytes:
            raise ValueError(f"{path} has {size} bytes, but {DESCRIPTION_FILE} says {shard.bytes}")
        if verify and (found := sha256_of(path)) != shard.sha256:
            raise ValueError(
                f"{path} has the sha256 {found[:16]}..., but {DESCRIPTION_FILE} says "
                f"{shard.sha256[:16]}..."
            )


def read_records(folder: PathLike, split: str = "train", *, verify: bool = False) -> RecordFiles:
    """A source of one split of a folder that `score_jax.data.write_records` made.

    The sizes of the shards are compared with the description at once, and with `verify` their sha256,
    for which every byte is read. Only shards that are used are opened.

    Raises FileNotFoundError, and ValueError naming the file that does not fit.

    >>> read_records("data/mine", "test")
    """
    folder = pathlib.Path(folder)
    record = read_record(folder)
    splits = record["splits"]
    check("split", split, split in splits, f"one of {tuple(splits)} of {folder}")
    shards = splits[split]
    check_shards(folder, shards, verify=verify)
    paths = [str(folder / shard.file) for shard in shards]
    handles = [Handle(functools.partial(_open_shard, path)) for path in paths]
    ends = np.array(list(itertools.accumulate(shard.count for shard in shards)), np.int64)
    description = Description.from_record(record["description"])
    return RecordFiles(paths, handles, ends, record["leaves"], description)
