"""CIFAR-10 and CIFAR-100 from their published archives, the python and the binary version.

The batches of the python version are pickles, which are read as data: nothing in them is executed.
An image is 3072 bytes, the red, green and blue planes of 32 x 32 pixels.
"""

import io
import os
import pathlib
import tarfile
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from score_jax._check import check
from score_jax._pickled_arrays import PickledArray, arrays_table
from score_jax._pickles import read_pickle
from score_jax.data.arrays import Dataset, from_arrays

SIZE = 32
PIXELS = 3 * SIZE * SIZE
NAMES = arrays_table(("u1",))


class _Version(NamedTuple):
    """Files of one version: the start of the batches of each split, the classes' names, the labels.

    labels: keys of a pickle, or the number of label bytes in front of an image, coarse and fine.
    """

    folder: str
    splits: dict[str, str]
    names: dict[bool, str]  # of the coarse and of the fine classes
    labels: dict[bool, Any]
    binary: bool


VERSIONS = (
    _Version(
        "cifar-10-batches-py", {"train": "data_batch_", "test": "test_batch"},
        {False: "batches.meta/label_names"}, {False: "labels"}, False,
    ),
    _Version(
        "cifar-100-python", {"train": "train", "test": "test"},
        {False: "meta/fine_label_names", True: "meta/coarse_label_names"},
        {False: "fine_labels", True: "coarse_labels"}, False,
    ),
    _Version(
        "cifar-10-batches-bin", {"train": "data_batch_", "test": "test_batch.bin"},
        {False: "batches.meta.txt"}, {False: 0}, True,
    ),
    _Version(
        "cifar-100-binary", {"train": "train.bin", "test": "test.bin"},
        {False: "fine_label_names.txt", True: "coarse_label_names.txt"},
        {False: 1, True: 0}, True,
    ),
)  # fmt: skip


class _Archive(NamedTuple):
    path: str
    version: _Version
    members: dict[str, bytes]  # by their names within the folder

    def where(self, name: str) -> str:
        return f"{self.path}: {self.version.folder}/{name}"


def _is_wanted(version: _Version, name: str, split: str) -> bool:
    meta = {entry.split("/")[0] for entry in version.names.values()}
    return name in meta or (name.startswith(version.splits[split]) and "/" not in name)


def _read(path: pathlib.Path, split: str) -> _Archive:
    """The batches of a split and the names of the classes."""
    members: dict[str, bytes] = {}
    version = None
    try:
        with tarfile.open(path) as archive:
            for info in archive:
                folder, _, name = info.name.removeprefix("./").partition("/")
                here = next((v for v in VERSIONS if v.folder == folder), None)
                if here is None or not info.isfile():
                    continue
                version = here
                if _is_wanted(here, name, split):
                    file = archive.extractfile(info)
                    members[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a tar archive: {error}") from None
    if version is None:
        folders = ", ".join(v.folder for v in VERSIONS)
        raise ValueError(f"{path} is no archive of CIFAR: it has none of the folders {folders}")
    return _Archive(str(path), version, members)


def _pickle(archive: _Archive, name: str) -> dict[str, Any]:
    try:
        value = read_pickle(io.BytesIO(archive.members[name]), NAMES)
    except ValueError as error:
        raise ValueError(f"{archive.where(name)} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{archive.where(name)} is not a dictionary, but a {type(value).__name__}")
    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in value.items()}


def _python_batch(archive: _Archive, name: str, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    value = _pickle(archive, name)
    x, y = value.get("data"), value.get(archive.version.labels[coarse])
    pixels = x.value if isinstance(x, PickledArray) else np.zeros(0)
    if pixels.shape[1:] != (PIXELS,) or not isinstance(y, list) or len(y) != len(pixels):
        raise ValueError(
            f"{archive.where(name)} has no images of {PIXELS} bytes, each with a label"
        )
    return pixels, np.array(y)


def _binary_batch(archive: _Archive, name: str, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(archive.members[name], np.uint8)
    width = len(archive.version.labels)
    if not raw.size or raw.size % (width + PIXELS):
        raise ValueError(
            f"{archive.where(name)} has {raw.size} bytes, which are not records of {width + PIXELS}"
        )
    rows = raw.reshape(-1, width + PIXELS)
    return rows[:, width:], rows[:, archive.version.labels[coarse]].astype(np.int64)


def _class_names(archive: _Archive, coarse: bool) -> Sequence[str] | None:
    name, _, key = archive.version.names[coarse].partition("/")
    if name not in archive.members:
        return None
    if archive.version.binary:
        return archive.members[name].decode().split()
    names = _pickle(archive, name).get(key)
    if not isinstance(names, list):
        return None
    return [n.decode() if isinstance(n, bytes) else str(n) for n in names]


def read_cifar(
    path: str | os.PathLike[str], split: str = "train", *, coarse: bool = False
) -> Dataset:
    """Read a split ("train" or "test") of a CIFAR archive, python or binary version: `Dataset`.

    `coarse` takes the 20 coarse classes of CIFAR-100 rather than the 100 fine ones.

    Raises FileNotFoundError, and ValueError naming the archive and the file in it that cannot be used.

    >>> read_cifar("cifar-10-python.tar.gz", "test")
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    splits = VERSIONS[0].splits
    check("split", split, split in splits, f"one of {tuple(splits)}")
    archive = _read(path, split)
    labels = archive.version.labels
    check("coarse", coarse, coarse in labels, f"False for {archive.version.folder}")
    names = sorted(n for n in archive.members if n.startswith(archive.version.splits[split]))
    if not names:
        raise ValueError(f"{path} has no batches of the split {split!r}")
    read = _binary_batch if archive.version.binary else _python_batch
    parts = [read(archive, name, coarse) for name in names]
    x = np.concatenate([x for x, _ in parts]).reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
    y = np.concatenate([y for _, y in parts])
    try:
        return from_arrays(
            np.ascontiguousarray(x), y, name="cifar", class_names=_class_names(archive, coarse)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
