"""Flax's msgpack checkpoints as NumPy arrays, whatever module wrote them.

The bytes are msgpack with three extensions: 1 an array, 2 a complex number, 3 a NumPy scalar; an array
is (shape, name of the dtype, bytes), and one of more than 1 GiB is cut into flat chunks. Records such
as the `flax.optim` optimisers of 2021 are stored as dictionaries, so that module is not needed.
"""

import math
import mmap
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from score_jax._check import brief
from score_jax._files import reading
from score_jax.convert.torch_file import DTYPES

CHUNKED = "__msgpack_chunked_array__"
UNSIGNED = {f"uint{n}": np.dtype(f"uint{n}") for n in (16, 32, 64)}
NAMES = {name.encode(): dtype for name, dtype in (DTYPES | UNSIGNED).items()}
MOST_ENTRIES = 1 << 16  # of a list; a header claims them before they are there
MOST_AXES, DEEPEST = 32, 100
PLAIN = (str, bytes, int, float, bool, complex, type(None), np.ndarray, np.generic)


def _count(shape: Any) -> int:
    """The number of entries of a shape, which is a list of a few whole numbers."""
    ok = len(shape) <= MOST_AXES and all(type(n) is int and n >= 0 for n in shape)
    if not ok:
        raise ValueError(f"an array of shape {brief(shape)}")
    return math.prod(shape)


def _array(data: bytes) -> np.ndarray:
    """An array from (shape, name of its dtype, bytes)."""
    shape, name, raw = msgpack.unpackb(data, raw=True, max_array_len=MOST_AXES)
    if name not in NAMES:
        raise ValueError(f"an array of dtype {brief(name)}")
    if _count(shape) * NAMES[name].itemsize != len(raw):
        raise ValueError(f"an array of shape {tuple(shape)} and {name!r} in {len(raw)} bytes")
    return np.frombuffer(raw, NAMES[name]).reshape(shape)


def _complex(data: bytes) -> complex:
    real, imaginary = msgpack.unpackb(data)
    return complex(real, imaginary)


EXTENSIONS = {1: _array, 2: _complex, 3: lambda data: _array(data)[()]}


def _extension(code: int, data: bytes) -> Any:
    if code not in EXTENSIONS:
        raise ValueError(f"the msgpack extension {code}, which Flax does not write")
    return EXTENSIONS[code](data)


def _joined(tree: Any) -> np.ndarray:
    """An array from its chunks."""
    shape, chunks = (
        [tree[name][str(i)] for i in range(len(tree[name]))] for name in ("shape", "chunks")
    )
    if sum(chunk.size for chunk in chunks) != _count(shape):
        raise ValueError(f"chunks of {sum(c.size for c in chunks)} numbers for the shape {shape}")
    return np.concatenate(chunks).reshape(shape)


def _restore(tree: Any, depth: int = 0) -> Any:
    """The tree with chunks joined; ValueError for leaves that no checkpoint has."""
    if depth > DEEPEST:
        raise ValueError(f"containers nested more than {DEEPEST} deep")
    if isinstance(tree, dict):
        if CHUNKED in tree:
            return _joined(tree)
        return {k: _restore(v, depth + 1) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_restore(v, depth + 1) for v in tree]
    if not isinstance(tree, PLAIN):
        raise ValueError(f"a {type(tree).__name__}")
    return tree


def read_flax_msgpack(path: str | Path) -> Any:
    """Read a Flax checkpoint (`checkpoint_N`) as nested dictionaries of NumPy arrays.

    The State of score_sde reads as {"step", "optimizer": {"target", "state"}, "lr", "model_state",
    "ema_rate", "params_ema", "rng"}. Raises ValueError, naming the file, if it is damaged, truncated
    or holds anything but arrays, numbers, strings and containers; OSError if it cannot be read.

    >>> ema = read_flax_msgpack("checkpoint_8")["params_ema"]
    """
    path = Path(path)
    with reading(path, "a Flax checkpoint"):
        if not path.stat().st_size:
            raise ValueError("it is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tree = msgpack.unpackb(data, ext_hook=_extension, max_array_len=MOST_ENTRIES)
            return _restore(tree)
