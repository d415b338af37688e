r"""SA-Solver as a `Step`: stochastic Adams methods, with a corrector that costs no evaluation.

The reverse SDE with tau times its noise has the marginals of the process for every tau(t) >= 0, 0 being
the probability flow and 1 the reverse SDE. Its solution over an interval of length h in the
half-log-SNR, in the algebra of `exponential` (arXiv:2309.05019 proposition 4.2), is

    (1)  x' = (s'/s) e^(-tau^2 h) x + m' int_0^h e^(-K (h - v)) K D(lambda + v) dv
              + s' sqrt(1 - e^(-2 tau^2 h)) z                                   K = 1 + tau^2

with tau constant in it. The integral is that of UniPC with K h in place of h, and the structure is
UniPC's too: the step evaluates D once, at the predicted state, which corrects the interval that ended
there with the same noise and predicts the next one. With tau = 0 it is `unipc(b=bh1)`.
"""

import math

import jax
import jax.numpy as jnp

from score_jax._check import check, is_number
from score_jax._math import as_time, bcast
from score_jax.samplers import exponential as ex
from score_jax.samplers.history import History, no_history, remembered
from score_jax.samplers.unipc import bh1, correction
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

_State = tuple[History, Scalar]  # with K of the interval that ended last


def sa_solver(
    sde: SDE,
    score: ScoreFn,
    *,
    tau: float = 1.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    order: int = 3,
    lower_at_end: bool = False,
) -> Step:
    """SA-Solver of order 1, 2 or 3 with tau of the reverse SDE's noise: one evaluation a step.

    The noise is added where s/m at the start of the step lies in [s_min, s_max]; the paper takes 0.05 and
    1 on images in [-1, 1]. The predictor has `order` predictions, which its state holds, the corrector
    one more. A step that is much longer than the last has a lower order (`exponential.order_at`).
    x_mean lacks the noise of the step. arXiv:2309.05019 algorithm 1.

    Raises ValueError unless tau >= 0 is finite, 0 <= s_min <= s_max, and order is 1, 2 or 3.

    >>> step = sa_solver(sde, score, tau=1.0, s_min=0.05, s_max=1.0)
    """
    check_process(sde, score)
    check("tau", tau, is_number(tau) and tau >= 0, "finite and >= 0")
    check("s_min", s_min, 0 <= s_min <= s_max, f"in [0, s_max={s_max}]")
    check("order", order, order in (1, 2, 3), "1, 2 or 3")

    def init(x: Data, grid: Grid) -> _State:
        return no_history(x, grid, order), jnp.ones((), grid.dtype)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, state: _State) -> Moved:
        past, stretch = state
        t, t_next = as_time(t), as_time(t_next)
        clean = denoise(sde, score, x, t)
        # The order of the interval that ended here, which the corrector has too.
        last = jnp.maximum(past.i - 1, 0)
        before = ex.order_at(last, past.n, order, lower_at_end, past.marks)
        x = x + correction(sde, t, past, clean, before, bh1, stretch)
        move = ex.interval(sde, t, t_next)
        sigma = sde.std(t) / sde.mean_coeff(t)
        noise = jnp.where((s_min <= sigma) & (sigma <= s_max), jnp.asarray(tau**2, move.h.dtype), 0)
        stretch = 1 + noise
        now = ex.order_at(past.i, past.n, order, lower_at_end, (move.h, *past.marks))
        weights = ex.predictor_weights(move.h, past.marks[:-1], now, bh1, stretch)
        x_mean = bcast(move.keep * jnp.exp(-noise * move.h), x) * x
        x_mean = x_mean + bcast(-move.m * jnp.expm1(-stretch * move.h), x) * clean
        x_mean = x_mean + ex.weighted(weights, past.values[:-1], clean, move.m)
        z = jax.random.normal(key, x.shape, x.dtype)
        x = x_mean + bcast(move.s * jnp.sqrt(-jnp.expm1(-2 * noise * move.h)), x) * z
        return StepOut(x, x_mean), (remembered(past, clean, move.h), stretch)

    return Step(init, update, 1)
