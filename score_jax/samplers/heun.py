r"""Heun's method and the stochastic sampler of EDM for any SDE (arXiv:2206.00364).

For y = x/m and sigma = s/m every SDE is the variance-exploding one, and the probability flow is

    (1)  dy / d sigma = (y - D(x, t)) / sigma = -s score(x, t)

Heun's method takes an Euler step in sigma, evaluates there, and takes the mean of both slopes: two
evaluations, order 2. The grid ends at t0 > 0, where sigma > 0: the paper's last Euler step to sigma = 0
is exactly Tweedie's denoising, `final_denoising=tweedie(sde, score)`, so that n intervals and that
step are its N = n + 1 steps with 2N - 1 evaluations.

The stochastic sampler (algorithm 2) first raises the noise of every step from sigma to
sigma (1 + gamma), with gamma = min(churn / N, sqrt(2) - 1) for s_min <= sigma <= s_max and else 0, by
fresh noise of standard deviation s_noise sqrt(sigma_hat^2 - sigma^2). N counts the last step too, as in
the paper and its program: it is the number of times of the grid.

The end's slope is wrong by far where one interval leads from noise above the data's scale to almost none:
a single step from sigma 80 would halve x. Such an interval, from sigma > 1 to less than a hundredth of
it, is taken by Euler's step, which goes to D.
"""

import math

import jax
import jax.numpy as jnp

from score_jax._math import as_time, bcast
from score_jax.score import x0_of
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
    score_at,
    score_out,
    stateless,
)

# The interval that is taken by Euler's step: from sigma above the first to less than the second of it.
_NOISY, _TOO_FAR = 1.0, 0.01


def _heun(sde: SDE, score: ScoreFn, x: Data, t: Time, t_next: Time) -> Data:
    m, s, m_next, s_next = sde.mean_coeff(t), sde.std(t), sde.mean_coeff(t_next), sde.std(t_next)
    out = score_out(score, x, t)
    slope = bcast(-s, x) * out.score
    # Euler's step to D is m' D + s' slope, finite at pure noise too.
    there = bcast(m_next, x) * x0_of(sde, out, x, t) + bcast(s_next, x) * slope
    later = bcast(-s_next, x) * score_at(score, there, t_next)
    long = (s > _NOISY * m) & (s_next * m < _TOO_FAR * m_next * s)
    change = jnp.where(long, 0, s_next - m_next / jnp.where(long, 1, m) * s)  # m' (sigma' - sigma)
    return there + bcast(0.5 * change, x) * (later - slope)


def heun(sde: SDE, score: ScoreFn) -> Step:
    """Heun's method on the probability flow in sigma = s/m: order 2, two evaluations.

    Algorithm 1 of arXiv:2206.00364; its last step is the final denoising. An interval from much noise
    to almost none is taken with order 1 (see the module).

    >>> out = simulate(key, heun(sde, score), x, grid, final_denoising=tweedie(sde, score))
    """
    check_process(sde, score)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        x = _heun(sde, score, x, as_time(t), as_time(t_next))
        return StepOut(x, x)

    return stateless(update, 2)


def edm(
    sde: SDE,
    score: ScoreFn,
    *,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Step:
    """EDM's stochastic sampler: noise is added, then removed by Heun's method; 2 evaluations.

    `churn` is S_churn of the paper for a run over the whole grid (0: `heun`), of which each of the
    grid's n + 1 times has an equal part, as in the paper's program; s_min and s_max bound the
    sigma = s/m where it acts, s_noise scales the added noise. The raised level never passes that of t1.
    x_mean is x: the noise of the step cannot be separated. arXiv:2206.00364 algorithm 2.

    Raises ValueError unless churn >= 0, 0 <= s_min <= s_max, and s_noise > 0, all numbers.

    >>> step = edm(sde, score, churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)
    """
    check_process(sde, score)
    if not 0 <= churn < math.inf:
        raise ValueError(f"churn must be finite and >= 0, got {churn}")
    if not 0 <= s_min <= s_max:
        raise ValueError(f"s_min must be in [0, s_max={s_max}], got {s_min}")
    if not 0 < s_noise < math.inf:
        raise ValueError(f"s_noise must be finite and > 0, got {s_noise}")

    def init(x: Data, grid: Grid) -> Scalar:
        # The paper's N steps: those of the grid, and the final denoising.
        return jnp.asarray(min(churn / grid.shape[0], math.sqrt(2) - 1), grid.dtype)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, gamma: Scalar) -> Moved:
        t, t_next = as_time(t), as_time(t_next)
        m, sigma = sde.mean_coeff(t), sde.std(t) / sde.mean_coeff(t)
        raised = sde.time_of_log_snr(-2 * jnp.log(sigma * (1 + gamma)))
        acts = (gamma > 0) & (s_min <= sigma) & (sigma <= s_max) & (t < sde.t1)
        # Without added noise use the time itself, not the inverse of its SNR.
        t_hat = jnp.where(acts, jnp.clip(raised, t, sde.t1), t)
        # m' sqrt(sigma'^2 - sigma^2) and m' / m, finite at pure noise, where nothing is added.
        keep = jnp.where(acts, sde.mean_coeff(t_hat) / jnp.where(acts, m, 1), 1)
        kept, s_hat = keep * sde.std(t), sde.std(t_hat)
        added = jnp.where(acts, jnp.sqrt(jnp.maximum((s_hat - kept) * (s_hat + kept), 0)), 0)
        z = jax.random.normal(key, x.shape, x.dtype)
        x = bcast(keep, x) * x + bcast(s_noise * added, x) * z
        x = _heun(sde, score, x, t_hat, t_next)
        return StepOut(x, x), gamma

    return Step(init, update, 2)
