r"""The algebra of the few-step solvers: the flow in the half-log-SNR, whose linear part is exact.

With the half-log-SNR lambda = log(m/s), which grows from noise to data, and the prediction
D(x, t) = E[x0 | x], the probability flow of every isotropic linear SDE is

    (1)  d(x/s) / d lambda = exp(lambda) D
    (2)  x' = (s'/s) x + m' int_0^h exp(-(h - v)) D(lambda + v) dv          h = lambda' - lambda

(arXiv:2211.01095 prop. 4.1: derived there for VP, and true for any m and s). A solver replaces D by
the polynomial through predictions at known nodes, u = v/h, D_0 at u = 0, and integrates it exactly:

    (3)  x' = (s'/s) x + m' [ I_0 D_0 + sum_m b_m (D_m - D_0) ]
    (4)  I_k = h int_0^1 exp(-h (1 - u)) u^k du
    (5)  b_m = integral of the Lagrange polynomial of node m: a combination of I_1, I_2, ...

I_0 = 1 - exp(-h), and I_k/h is k! phi_{k+1}(-h) of the exponential integrators. h comes from a ratio of
coefficients, exp(-h) = s' m / (s m'), which in float32 is ten times as exact as a difference of two
logarithms.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_jax._math import bcast
from score_jax.types import SDE, Data, Scalar, Time

# Terms of the series of I_k: at h = 1 the first one left out is below 1e-17.
_TERMS = 18
# How many times longer than the last a step may be for an order above 2 and above 1: measured on uniform
# grids, whose last step is 4 times as long (docs/benchmarks.md).
_LONG, TOO_LONG = 2.0, 3.0


class Interval(NamedTuple):
    """Scalar coefficients of a move from t to t_next: m', s', s'/s, exp(-h) and h of eq. (2)."""

    m: Scalar
    s: Scalar
    keep: Scalar
    ratio: Scalar
    h: Scalar


def interval(sde: SDE, t: Time, t_next: Time) -> Interval:
    """The coefficients of eq. (2) from t to t_next.

    h is at most `longest`, at which exp(-h) is the rounding of 1: from pure noise it is infinite.
    """
    m, s = sde.mean_coeff(t_next), sde.std(t_next)
    keep = s / sde.std(t)
    ratio = keep * (sde.mean_coeff(t) / m)
    return Interval(m, s, keep, ratio, jnp.minimum(-jnp.log(ratio), longest(ratio)))


def longest(h: Scalar) -> float:
    """The h that stands for any longer one: exp(-h) is the rounding of 1 in the dtype of h."""
    return -math.log(jnp.finfo(h.dtype).eps)


def moments(h: Scalar, highest: int) -> list[Scalar]:
    """I_0, ..., I_highest of eq. (4), to rounding for every h > 0 in float32 and float64.

    >>> moments(jnp.float32(1e-4), 2)[2] / 1e-4  # 1/3 and not noise
    """
    # Upward, I_k = 1 - (k/h) I_{k-1} loses digits as h falls; downward it gains them.
    upward = [-jnp.expm1(-h)]
    for k in range(1, highest + 1):
        upward.append(1 - k / h * upward[-1])
    series = jnp.ones_like(h)
    for j in range(_TERMS, 1, -1):
        series = 1 - h / (highest + j) * series
    downward = [h / (highest + 1) * series]
    for k in range(highest, 0, -1):
        downward.insert(0, h / k * (1 - downward[0]))
    return [jnp.where(h < 1, low, high) for low, high in zip(downward, upward, strict=True)]


def lagrange_weights(h: Scalar, nodes: Sequence[Scalar]) -> list[Scalar]:
    """b_m of eq. (5) for predictions at the nodes u_m (distinct, not 0) and at 0.

    nodes are scalars in units of h: -1 is one interval of the same length ago, 1 the end of this one.
    """
    moment = moments(h, len(nodes))
    weights = []
    for m, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != m]
        # u prod(u - other) as coefficients, the lowest power first.
        coefficients: list[Any] = [jnp.zeros_like(h), jnp.ones_like(h)]
        scale = node
        for other in others:
            lower = [-other * c for c in coefficients] + [jnp.zeros_like(h)]
            raised = [jnp.zeros_like(h), *coefficients]
            coefficients = [a + b for a, b in zip(lower, raised, strict=True)]
            scale = scale * (node - other)
        integral = sum(c * i for c, i in zip(coefficients, moment, strict=True))
        weights.append(integral / scale)
    return weights


def node_weights(
    h: Scalar, nodes: Sequence[Scalar], simple: Callable[[Scalar], Scalar]
) -> list[Scalar]:
    """b_m as the papers take them: for a single node simple(h) / 2u, beyond that eq. (5).

    `simple(h) = h + O(h^2)` keeps the order: half of it stands for I_1.
    """
    if len(nodes) == 1:
        return [0.5 * simple(h) / nodes[0]]
    return lagrange_weights(h, nodes)


def second_differences(nodes: Sequence[Scalar]) -> list[Scalar]:
    """The weights of two predictions at `nodes` in the u^2 coefficient of the parabola through them.

    The parabola goes through the prediction at 0 too, from which theirs are differences.
    """
    near, far = nodes
    return [1 / (near * (near - far)), 1 / (far * (far - near))]


def first_weight(h: Scalar) -> Scalar:
    """1 - e^-h: twice the weight of the first difference in the paper's second-order methods."""
    return -jnp.expm1(-h)


def order_at(
    i: Int[Array, ""],
    n: Int[Array, ""],
    order: int,
    lower_at_end: bool,
    lengths: Sequence[Scalar],
) -> Int[Array, ""]:
    """The order of step i of n: at most the number of predictions, and at the end of the steps left.

    lengths: h of the step and of those before it. A step that is much longer than the one before would
    extrapolate too far: above 2 times its length the order is at most 2, above 3 times it is 1.
    """
    now = jnp.minimum(i + 1, order)
    if order > 1:
        h, last = lengths[:2]
        allowed = jnp.where(h > _LONG * last, 2, order)
        now = jnp.minimum(now, jnp.where(h > TOO_LONG * last, 1, allowed))
    return jnp.minimum(now, n - i) if lower_at_end else now


def nodes_of(h: Scalar, lengths: Sequence[Scalar]) -> list[Scalar]:
    """The nodes of earlier predictions, in units of h, from the lengths of the past intervals."""
    nodes, back = [], jnp.zeros_like(h)
    for length in lengths:
        back = back - length
        nodes.append(back / h)
    return nodes


def pick(now: Int[Array, ""], rows: Sequence[Sequence[Scalar]], h: Scalar) -> Float[Array, " k"]:
    """Row now - 1 of a table of weights, rows filled up with zeros to the length of the last."""
    width = len(rows[-1])
    zero = jnp.zeros_like(h)
    table = jnp.stack([jnp.stack([*row, *[zero] * (width - len(row))]) for row in rows])
    return table[now - 1]


def predictor_weights(
    h: Scalar,
    lengths: Sequence[Scalar],
    now: Int[Array, ""],
    simple: Callable[[Scalar], Scalar],
    stretch: Scalar | float = 1.0,
) -> list[Scalar]:
    """Weights of the earlier predictions in a step of order `now` (1 to len(lengths) + 1).

    `stretch` multiplies h in eq. (4), not in the nodes: a decay of x faster than exp(-h).
    """
    if not lengths:
        return []
    nodes, decay = nodes_of(h, lengths), stretch * h
    rows: list[Sequence[Any]] = [[]]
    rows += [node_weights(decay, nodes[: k + 1], simple) for k in range(len(nodes))]
    return list(pick(now, rows, h))


def weighted(
    weights: Sequence[Scalar], values: Sequence[Data], base: Data, scale: Scalar
) -> Data | float:
    """scale * sum_m b_m (D_m - D_0), shape of x; 0 without values."""
    total: Any = 0.0
    for weight, value in zip(weights, values, strict=True):
        total = total + bcast(scale * weight, base) * (value - base)
    return total


def exponential_step(x: Data, move: Interval, clean: Data, extra: Data | float) -> Data:
    """Eq. (3) with `extra` its sum: the state at t_next."""
    return bcast(move.keep, x) * x + bcast(-move.m * jnp.expm1(-move.h), x) * clean + extra
