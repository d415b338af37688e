r"""What to report of a posterior: its mode, and the mean and deviations of many draws.

The mode is found by mean shift, x <- m x0(x), whose fixed points are the modes of p_t, at every time of a
grid that goes down: annealing from one wide mode to those of the data.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from score_jax._check import check_count
from score_jax._math import as_time, bcast
from score_jax.inverse.combining import own_operators
from score_jax.inverse.measurement import Measurement, check_measurement
from score_jax.inverse.methods import pigdm
from score_jax.inverse.sampling import posterior_sample
from score_jax.score import denoise
from score_jax.types import SDE, Data, PRNGKey, ScoreFn, Step, StepOut, Time, stateless


def mode_seeking(sde: SDE, score: ScoreFn, *, moves: int = 3) -> Step:
    """A step to the mode of p_t at the next time: `moves` of mean shift, x <- m x0(x).

    With a conditional score, a maximum of p(x0 | y) (MAP), to the accuracy of the score and of the last
    time: the mean of a normal posterior. Of several modes it finds the one that the wider ones lead
    to, which is mostly that of the largest mass, not always the highest. `moves` evaluations a step; it
    draws nothing.

    Raises ValueError for moves below 1.

    >>> out = posterior_sample(key, sde, score, measurement, mmps, sampler=mode_seeking, grid=grid)
    """
    check_count(moves=moves)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        x = bcast(sde.mean_coeff(t_next) / sde.mean_coeff(t), x) * x
        m = bcast(sde.mean_coeff(t_next), x)
        x = jax.lax.fori_loop(0, moves, lambda i, x: m * denoise(sde, score, x, t_next), x)
        return StepOut(x, x)

    return stateless(update, moves)


class Summary(NamedTuple):
    """Mean and standard deviations of n draws for each y: (b, *d), float64."""

    mean: np.ndarray
    std: np.ndarray
    n: int

    @property
    def error(self) -> np.ndarray:
        """The standard error of the mean: (b, *d)."""
        return self.std / np.sqrt(self.n)


def posterior_summary(
    key: PRNGKey,
    sde: SDE,
    score: Any,
    measurement: Measurement,
    method: Any = pigdm,
    *,
    num: int = 1000,
    chunk: int = 256,
    **kwargs: Any,
) -> Summary:
    """Mean and deviations of p(x0 | y) for each of b measurements over `num` draws: `Summary`.

    No more than about `chunk` draws are held at once, so `num` may be any number. The other arguments
    are those of `posterior_sample`. The draws are the same for equal `chunk`.

    Raises ValueError as `posterior_sample`, and for num below 2 or operators of single examples.

    >>> found = posterior_summary(key, sde, score, measurement, mmps, num=10_000, grid=grid)
    >>> np.savez("posterior.npz", mean=found.mean, std=found.std)
    """
    check_count(2, num=num)
    check_count(chunk=chunk)
    check_measurement(measurement)
    if own_operators(measurement.operator) is not None:
        raise ValueError("operators must be shared by all examples: summarise each by itself")
    y = np.asarray(measurement.y)
    each = min(num, max(1, chunk // len(y)))
    every = Measurement(
        measurement.operator, np.repeat(y, each, axis=0), measurement.noise_std, measurement.noise
    )
    total = squares = np.zeros((len(y), *measurement.shape))
    done = 0
    while done < num:
        used = min(each, num - done)
        out = posterior_sample(
            key, sde, score, every, method, chunk=each * len(y), first=done * len(y), **kwargs
        )
        x = np.asarray(out.x, np.float64).reshape(len(y), each, *measurement.shape)[:, :used]
        # Sums about the old mean do not cancel.
        away = x - (total / max(done, 1))[:, None]
        moved = away.sum(axis=1)
        squares = squares + np.square(away).sum(axis=1) - np.square(moved) / (done + used)
        total, done = total + x.sum(axis=1), done + used
    return Summary(total / num, np.sqrt(np.maximum(squares, 0) / (num - 1)), num)
