r"""Likelihoods of y given x(t) that use the covariance of x0 given x: MMPS and TMPD.

By Tweedie's second formula the covariance of x0 given x is V = (s^2 / m) J, with J = dx0(x)/dx, so with
p(x0 | x) replaced by the Gaussian of the same two moments

    p(y | x) = N(y; A x0(x), S),  S = A V A^T + sigma^2 I,  grad log p(y | x) = J^T A^T S^-1 (y - A x0(x))

for S held fixed. A product with J^T is one backward pass, so S^-1 is applied by conjugate gradients
(`mmps`), or replaced by the sums of the rows of S (`tmpd`). PiGDM is the same with V = r^2 I. For normal
data of any covariance S does not depend on x, and MMPS without limit is the exact score of the
posterior.

The gradient is shortened to `limit` times what it is for V = (s^2 / m^2) I, the widest that x0 can be
given x, with J its average. At high noise J of a network is far from exact, 1 / m magnifies its errors,
and samples diverge without it. The limit is an addition; math.inf is the published method.
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp

from score_jax._check import check, check_count, check_positive
from score_jax._math import as_time, bcast
from score_jax.inverse.measurement import consistent
from score_jax.inverse.methods import Conditional, linear, linearized, no_longer
from score_jax.inverse.operators import conjugate_gradients
from score_jax.score import tweedie_at
from score_jax.types import SDE, Data, ScoreFn, ScoreOut, Time, TimeLike

_LEAST = 1e-6  # of m, which is 0 at pure noise: nothing guides there


def _limited(
    sde: SDE, measurement: Any, residual: Any, move: Data, x: Data, t: Time, limit: float
) -> Data:
    """The move of the score, no longer than `limit` times that of the widest p(x0 | x)."""
    if not math.isfinite(limit):
        return move
    r2 = jnp.square(sde.std(t) / jnp.maximum(sde.mean_coeff(t), _LEAST))
    back = measurement.operator.ridge(residual, r2, measurement.noise_std**2)
    return no_longer(move, tweedie_at(sde, x, t).push(bcast(r2, x) * back), limit)


def _check(scale: float, limit: float) -> None:
    check_positive(scale=scale)
    check("limit", limit, limit > 0, "> 0")


def mmps(
    sde: SDE,
    score: ScoreFn,
    measurement: Any,
    *,
    iterations: int = 5,
    scale: float = 1.0,
    limit: float = 3.0,
) -> Conditional:
    """Moment matching posterior sampling: S is applied by `iterations` of conjugate gradients.

    arXiv:2405.13712. One evaluation, `iterations` + 1 backward passes; no parameter of the data. Exact
    for normal data of any covariance and no limit, as far as the iterations converge (as many as y has
    different directions; a few are enough in practice). `scale` multiplies the guidance. With or
    without noise, any linear operator.

    Raises ValueError for an operator that is not linear or does not fit, iterations < 1, and scale or
    limit <= 0.

    >>> score_given_y = mmps(sde, score, Measurement(Blur(kernel), y, noise_std=0.05))
    """
    operator = linear(measurement)
    check_count(iterations=iterations)
    _check(scale, limit)
    noise = measurement.noise_std**2

    def guided(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        found = linearized(sde, score, x, t)
        ratio = bcast(jnp.square(sde.std(t)) / jnp.maximum(sde.mean_coeff(t), _LEAST), x)

        def matrix(u: Any) -> Any:
            return operator.forward(ratio * found.pull(operator.adjoint(u))) + noise * u

        residual = measurement.residual(found.x0)
        solved = conjugate_gradients(matrix, residual, iterations)
        move = found.pull(operator.adjoint(solved))
        move = _limited(sde, measurement, residual, move, x, t, limit)
        return found.guided(scale * move)

    return Conditional(guided, None, partial(consistent, measurement))


def tmpd(
    sde: SDE, score: ScoreFn, measurement: Any, *, scale: float = 1.0, limit: float = 3.0
) -> Conditional:
    """Tweedie moment projected diffusion: S is replaced by the sums of its rows.

    arXiv:2310.06721. One evaluation and two backward passes; no parameter of the data. Exact for normal
    data for which A V A^T is diagonal, such as independent entries under a mask. Sums of rows below
    those of known data, s^2 / m^2 times a hundredth, are raised to it. `scale` multiplies the guidance.

    Raises ValueError for an operator that is not linear or does not fit, scale or limit <= 0.

    >>> score_given_y = tmpd(sde, score, Measurement(Mask(mask), y, noise_std=0.05))
    """
    operator = linear(measurement)
    _check(scale, limit)

    def guided(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        found = linearized(sde, score, x, t)
        m, s2 = jnp.maximum(sde.mean_coeff(t), _LEAST), jnp.square(sde.std(t))
        residual = measurement.residual(found.x0)
        back = operator.adjoint(jnp.ones_like(residual))
        sums = operator.forward(bcast(s2 / m, x) * found.pull(back))
        white = operator.forward(bcast(s2 / jnp.square(m), x) * back)
        spread = jnp.maximum(sums, 0.01 * jnp.abs(white)) + measurement.noise_std**2
        solved = jnp.where(spread > 0, residual / jnp.where(spread > 0, spread, 1), 0)
        move = found.pull(operator.adjoint(solved))
        move = _limited(sde, measurement, residual, move, x, t, limit)
        return found.guided(scale * move)

    return Conditional(guided, None, partial(consistent, measurement))
