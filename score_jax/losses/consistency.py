r"""Consistency models: the objective of consistency training and of distillation.

A consistency function f maps every point of a path of the probability flow to the same one, x(t0)/m(t0)
(`score_jax.parametrization.consistency`). For a pair of times t' < t, x at t and x' at t' on one path,

    (1)  L = E [ w(t, t') d(f(x, t), sg f(x', t')) ],      w = 1 / (sigma - sigma'),   sigma = s/m

with d a metric and sg the value held constant (arXiv:2303.01469 algorithms 2 and 3; arXiv:2310.14189, by
which the target needs no average of the parameters). Two ways to x':

    distillation   a step of a solver of the probability flow of a trained model, the teacher
    training       x' = m' x0 + s' z with the data and the noise of x: no teacher

Given x, the mean of the second is x' of an Euler step with the exact score, so that both have the same
gradient as t' goes to t (arXiv:2303.01469 theorem 2).

The distance of the two times is that of one of n intervals, equal in sigma^(1/rho) from t0 to t1, and n
doubles during training. The published programs also round t to the ends of the intervals; here, as in
arXiv:2406.14548, every t has a pair of its own, so that the network is trained at all times.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_jax._check import check, check_count, check_function, check_positive, is_number
from score_jax._math import bcast
from score_jax.losses.training import Objective, Reduction, Sample, pseudo_huber_reduction
from score_jax.sde import log_snr_ends
from score_jax.types import SDE, Data, PerExample, Step

# The number of the training step (b,), None outside training -> the number n of intervals.
Intervals = Callable[[Int[Array, " b"] | None], Any]
Teacher = Callable[..., Step]  # (**what the network is given) -> a step of the probability flow
PairWeighting = Callable[[Any, Any], Any]  # (sigma, sigma') of the pair (b,) -> w: (b,)


def doubling_intervals(first: int = 10, last: int = 1280, *, steps: int) -> Intervals:
    """n of arXiv:2310.14189 section 3.4: `first` at the start, doubled at equal distances up to `last`.

    min(first 2^floor(k / K'), last) at step k, with K' = floor(steps / (floor(log2(last / first)) + 1)).
    Outside training it is `last`. Raises ValueError unless 1 <= first <= last and steps >= 1.

    >>> intervals = doubling_intervals(steps=400_000)
    """
    check_count(first=first, last=last, steps=steps)
    check("(first, last)", (first, last), first <= last, "in increasing order")
    each = max(1, steps // (int(math.log2(last // first)) + 1))

    def intervals(step: Int[Array, " b"] | None) -> Float[Array, "..."]:
        if step is None:
            return jnp.asarray(float(last))
        return jnp.minimum(first * jnp.exp2((step // each).astype(jnp.float32)), last)

    return intervals


def gap_weighting(sigma: Float[Array, " b"], sigma_next: Float[Array, " b"]) -> Float[Array, " b"]:
    """w of eq. (1), 1 / (sigma - sigma'), and 0 where both are the same: arXiv:2310.14189 section 3.1."""
    gap = sigma - sigma_next
    return jnp.where(gap > 0, 1 / jnp.where(gap > 0, gap, 1), 0)


def pair_of(
    sde: SDE, t: Float[Array, " b"], n: Any, *, t0: float, rho: float = 7.0
) -> tuple[Float[Array, " b"], Float[Array, " b"], Float[Array, " b"]]:
    """(t', sigma, sigma'): the time one of n intervals before t (b,), at least t0, and both sigma = s/m.

    n is a number or (b,). Noise 1,000 times the data stands for pure noise.

    >>> t_next, sigma, sigma_next = pair_of(LinearVE(), jnp.asarray([80.0]), 18, t0=0.002)
    """
    noisiest, cleanest = (math.exp(-0.5 * end / rho) for end in log_snr_ends(sde, t0))
    root = jnp.clip(jnp.exp(-0.5 / rho * sde.log_snr(t)), cleanest, noisiest)
    root_next = jnp.maximum(root - (noisiest - cleanest) / n, cleanest)
    t_next = jnp.clip(sde.time_of_log_snr(-2 * rho * jnp.log(root_next)), t0, t)
    return jnp.where(root_next > cleanest, t_next, t0), root**rho, root_next**rho


def consistency_matching(
    *,
    intervals: Intervals | int = 1280,
    rho: float = 7.0,
    teacher: Teacher | None = None,
    reduction: Reduction | None = None,
    weighting: PairWeighting = gap_weighting,
) -> Objective:
    """Consistency training, or distillation with a `teacher`, eq. (1): an `Objective`.

    For a model with the parametrization `consistency`, on any SDE, with the times of arXiv:2310.14189.
    intervals: their number n, or a function of the training step (`doubling_intervals`); teacher: a
    function of what the network is given (y=... and the like) that returns a step of the probability flow
    without noise, such as `heun`; reduction: the metric d as a function of the squared differences
    (b, *d), by default `pseudo_huber_reduction()`; `mean_reduction` is the squared error; weighting: w as
    a function of both sigma. Two evaluations of the network, with the same dropout.

    Raises ValueError for arguments of another kind, and, when traced, for another parametrization.

    >>> loss = model.loss(
    ...     consistency_matching(intervals=doubling_intervals(steps=10_000)),
    ...     times=log_normal_times(model.sde, -1.1, 2.0),
    ... )
    >>> teacher = lambda **given: heun(model.sde, trained.score(trained_params, **given))
    >>> loss = model.loss(consistency_matching(intervals=18, teacher=teacher))
    """
    if not callable(intervals):
        check_count(intervals=intervals)
    check("rho", rho, is_number(rho), "a finite number")
    check_positive(rho=rho)
    reduction = pseudo_huber_reduction() if reduction is None else reduction
    check_function("reduction", reduction, "a function (b, *d) -> (b,), such as mean_reduction")
    check_function("weighting", weighting, "a function (sigma, sigma_next), such as gap_weighting")
    if teacher is not None:
        check_function("teacher", teacher, "a function (**given) -> Step")

    def objective(s: Sample) -> tuple[PerExample, dict[str, PerExample]]:
        t0 = s.parametrization.t0
        if t0 is None:
            raise ValueError(
                "parametrization must be consistency() for consistency_matching, got "
                f"{s.parametrization.name!r}"
            )
        n = intervals(s.step) if callable(intervals) else intervals
        t_next, sigma, sigma_next = pair_of(s.sde, s.t, n, t0=t0, rho=rho)
        x_next = _noised(s, t_next) if teacher is None else _solved(s, teacher, t_next)
        target = jax.lax.stop_gradient(s.at(x_next, t_next).clean())
        squares = jnp.square(s.clean() - target)
        reduced = reduction(squares) if s.mask is None else reduction(squares, s.mask)
        return weighting(sigma, sigma_next) * reduced, {}

    return objective


def _noised(s: Sample, t_next: Float[Array, " b"]) -> Data:
    """The data of x with its noise at t'."""
    mean, std = s.sde.marginal(s.x0, t_next)
    return mean + bcast(std, s.x0) * s.z


def _solved(s: Sample, teacher: Teacher, t_next: Float[Array, " b"]) -> Data:
    """x at t' by a step of the teacher, for every example with times of its own."""

    def one(x: Any, t: Any, t_next: Any, given: Any) -> Any:
        step = teacher(**jax.tree.map(lambda v: v[None], given))
        if not isinstance(step, Step):
            raise ValueError(
                f"teacher must return a Step, such as heun(sde, score), got {step!r:.60}"
            )
        state = step.init(x[None], jnp.stack([t, t_next]))
        # A step of the flow draws nothing.
        out, _ = step.update(jax.random.key(0), x[None], t, t_next, state)
        return out.x[0]

    return jax.vmap(one)(s.x, s.t, t_next, dict(s.given))
