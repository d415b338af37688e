r"""A guess psi of p(y | x) for particles at a time, and their Gaussian moves without and with y.

With p(x0 | x) replaced by N(x0(x), V), A' the derivative of A at x0(x) (A itself if it is linear), and
S = sigma^2 I + A' V A'^T,

    psi(x) = N(y; A(x0(x)), S)
    p(x' | x)    = N(share x0(x) + rest x, bridge I + share^2 V)
    q(x' | x, y) = N(share x0' + rest x, bridge I + share^2 V')

where x0' and V' are mean and covariance of x0 given x and y, and share, rest and bridge are those of the
bridge between two times. Two choices of V:

    isotropic    r^2 I, the variance that normal data of known deviations would have; x0' follows the
                 gradient of psi, as far as a limit, and V' is V. One evaluation, one backward pass
    covariances  (s^2 / m) dx0/dx, which is the covariance of p(x0 | x) by Tweedie's second formula: one
                 derivative of the score for each entry of x0, and dense matrices

With covariances all weights are p(y) for normal data and a linear operator, on any grid.

At high noise the derivative of a network is far from that of an exact score, and 1 / m magnifies its
errors: without the limit particles can leave the data within a few steps, until nothing is finite. x0'
is therefore at most `limit` times as far from x0 as it would be with the average derivative, m r^2 / s^2.
Any x0' gives the right answer in the limit of many particles.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax._math import batch_sum
from score_jax.inverse.measurement import Measurement, measurement_logp
from score_jax.inverse.methods import no_longer, spread
from score_jax.inverse.operators import LinearOperator
from score_jax.score import denoise
from score_jax.types import SDE, Data, PerExample, ScoreFn, Time

# What is added to the variances of p(x0 | x), as a share of their mean: for data without variance in
# some directions, and for rounding.
_LEAST = 1e-5


class Guess(NamedTuple):
    """At particles x (p, *d): the estimate of x0 without and with y, log psi, and V and V'.

    x0 and wanted (p, *d); logs (p,), up to a term that does not depend on x; before and after (p, 1, 1)
    or (p, n, n).
    """

    x0: Any
    wanted: Any
    logs: Any
    before: Any
    after: Any


def whole_logp(measurement: Measurement, x0: Data) -> PerExample:
    """log p(y | x0) in nats, with its constant: (b,)."""
    logp = measurement_logp(measurement)(x0, jnp.zeros(()))
    if measurement.noise is not None:
        return logp
    # Entries that are not measured are 0 for every x0.
    x = jax.random.normal(jax.random.key(0), x0.shape, x0.dtype)
    count = batch_sum((measurement.operator.forward(x) != 0).astype(x0.dtype))
    return logp - count * (0.5 * math.log(2 * math.pi) + math.log(measurement.noise_std))


def twist(measurement: Measurement, x0: Data, r2: Any) -> PerExample:
    """log psi of the estimate x0 with variance r2, up to a constant: (b,)."""
    residual = measurement.residual(x0)
    noise: Any = measurement.noise_std**2
    solved = residual / (noise + r2)
    operator = measurement.operator
    if isinstance(operator, LinearOperator):
        back = operator.forward(operator.ridge(residual, r2, noise))
        solved = (residual - r2 * back) / noise
    return -0.5 * batch_sum(residual * solved)


def isotropic(
    sde: SDE,
    score: ScoreFn,
    measurement: Measurement,
    guided: Any,
    stds: Any,
    limit: float,
    x: Data,
    t: Time,
) -> Guess:
    """The guess for V = r^2 I; `guided`, the score of a method, replaces the gradient of psi."""
    r2 = spread(sde, t, stds)
    variance = jnp.broadcast_to(r2, (x.shape[0], 1, 1)).astype(x.dtype)
    if guided is not None:
        x0 = denoise(sde, score, x, t)
        logs = twist(measurement, x0, r2)
        return Guess(x0, denoise(sde, guided, x, t), logs, variance, variance)

    x0, pull = jax.vjp(lambda v: denoise(sde, score, v, t), x)
    logs, climb = jax.vjp(lambda v: twist(measurement, v, r2), x0)
    slope = climb(jnp.ones_like(logs))[0]
    away = jnp.square(sde.std(t)) / sde.mean_coeff(t) * pull(slope)[0]
    if math.isfinite(limit):
        away = no_longer(away, r2 * slope, limit)
    return Guess(x0, x0 + away, logs, variance, variance)


def _matrices(push: Callable[[Any], Any], x: Data) -> Any:
    """The matrices (p, q, n) of linear functions of the examples of x (p, *d)."""
    p, n = x.shape[0], x[0].size
    every = jnp.broadcast_to(jnp.eye(n, dtype=x.dtype)[:, None], (n, p, n))
    columns = jax.vmap(push)(every.reshape(n, *x.shape))
    return jnp.moveaxis(columns.reshape(n, p, -1), 0, 2)


def _times(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _turned(a: Any) -> Any:
    return jnp.swapaxes(a, -1, -2)


def _diagonal(a: Any) -> Any:
    return jnp.diagonal(a, axis1=-2, axis2=-1)


def covariances(sde: SDE, score: ScoreFn, measurement: Measurement, x: Data, t: Time) -> Guess:
    """The guess for V = (s^2 / m) dx0/dx; where that is no covariance, for its mean variance instead."""
    x0, push = jax.linearize(lambda v: denoise(sde, score, v, t), x)
    whole = _matrices(push, x)
    one = jnp.eye(whole.shape[-1], dtype=x.dtype)[None]
    whole = jnp.square(sde.std(t)) / sde.mean_coeff(t) * 0.5 * (whole + _turned(whole))
    level = jnp.maximum(_diagonal(whole).mean(axis=1), jnp.finfo(x.dtype).tiny)[:, None, None]
    whole = whole + _LEAST * level * one
    proper = jnp.isfinite(eliminated(whole, whole[..., :0])[0]).all(axis=(1, 2), keepdims=True)
    before = jnp.where(proper, whole, level * one)

    # A linear operator has one matrix for all particles.
    at = x0[:1] if isinstance(measurement.operator, LinearOperator) else x0
    a = _matrices(jax.linearize(measurement.operator.forward, at)[1], at)
    residual = measurement.residual(x0).reshape(x.shape[0], -1, 1)
    noise: Any = measurement.noise_std**2
    seen = _times(a, before)
    inside = _times(seen, _turned(a)) + noise * jnp.eye(a.shape[1], dtype=x.dtype)[None]
    root, found = eliminated(inside, jnp.concatenate([residual, seen], axis=2))
    white, back = found[..., :1], found[..., 1:]
    wanted = x0 + _times(_turned(back), white).reshape(x.shape)
    logs = -0.5 * jnp.square(white).sum(axis=(1, 2)) - jnp.log(_diagonal(root)).sum(axis=1)
    after = before - _times(_turned(back), back) + _LEAST * level * one
    return Guess(x0, wanted, logs, before, after)


def eliminated(matrix: Any, right: Any) -> tuple[Any, Any]:
    """R, upper triangular with matrix = R^T R, and R^-T right: (p, q, q), (p, q, c).

    NaN for a matrix that is not positive. It is Gauss's elimination in plain operations, because several
    LAPACK calls at once wait for each other for ever on a CPU with few threads (jaxlib 0.10).
    """
    q = matrix.shape[-1]

    def body(j: Any, whole: Any) -> Any:
        row = jax.lax.dynamic_index_in_dim(whole, j, 1, keepdims=False)
        pivot = jax.lax.dynamic_slice_in_dim(row, j, 1, 1)
        row = row / jnp.sqrt(pivot)
        column = jnp.where(jnp.arange(q)[None] > j, row[:, :q], 0)
        left = whole - column[:, :, None] * row[:, None]
        return jnp.where((jnp.arange(q) == j)[None, :, None], row[:, None], left)

    whole = jax.lax.fori_loop(0, q, body, jnp.concatenate([matrix, right], axis=2))
    return jnp.triu(whole[..., :q]), whole[..., q:]


def move(sde: SDE, guess: Guess, x: Data, t: Time, t_next: Time, z: Data) -> tuple[Any, Any]:
    """x' (p, *d) from q with unit noise z, and log p(x' | x) - log q(x' | x, y) (p,)."""
    a, g2 = sde.transition(t, t_next)
    s2, s2_next = jnp.square(sde.std(t)), jnp.square(sde.std(t_next))
    share, rest, bridge = sde.mean_coeff(t_next) * g2 / s2, a * s2_next / s2, g2 * s2_next / s2
    plain, moved = (share * v + rest * x for v in (guess.x0, guess.wanted))
    if guess.before.shape[1:] == (1, 1):
        variance = bridge + jnp.square(share) * guess.before[:, 0, 0]
        new = moved + (jnp.sqrt(variance).reshape(-1, *(1,) * (x.ndim - 1))) * z
        away = lambda mean: -0.5 * batch_sum(jnp.square(new - mean)) / variance
        return new, away(plain) - away(moved)
    one = jnp.eye(guess.before.shape[-1], dtype=x.dtype)[None]
    wide = lambda v: bridge * one + jnp.square(share) * v
    narrow = eliminated(wide(guess.after), guess.after[..., :0])[0]
    new = moved + _times(_turned(narrow), z.reshape(x.shape[0], -1, 1)).reshape(x.shape)
    away = (new - plain).reshape(x.shape[0], -1, 1)
    root, white = eliminated(wide(guess.before), away)
    narrower = (jnp.log(_diagonal(narrow)) - jnp.log(_diagonal(root))).sum(axis=1)
    return new, 0.5 * batch_sum(jnp.square(z)) - 0.5 * jnp.square(white).sum((1, 2)) + narrower
