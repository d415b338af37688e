"""From nats of scaled, dequantised data to bits per dimension of the integers they come from."""

import math

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from score_jax._check import check_count, check_interval

_OFF_GRID = 1e-3  # the distance from a grey level above which an entry is off the grid


def check_dequantized(x: ArrayLike, *, levels: int, range: tuple[float, float]) -> None:
    """Raise ValueError for data without a density: integers, or floats that all lie on the grid.

    On a grid of grey levels, k/L or k/(L - 1) of the range, a model can reach any density, and bits
    per dimension are meaningless: add uniform noise first (`score_jax.data.dequantize`). x must be known
    values, not traced ones.
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"x must be dequantised floating-point data, got integers ({x.dtype})")
    unit = (x.astype(np.float64) - range[0]) / (range[1] - range[0])
    for count in (levels, levels - 1):
        off = np.abs(unit * count - np.rint(unit * count))
        if x.size and np.mean(off > _OFF_GRID) < 1e-3:
            raise ValueError(
                f"x lies on the grid of {count} steps on {range}: it was never dequantised, so its "
                "log density is not that of the integers (see score_jax.data.dequantize)"
            )


def bits_per_dim(
    logp: Float[Array, "*n"],
    shape: tuple[int, ...],
    *,
    levels: int = 256,
    range: tuple[float, float] = (-1.0, 1.0),
    x: ArrayLike | None = None,
) -> Float[Array, "*n"]:
    """Bits per dimension of integer data from the density of their dequantised, scaled values.

    A value k in {0, ..., levels - 1} becomes x = low + (high - low) (k + u) / levels, u uniform on
    [0, 1), so one level is (high - low) / levels wide and, in D dimensions,

        log P(k) >= E_u log p(x) + D log((high - low) / levels),      bits = -log P(k) / (D log 2)

    (Theis et al. 2016, arXiv:1511.01844). `logp` in nats, any shape; `shape` of one example. The
    authors' "7 -" is this for 256 levels on (-1, 1). `x`, if given, are the values of that density.

    Raises ValueError unless levels >= 2 and low < high, and for an x that was never dequantised
    (`check_dequantized`).

    >>> bits_per_dim(logp, (32, 32, 3), levels=256, range=(-1, 1), x=x)
    """
    check_count(2, levels=levels)
    check_interval("range", range)
    low, high = range
    if x is not None:
        check_dequantized(x, levels=levels, range=range)
    dim = math.prod(shape)
    return -(logp + dim * math.log((high - low) / levels)) / (dim * math.log(2))


def mean_over_draws(logp: Float[Array, "k n"], *, importance: bool = False) -> Float[Array, " n"]:
    """Join the log densities (k, n) of k dequantisation draws of n examples into n numbers.

    The mean is a lower bound of log P, the plain one; with `importance` the tighter

        log P(x) >= E log (1/k) sum_j p(x + u_j)          (Burda et al. 2016, arXiv:1509.00519)

    which grows with k to log P itself if each density is exact. A Hutchinson estimate makes it too
    large, since the exponential does not average out its noise: use several probes.

    >>> bits_per_dim(mean_over_draws(logp, importance=True), (8, 8, 1), levels=17)
    """
    if logp.shape[0] < 1:
        raise ValueError(f"logp must hold at least one draw, got shape {logp.shape}")
    if not importance:
        return logp.mean(axis=0)
    return jax.scipy.special.logsumexp(logp, axis=0) - math.log(logp.shape[0])
