r"""DDIM for any SDE, from noise to data with any share of fresh noise, and back.

With x0_hat = E[x0 | x], the noise in x, eps_hat = (x - m x0_hat) / s = -s score(x, t), and
r = s' m / (s m') = exp(-h) of the interval (h: its length in the half-log-SNR),

    (1)  x' = m' x0_hat + sqrt(s'^2 - sd^2) eps_hat + sd z
    (2)  sd = eta s' sqrt(1 - r^2)

is arXiv:2010.02502 eq. 12 for VP, where s'^2 (1 - r^2) is its eq. 16: the variance of
p(x' | x, x0), which for every isotropic linear SDE is s'^2 (1 - r^2). Eta 1 is ancestral sampling,
eta 0 the probability flow with the first-order exponential integrator. The step holds for any
interval: on a noise schedule a grid of few of its times (`schedule_grid`) is the respaced sampler.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from score_jax._check import check, check_float
from score_jax._math import as_time, bcast
from score_jax.samplers.exponential import interval
from score_jax.samplers.grids import check_grid
from score_jax.score import denoise
from score_jax.types import (
    SDE,
    Data,
    GridLike,
    PRNGKey,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
    stateless,
)


class EncodeOut(NamedTuple):
    """The latent z (b, *d) at the first time of the grid, and its network evaluations."""

    z: Data
    nfe: int


def _move(
    sde: SDE, score: ScoreFn, x: Data, t: Time, t_next: Time, eta: float
) -> tuple[Data, Time | None]:
    """(x' without fresh noise, sd) of eq. (1), in either direction if eta is 0."""
    move = interval(sde, t, t_next)
    clean = denoise(sde, score, x, t)
    fresh = (1 - move.ratio) * (1 + move.ratio)
    # With eta 0 the step may go from data to noise, where `fresh` is negative and must not remain.
    share = jnp.sqrt(1 - eta**2 * fresh) if eta > 0 else jnp.ones_like(fresh)
    # With eps_hat inserted, both terms stay small where m is small.
    # m' (1 - share r), finite where m or m' is 0.
    rest = move.m - share * move.keep * sde.mean_coeff(t)
    x_mean = bcast(share * move.keep, x) * x + bcast(rest, x) * clean
    sd = eta * move.s * jnp.sqrt(jnp.maximum(fresh, 0)) if eta > 0 else None
    return x_mean, sd


def ddim(sde: SDE, score: ScoreFn, *, eta: float = 0.0) -> Step:
    """DDIM: order 1 with one evaluation; eta from 0 (deterministic) to 1 (ancestral).

    Raises ValueError unless 0 <= eta <= 1. Eq. (1) and (2) of the module, arXiv:2010.02502.

    >>> out = simulate(key, ddim(sde, score), x, power_grid(sde, 50))
    >>> grid = schedule_grid(schedule, spaced_indices(schedule.n, 50))  # on a noise schedule
    """
    check_process(sde, score)
    check("eta", eta, 0 <= eta <= 1, "in [0, 1]")

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        x_mean, sd = _move(sde, score, x, t, t_next, eta)
        if sd is None:
            return StepOut(x_mean, x_mean)
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(sd, x) * z, x_mean)

    return stateless(update, 1)


def ddim_encode(sde: SDE, score: ScoreFn, x: Shaped[Array, "b *d"], grid: GridLike) -> EncodeOut:
    """DDIM with eta 0 from data to noise: `grid` is a sampler's and is traversed backwards.

    x (b, *d) is data at the last time of the grid; `simulate(ddim(sde, score), ...)` from the latent
    gives it back up to O(1/n). For exact codes use `probability_flow`. arXiv:2010.02502 section 4.3.

    Raises ValueError for a bad grid, or x that is not floating point.

    >>> z, nfe = ddim_encode(sde, score, x, uniform_grid(sde, 100))
    """
    check_process(sde, score)
    check_float("x", x)
    times = check_grid(grid)[::-1]

    def body(x: Data, interval: tuple[Time, Time]) -> tuple[Data, None]:
        return _move(sde, score, x, as_time(interval[0]), as_time(interval[1]), 0.0)[0], None

    z, _ = jax.lax.scan(body, x, (times[:-1], times[1:]))
    return EncodeOut(z, times.shape[0] - 1)
