r"""DDIM for any SDE, from noise to data with any share of fresh noise, and back.

With x0_hat = E[x0 | x], the noise in x, eps_hat = (x - m x0_hat) / s = -s score(x, t), and
r = s' m / (s m') = exp(-h) of the interval (h: its length in the half-log-SNR),

    (1)  x' = m' x0_hat + sqrt(s'^2 - sd^2) eps_hat + sd z
    (2)  sd = eta s' sqrt(1 - r^2)

is arXiv:2010.02502 eq. 12 for VP, where s'^2 (1 - r^2) is its eq. 16: the variance of
p(x' | x, x0), which for every isotropic linear SDE is s'^2 (1 - r^2). Eta 1 is ancestral sampling,
eta 0 the probability flow with the first-order exponential integrator. The step holds for any
interval: on a noise schedule a grid of few of its times (`schedule_grid`) is the respaced sampler.

The same step takes any diffusion epsilon(t) >= 0 of a stochastic interpolant (arXiv:2303.08797): from
noise to data dx = [v - epsilon score] dt + sqrt(2 epsilon) dw, with v the velocity of the probability
flow, has the marginals of the process. For a known x0, eps_hat relaxes as an Ornstein-Uhlenbeck process
of unit variance, so that over an interval

    (3)  sd = s' sqrt(1 - exp(-2 theta)),   theta = integral of epsilon / s^2

Epsilon 0 is the flow (theta = 0), epsilon = g^2/2 the reverse SDE (theta = h, eta 1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from score_jax._check import check, check_float, is_number
from score_jax._math import as_time, bcast
from score_jax.samplers.exponential import Interval, interval
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


def _without_noise(
    sde: SDE, score: ScoreFn, x: Data, t: Time, move: Interval, share: Time | float
) -> Data:
    """x' of eq. (1) without fresh noise, with `share` of s' eps_hat, in either direction."""
    clean = denoise(sde, score, x, t)
    # With eps_hat inserted, both terms stay small where m is small, and finite where it is 0.
    rest = move.m - share * move.keep * sde.mean_coeff(t)
    return bcast(share * move.keep, x) * x + bcast(rest, x) * clean


def ddim(sde: SDE, score: ScoreFn, *, eta: float = 0.0) -> Step:
    """DDIM: order 1 with one evaluation; eta from 0 (deterministic) to 1 (ancestral).

    Raises ValueError unless 0 <= eta <= 1. Eq. (1) and (2) of the module, arXiv:2010.02502.

    >>> out = simulate(key, ddim(sde, score), x, power_grid(sde, 50))
    >>> grid = schedule_grid(schedule, spaced_indices(schedule.n, 50))  # on a noise schedule
    """
    check_process(sde, score)
    check("eta", eta, 0 <= eta <= 1, "in [0, 1]")

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        move = interval(sde, t, t_next)
        if eta == 0:
            x_mean = _without_noise(sde, score, x, t, move, 1.0)
            return StepOut(x_mean, x_mean)
        fresh = jnp.maximum((1 - move.ratio) * (1 + move.ratio), 0)
        x_mean = _without_noise(sde, score, x, t, move, jnp.sqrt(1 - eta**2 * fresh))
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(eta * move.s * jnp.sqrt(fresh), x) * z, x_mean)

    return stateless(update, 1)


# Nodes and weights of Gauss-Legendre quadrature on [-1, 1].
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)


def _relaxation(sde: SDE, epsilon: Callable[[Time], Time], t: Time, t_next: Time) -> Time:
    """theta of eq. (3) over the interval, by quadrature in log t."""
    middle, half = 0.5 * jnp.log(t * t_next), 0.5 * jnp.log(t / t_next)
    times = jnp.exp(middle + half * jnp.asarray(_NODES, t.dtype))
    rates = jax.vmap(epsilon)(times) * times / jnp.square(sde.std(times))
    return half * (jnp.asarray(_WEIGHTS, t.dtype) * rates).sum()


def interpolant(sde: SDE, score: ScoreFn, *, epsilon: float | Callable[[Time], Time] = 1.0) -> Step:
    """The flow with any diffusion epsilon(t) >= 0: one evaluation, order 1.

    `epsilon` is a function of t, or a number of times that of the reverse SDE, g(t)^2 / 2: 0 is the
    probability flow (`ddim`), 1 the reverse SDE (`ddim` with eta 1). The marginals are those of the
    process for every epsilon, which says how much of the noise is drawn anew on the way. A step is exact
    if x0 is certain given x; otherwise it loses a share (1 - exp(-theta))^2 m'^2 Var(x0 | x) of the
    variance, so that more diffusion needs more steps. Eq. (3) of the module, arXiv:2303.08797.

    Raises ValueError for a number below 0 and for what is neither a number nor a function.

    >>> step = interpolant(RectifiedFlow(), score, epsilon=lambda t: 0.5 * t)
    """
    check_process(sde, score)
    if not callable(epsilon):
        ok = is_number(epsilon) and epsilon >= 0
        check("epsilon", epsilon, ok, "a number >= 0 or a function of t")

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        move = interval(sde, t, t_next)
        theta = _relaxation(sde, epsilon, t, t_next) if callable(epsilon) else epsilon * move.h
        x_mean = _without_noise(sde, score, x, t, move, jnp.exp(-theta))
        z = jax.random.normal(key, x.shape, x.dtype)
        sd = move.s * jnp.sqrt(-jnp.expm1(-2 * theta))
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

    def body(x: Data, ends: tuple[Time, Time]) -> tuple[Data, None]:
        t, t_next = as_time(ends[0]), as_time(ends[1])
        return _without_noise(sde, score, x, t, interval(sde, t, t_next), 1.0), None

    z, _ = jax.lax.scan(body, x, (times[:-1], times[1:]))
    return EncodeOut(z, times.shape[0] - 1)
