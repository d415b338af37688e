r"""DPM-Solver++ as `Step`s: few evaluations, data prediction, any SDE (arXiv:2211.01095).

With D_0 the prediction of x0 at (x, t), D_-1, D_-2 those of the steps before, h the step in the
half-log-SNR and r_k = (earlier interval k) / h, and the algebra of `exponential`,

    1    x' = (s'/s) x + m' (1 - e^-h) D_0                                     DDIM
    2M   x' = (s'/s) x + m' (1 - e^-h) [D_0 + (D_0 - D_-1) / (2 r_1)]          algorithm 2
    3M   x' = (s'/s) x + m' [I_0 D_0 + I_1 D_0' + (I_2 / 2) D_0''/2]           the authors' program
    2S   u  = (s_h/s) x + m_h (1 - e^-h/2) D_0,                                algorithm 1, r = 1/2
         x' = (s'/s) x + m' (1 - e^-h) D(u, t_h)                               h: halfway in lambda
    SDE  x' = (s'/s) e^-h x + m' (1 - e^-2h) [D_0 + (D_0 - D_-1) / (2 r_1)]
              + s' sqrt(1 - e^-2h) z                                           SDE-DPM-Solver++(2M)

Multistep methods (M) begin with the lower orders. That costs no accuracy while D hardly changes near t1:
under VE with sigma_max only 13 times the data's std 3M shows the h^2 of its first step at errors below
1e-5. They also lower the order of a step that is much longer than the last (`exponential.order_at`).

In 3M D_0' and D_0'' are the derivatives in u of the parabola through the three predictions. Its integral
has I_2 where the authors' program has I_2 / 2, which makes the method one of order 2. With up to about 30
steps the half is better on learned and on exact scores, and it is the default; `exact` takes I_2.
"""

import jax
import jax.numpy as jnp

from score_jax._math import as_time, bcast
from score_jax.samplers import exponential as ex
from score_jax.samplers.history import History, no_history, remembered
from score_jax.score import denoise
from score_jax.types import (
    SDE,
    Data,
    Grid,
    Moved,
    PRNGKey,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
    stateless,
)


def _multistep(
    sde: SDE, score: ScoreFn, order: int, lower_at_end: bool, *, halved: bool = False
) -> Step:
    def init(x: Data, grid: Grid) -> History:
        return no_history(x, grid, order - 1)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, past: History) -> Moved:
        clean = denoise(sde, score, x, t)
        move = ex.interval(sde, t, t_next)
        now = ex.order_at(past.i, past.n, order, lower_at_end, (move.h, *past.marks))
        weights = ex.predictor_weights(move.h, past.marks, now, ex.first_weight)
        if halved:
            half = jnp.where(now == 3, 0.5, 0) * ex.moments(move.h, 2)[2]
            second = ex.second_differences(ex.nodes_of(move.h, past.marks))
            weights = [w - half * b for w, b in zip(weights, second, strict=True)]
        extra = ex.weighted(weights, past.values, clean, move.m)
        x = ex.exponential_step(x, move, clean, extra)
        return StepOut(x, x), remembered(past, clean, move.h)

    return Step(init, update, 1)


def dpmpp_2m(sde: SDE, score: ScoreFn, *, lower_at_end: bool = False) -> Step:
    """DPM-Solver++(2M): order 2 with one evaluation a step; its state holds one prediction.

    `lower_at_end` takes the last step with order 1, the paper's advice for fewer than about 15
    steps. arXiv:2211.01095 algorithm 2.

    >>> out = simulate(key, dpmpp_2m(sde, score), x, uniform_grid(sde, 20))
    """
    check_process(sde, score)
    return _multistep(sde, score, 2, lower_at_end)


def dpmpp_3m(sde: SDE, score: ScoreFn, *, exact: bool = False, lower_at_end: bool = False) -> Step:
    """DPM-Solver++(3M) with one evaluation a step; its state holds two predictions.

    By default as in the authors' program, which is better for up to about 30 steps; `exact` integrates
    the parabola exactly and has order 3, for many steps and smooth scores. `lower_at_end` takes the last
    two steps with orders 2 and 1. See the module.
    """
    check_process(sde, score)
    return _multistep(sde, score, 3, lower_at_end, halved=not exact)


def dpmpp_2s(sde: SDE, score: ScoreFn) -> Step:
    """DPM-Solver++(2S): order 2 with two evaluations a step, without a state.

    The second evaluation is halfway in the half-log-SNR. arXiv:2211.01095 algorithm 1.
    """
    check_process(sde, score)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        middle = sde.time_of_log_snr(0.5 * (sde.log_snr(t) + sde.log_snr(t_next)))
        half, whole = ex.interval(sde, t, middle), ex.interval(sde, t, t_next)
        clean = denoise(sde, score, x, t)
        there = ex.exponential_step(x, half, clean, 0.0)
        later = denoise(sde, score, there, middle)
        # As exact as the inverse of the SNR: with its rounding r is not exactly one half.
        weight = 0.5 * ex.first_weight(whole.h) * whole.h / half.h
        x = ex.exponential_step(x, whole, clean, ex.weighted([weight], [later], clean, whole.m))
        return StepOut(x, x)

    return stateless(update, 2)


def sde_dpmpp_2m(sde: SDE, score: ScoreFn, *, order: int = 2, lower_at_end: bool = False) -> Step:
    """SDE-DPM-Solver++(2M): the reverse SDE with one evaluation a step and exact noise.

    Its mean is that of 2M in the limit of small noise; `order` 1 is SDE-DPM-Solver++1, which is
    DDIM with eta = 1. x_mean lacks the noise of the step. arXiv:2211.01095 section 5.

    Raises ValueError unless order is 1 or 2.
    """
    check_process(sde, score)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")

    def init(x: Data, grid: Grid) -> History:
        return no_history(x, grid, order - 1)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, past: History) -> Moved:
        clean = denoise(sde, score, x, t)
        move = ex.interval(sde, t, t_next)
        now = ex.order_at(past.i, past.n, order, lower_at_end, (move.h, *past.marks))
        fresh = -jnp.expm1(-2 * move.h)
        weights = ex.predictor_weights(move.h, past.marks, now, lambda h: -jnp.expm1(-2 * h))
        x_mean = bcast(move.keep * move.ratio, x) * x + bcast(move.m * fresh, x) * clean
        x_mean = x_mean + ex.weighted(weights, past.values, clean, move.m)
        z = jax.random.normal(key, x.shape, x.dtype)
        x = x_mean + bcast(move.s * jnp.sqrt(fresh), x) * z
        return StepOut(x, x_mean), remembered(past, clean, move.h)

    return Step(init, update, 1)
