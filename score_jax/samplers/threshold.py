r"""Thresholding of the denoised estimate, as a ScoreFn -> ScoreFn wrapper that every sampler takes.

A score gives a mean of x0 by Tweedie's formula, x0 = (x + s^2 score) / m. Large guidance drives it
out of the range of the data; a rule brings it back, and the score of the new x0 is

    score + m (rule(x0) - x0) / s^2

which is the old one, to the bit, wherever the rule changes nothing. A learned variance is kept.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from score_jax._math import as_time, bcast
from score_jax.score import tweedie_at, x0_of
from score_jax.types import (
    SDE,
    Data,
    ScoreFn,
    ScoreOut,
    TimeLike,
    as_returned,
    check_process,
    score_out,
)

Rule = Callable[[Data], Data]  # of x0 (b, *d)


def no_threshold(x0: Data) -> Data:
    """Leave the estimate as it is."""
    return x0


def _check_range(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"low must be smaller than high, both finite, got low={low}, high={high}")


def static(low: float = -1.0, high: float = 1.0) -> Rule:
    """Clip x0 to [low, high], the range of the data.

    Raises ValueError unless low < high.
    """
    _check_range(low, high)
    return lambda x0: jnp.clip(x0, low, high)


def dynamic(quantile: float = 0.995, low: float = -1.0, high: float = 1.0) -> Rule:
    """Clip x0 of each sample to its own quantile of |x0|, then shrink it into [low, high].

    arXiv:2205.11487 (Imagen) section 2.3, for data in [-1, 1]; other ranges are centred first. A
    sample whose quantile lies within the range is only clipped to the range.

    Raises ValueError unless 0 < quantile <= 1 and low < high.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be in (0, 1], got {quantile}")
    _check_range(low, high)
    centre, half = 0.5 * (low + high), 0.5 * (high - low)

    def rule(x0: Data) -> Data:
        away = x0 - centre
        size = jnp.abs(away).reshape(x0.shape[0], -1).astype(jnp.promote_types(x0.dtype, "float32"))
        limit = bcast(jnp.maximum(jnp.quantile(size, quantile, axis=1), half), x0)
        return centre + jnp.clip(away, -limit, limit) * (half / limit)

    return rule


def threshold(sde: SDE, score: ScoreFn, rule: Any) -> ScoreFn:
    """The score whose denoised estimate is rule(x0): see the module. One evaluation of `score`.

    `rule` maps x0 (b, *d) to itself: `static`, `dynamic`, `no_threshold`, or any function.

    Raises ValueError if rule is not a function, or changes the shape.

    >>> step = euler_maruyama(sde, threshold(sde, score, static(-1, 1)))
    """
    check_process(sde, score)
    if not callable(rule):
        raise ValueError(f"rule must be a function of x0 such as static(-1, 1), got {rule!r}")

    def thresholded(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        there, out = tweedie_at(sde, x, t), score_out(score, x, t)
        x0 = x0_of(sde, out, x, t)
        kept = rule(x0)
        if kept.shape != x0.shape:
            raise ValueError(
                f"rule must keep the shape of x0, got {kept.shape} for {tuple(x0.shape)}"
            )
        return as_returned(there.with_x0(out, x0, kept))

    return thresholded
