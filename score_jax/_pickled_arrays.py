"""NumPy arrays in pickles, read as data: the names that `read_pickle` of `_pickles.py` needs for them."""

from collections.abc import Collection
from typing import Any

import numpy as np

from score_jax._pickles import CONTAINERS, Built, Refused, Table

LITTLE = ("<", "=", "|")  # orders of bytes; | is that of single bytes


class PickledArray(Built):
    """An array of a pickle, in `value`; its type, shape and bytes come in a second step."""

    value: np.ndarray

    def build(self, state: Any) -> None:
        """Take (version, shape, dtype, is_fortran, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise Refused("an array without type and bytes")
        self.value = _numbers(state[4], state[2], state[1], state[3])


class _Type(Built):
    """A dtype while a pickle is read: one of the allowed types, little-endian."""

    def __init__(self, allowed: Collection[str], name: Any) -> None:
        found = name.lstrip("<=|") if isinstance(name, str) else name
        if found not in allowed:
            raise Refused(f"an array of type {name!r}, which is not one of {', '.join(allowed)}")
        self.dtype = np.dtype(found)

    def build(self, state: Any) -> None:
        """Check the order of bytes."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in LITTLE:
            raise Refused("an array that is not little-endian")


def _numbers(raw: Any, kind: _Type, shape: Any, fortran: Any) -> np.ndarray:
    if isinstance(raw, str):  # bytes of Python 2
        raw = raw.encode("latin-1")
    if not isinstance(raw, bytes) or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused("an array without bytes or a shape")
    return np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if fortran else "C")


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
    if not isinstance(kind, _Type):
        raise Refused("an array without a type")
    array.value = _numbers(raw, kind, shape, order != "C")
    return array


def _scalar(kind: Any, raw: Any) -> Any:
    if not isinstance(kind, _Type):
        raise Refused("a number without a type")
    return _numbers(raw, kind, (), False).item()


_NUMPY = {
    "multiarray._reconstruct": lambda *arguments: PickledArray(),
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}


def arrays_table(allowed: Collection[str]) -> Table:
    """The table of `read_pickle` for containers and `PickledArray` of the allowed types ("f8", "u1").

    >>> read_pickle(file, arrays_table(("f8",)))["mu"].value
    """
    return {
        **CONTAINERS,
        **{f"numpy.{core}.{n}": f for core in ("core", "_core") for n, f in _NUMPY.items()},
        "numpy.ndarray": "numpy.ndarray",
        "numpy.dtype": lambda name, *flags: _Type(allowed, name),
    }
