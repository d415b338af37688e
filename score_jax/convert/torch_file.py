"""Files of `torch.save` as NumPy arrays, without torch and without executing a pickle.

Two layouts: since version 1.6 of PyTorch a zip with `data.pkl`, `byteorder` and one record a storage;
before that a sequence of pickles (magic number, version, system, object, keys) with the storages after
them. Both pickles go through the interpreter of `score_jax/_pickles.py`.
"""

import io
import math
import mmap
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from score_jax._check import brief
from score_jax._files import reading
from score_jax._pickles import CONTAINERS, Record, Refused, read_pickle

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older layout
ZIP_START = b"PK\x03\x04"
ORDERS = {b"little": True, b"big": False}
DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "float64": np.float64, "float32": np.float32, "float16": np.float16,
        "bfloat16": jnp.bfloat16, "int64": np.int64, "int32": np.int32, "int16": np.int16,
        "int8": np.int8, "uint8": np.uint8, "bool": np.bool_, "complex64": np.complex64,
        "complex128": np.complex128,
    }.items()
}  # fmt: skip
ALIASES = {"double": "float64", "float": "float32", "half": "float16", "long": "int64",
           "int": "int32", "short": "int16"}  # fmt: skip
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip


class _Kind(NamedTuple):
    """The class of a storage, named by a pickle."""

    dtype: np.dtype


class _Place(NamedTuple):
    """Where a storage of an older file begins, and how many numbers it has."""

    start: int
    length: int


class _Storage(NamedTuple):
    """A flat, read-only array that tensors are views of."""

    values: np.ndarray


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise Refused(f"{what} that is not a whole number from 0 on: {brief(value)}")
    return value


def _wholes(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list):
        raise Refused(f"{what} that are not a tuple: {brief(values)}")
    return tuple(_whole(v, what) for v in values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *flags: Any) -> np.ndarray:
    """A view of a storage; the arguments are those of torch._utils._rebuild_tensor_v2."""
    if not isinstance(storage, _Storage):
        raise Refused("a tensor without a storage")
    shape, steps = _wholes(size, "sizes of a tensor"), _wholes(stride, "strides of a tensor")
    first, flat = _whole(offset, "an offset of a tensor"), storage.values
    last = first + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    count = math.prod(shape)
    if count and (last >= flat.size or count > flat.size):
        raise Refused(
            f"a tensor of size {shape}, strides {steps} and offset {first} "
            f"in a storage of {flat.size} numbers"
        )
    if not count:
        return np.zeros(shape, flat.dtype)
    return np.lib.stride_tricks.as_strided(
        flat[first:], shape, [s * flat.itemsize for s in steps], writeable=False
    )


def _parameter(data: Any, *flags: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise Refused("a parameter that is not a tensor")
    return data


def _size(values: Any = ()) -> tuple[int, ...]:
    return _wholes(values, "a torch.Size")


TABLE: dict[str, Any] = {
    **CONTAINERS,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    **{f"torch.{name}": _Kind(DTYPES[dtype]) for name, dtype in STORAGES.items()},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"torch.{name}": DTYPES[dtype] for name, dtype in ALIASES.items()},
}


def _values(raw: Any, dtype: np.dtype, little: bool) -> np.ndarray:
    """The numbers in a buffer with the given byte order."""
    if little != (sys.byteorder == "little") and dtype.itemsize > 1:
        part = dtype.itemsize // (2 if np.issubdtype(dtype, np.complexfloating) else 1)
        raw = np.frombuffer(raw, np.uint8).reshape(-1, part)[:, ::-1].tobytes()
    return np.frombuffer(raw, dtype)


def _storage_id(pid: Any) -> tuple[np.dtype, str, int, tuple[Any, ...]]:
    """(dtype, key, length, the rest) of a persistent id ("storage", kind, key, device, length)."""
    if not isinstance(pid, tuple) or len(pid) < 5 or not isinstance(pid[1], _Kind):
        raise Refused(f"it refers to an object outside of the pickle: {brief(pid)}")
    return pid[1].dtype, _name(pid[2]), _whole(pid[4], "a length of a storage"), pid[5:]


def _name(key: Any) -> str:
    """The name of a storage, a string or a number."""
    if type(key) not in (str, int):
        raise Refused(f"a storage that is named by {brief(key)}")
    return str(key)


def _cached(
    read: Callable[[np.dtype, str, int], np.ndarray],
) -> Callable[[Any], _Storage]:
    """Every storage once, however many tensors share it."""
    known: dict[str, _Storage] = {}

    def persistent(pid: Any) -> _Storage:
        dtype, key, count, rest = _storage_id(pid)
        name = f"{dtype}/{key}"
        if name not in known:
            known[name] = _Storage(read(dtype, key, count))
        if rest and rest[0] is not None:
            if not isinstance(rest[0], tuple) or len(rest[0]) != 3:
                raise Refused(f"a view of a storage given by {brief(rest[0])}")
            _, start, length = rest[0]
            start, length = _whole(start, "a start of a view"), _whole(length, "a length of a view")
            return _Storage(known[name].values[start : start + length])
        return known[name]

    return persistent


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        pickles = [n for n in records if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip, but not of torch.save (one FOLDER/data.pkl is expected)")
        folder = pickles[0].removesuffix("data.pkl")
        # The sizes that the file states can be checked, because torch.save does not compress.
        for info in records.values():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its record {info.filename!r} is compressed")
        total = sum(info.file_size for info in records.values())
        if total > path.stat().st_size:
            raise ValueError(f"its records claim {total} bytes, more than the file has")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in records else b"little"
        if order not in ORDERS:
            raise ValueError(f"its byteorder is {order!r}, which is not little or big")

        def read(dtype: np.dtype, key: str, count: int) -> np.ndarray:
            name = f"{folder}data/{key}"
            if name not in records:
                raise ValueError(f"its record {name!r} is missing")
            if records[name].file_size != count * dtype.itemsize:
                raise ValueError(
                    f"its record {name!r} has {records[name].file_size} bytes, "
                    f"but {count} numbers of {dtype} are claimed"
                )
            return _values(archive.read(name), dtype, ORDERS[order])

        return read_pickle(io.BytesIO(archive.read(pickles[0])), TABLE, _cached(read))


class _Bytes(io.BytesIO):
    """Bytes with what `mmap` has."""

    def __len__(self) -> int:
        return self.getbuffer().nbytes

    def __getitem__(self, part: slice) -> memoryview:
        return self.getbuffer()[part]


def _read_legacy(data: mmap.mmap | _Bytes) -> Any:
    try:
        known = read_pickle(data) == MAGIC and read_pickle(data) == PROTOCOL
    except ValueError as error:
        raise ValueError(f"it is not a file of torch.save: {error}") from error
    if not known:
        raise ValueError("it is not a file of torch.save")
    system = read_pickle(data)
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    start = data.tell()
    kinds = _storage_kinds(data)
    places = _storage_places(data, read_pickle(data), kinds)

    def read(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if key not in places or places[key].length != count:
            raise ValueError(f"storage {key!r} of {count} numbers is missing")
        place = places[key].start
        return _values(data[place : place + count * dtype.itemsize], dtype, bool(little))

    data.seek(start)
    return read_pickle(data, TABLE, _cached(read))


def _storage_kinds(data: mmap.mmap | _Bytes) -> dict[str, np.dtype]:
    """The types of the storages of an older file, which are in its pickle; skips the pickle."""
    kinds: dict[str, np.dtype] = {}

    def note(pid: Any) -> None:
        dtype, key, _, _ = _storage_id(pid)
        if kinds.setdefault(key, dtype) != dtype:
            raise Refused(f"storage {key!r} of two types, {kinds[key]} and {dtype}")

    names = [name for name in TABLE if name.startswith("torch._utils.")]
    read_pickle(data, TABLE | dict.fromkeys(names, lambda *arguments: None), note)
    return kinds


def _storage_places(
    data: mmap.mmap | _Bytes, keys: Any, kinds: dict[str, np.dtype]
) -> dict[str, _Place]:
    """Where the storages of an older file begin; each has its length in front of it."""
    places: dict[str, _Place] = {}
    position = data.tell()
    for key in map(_name, keys if isinstance(keys, list) else ()):
        count = int.from_bytes(data[position : position + 8], "little")
        width = kinds[key].itemsize if key in kinds else 0
        if not width:
            raise ValueError(f"storage {key!r} belongs to no tensor")
        if position + 8 + count * width > len(data):
            raise ValueError(f"it ends within storage {key!r} of {count} numbers")
        places[key] = _Place(position + 8, count)
        position += 8 + count * width
    return places


def read_torch(path: str | Path) -> Any:
    """Read a file of `torch.save` (`.pth`, `.pt`, `.bin`): its containers, with NumPy arrays.

    Tensors become read-only arrays of their own type (bfloat16 by ml_dtypes) and shape; those that
    share a storage share memory. Dictionaries, lists, tuples, sets, numbers, strings, bytes, None,
    torch.Size (a tuple) and torch dtypes are all that is accepted besides. Nothing of the file is
    executed.

    Raises ValueError, naming the file, for any other content (naming it), for damaged or
    truncated files, and for sizes that the file does not have; OSError if it cannot be read.

    >>> weights = read_torch("checkpoint_8.pth")["model"]
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(4)
    with reading(path):
        if start == ZIP_START:
            return _read_zip(path)
        if not start:
            raise ValueError("it is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_legacy(data)


def _embedded(raw: Any) -> _Storage:
    """A storage within a plain pickle, which is a file of its own there."""
    if not isinstance(raw, bytes):
        raise Refused(f"a storage that is {brief(raw)}")
    storage = _read_legacy(_Bytes(raw))
    if not isinstance(storage, _Storage):
        raise Refused("a storage that is none")
    return storage


def read_torch_pickle(path: str | Path) -> Any:
    """Read a plain pickle of objects that hold tensors, as NVIDIA's `.pkl` files are.

    Tensors and containers are as in `read_torch`; an object of any class is a `Record` of its class
    name, arguments and state. Nothing of the file is imported or executed. Raises ValueError, naming
    the file, if it is damaged; OSError if it cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file, reading(path):
        if not file.read(1):
            raise ValueError("it is empty")
        table = TABLE | {"torch.storage._load_from_bytes": _embedded}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return read_pickle(data, table, unknown=Record.named)
