"""Files of `torch.save`, written without torch: tensors in plain containers, in the layout of a zip.

`torch.load(path, weights_only=True)` reads them. The pickle is written opcode by opcode; the only names
in it are those of a tensor and of its storage.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_jax._check import brief
from score_jax._files import replacing

FOLDER = "archive"
ORDER, VERSION = b"little", b"3\n"  # of the bytes of a number, and of the layout


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _whole(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def _tensor(value: np.ndarray, key: str) -> bytes:
    """A contiguous tensor that fills its storage: storage, offset, sizes, strides, no gradient."""
    kind = _name("torch", "FloatStorage")
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _whole(value.size)) + b"Q"
    strides = (stride // value.itemsize for stride in value.strides)
    hooks = _name("collections", "OrderedDict") + b")R"
    given = _tuple(
        storage, _whole(0), _tuple(*map(_whole, value.shape)), _tuple(*map(_whole, strides)),
        b"\x89", hooks,
    )  # fmt: skip
    return _name("torch._utils", "_rebuild_tensor_v2") + given + b"R"


def _body(tree: Any, storages: list[np.ndarray]) -> bytes:
    """The opcodes that make a value; the arrays in it are appended to `storages`."""
    if isinstance(tree, Mapping):
        items = b"".join(_text(key) + _body(value, storages) for key, value in tree.items())
        return b"}(" + items + b"u"
    if isinstance(tree, list | tuple):
        return b"](" + b"".join(_body(value, storages) for value in tree) + b"e"
    if isinstance(tree, np.ndarray):
        storages.append(np.ascontiguousarray(tree, "<f4").reshape(tree.shape))
        return _tensor(storages[-1], str(len(storages) - 1))
    if isinstance(tree, int) and not isinstance(tree, bool):
        return _whole(tree)
    if isinstance(tree, float):
        return b"G" + struct.pack(">d", tree)
    raise ValueError(f"tree must hold dictionaries, lists, numbers and arrays, got {brief(tree)}")


def write_torch(path: str | Path, tree: Any) -> None:
    """Write dictionaries, lists, numbers and arrays (as float32 tensors), whole or not at all.

    Raises ValueError for anything else in the tree; OSError if the file cannot be written.

    >>> write_torch("x.pth", {"model": {"weight": np.zeros((2, 3), np.float32)}, "step": 7})
    """
    storages: list[np.ndarray] = []
    program = b"\x80\x02" + _body(tree, storages) + b"."
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, zipfile.ZipFile(part, "w") as archive:
        # A date of its own, so that equal weights make equal files.
        write = lambda name, raw: archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}"), raw)
        write("data.pkl", program)
        write("byteorder", ORDER)
        for key, values in enumerate(storages):
            write(f"data/{key}", values.tobytes())
        write("version", VERSION)
