"""IDX files, as MNIST, Fashion-MNIST, KMNIST and EMNIST are published, with or without gzip.

A file is a number 0, 0, type, axes, the length of each axis (4 bytes, big-endian), and the entries.
"""

import gzip
import math
import os
import pathlib
import re
import zlib

import numpy as np

from score_jax._check import check
from score_jax.data.arrays import Dataset, from_arrays

PathLike = str | os.PathLike[str]
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
SPLITS = {"train": "train", "test": "t10k|test"}  # starts of files' names
IMAGES = re.compile(r"images([-.])idx\d")
GZIP = b"\x1f\x8b"


def read_idx_array(path: PathLike) -> np.ndarray:
    """The array of one IDX file; ValueError naming the file for anything else."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    raw = path.read_bytes()
    try:
        content = gzip.decompress(raw) if raw.startswith(GZIP) else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as gzip: {error}") from None
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if content[:2] != b"\0\0" or content[2] not in TYPES or not rank or len(content) < start:
        raise ValueError(f"{path} is not an IDX file: it starts with {content[:4]!r}")
    dtype = np.dtype(TYPES[content[2]])
    shape = [int(n) for n in np.frombuffer(content, ">u4", rank, 4)]
    needed = start + dtype.itemsize * math.prod(shape)
    if len(content) != needed:
        raise ValueError(
            f"{path} has {len(content)} bytes, but its header needs {needed} for {tuple(shape)}"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _find(folder: pathlib.Path, split: str) -> pathlib.Path:
    check("split", split, split in SPLITS, f"one of {tuple(SPLITS)}")
    start = re.compile(rf"(emnist-\w+-)?({SPLITS[split]})")
    names = sorted(p.name for p in folder.iterdir())
    found = [name for name in names if start.match(name) and IMAGES.search(name)]
    if len(found) != 1:
        raise ValueError(
            f"{folder} must hold one file of the {split} images, such as train-images-idx3-ubyte.gz, "
            f"found {found or names[:10]}"
        )
    return folder / found[0]


def read_idx(
    path: PathLike,
    split: str = "train",
    *,
    labels: PathLike | None = None,
    levels: int | None = None,
    as_is: bool = False,
) -> Dataset:
    """Read the images of an IDX file, or those of a split ("train" or "test") of a folder: `Dataset`.

    Images (n, h, w) get a channel. Labels are in the file of the same name with "labels" and "idx1" in
    place of "images" and "idx3", if it is there, or in the file `labels`. Options as in `from_arrays`.

    Raises FileNotFoundError, and ValueError naming the file that cannot be used.

    >>> read_idx("/usr/share/datasets/fashion-mnist", "test").x.shape
    (10000, 28, 28, 1)
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = _find(path, split)
    x = read_idx_array(path)
    beside = path.with_name(IMAGES.sub(r"labels\g<1>idx1", path.name))
    if labels is None and beside != path and beside.is_file():
        labels = beside
    y = None if labels is None else read_idx_array(labels)
    try:
        return from_arrays(
            x[..., None] if x.ndim == 3 else x,
            None if y is None else y.astype(np.int64) if y.dtype.kind in "iu" else y,
            levels=levels, name=path.name.split(".")[0], as_is=as_is,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
