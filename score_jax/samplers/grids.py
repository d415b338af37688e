"""Grids: the times that a sampler visits, strictly decreasing, as data.

A grid of n + 1 times makes n steps, each over an interval (t, t_next); the last one ends exactly at the
last time. The number of steps belongs here, never to an SDE.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax._check import known
from score_jax._math import placed
from score_jax.sde import log_snr_ends
from score_jax.types import SDE


def check_grid(grid: object, t1: float | None = None) -> Float[Array, " n"]:
    """Return the grid as an array; raise ValueError for a grid that is not valid.

    A grid has at least two finite times, decreases strictly, and lies in (0, t1]. Values are checked
    where they are known, which is everywhere but inside a transformation over the grid itself.
    """
    # Inside jit a list would become a traced array, whose values are not known.
    values = np.asarray(grid) if known(grid) else None
    if values is not None and values.dtype.kind in "USO":
        raise ValueError(f"grid must be a list of times, as of uniform_grid, got {grid!r:.60}")
    if values is not None and np.issubdtype(values.dtype, np.floating):
        array = placed(values)
    else:
        array = jnp.asarray(grid if values is None else values)
    if array.ndim != 1 or array.shape[0] < 2:
        raise ValueError(f"grid must be a list of at least two times, got shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.zeros(0).dtype)
    if values is None:
        return array
    # In the precision of the sampler: two times may become equal.
    values = values.astype(array.dtype)
    if not np.isfinite(values).all():
        raise ValueError(f"grid must be finite, got {values[~np.isfinite(values)][0]}")
    rises = np.diff(values) >= 0
    if rises.any():
        at = int(np.argmax(rises))
        raise ValueError(
            f"grid must decrease strictly, got {values[at]} then {values[at + 1]} at index {at}"
        )
    if values[-1] <= 0:
        raise ValueError(f"grid must stay above 0, got {values[-1]}")
    if t1 is not None and values[0] > t1 * (1 + 1e-6):
        raise ValueError(f"grid must not start above t1={t1}, got {values[0]}")
    return array


def _check(sde: SDE, n: int, t0: float) -> None:
    if n < 1:
        raise ValueError(f"n, the number of steps, must be at least 1, got {n}")
    if not 0 < t0 < sde.t1:
        raise ValueError(f"t0 must be in (0, t1={sde.t1}), got {t0}")


def uniform_grid(sde: SDE, n: int, *, t0: float = 1e-3) -> Float[Array, " m"]:
    """n equal steps from t1 to t0: (n + 1,).

    >>> uniform_grid(VP(), 4, t0=0.2)
    Array([1. , 0.8, 0.6, 0.4, 0.2], dtype=float32)
    """
    _check(sde, n, t0)
    return placed(np.linspace(sde.t1, t0, n + 1))


def power_grid(sde: SDE, n: int, *, t0: float = 1e-3, power: float = 2.0) -> Float[Array, " m"]:
    """n steps equal in t^(1/power), from t1 to t0: (n + 1,); power 2 is the quadratic grid.

    Larger powers put more steps near t0, where the data's detail is decided.
    """
    _check(sde, n, t0)
    if not power > 0:
        raise ValueError(f"power must be > 0, got {power}")
    times = np.linspace(sde.t1 ** (1 / power), t0 ** (1 / power), n + 1) ** power
    times[0], times[-1] = sde.t1, t0
    return placed(times)


def quadratic_grid(sde: SDE, n: int, *, t0: float = 1e-3) -> Float[Array, " m"]:
    """n steps equal in sqrt(t), from t1 to t0: (n + 1,); DDIM's quadratic choice."""
    return power_grid(sde, n, t0=t0, power=2.0)


def times_at(sde: SDE, log_snr: np.ndarray, ends: tuple[float, float]) -> Float[Array, " m"]:
    """The times with these log-SNRs (n + 1,), the first and the last exactly `ends`: a grid (n + 1,)."""
    with jax.ensure_compile_time_eval():
        times = np.array(sde.time_of_log_snr(placed(log_snr)))
        times[0], times[-1] = ends
        return check_grid(times, sde.t1)


def karras_levels(high: float, low: float, n: int, *, rho: float = 7.0) -> np.ndarray:
    """n steps equal in (s/m)^(1/rho) between two levels s/m: (n + 1,), arXiv:2206.00364 eq. 5.

    >>> karras_levels(80, 0.002, 2)
    array([8.00000000e+01, 2.51521898e+00, 2.00000000e-03])
    """
    return np.linspace(high ** (1 / rho), low ** (1 / rho), n + 1) ** rho


def log_snr_grid(sde: SDE, n: int, *, t0: float = 1e-3) -> Float[Array, " m"]:
    """n steps equal in log-SNR, from t1 to t0: (n + 1,); the grid of DPM-Solver (arXiv:2206.00927).

    For `VE` it is the uniform grid.

    >>> log_snr_grid(LinearVE(), 3, t0=0.08)
    Array([80.  ,  8.  ,  0.8 ,  0.08], dtype=float32)
    """
    _check(sde, n, t0)
    return times_at(sde, np.linspace(*log_snr_ends(sde, t0), n + 1), (sde.t1, t0))


def karras_grid(sde: SDE, n: int, *, t0: float = 1e-3, rho: float = 7.0) -> Float[Array, " m"]:
    """n steps equal in (s/m)^(1/rho), from t1 to t0: (n + 1,); EDM's grid, arXiv:2206.00364 eq. 5.

    The paper's N steps end with one from its smallest sigma to 0: that is `karras_grid(sde, N - 1)` with
    Tweedie's formula as final denoising.

    >>> karras_grid(LinearVE(), 2, t0=0.002)
    Array([8.000e+01, 2.515e+00, 2.000e-03], dtype=float32)
    """
    _check(sde, n, t0)
    if not (math.isfinite(rho) and rho > 0):
        raise ValueError(f"rho must be finite and > 0, got {rho}")

    high, low = (math.exp(-0.5 * end) for end in log_snr_ends(sde, t0))
    return times_at(sde, -2 * np.log(karras_levels(high, low, n, rho=rho)), (sde.t1, t0))
