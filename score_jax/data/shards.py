"""Array files of any size, mapped into memory instead of loaded: .npy, .npz, and folders of them.

A .npz file holds "x" and optionally "y", or ADM's "arr_0" and "arr_1". In a folder, every .npz or .npy
file is a shard, in the order of the names; the labels of `x_NAME.npy` are in `y_NAME.npy`.
"""

import atexit
import itertools
import logging
import math
import os
import pathlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np

from score_jax._check import check
from score_jax._files import reading
from score_jax.data.checks import Form, cast, check_labels, check_layout, check_values, form_of
from score_jax.data.sources import Description, Examples

PathLike = str | os.PathLike[str]
NAMES = (("x", "y"), ("arr_0", "arr_1"))  # of data and labels in a .npz file
ARRAYS, ARCHIVES = ".npy", ".npz"
NOTABLE = 2**28  # bytes of a temporary file that are worth a message
PROBED = 256  # examples whose values are looked at when a file is opened
LOCAL_HEADER = 30  # bytes of a zip's header in front of a member, without its name and extra field
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MappedArray:
    """An array of a file, mapped when it is first used, again in every process."""

    path: str
    offset: int
    dtype: Any
    shape: tuple[int, ...]
    fortran: bool
    where: str
    _mapped: list[np.ndarray] = field(default_factory=list, repr=False, compare=False)

    def array(self) -> np.ndarray:
        """The array; nothing is read before its entries are used."""
        if not self._mapped:
            order: Any = "F" if self.fortran else "C"
            self._mapped.append(
                np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)
            )
        return self._mapped[0]

    def __reduce__(self) -> Any:
        return MappedArray, (
            self.path, self.offset, self.dtype, self.shape, self.fortran, self.where,
        )  # fmt: skip


def _header(file: Any, path: str, start: int, size: int, where: str) -> MappedArray:
    """Read the header of a .npy file, which lies in `size` bytes of `path` from `start` on."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{where} cannot be read as an array file: {error}") from None
    if dtype.hasobject:
        raise ValueError(f"{where} holds Python objects, which need allow_pickle and are not read")
    offset = file.tell()
    needed = offset - start + dtype.itemsize * math.prod(shape)
    if needed > size:
        raise ValueError(f"{where} cannot be read: it has {size} bytes, and needs {needed}")
    return MappedArray(path, offset, dtype, tuple(shape), fortran, where)


def _map_npy(path: str) -> MappedArray:
    with open(path, "rb") as file:
        return _header(file, path, 0, os.path.getsize(path), path)


def _map_member(archive: zipfile.ZipFile, path: str, name: str) -> MappedArray:
    """Map a member of a .npz file where it lies, or, where it is compressed, a copy of it."""
    info = archive.getinfo(f"{name}{ARRAYS}")
    where = f"{path}: {name}"
    if info.compress_type != zipfile.ZIP_STORED:
        return _map_npy(_extracted(archive, info, where))
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER)
        if len(header) < LOCAL_HEADER:
            raise ValueError(f"{where} cannot be read as an array file: it is cut off")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + LOCAL_HEADER + lengths
        file.seek(start)
        return _header(file, path, start, info.file_size, where)


def _extracted(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> str:
    """The path of a copy of a compressed member, deleted when this process ends."""
    if info.file_size > NOTABLE:
        size = info.file_size // 10**6
        _log.warning("%s is compressed: it is unpacked to a temporary file, %d MB", where, size)
    folder = tempfile.mkdtemp(prefix="score_jax-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = os.path.join(folder, pathlib.PurePosixPath(info.filename).name)
    with archive.open(info) as source, open(copy, "wb") as target:
        shutil.copyfileobj(source, target)
    return copy


def _open_archive(path: str) -> tuple[MappedArray, np.ndarray | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(n.removesuffix(ARRAYS) for n in archive.namelist())
            x_name, y_name = next(
                (pair for pair in NAMES if pair[0] in members),
                (members[0] if len(members) == 1 else "", ""),
            )
            if not x_name:
                raise ValueError(f"{path} must hold an array named 'x' or 'arr_0', found {members}")
            x = _map_member(archive, path, x_name)
            y = np.array(_map_member(archive, path, y_name).array()) if y_name in members else None
            return x, y
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as an array file: {error}") from None


def _open_file(path: pathlib.Path) -> tuple[MappedArray, np.ndarray | None]:
    labels = path.with_name("y" + path.name[1:])
    labelled = path.name.startswith("x") and labels.is_file()
    with reading(path, "an array file"):
        if path.suffix == ARCHIVES:
            return _open_archive(str(path))
        return _map_npy(str(path)), np.array(_map_npy(str(labels)).array()) if labelled else None


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (ARRAYS, ARCHIVES))
        labels = {
            p for p in found if p.name.startswith("y") and p.with_name("x" + p.name[1:]) in found
        }
        found = [p for p in found if p not in labels]
        if not found:
            raise ValueError(f"{path} has no {ARRAYS} or {ARCHIVES} files")
        return found
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix not in (ARRAYS, ARCHIVES):
        raise ValueError(f"{path}: must be a .npy or .npz file")
    return [path]


@dataclass(frozen=True, eq=False)
class ArrayFiles:
    """A source of array files that are mapped into memory, one after the other."""

    parts: Sequence[MappedArray]
    y: np.ndarray | None
    form: Form
    missing: bool
    description: Description
    ends: Sequence[int] = field(repr=False)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: SupportsIndex) -> Examples:
        return {k: v[0] for k, v in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[SupportsIndex] | np.ndarray) -> Examples:
        """The examples of these numbers, stacked."""
        rows = np.arange(len(self))[np.asarray(indices)]
        which = np.searchsorted(self.ends, rows, side="right")
        x = np.empty((len(rows), *self.description.shape), self.form.dtype)
        for part in np.unique(which):
            mapped, here = self.parts[part], which == part
            found = np.asarray(mapped.array()[rows[here] - (self.ends[part - 1] if part else 0)])
            x[here] = cast(mapped.where, found, self.form, missing=self.missing)
        return {"x": x} | ({} if self.y is None else {"y": self.y[rows]})


def read_arrays(
    path: PathLike, *, levels: int | None = None, as_is: bool = False, missing: bool = False
) -> ArrayFiles:
    """A source of a .npy or .npz file, or of a folder of such files, which are never loaded whole.

    Options as in `from_arrays`; the values are checked as they are taken, some of them at once. A
    compressed .npz file is unpacked to a temporary file. Python objects are never read.

    Raises FileNotFoundError, and ValueError naming the file that cannot be used or whose examples have
    another shape or type than those before.

    >>> read_arrays("imagenet64/")  # train_data_batch_1.npz and so on
    """
    opened = [_open_file(p) for p in _files(pathlib.Path(path))]
    parts = [x for x, _ in opened]
    first = parts[0]
    for part in parts:
        check_layout(part.where, part.shape, as_is=as_is)
        if (part.shape[1:], part.dtype) != (first.shape[1:], first.dtype):
            raise ValueError(
                f"{part.where} has examples {part.shape[1:]} of {part.dtype}, but {first.where} has "
                f"{first.shape[1:]} of {first.dtype}"
            )
    form = form_of(first.where, first.dtype, levels)
    step = -(-sum(part.shape[0] for part in parts) // PROBED)
    probes = [np.asarray(part.array()[::step]) for part in parts]
    check_values(first.where, np.concatenate(probes), levels, as_is=as_is)
    for part, probe in zip(parts, probes, strict=True):
        cast(part.where, probe, form, missing=missing)
    labels = [
        None if y is None else check_labels(f"{x.where}: labels", y, x.shape[0]) for x, y in opened
    ]
    some = [y for y in labels if y is not None]
    check(
        "labels",
        f"{len(some)} of {len(parts)} files",
        len(some) in (0, len(parts)),
        "in every file",
    )
    y = np.concatenate(some) if some else None
    ends = list(itertools.accumulate(part.shape[0] for part in parts))
    classes = None if y is None else int(y.max()) + 1
    description = Description(
        first.shape[1:], form.dtype, form.levels, classes, made={"name": pathlib.Path(path).stem}
    )
    return ArrayFiles(parts, y, form, missing, description, ends)
