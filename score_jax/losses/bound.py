"""The variational bound of a noise schedule over all its steps, with the curves of its terms.

Nichol & Dhariwal 2021 (arXiv:2102.09672), equations (1) to (3) of `score_jax.losses.schedule`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from score_jax._math import as_time, batch_mean, bcast
from score_jax.losses.decoders import discretized_gaussian, gaussian_kl
from score_jax.losses.schedule import bound_term
from score_jax.parametrization import SMALL, Variance
from score_jax.score import reverse_fn
from score_jax.sde import NoiseSchedule, schedule_grid
from score_jax.types import SDE, Data, Decoder, PRNGKey, ScoreFn


class ScheduleBound(NamedTuple):
    """A bound on the bits per dimension of every example and what it is made of.

    total: (b,), prior + the sum of terms; prior: (b,), eq. (1); terms: (b, n), eq. (2) and (3), from
    data to noise; x0_mse, noise_mse: (b, n), mean squared errors of the predicted data and noise.
    """

    total: Float[Array, " b"]
    prior: Float[Array, " b"]
    terms: Float[Array, "b n"]
    x0_mse: Float[Array, "b n"]
    noise_mse: Float[Array, "b n"]


def prior_bits(
    sde: SDE, x0: Float[Array, "b *d"], t: float | Float[Array, ""] | None = None
) -> Float[Array, " b"]:
    """KL(q(x(t) | x0) || N(0, I)) in bits per dimension: (b,), at t1 by default."""
    mean, std = sde.marginal(x0, as_time(sde.t1 if t is None else t))
    zero = jnp.zeros((), x0.dtype)
    log_variance = bcast(2 * jnp.log(std), x0)
    return batch_mean(gaussian_kl(mean, log_variance, zero, zero)) / math.log(2.0)


def _normal(
    key: Key[Array, ""], i: Integer[Array, ""], x0: Float[Array, "b *d"]
) -> Float[Array, "b *d"]:
    return jax.random.normal(jax.random.fold_in(key, i), x0.shape, x0.dtype)


def schedule_bound(
    key: Key[Array, ""],
    sde: NoiseSchedule,
    score: ScoreFn,
    x0: Float[Array, "b *d"],
    *,
    variance: Variance = SMALL,
    grid: Float[Array, " n"] | None = None,
    decoder: Decoder | None = None,
    clean: Callable[[Data], Data] | None = None,
    noise: Callable[[PRNGKey, Integer[Array, ""], Data], Data] = _normal,
) -> ScheduleBound:
    """The bound over all steps of a schedule, or of a grid of its times: one evaluation a step.

    x0 (b, *d) lies on the levels of `decoder` (256 from -1 to 1 by default). `variance` is that of
    the model's reverse steps, `clean(x0)` corrects the predicted x0 (`static()`), `noise(key, k, x0)`
    draws the unit noise of the grid's k-th time from data. Call it jitted, on one batch of data after
    the other.

    >>> grid = schedule_grid(model.sde, spaced_indices(model.sde.n, 100))
    >>> out = schedule_bound(key, model.sde, model.score(params), x0, grid=grid,
    ...                      variance=model.variance, clean=static())
    >>> mean, error = mean_and_error(out.total)
    """
    decode = discretized_gaussian() if decoder is None else decoder
    times = (schedule_grid(sde) if grid is None else jnp.asarray(grid))[::-1]
    reverse = reverse_fn(sde, score, variance=variance, clean=clean, first=times[:2])

    def at(place: Any) -> tuple[Any, Any, Any]:
        k, t, t_next = place
        z = noise(key, k, x0)
        mean, std = sde.marginal(x0, t)
        x = mean + bcast(std, x0) * z
        out = reverse(x, t, t_next)
        found = (x - bcast(sde.mean_coeff(t), x) * out.x0) / bcast(std, x)
        return (
            bound_term(sde, out, x0, x, t, t_next, decoder=decode),
            batch_mean(jnp.square(out.x0 - x0)),
            batch_mean(jnp.square(found - z)),
        )

    before = jnp.concatenate([jnp.zeros_like(times[:1]), times[:-1]])
    terms, x0_mse, noise_mse = jax.lax.map(at, (jnp.arange(times.shape[0]), times, before))
    prior = prior_bits(sde, x0, times[-1])
    return ScheduleBound(prior + terms.sum(axis=0), prior, terms.T, x0_mse.T, noise_mse.T)


def mean_and_error(values: Float[Array, " b"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean over examples and its standard error (NaN for a single one)."""
    n = values.shape[0]
    spread = values.std(ddof=1) if n > 1 else jnp.full((), jnp.nan, values.dtype)
    return values.mean(), spread / math.sqrt(n)
