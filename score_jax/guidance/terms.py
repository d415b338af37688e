r"""Conditions on a sample as log-likelihoods, whose gradients are added to its score.

By Bayes' rule grad log p_t(x | c) = grad log p_t(x) + grad log p_t(c | x), so a condition c is the
gradient of a log-likelihood, and several are a sum (arXiv:2011.13456 section 5):

    (1)  score(x, t) + sum_i w_i(t) grad_x logp_i(x, t)            on the noisy state: `on_x`
    (2)  score(x, t) + sum_i w_i(t) grad_x logp_i(x0(x, t), t)     on the estimate of x0: `on_x0`

with x0(x, t) = (x + s^2 score) / m, Tweedie's mean. (1) is exact if logp_i is log p_t(c_i | x), as a
classifier of noisy data learns it. (2) takes p(c | x0) at the mean of x0 in place of its average over
p(x0 | x): it needs no training for any function of clean data, at the price of a bias.

All terms on x0 share one backward pass through the score, and none needs a second evaluation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from score_jax._check import check_interval, is_number
from score_jax._math import as_time, bcast
from score_jax.score import x0_of
from score_jax.types import (
    SDE,
    Data,
    PerExample,
    Scalar,
    ScoreFn,
    ScoreOut,
    Time,
    TimeLike,
    as_returned,
    score_out,
)

LogLikelihood = Callable[[Data, Time], PerExample]  # (x or x0: (b, *d), t: () or (b,)) -> (b,)
Weight = Any  # a number or a function of t; checked by `check_weight`
Interval = Any  # (lowest, highest) time or None; checked by `check_times`


class Term(NamedTuple):
    """A condition: logp(x, t) -> (b,), its weight, its interval of times, and whether it is on x0."""

    logp: LogLikelihood
    weight: Weight = 1.0
    interval: Interval = None
    clean: bool = False


def check_times(interval: Interval) -> None:
    """Raise ValueError unless interval is None or two times, the smaller first."""
    if interval is not None:
        check_interval("interval", interval)


def check_weight(name: str, weight: Weight) -> None:
    """Raise ValueError unless weight is a finite number, an array, or a function of t."""
    if not (is_number(weight) or callable(weight) or isinstance(weight, jax.Array)):
        raise ValueError(f"{name} must be a finite number or a function of t, got {weight!r}")


def inside(interval: Interval, t: Time) -> Bool[Array, "..."]:
    """Whether t lies in the interval, ends included: booleans of t's shape."""
    if interval is None:
        return jnp.ones(t.shape, bool)
    return (t >= interval[0]) & (t <= interval[1])


def weight_at(weight: Weight, t: Time) -> Time:
    """The weight at t: shape of t."""
    value = weight(t) if callable(weight) else weight
    return jnp.broadcast_to(jnp.asarray(value, t.dtype), t.shape)


def on_x(logp: LogLikelihood, *, weight: Weight = 1.0, interval: Interval = None) -> Term:
    """A term of eq. (1): logp(x, t) -> (b,), of the noisy x (b, *d).

    `weight` is a number or a function of t; outside `interval`, (lowest, highest), it is 0.
    Raises ValueError for a weight or an interval that is neither.

    >>> term = on_x(lambda x, t: -jnp.square(x[:, 0]), weight=lambda t: 1 - t)
    """
    return _term(logp, weight, interval, False)


def on_x0(logp: LogLikelihood, *, weight: Weight = 1.0, interval: Interval = None) -> Term:
    """A term of eq. (2): logp(x0, t) -> (b,), of the estimate of the clean data (b, *d).

    As `on_x`; needs a backward pass through the score.

    >>> bright = on_x0(lambda x0, t: 5 * x0.mean(axis=(1, 2, 3)))
    """
    return _term(logp, weight, interval, True)


def _term(logp: LogLikelihood, weight: Weight, interval: Interval, clean: bool) -> Term:
    if not callable(logp):
        raise ValueError(f"logp must be a function of (x, t), got {logp!r}")
    check_weight("weight", weight)
    check_times(interval)
    return Term(logp, weight, None if interval is None else tuple(interval), clean)


def _total(terms: list[Term], x: Data, t: Time) -> Scalar:
    """Sum over terms and batch, whose gradient is that of every example."""
    total = jnp.zeros((), x.dtype)
    for term in terms:
        value = term.logp(x, t)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"logp must return one value for each of {x.shape[0]} examples, got shape "
                f"{value.shape}"
            )
        weight = jnp.where(inside(term.interval, t), weight_at(term.weight, t), 0)
        total = total + (bcast(weight, value) * value).sum()
    return total


def gradient_of(logp: LogLikelihood, scale: float = 1.0) -> Callable[[Data, Time], Data]:
    """The gradient of a log-likelihood (x, t) -> (b,), times `scale`: by one backward pass.

    >>> step = ancestral(sde, score, gradient=gradient_of(class_logp(classifier, 7), scale=2.0))
    """
    return lambda x, t: scale * jax.grad(lambda x: logp(x, t).sum())(x)


def guide(sde: SDE, score: ScoreFn, *terms: Any) -> ScoreFn:
    """The score of the data of `score` under the terms, eq. (1) and (2): a ScoreFn.

    One evaluation of `score` a call, and of every logp; with terms on x0 one backward pass. At times
    outside the intervals of all terms, `score` alone is evaluated (where t is a scalar, as in
    samplers). A gradient that is not finite stays so, and a learned variance stays as it is.

    Raises ValueError for anything but a `Term`, and for a logp that does not return one value an
    example.

    >>> guided = guide(sde, score, on_x(class_logp(classifier, y)), on_x0(bright, weight=0.1))
    """
    for term in terms:
        if not isinstance(term, Term):
            raise ValueError(f"terms must be made by on_x or on_x0, got {term!r}")
    noisy = [term for term in terms if not term.clean]
    clean = [term for term in terms if term.clean]

    def with_terms(x: Data, t: Time) -> Data | ScoreOut:
        gradient = jax.grad(lambda x: _total(noisy, x, t))(x) if noisy else jnp.zeros_like(x)
        if not clean:
            out = score_out(score, x, t)
            return as_returned(out._replace(score=out.score + gradient))

        def estimate(x: Data) -> tuple[Data, ScoreOut]:
            out = score_out(score, x, t)
            return x0_of(sde, out, x, t), out

        found: Any = jax.vjp(estimate, x, has_aux=True)
        x0, pull, out = found
        wanted = jax.grad(lambda x0: _total(clean, x0, t))(x0)
        return as_returned(out._replace(score=out.score + gradient + pull(wanted)[0]))

    return _when([term.interval for term in terms], with_terms, score)


def _when(intervals: list[Interval], guided: ScoreFn, plain: ScoreFn) -> ScoreFn:
    """`guided` where t is in any interval; elsewhere `plain`, without the cost of the other."""

    def alone(x: Data, t: Time) -> Data | ScoreOut:
        return as_returned(score_out(plain, x, t))

    def score(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        if not intervals:
            return alone(x, t)
        if t.ndim or any(interval is None for interval in intervals):
            return guided(x, t)
        active = jnp.stack([inside(interval, t) for interval in intervals]).any()
        return jax.lax.cond(active, guided, alone, x, t)

    return score
