r"""Guidance by the difference of two scores: towards a class, or away from a worse model.

    (1)  score(x, t) = s_u + scale (s_c - s_u)

    classifier-free   s_c conditioned on the class, s_u not           arXiv:2207.12598
    autoguidance      s_c a network, s_u a worse version of it        arXiv:2406.02507

Scale 1 is s_c itself. At every noise level eq. (1) is the score of p_c^scale / p_u^(scale - 1), which is
not the density at level 0 with the noise of the level. Large scales draw samples near the modes, and
their x0 leaves the range of the data. Two corrections of the guided x0 act against that, with x0_c and
x0_u the estimates of x0 by s_c and s_u:

    (2)  rescaled     x0 <- x0 [1 + share (std(x0_c) / std(x0) - 1)]                  arXiv:2305.08891
    (3)  projected    x0 = x0_c + (scale - 1) (d_orth + parallel d_par)               arXiv:2410.02416
                      d = min(1, limit / |d'|) d',  d' = x0_c - x0_u + momentum d'_before

The deviations and norms are those of one sample over all its entries; d_par is the part of d along x0_c
and d_orth the rest. The momentum needs a state, which steps have and scores do not: `reverse_momentum`.

arXiv:2305.08891 rescales the output of its network, which predicts v: x0 up to sign where the noise is
large. Here it is x0, whatever the network returns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax._check import check, check_function, is_number, plain
from score_jax._math import as_time, batch_norm, batch_sum, bcast
from score_jax.guidance.terms import Interval, Weight, check_times, check_weight, inside, weight_at
from score_jax.score import tweedie_at, x0_of
from score_jax.types import (
    SDE,
    Clean,
    Coefficient,
    Data,
    Grid,
    Moved,
    PerExample,
    PRNGKey,
    ScoreFn,
    ScoreOut,
    State,
    Step,
    Time,
    TimeLike,
    as_returned,
    check_process,
    score_out,
)

# (x (b, *d), t, s_c, s_u, scale of x's rank, memory) -> (the guided score, memory)
Mix = Callable[[Data, Time, ScoreOut, ScoreOut, Coefficient, Any], tuple[ScoreOut, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Guided:
    """A `ScoreFn` of two scores, and its form with a memory. Made by the functions of this module."""

    conditional: ScoreFn
    unconditional: ScoreFn
    both: ScoreFn | None
    scale: Weight
    interval: Interval
    mix: Mix

    def __post_init__(self) -> None:
        check_weight("scale", self.scale)
        check_times(self.interval)

    def _pair(self, x: Data, t: Time) -> tuple[ScoreOut, ScoreOut]:
        if self.both is None:
            return score_out(self.conditional, x, t), score_out(self.unconditional, x, t)
        times = jnp.concatenate([t, t]) if t.ndim else t
        out = score_out(self.both, jnp.concatenate([x, x]), times)
        half = lambda rows: jax.tree.map(lambda v: v[rows], out)
        return half(slice(len(x))), half(slice(len(x), None))

    def remembering(self, x: Data, t: TimeLike, memory: Any) -> tuple[Data | ScoreOut, Any]:
        """(score at x (b, *d) and t, next memory) given a memory, which stays outside `interval`."""
        t = as_time(t)

        def mixed(memory: Any) -> Any:
            weight = bcast(jnp.where(inside(self.interval, t), weight_at(self.scale, t), 1), x)
            out, memory = self.mix(x, t, *self._pair(x, t), weight, memory)
            return as_returned(out), memory

        def alone(memory: Any) -> Any:
            return as_returned(score_out(self.conditional, x, t)), memory

        if self.interval is None or t.ndim:
            return mixed(memory)
        return jax.lax.cond(inside(self.interval, t), mixed, alone, memory)

    def __call__(self, x: Data, t: TimeLike) -> Data | ScoreOut:
        """The guided score without a memory: (b, *d)."""
        return self.remembering(x, t, None)[0]


class Projected(Guided):
    """A score made by `projected`, whose memory is (momentum, the last difference)."""


def _sum(
    x: Data, t: Time, own: ScoreOut, other: ScoreOut, weight: Coefficient, memory: Any
) -> tuple[ScoreOut, Any]:
    # s_c itself at scale 1, to the bit.
    away = lambda wanted, other: wanted + (weight - 1) * (wanted - other)
    clean = own.clean
    if own.clean is not None and other.clean is not None:
        clean = Clean(*map(away, own.clean, other.clean))
    return own._replace(score=away(own.score, other.score), clean=clean), memory


def classifier_free(
    conditional: ScoreFn,
    unconditional: ScoreFn,
    *,
    both: ScoreFn | None = None,
    scale: Weight = 2.0,
    interval: Interval = None,
) -> ScoreFn:
    """The score guided by the difference of two: unconditional + scale (conditional - unconditional).

    The two may be one network with and without its labels, or two networks. `both` is the score of a
    doubled batch, the conditional half first: it replaces the two calls by one, which is faster where
    the batch is small for the machine and takes twice the memory. `scale` is a number or a function
    of t; outside `interval` it is 1, and only the conditional is evaluated. A learned variance is that
    of the conditional. Two evaluations a call, where samplers count one.

    Raises ValueError for a bad scale or interval.

    >>> none = jnp.full_like(y, 10)
    >>> guided = classifier_free(model.score(params, y), model.score(params, none), scale=2.0)
    >>> doubled = model.score(params, jnp.concatenate([y, none]))
    >>> faster = classifier_free(model.score(params, y), model.score(params, none), both=doubled)
    """
    return Guided(conditional, unconditional, both, scale, interval, _sum)


def autoguidance(
    score: ScoreFn, worse: ScoreFn, *, scale: Weight = 2.0, interval: Interval = None
) -> ScoreFn:
    """The score guided away from that of a worse model: worse + scale (score - worse).

    The worse model has the same data and SDE and makes the same errors, but larger ones: a smaller
    network, or the same one after fewer updates. With classes both are given the labels. It moves
    samples where the two differ, away from what is likely under the worse model alone, and needs no
    labels. Two evaluations a call, where samplers count one. arXiv:2406.02507 eq. 3.

    Raises ValueError for a bad scale or interval.

    >>> guided = autoguidance(model.score(params), small.score(small_params), scale=2.0)
    """
    return classifier_free(score, worse, scale=scale, interval=interval)


def _std(x: Data) -> PerExample:
    flat = x.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.std(flat, axis=1)


def rescaled(
    sde: SDE,
    conditional: ScoreFn,
    unconditional: ScoreFn,
    *,
    both: ScoreFn | None = None,
    scale: Weight = 2.0,
    interval: Interval = None,
    share: float = 0.7,
) -> ScoreFn:
    """`classifier_free` whose x0 has the standard deviation of the conditional's: eq. (2).

    `share` 1 makes the deviations of each sample equal, 0 leaves the guidance as it is; the paper takes
    0.7. The other arguments are those of `classifier_free`; the two scores may be those of
    `autoguidance`. arXiv:2305.08891 section 3.4.

    Raises ValueError for a bad scale or interval, and unless 0 <= share <= 1.

    >>> guided = rescaled(sde, model.score(params, y), model.score(params, none), scale=5.0)
    """
    check_process(sde, conditional)
    share = plain(share)
    check("share", share, is_number(share) and 0 <= share <= 1, "a number in [0, 1]")

    def mix(
        x: Data, t: Time, own: ScoreOut, other: ScoreOut, weight: Coefficient, memory: Any
    ) -> tuple[ScoreOut, Any]:
        out, _ = _sum(x, t, own, other, weight, None)
        x0 = x0_of(sde, out, x, t)
        wide = _std(x0)
        ratio = jnp.where(wide > 0, _std(x0_of(sde, own, x, t)) / jnp.where(wide > 0, wide, 1), 1)
        wanted = x0 + bcast(share * (ratio - 1), x) * x0
        return tweedie_at(sde, x, t).with_x0(out, x0, wanted), memory

    return Guided(conditional, unconditional, both, scale, interval, mix)


def projected(
    sde: SDE,
    conditional: ScoreFn,
    unconditional: ScoreFn,
    *,
    both: ScoreFn | None = None,
    scale: Weight = 4.0,
    interval: Interval = None,
    parallel: float = 0.0,
    limit: float | None = None,
) -> ScoreFn:
    """Adaptive projected guidance (APG): the difference of the two x0 without its part along x0, eq. (3).

    That part oversaturates samples; the share `parallel` of it is kept (1: all, `classifier_free`).
    `limit` bounds the norm of the difference of a sample, which grows with the root of its number of
    entries. The other arguments are those of `classifier_free`. `reverse_momentum` adds the paper's
    momentum. arXiv:2410.02416 section 4.

    Raises ValueError for a bad scale or interval, a parallel that is no number, or a limit that is not
    > 0.

    >>> guided = projected(sde, model.score(params, y), model.score(params, none), limit=10.0)
    """
    check_process(sde, conditional)
    check("parallel", parallel, is_number(parallel), "a finite number")
    if limit is not None:
        check("limit", limit, is_number(limit) and plain(limit) > 0, "> 0 and finite, or None")

    def mix(
        x: Data, t: Time, own: ScoreOut, other: ScoreOut, weight: Coefficient, memory: Any
    ) -> tuple[ScoreOut, Any]:
        x0 = x0_of(sde, own, x, t)
        apart = x0 - x0_of(sde, other, x, t)
        if memory is not None:
            momentum, before = memory
            apart = apart + momentum * before
            memory = momentum, apart
        if limit is not None:
            size = batch_norm(apart)
            short = jnp.where(size > limit, limit / jnp.where(size > limit, size, 1), 1)
            apart = bcast(short, x) * apart
        square = batch_sum(jnp.square(x0))
        along = batch_sum(apart * x0) / jnp.where(square > 0, square, 1)
        move = apart + (parallel - 1) * bcast(along, x) * x0
        return tweedie_at(sde, x, t).with_x0(own, x0, x0 + (weight - 1) * move), memory

    return Projected(conditional, unconditional, both, scale, interval, mix)


@dataclasses.dataclass(frozen=True)
class ReverseMomentum:
    """A factory of steps that carry the momentum of `projected`. See `reverse_momentum`."""

    make: Callable[..., Step]
    momentum: float

    def __call__(self, sde: SDE, score: ScoreFn, **options: Any) -> Step:
        """The step of `make` for this score, which must be made by `projected`."""
        if not isinstance(score, Projected):
            raise ValueError(
                f"score must be made by projected, whose momentum the steps carry, got {score!r:.60}"
            )
        guided: Projected = score
        plain_step = self.make(sde, score, **options)

        def init(x: Data, grid: Grid) -> State:
            return (jnp.zeros_like(x), plain_step.init(x, grid))

        def update(key: PRNGKey, x: Data, t: Time, t_next: Time, state: State) -> Moved:
            before, inner = state
            # What the evaluations of this update leave, one after the other.
            memories = [(jnp.asarray(self.momentum, x.dtype), before)]

            def with_memory(x: Data, t: TimeLike) -> Data | ScoreOut:
                value, memory = guided.remembering(x, t, memories[-1])
                memories.append(memory)
                return value

            step = self.make(sde, with_memory, **options)
            out, inner = step.update(key, x, t, t_next, inner)
            if len(memories) != 1 + step.nfe:
                raise ValueError(
                    f"make must evaluate the score outside of loops of its own, as all predictors do: "
                    f"{step.nfe} evaluations a step were announced, got {len(memories) - 1}"
                )
            return out, (memories[-1][1], inner)

        return plain_step._replace(init=init, update=update)


def reverse_momentum(make: Callable[..., Step], *, momentum: float = -0.5) -> Callable[..., Step]:
    """The factory `make(sde, score)` of steps with the momentum of APG: (sde, score) -> Step.

    Each evaluation adds `momentum` times the difference of the one before, eq. (3); the paper's values
    are negative, which moves against the last direction. The score must be that of `projected`.
    Evaluations outside of steps, such as the final denoising, have no momentum. Calls of a
    multi-stage step count one by one, as in the paper.

    Raises ValueError unless -1 < momentum < 1, and, when called, for a score of another kind or a step
    that evaluates it inside a loop.

    >>> sampler = stepwise(reverse_momentum(dpmpp_2m))
    """
    check_function("make", make, "a factory of steps (sde, score) -> Step, such as dpmpp_2m")
    momentum = plain(momentum)
    check("momentum", momentum, is_number(momentum) and -1 < momentum < 1, "a number in (-1, 1)")
    return ReverseMomentum(make, float(momentum))
