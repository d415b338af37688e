r"""Sampling from a consistency model (arXiv:2303.01469 algorithm 1).

The consistency function f leads from x at t to the end of its path in one evaluation. A step of the
sampler takes this way, and returns to the next time of the grid with fresh noise:

    (1)  x' = m' f(x, t) + sqrt(s'^2 - m'^2 sigma0^2) z,     sigma0 = s/m at the last time

because f(x, t) already has noise of sigma0. At the last time no noise is left: n intervals are n
evaluations, and one of the whole length is the sample of one step.
"""

import jax
import jax.numpy as jnp

from score_jax._math import as_time, bcast
from score_jax.score import denoise
from score_jax.types import (
    SDE,
    Data,
    Grid,
    Moved,
    PRNGKey,
    Scalar,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
)


def consistency(sde: SDE, score: ScoreFn) -> Step:
    """Multistep consistency sampling, eq. (1): one evaluation, exact for an exact consistency function.

    `score` is that of a model with the parametrization `consistency`, whose x0 is its consistency
    function (or `from_denoiser(sde, f)`): with the score of a diffusion model the samples are wrong. The
    last time of the grid is the first one of that parametrization; a final denoising would cost an
    evaluation and change nothing.

    >>> sampler = stepwise(consistency, final_denoising=last_mean)
    >>> out = sample(key, model.sde, model.score(params), shape, sampler=sampler, grid=[80.0, 0.002])
    """
    check_process(sde, score)

    def init(x: Data, grid: Grid) -> Scalar:
        last = as_time(grid[-1])
        return sde.std(last) / sde.mean_coeff(last)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, sigma0: Scalar) -> Moved:
        t, t_next = as_time(t), as_time(t_next)
        m, s = sde.mean_coeff(t_next), sde.std(t_next)
        x_mean = bcast(m, x) * denoise(sde, score, x, t)
        fresh = jnp.sqrt(jnp.maximum((s - m * sigma0) * (s + m * sigma0), 0))
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(fresh, x) * z, x_mean), sigma0

    return Step(init, update, 1)
