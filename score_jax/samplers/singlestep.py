r"""Single-step solvers of DPM-Solver: several evaluations within an interval, no state, any SDE.

With the noise in x, n(x, t) = -s score(x, t), and the prediction D of x0, both in the algebra of
`exponential`, and lambda = log(m/s), of which t_r is the time at the share r of the interval,

    2      u = m_r D + s_r n(x, t),                                                 r = 1/2
           x' = m' D + s' n(x, t) + (s' - (m'/m) s) [n(u, t_r) - n(x, t)]
                                                                  arXiv:2206.00927 algorithm 1
    ++3S   u_1 by DDIM at r_1 = 1/3, u_2 with the slope of D(u_1) at r_2 = 2/3, and
           x' = (s'/s) x + m' [I_0 D + I_1 (D(u_2) - D) / r_2]    arXiv:2211.01095

DPM-Solver-2 is also k-diffusion's `sample_dpm_2`: Euler in s/m to the geometric mean of two levels.
"""

import jax.numpy as jnp

from score_jax._math import as_time, bcast
from score_jax.samplers import exponential as ex
from score_jax.score import denoise, x0_of
from score_jax.types import (
    SDE,
    Data,
    PRNGKey,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
    score_at,
    score_out,
    stateless,
)


def _between(sde: SDE, t: Time, t_next: Time, share: float) -> Time:
    """The time at this share of the interval in log-SNR."""
    return sde.time_of_log_snr((1 - share) * sde.log_snr(t) + share * sde.log_snr(t_next))


def dpm_solver_2(sde: SDE, score: ScoreFn) -> Step:
    """DPM-Solver-2: order 2 with two evaluations a step, by the noise halfway in log-SNR, no state.

    arXiv:2206.00927 algorithm 1 with r = 1/2. `dpmpp_2s` predicts x0 instead, which is steadier with
    large guidance.

    >>> out = simulate(key, dpm_solver_2(sde, score), x, log_snr_grid(sde, 10))
    """
    check_process(sde, score)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        middle = _between(sde, t, t_next, 0.5)
        out = score_out(score, x, t)
        clean, noise = x0_of(sde, out, x, t), bcast(-sde.std(t), x) * out.score

        def moved(end: Time) -> Data:
            # Euler's step in s/m, finite at pure noise too.
            return bcast(sde.mean_coeff(end), x) * clean + bcast(sde.std(end), x) * noise

        later = bcast(-sde.std(middle), x) * score_at(score, moved(middle), middle)
        # As exact as the inverse of the SNR: with its rounding the middle is not exactly one half.
        share = ex.interval(sde, t, middle).h / ex.interval(sde, t, t_next).h
        m, s = sde.mean_coeff(t), sde.std(t)
        # m' times the change of s/m; from pure noise the step is Euler's.
        change = sde.std(t_next) - sde.mean_coeff(t_next) * s / jnp.where(m > 0, m, 1)
        weight = jnp.where(m > 0, 0.5 * change / share, 0)
        x = moved(t_next) + bcast(weight, x) * (later - noise)
        return StepOut(x, x)

    return stateless(update, 2)


def dpmpp_3s(sde: SDE, score: ScoreFn) -> Step:
    """DPM-Solver++(3S): order 3 with three evaluations a step, without a state.

    They are at the start and at a third and two thirds of the interval in log-SNR. arXiv:2211.01095,
    the data prediction of arXiv:2206.00927 algorithm 2.

    >>> out = simulate(key, dpmpp_3s(sde, score), x, log_snr_grid(sde, 7))
    """
    check_process(sde, score)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        first, second = (_between(sde, t, t_next, r) for r in (1 / 3, 2 / 3))
        moves = [ex.interval(sde, t, end) for end in (first, second, t_next)]
        clean, later = denoise(sde, score, x, t), None
        for move, before, end in zip(moves, [None, *moves], [first, second, t_next], strict=False):
            extra: Data | float = 0.0
            if before is not None and later is not None:
                weights = ex.lagrange_weights(move.h, [before.h / move.h])
                extra = ex.weighted(weights, [later], clean, move.m)
            there = ex.exponential_step(x, move, clean, extra)
            if end is not t_next:
                later = denoise(sde, score, there, end)
        return StepOut(there, there)

    return stateless(update, 3)
