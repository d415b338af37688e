"""Between integers, [0, 1] and the range that a network sees: eq. (1) of `score_jax.data`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from score_jax._check import check, check_count, check_interval

Interval = tuple[float, float]


def _check_floating(x: Array) -> None:
    check("x", x.dtype, jnp.issubdtype(x.dtype, jnp.floating), "floating")


def _margin(levels: int) -> float:
    """How far below 1 the uniform noise of a cell stays, so that rounding in float32 keeps the cell."""
    return 1e-4 if levels <= 256 else 4e-7 * levels


def scale(x: Array | np.ndarray, range: Interval = (-1.0, 1.0)) -> Float[Array, "..."]:
    """Take [0, 1] to the range; `unscale` is its inverse. Raises ValueError for integers."""
    _check_floating(jnp.asarray(x))
    return range[0] + (range[1] - range[0]) * jnp.asarray(x)


def unscale(
    x: Float[Array | np.ndarray, "..."], range: Interval = (-1.0, 1.0)
) -> Float[Array | np.ndarray, "..."]:
    """Take the range to [0, 1]."""
    return (x - range[0]) / (range[1] - range[0])


def dequantize(
    key: Key[Array, ""],
    x: Array | np.ndarray,
    *,
    levels: int = 256,
    range: Interval = (-1.0, 1.0),
) -> Float[Array, "..."]:
    """Eq. (1) of `score_jax.data`: integers in [0, levels) to uniform draws of their cells.

    Raises ValueError for floating-point x, levels < 2, and a range that is not (low, high).
    """
    check_count(2, levels=levels)
    check_interval("range", range)
    x = jnp.asarray(x)
    ok = jnp.issubdtype(x.dtype, jnp.integer)
    check("x", x.dtype, ok, f"integers in [0, {levels})")
    k = x.astype(jnp.zeros(0).dtype)
    # Below 1 by more than the rounding of k + u, so that quantize finds k again.
    u = jax.random.uniform(key, x.shape, k.dtype, maxval=1 - _margin(levels))
    return scale((k + u) / levels, range)


def quantize(
    x: Array, *, levels: int = 256, range: Interval = (-1.0, 1.0)
) -> Integer[Array, "..."]:
    """Undo `dequantize` exactly: the integer in [0, levels) whose cell holds x, clipped.

    It is uint8 for up to 256 levels, and uint16 beyond.

    Raises ValueError for integers, levels < 2, and a range that is not (low, high).
    """
    check_count(2, levels=levels)
    check_interval("range", range)
    _check_floating(x)
    k = jnp.floor(unscale(x, range) * levels + _margin(levels) / 2)
    return jnp.clip(k, 0, levels - 1).astype(jnp.uint8 if levels <= 256 else jnp.uint16)


def random_flip(key: Key[Array, ""], x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Mirror each image from left to right with probability one half."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0],))
    return jnp.where(flip[:, None, None, None], x[:, :, ::-1], x)
