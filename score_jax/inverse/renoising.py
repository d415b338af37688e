r"""Methods that estimate x0, correct the estimate by y and noise it to the next level.

    ddrm     in the singular vectors of A, where known and unknown coordinates are told apart
    diffpir  a proximal step on the estimate, then a mix of its own noise and fresh noise
    daps     a draw of p(x0 | x, y) for a normal p(x0 | x), then fresh noise alone

They replace the step of the sampler, which gives only the times; with x0 the estimate, s' and m' at the
next time, each is x' = m' x0' + s' (kept noise + fresh noise).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from score_jax._check import check, check_count, check_positive
from score_jax._math import as_time, bcast
from score_jax.inverse.measurement import check_measurement, consistent, measurement_logp, spectral
from score_jax.inverse.methods import Conditional, check_stds, linear, spread
from score_jax.inverse.operators import LinearOperator
from score_jax.score import denoise
from score_jax.types import SDE, Data, PRNGKey, ScoreFn, Step, StepOut, Time, stateless


def _conditional(
    score: ScoreFn, measurement: Any, update: Any, evaluations: int = 1
) -> Conditional:
    """The method whose steps are `update`, whatever the sampler's."""

    def wrap(step: Step) -> Step:
        return stateless(update, evaluations)

    return Conditional(score, wrap, partial(consistent, measurement))


def ddrm(
    sde: SDE, score: ScoreFn, measurement: Any, *, eta: float = 0.85, eta_b: float = 1.0
) -> Conditional:
    """Denoising diffusion restoration models: the update of each singular coordinate by its own noise.

    With everything divided by m, so that the noise is sigma_t = s / m, and y_i / S_i a coordinate seen
    with noise sigma_i = sigma / S_i, arXiv:2201.11793 eq. 7 and 8:

        S_i = 0              x0_i + sqrt(1 - eta^2) sigma' (x_i - x0_i) / sigma_t + eta sigma' z
        sigma' < sigma_i     x0_i + sqrt(1 - eta^2) sigma' (y_i / S_i - x0_i) / sigma_i + eta sigma' z
        otherwise            (1 - eta_b) x0_i + eta_b y_i / S_i + sqrt(sigma'^2 - eta_b^2 sigma_i^2) z

    One evaluation a step, no backward pass. What is measured without noise is reproduced; only the
    network couples the rest to it, as in `replacement`. With eta > 0 noise is renewed at a rate that
    grows with the number of steps, which narrows the draws: made for some twenty steps. Needs a
    `SpectralOperator`.

    Raises ValueError for an operator that does not fit, or eta and eta_b outside [0, 1].

    >>> conditional = ddrm(sde, score, Measurement(BlockAverage(4), y, noise_std=0.05))
    >>> step = conditional.step(ancestral(sde, conditional))
    """
    linear(measurement)
    operator = spectral(measurement)
    check("eta", eta, 0 <= eta <= 1, "in [0, 1]")
    check("eta_b", eta_b, 0 <= eta_b <= 1, "in [0, 1]")
    sigma = measurement.noise_std

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        now, then = (sde.std(v) / sde.mean_coeff(v) for v in (t, t_next))
        x0 = denoise(sde, score, x, t)
        y, z = jnp.asarray(measurement.y, x.dtype), jax.random.normal(key, x.shape, x.dtype)
        kept = (1 - eta**2) ** 0.5
        noisy = lambda v: (then * v < sigma).astype(x.dtype)  # y is noisier than the next level
        clear = lambda v: 1 - noisy(v)
        small = lambda v: kept * then * v / max(sigma, 1e-30)
        away = x / bcast(sde.mean_coeff(t), x) - x0
        free = away - operator.filter_data(away, jnp.ones_like)
        mean = x0 + bcast(kept * then / now, x) * free
        if sigma > 0:
            mean = mean + operator.filter(y, lambda v: noisy(v) * small(v) / v)
            mean = mean - operator.filter_data(x0, lambda v: noisy(v) * small(v))
        mean = mean + operator.filter(y, lambda v: eta_b * clear(v) / v)
        mean = mean - operator.filter_data(x0, lambda v: eta_b * clear(v))
        wide = lambda v: jnp.sqrt(jnp.maximum(then**2 - jnp.square(eta_b * sigma / v), 0))
        width = lambda v: clear(v) * wide(v) + noisy(v) * eta * then
        rest = z - operator.filter_data(z, jnp.ones_like)
        noise = bcast(eta * then, x) * rest + operator.filter_data(z, width)
        m = bcast(sde.mean_coeff(t_next), x)
        return StepOut(m * (mean + noise), m * mean)

    return _conditional(score, measurement, update)


def diffpir(
    sde: SDE, score: ScoreFn, measurement: Any, *, weight: float = 8.0, zeta: float = 0.3
) -> Conditional:
    """Plug-and-play restoration: x0' minimises the misfit and the distance to the estimate of x0.

        x0' = argmin ||y - A x0'||^2 / sigma^2 + weight (m / s)^2 ||x0' - x0||^2
        x'  = m' x0' + s' (sqrt(1 - zeta) (x - m x0') / s + sqrt(zeta) z)

    arXiv:2305.08995 algorithm 1, its lambda is `weight`. One evaluation a step, no backward pass, any
    linear operator; without noise the first line is the projection on what was measured. The spread of
    the draws is set by zeta, not by the posterior.

    Raises ValueError for an operator that is not linear or does not fit, weight <= 0, or zeta outside
    [0, 1].

    >>> conditional = diffpir(sde, score, Measurement(Blur(kernel), y, noise_std=0.05))
    """
    operator = linear(measurement)
    check_positive(weight=weight)
    check("zeta", zeta, 0 <= zeta <= 1, "in [0, 1]")

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        m, s = bcast(sde.mean_coeff(t), x), bcast(sde.std(t), x)
        x0 = denoise(sde, score, x, t)
        share = weight * measurement.noise_std**2 * jnp.square(sde.mean_coeff(t) / sde.std(t))
        x0 = x0 + operator.ridge(measurement.residual(x0), 1.0, share)
        z = jax.random.normal(key, x.shape, x.dtype)
        m_next, s_next = bcast(sde.mean_coeff(t_next), x), bcast(sde.std(t_next), x)
        mean = m_next * x0 + s_next * (1 - zeta) ** 0.5 * (x - m * x0) / s
        return StepOut(mean + s_next * zeta**0.5 * z, mean)

    return _conditional(score, measurement, update)


def daps(
    sde: SDE,
    score: ScoreFn,
    measurement: Any,
    *,
    data_std: ArrayLike | Sequence[float] = 1.0,
    evaluations: int = 1,
    moves: int = 50,
    size: float = 0.1,
) -> Conditional:
    """Decoupled annealing: x0 is drawn from N(x0(x), r^2 I) p(y | x0), and noised to the next level.

    arXiv:2407.01521. x0(x) is the end of `evaluations` DDIM steps from x, 1: Tweedie's mean. r^2 is the
    variance of x0 given x for data of standard deviation `data_std`, as in `pigdm`. With a linear
    operator and normal noise the draw is exact; otherwise it is made by `moves` Langevin moves with
    steps of `size` times the smaller of r^2 and the noise's variance, which cost no evaluations of the
    score. Since the noise of a level is independent of the last one's, early errors are forgotten. Exact
    for normal data of standard deviation `data_std` in every direction, with one evaluation.

    Raises ValueError for an operator that does not fit, one that is not linear or another kind of noise
    with a noise_std of 0, counts below 1, data_std or size <= 0.

    >>> conditional = daps(sde, score, Measurement(Nonlinear(camera, shape), y, noise_std=0.05))
    """
    check_measurement(measurement)
    stds, operator = check_stds(data_std), measurement.operator
    check_count(evaluations=evaluations, moves=moves)
    check_positive(size=size)
    exactly = isinstance(operator, LinearOperator) and measurement.noise is None
    logp: Any = None if exactly else measurement_logp(measurement)
    noise = measurement.noise_std**2

    def estimate(x: Data, t: Time) -> Data:
        """The end of DDIM steps that are even in the logarithm of s / m."""
        ratio = jnp.log(sde.std(t) / sde.mean_coeff(t))
        for i in range(evaluations):
            x0 = denoise(sde, score, x, t)
            if i == evaluations - 1:
                return x0
            later = sde.time_of_log_snr(-2 * (ratio - (i + 1) * (ratio + 4) / evaluations))
            m, s, m_next, s_next = (
                bcast(f(v), x) for v in (t, later) for f in (sde.mean_coeff, sde.std)
            )
            x, t = m_next * x0 + s_next / s * (x - m * x0), later
        return x

    def draw(key: PRNGKey, x0: Data, r2: Time) -> Data:
        first, second = jax.random.split(key)
        r = bcast(jnp.sqrt(r2), x0)
        if exactly:
            start = x0 + r * jax.random.normal(first, x0.shape, x0.dtype)
            seen = measurement.residual(start)
            seen = seen + noise**0.5 * jax.random.normal(second, seen.shape, seen.dtype)
            return start + bcast(r2, x0) * operator.ridge(seen, r2, noise)
        step = bcast(size * jnp.minimum(r2, noise), x0)

        def move(i: Any, v: Data) -> Data:
            slope = jax.grad(lambda v: logp(v, jnp.zeros(())).sum())(v) - (v - x0) / r**2
            z = jax.random.normal(jax.random.fold_in(first, i), v.shape, v.dtype)
            return v + step * slope + jnp.sqrt(2 * step) * z

        return jax.lax.fori_loop(0, moves, move, x0)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        draw_key, noise_key = jax.random.split(key)
        x0 = draw(draw_key, estimate(x, t), spread(sde, t, stds))
        z = jax.random.normal(noise_key, x.shape, x.dtype)
        mean = bcast(sde.mean_coeff(t_next), x) * x0
        return StepOut(mean + bcast(sde.std(t_next), x) * z, mean)

    return _conditional(score, measurement, update, evaluations)
