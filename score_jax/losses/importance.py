r"""Times drawn by importance for the likelihood weighting, for any SDE.

The likelihood weighting g(t)^2 / s(t)^2 of denoising score matching is -lambda'(t), the rate at which
log SNR lambda = 2 log(m/s) falls. Times with density proportional to it are those for which lambda
is uniform, so the inverse of lambda is the exact inverse of their distribution function: for VP
log(e^B - 1), for sub-VP 2 log sinh(B/2), for VE log sigma^2, up to sign. The loss is the same in the
mean as with uniform times,

    (1)  E_{uniform t} [-lambda'(t) l(t)] = c E_{uniform lambda} [l(t)],
         c = (lambda(t0) - lambda(t1)) / (t1 - t0)

and its variance far less, since -lambda' grows without bound at t = 0 (arXiv:2101.09258 section 5.2).
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_jax.losses.continuous import TimeSampler, Weighting, stratified_times
from score_jax.sde import log_snr, time_of_log_snr
from score_jax.types import SDE


def log_snr_times(sde: SDE) -> TimeSampler:
    """Draw times whose log SNR is uniform between those of t0 and t1, one in each n-th of it.

    >>> loss = dsm_loss(sde, apply, label=label, times=log_snr_times(sde),
    ...                 weighting=importance_weighting(sde, 1e-5), t0=1e-5)
    """

    def times(key: Key[Array, ""], n: int, t0: float, t1: float) -> Float[Array, " n"]:
        low, high = log_snr(sde, jnp.asarray(t1)), log_snr(sde, jnp.asarray(t0))
        u = stratified_times(key, n, 0.0, 1.0)
        return jnp.clip(time_of_log_snr(sde, low + (high - low) * u), t0, t1)

    return times


def importance_weighting(sde: SDE, t0: float) -> Weighting:
    """The weight that `log_snr_times` leaves of the likelihood weighting: a constant, eq. (1).

    Raises ValueError unless 0 < t0 < t1.
    """
    if not 0 < t0 < sde.t1:
        raise ValueError(f"t0 must be in (0, t1={sde.t1}), got {t0!r}")

    def weighting(process: SDE, t: Any) -> Any:
        fall = log_snr(process, jnp.asarray(t0)) - log_snr(process, jnp.asarray(process.t1))
        return jnp.full_like(t, 1.0) * (fall / (process.t1 - t0)).astype(t.dtype)

    return weighting
