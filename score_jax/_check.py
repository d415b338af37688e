"""Checks of arguments. Each raises a ValueError that names the argument, its value and what is allowed.

>>> check("eta", eta, 0 <= eta <= 1, "in [0, 1]")  # ValueError: eta must be in [0, 1], got 1.5
>>> check_count(n=n, order=order)  # ValueError: n must be at least 1, got 0
"""

import inspect
import math
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check(name: str, value: Any, ok: Any, allowed: str) -> None:
    """Raise "name must be ALLOWED, got value" unless ok."""
    if not ok:
        value = plain(value)
        got = value.name if isinstance(value, np.dtype) else repr(value)
        raise ValueError(f"{name} must be {allowed}, got {got}")


def brief(value: Any, limit: int = 60) -> str:
    """A value of unknown origin for a message: short scalars as they are, all else by its kind.

    `repr` of objects from a file can take unbounded time and memory.

    >>> brief([[1, 2], "x"])
    'a list of 2'
    """
    kind = type(value)
    if kind in (bool, float, type(None)) or (kind is int and value.bit_length() < 4 * limit):
        return repr(value)
    if kind in (str, bytes):
        return repr(value[:limit]) + (" ..." if len(value) > limit else "")
    if kind in (list, tuple, dict, set):
        return f"a {kind.__name__} of {len(value)}"
    return f"an object {kind.__name__}"


def known(*values: Any) -> bool:
    """Whether no leaf of the values is traced, so that they can be compared with numbers."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def plain(value: Any) -> Any:
    """A NumPy or JAX number as Python's; anything else, traced values too, as it is.

    >>> plain(np.float32(0.5)), plain(jnp.asarray(3))
    (0.5, 3)
    """
    number = isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0
    return value.item() if number and known(value) else value


def is_number(value: Any) -> bool:
    """Whether the value is a finite real number, of Python, NumPy or JAX (no boolean, no array)."""
    value = plain(value)
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive(owner: str = "", /, **values: Any) -> None:
    """Raise unless every value is a finite number above 0; traced values pass.

    `owner` goes before the name: "VP: t1 must be > 0 and finite, got -1".
    """
    for name, value in values.items():
        if known(value):
            name = f"{owner}: {name}" if owner else name
            check(name, value, is_number(value) and value > 0, "> 0 and finite")


def check_count(least: int = 1, /, **values: Any) -> None:
    """Raise unless every value is an integer of at least `least`, of Python, NumPy or JAX."""
    for name, value in values.items():
        ok = isinstance(plain(value), Integral) and not isinstance(plain(value), bool)
        check(name, value, ok, f"an integer >= {least}")
        check(name, value, value >= least, f"at least {least}")


def check_interval(name: str, ends: Any) -> None:
    """Raise unless `ends` is (low, high), two finite numbers with low < high."""
    ok = isinstance(ends, tuple | list) and len(ends) == 2 and all(map(is_number, ends))
    check(name, ends, ok and ends[0] < ends[1], "(low, high) with low < high")


def check_finite(name: str, value: Any) -> None:
    """Raise for an array with NaN or infinite entries, where its values are known."""
    if known(value):
        broken = int(np.size(value) - np.isfinite(np.asarray(value, np.float64)).sum())
        if broken:
            raise ValueError(f"{name} must be finite, got {broken} entries that are not")


def check_classes(y: Any, num_classes: int) -> None:
    """Raise ValueError unless y are integers in [0, num_classes), where their values are known."""
    y = np.asarray(y) if known(y) else jnp.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"y must be integer class labels, got dtype {y.dtype}")
    if isinstance(y, np.ndarray) and y.size and not (y.min() >= 0 and y.max() < num_classes):
        wrong = y.min() if y.min() < 0 else y.max()
        raise ValueError(f"y must be in [0, {num_classes}), got {wrong}")


def check_array(name: str, value: Any) -> None:
    """Raise for a list or tuple instead of an array."""
    if isinstance(value, list | tuple):
        raise ValueError(f"{name} must be an array, got a {type(value).__name__}: use jnp.asarray")


def check_key(key: Any, order: str) -> None:
    """Raise unless `key` is one typed key; `order` is the signature, for swapped arguments."""
    typed = isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.ndim:
        raise ValueError(
            f"key must be one typed key, jax.random.key(0), got {key!r:.60}; the order is {order}"
        )


def check_function(name: str, value: Any, allowed: str) -> None:
    """Raise unless the value is a function: not a class, nor a network instead of its `apply`."""
    network = hasattr(value, "apply") and hasattr(value, "init")
    ok = callable(value) and not isinstance(value, type) and not network
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r:.60}")


def check_score(score: object) -> None:
    """Raise unless `score` may be a `ScoreFn`: for a network's apply, too."""
    if inspect.ismethod(score) and score.__name__ == "apply":
        raise ValueError(
            f"score must be a function (x, t) -> array, got {type(score.__self__).__name__}.apply, "
            "which needs parameters: use model.score(params), or score_fn(sde, net.apply, params, ...)"
        )
    check_function("score", score, "a function (x, t) -> array")


def check_float(name: str, x: Any) -> None:
    """Raise unless x is a floating-point array without NaN: integer data have to be scaled first."""
    check_array(name, x)
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        got = f"dtype {jnp.result_type(x)}"
        raise ValueError(f"{name} must be floating point, got {got}: scale integer data first")
    check_finite(name, x)
