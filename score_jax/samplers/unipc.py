r"""UniPC as a `Step`: a predictor, and a corrector that costs no evaluation (arXiv:2302.04867).

A step from t to t' begins where the last one predicted, evaluates D there once, and uses it twice:
UniC corrects the state for the interval that just ended, UniP predicts over the next. Of order p,
with the algebra of `exponential` and data prediction,

    UniP-p   eq. (3) with p - 1 earlier predictions
    UniC-p   eq. (3) with p - 1 earlier predictions and the new one, at u = 1

and the two together converge with order p + 1. Where there is a single difference the paper takes
B(h)/2 for its weight and leaves B free, B(h) = h + O(h^2): `bh1` is h, `bh2` is 1 - e^-h (with data
prediction). It decides the predictor of order 2 and the corrector of order 1, that is UniPC-2's
predictor and the first steps; elsewhere B cancels.

The correction is written as the difference of the two formulas and added to x, which keeps changes
of x in between (a chain, inpainting).
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int

from score_jax.samplers import exponential as ex
from score_jax.samplers.history import History, no_history, remembered
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


def bh1(h: Scalar) -> Scalar:
    """B_1(h) = h."""
    return h


def bh2(h: Scalar) -> Scalar:
    """B_2(h) = 1 - e^-h, the paper's choice for guided sampling and more than about 10 steps."""
    return -jnp.expm1(-h)


def correction(
    sde: SDE,
    t: Time,
    past: History,
    clean: Data,
    now: Int[Array, ""],
    b: Callable[[Scalar], Scalar],
    stretch: Scalar | float = 1.0,
) -> Data | float:
    """UniC minus UniP over the interval that ended at t, given the new prediction there.

    `stretch` as in `exponential.predictor_weights`.
    """
    h, base, earlier = past.marks[0], past.values[0], past.values[1:]
    predicted = ex.predictor_weights(h, past.marks[1:], now, b, stretch)
    one = jnp.ones_like(h)
    nodes = ex.nodes_of(h, past.marks[1:])
    # The newest node first, so that a row of lower order lacks only its tail.
    rows = [ex.node_weights(stretch * h, [one, *nodes[:k]], b) for k in range(len(nodes) + 1)]
    corrected = ex.pick(now, rows, h)
    change = [corrected[0]] + [c - p for c, p in zip(corrected[1:], predicted, strict=True)]
    # Before the first step there is nothing to correct, nor in one from pure noise, without a length.
    scale = jnp.where((past.i > 0) & (h < ex.longest(h)), sde.mean_coeff(t), 0.0)
    return ex.weighted(change, (clean, *earlier), base, scale)


def unipc(
    sde: SDE,
    score: ScoreFn,
    *,
    order: int = 2,
    b: Callable[[Scalar], Scalar] = bh2,
    lower_at_end: bool = False,
) -> Step:
    """UniPC of order 1, 2 or 3: one evaluation a step, converging with order + 1.

    Its state holds `order` predictions. `b` is B(h) of the paper, `bh1` or `bh2`; `lower_at_end` lowers
    the order of the last steps to the number of steps left, which the authors do. A step that is much
    longer than the last has a lower order (`exponential.order_at`).

    Raises ValueError unless order is 1, 2 or 3.

    >>> out = simulate(key, unipc(sde, score, order=3), x, uniform_grid(sde, 10))
    """
    check_process(sde, score)
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")

    def init(x: Data, grid: Grid) -> History:
        return no_history(x, grid, order)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, past: History) -> Moved:
        clean = denoise(sde, score, x, t)
        # The order of the interval that ended here, which the corrector has too.
        last = jnp.maximum(past.i - 1, 0)
        before = ex.order_at(last, past.n, order, lower_at_end, past.marks)
        x = x + correction(sde, t, past, clean, before, b)
        move = ex.interval(sde, t, t_next)
        now = ex.order_at(past.i, past.n, order, lower_at_end, (move.h, *past.marks))
        weights = ex.predictor_weights(move.h, past.marks[:-1], now, b)
        extra = ex.weighted(weights, past.values[:-1], clean, move.m)
        x = ex.exponential_step(x, move, clean, extra)
        return StepOut(x, x), remembered(past, clean, move.h)

    return Step(init, update, 1)
