r"""Times, and noisy data at them, drawn for a batch.

A rule for times maps u in [0, 1), one number an example, to times: `times(u, t0, t1)`. The numbers u
of a batch are stratified over the whole batch by default, u_i = (i/n + offset) mod 1 with one shared
offset: each is uniform, and one lies in every n-th of the interval (arXiv:2107.00630 appendix I.1),
so that the variance of a mean over the batch falls.

The likelihood weighting g^2/s^2 of denoising score matching is -lambda'(t), the rate at which
lambda = log SNR falls. Times with a density proportional to it are those of uniform lambda, for any SDE:

    (1)  E_{uniform t} [-lambda'(t) l(t)] = c E_{uniform lambda} [l(t)],
         c = (lambda(t0) - lambda(t1)) / (t1 - t0)

The variance is far smaller, since -lambda' grows without bound at t = 0 (arXiv:2101.09258 section
5.2). `log_snr_times` with `importance_weighting` is the right-hand side.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from score_jax._check import check, check_positive, is_number
from score_jax._math import bcast
from score_jax.draws import Draw
from score_jax.losses.weightings import Weighting
from score_jax.sde import NoiseSchedule
from score_jax.types import SDE

Times = Callable[[Float[Array, " b"], float, float], Float[Array, " b"]]

_OFFSET = 2**31 - 1  # of the shared key; examples fold their places in
_TIME, _NOISE, LABELS, DROPOUT = range(4)  # the purposes of an example's draw


def uniform_times(u: Float[Array, " b"], t0: float, t1: float) -> Float[Array, " b"]:
    """Times uniform on [t0, t1]."""
    return t0 + (t1 - t0) * u


def log_snr_times(sde: SDE) -> Times:
    """Times whose log SNR is uniform between those of t0 and t1.

    >>> loss = dsm_loss(sde, apply, noise_input=TimeInput(), times=log_snr_times(sde),
    ...                 weighting=importance_weighting(sde, 1e-5), t0=1e-5)
    """

    def times(u: Float[Array, " b"], t0: float, t1: float) -> Float[Array, " b"]:
        low, high = sde.log_snr(jnp.asarray(t1)), sde.log_snr(jnp.asarray(t0))
        return jnp.clip(sde.time_of_log_snr(low + (high - low) * u), t0, t1)

    return times


def log_normal_times(sde: SDE, mean: float = -1.2, std: float = 1.2) -> Times:
    """Times whose log sigma is normal, sigma = s/m: EDM's, arXiv:2206.00364 table 1.

    Beyond [t0, t1] they are those ends. Raises ValueError unless mean is finite and std > 0.
    """
    check("mean", mean, is_number(mean), "a finite number")
    check_positive(std=std)

    def times(u: Float[Array, " b"], t0: float, t1: float) -> Float[Array, " b"]:
        log_sigma = mean + std * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))
        return jnp.clip(sde.time_of_log_snr(-2 * log_sigma), t0, t1)

    return times


def logit_normal_times(mean: float = 0.0, std: float = 1.0) -> Times:
    """Times whose logit is normal, as shares of t1: the middle more often, arXiv:2403.03206 eq. 19.

    Beyond [t0, t1] they are those ends. Raises ValueError unless mean is finite and std > 0.

    >>> loss = model.loss(dsm(weighting=velocity_weighting), times=logit_normal_times())
    """
    check("mean", mean, is_number(mean), "a finite number")
    check_positive(std=std)

    def times(u: Float[Array, " b"], t0: float, t1: float) -> Float[Array, " b"]:
        logit = mean + std * jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))
        return jnp.clip(t1 * jax.nn.sigmoid(logit), t0, t1)

    return times


def shifted_times(shift: float, times: Times = uniform_times) -> Times:
    """The times of a rule moved towards noise: t/t1 -> shift t / (1 + (shift - 1) t), t the share of t1.

    For rectified flow it divides the signal-to-noise ratio by shift^2, what data of shift^2 times as many
    pixels want (arXiv:2403.03206 eq. 23). Raises ValueError unless shift > 0.

    >>> times = shifted_times(3.0, logit_normal_times())
    """
    check_positive(shift=shift)

    def moved(u: Float[Array, " b"], t0: float, t1: float) -> Float[Array, " b"]:
        share = times(u, t0, t1) / t1
        return jnp.clip(t1 * shift * share / (1 + (shift - 1) * share), t0, t1)

    return moved


def timesteps(values: Sequence[float] | ArrayLike) -> Times:
    """Times drawn uniformly from given ones (n,), such as `schedule.times` of a noise schedule.

    Raises ValueError unless values is a list of at least one time.
    """
    known = np.asarray(values)
    if known.ndim != 1 or not known.size:
        raise ValueError(f"values must be a list of times, got shape {known.shape}")

    def times(u: Float[Array, " b"], t0: float, t1: float) -> Float[Array, " b"]:
        index = jnp.minimum((u * known.size).astype(jnp.int32), known.size - 1)
        return jnp.asarray(known, u.dtype)[index]

    return times


def times_of(sde: SDE) -> Times:
    """The default rule: the timesteps of a noise schedule, uniform times of any other SDE."""
    return timesteps(sde.times) if isinstance(sde, NoiseSchedule) else uniform_times


def importance_weighting(sde: SDE, t0: float) -> Weighting:
    """The constant c of eq. (1), to which `log_snr_times` reduces the likelihood weighting.

    Raises ValueError unless 0 < t0 < t1.
    """
    check_t0(sde, t0)

    def weighting(sde: SDE, t: Float[Array, "..."]) -> Float[Array, "..."]:
        fall = sde.log_snr(jnp.asarray(t0)) - sde.log_snr(jnp.asarray(sde.t1))
        return jnp.full_like(t, 1.0) * (fall / (sde.t1 - t0)).astype(t.dtype)

    return weighting


def check_t0(sde: SDE, t0: float) -> None:
    """Raise ValueError unless 0 < t0 < t1."""
    check("t0", t0, 0 < t0 < sde.t1, f"in (0, t1={sde.t1})")


def unit_numbers(key: Key[Array, ""], draw: Draw, *, stratified: bool = True) -> Float[Array, " b"]:
    """One number u in [0, 1) for every example, from the batch's shared key and the draw."""
    if not stratified:
        return draw.fold(_TIME).each(jax.random.uniform)
    offset = jax.random.uniform(jax.random.fold_in(key, _OFFSET))
    return (draw.place + offset) % 1.0


class Noised(NamedTuple):
    """Data x0 (b, *d) and x = m x0 + s z at times t (b,) with unit noise z."""

    x0: Float[Array, "b *d"]
    x: Float[Array, "b *d"]
    z: Float[Array, "b *d"]
    t: Float[Array, " b"]


def noised(
    sde: SDE,
    draw: Draw,
    x0: Float[Array, "b *d"],
    t: Float[Array, " b"],
    z: Float[Array, "b *d"] | None = None,
) -> Noised:
    """x0 with noise at times t: z, or that of the draw."""
    if z is None:
        z = draw.fold(_NOISE).each(lambda key: jax.random.normal(key, x0.shape[1:], x0.dtype))
    mean, std = sde.marginal(x0, t)
    return Noised(x0, mean + bcast(std, x0) * z, z, t)
