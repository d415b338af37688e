r"""Likelihoods of y given x(t) that use the covariance of x0 given x: MMPS and TMPD.

By Tweedie's second formula the covariance of x0 given x is V = (s^2 / m) J, with J = dx0(x)/dx, so with
p(x0 | x) replaced by the Gaussian of the same two moments

    p(y | x) = N(y; A x0(x), S),  S = A V A^T + sigma^2 I,  grad log p(y | x) = J^T A^T S^-1 (y - A x0(x))

for S held fixed. A product with J^T is one backward pass, so S^-1 is applied by conjugate gradients
(`mmps`), or replaced by the sums of the rows of S (`tmpd`). PiGDM is the same with V = r^2 I. For normal
data of any covariance S does not depend on x, and MMPS is the exact score of the posterior.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp

from score_jax._check import check_count, check_positive
from score_jax._math import as_time, bcast
from score_jax.inverse.measurement import consistent
from score_jax.inverse.methods import Conditional, linear, linearized
from score_jax.inverse.operators import conjugate_gradients
from score_jax.types import SDE, Data, ScoreFn, ScoreOut, TimeLike, as_returned


def mmps(
    sde: SDE, score: ScoreFn, measurement: Any, *, iterations: int = 5, scale: float = 1.0
) -> Conditional:
    """Moment matching posterior sampling: S is applied by `iterations` of conjugate gradients.

    arXiv:2405.13712. One evaluation, `iterations` + 1 backward passes; no parameter of the data. Exact
    for normal data of any covariance, as far as the iterations converge (as many as y has different
    directions; a few are enough in practice). `scale` multiplies the guidance. With or without noise,
    any linear operator. For a network whose J is far from symmetric, use few iterations.

    Raises ValueError for an operator that is not linear or does not fit, iterations < 1 or scale <= 0.

    >>> score_given_y = mmps(sde, score, Measurement(Blur(kernel), y, noise_std=0.05))
    """
    operator = linear(measurement)
    check_count(iterations=iterations)
    check_positive(scale=scale)
    noise = measurement.noise_std**2

    def guided(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        found = linearized(sde, score, x, t)
        ratio = bcast(jnp.square(sde.std(t)) / sde.mean_coeff(t), x)

        def matrix(u: Any) -> Any:
            return operator.forward(ratio * found.pull(operator.adjoint(u))) + noise * u

        solved = conjugate_gradients(matrix, measurement.residual(found.x0), iterations)
        move = found.pull(operator.adjoint(solved))
        return as_returned(ScoreOut(found.score + scale * move, found.variance))

    return Conditional(guided, None, partial(consistent, measurement))


def tmpd(sde: SDE, score: ScoreFn, measurement: Any, *, scale: float = 1.0) -> Conditional:
    """Tweedie moment projected diffusion: S is replaced by the sums of its rows.

    arXiv:2310.06721. One evaluation and two backward passes; no parameter of the data. Exact for normal
    data for which A V A^T is diagonal, such as independent entries under a mask. Sums of rows below
    those of known data, s^2 / m^2 times a hundredth, are raised to it. `scale` multiplies the guidance.

    Raises ValueError for an operator that is not linear or does not fit, or scale <= 0.

    >>> score_given_y = tmpd(sde, score, Measurement(Mask(mask), y, noise_std=0.05))
    """
    operator = linear(measurement)
    check_positive(scale=scale)

    def guided(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        found = linearized(sde, score, x, t)
        m, s2 = sde.mean_coeff(t), jnp.square(sde.std(t))
        residual = measurement.residual(found.x0)
        back = operator.adjoint(jnp.ones_like(residual))
        sums = operator.forward(bcast(s2 / m, x) * found.pull(back))
        white = operator.forward(bcast(s2 / jnp.square(m), x) * back)
        spread = jnp.maximum(sums, 0.01 * jnp.abs(white)) + measurement.noise_std**2
        solved = jnp.where(spread > 0, residual / jnp.where(spread > 0, spread, 1), 0)
        move = found.pull(operator.adjoint(solved))
        return as_returned(ScoreOut(found.score + scale * move, found.variance))

    return Conditional(guided, None, partial(consistent, measurement))
