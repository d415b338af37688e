r"""What to report of a posterior: its mode, and mean, deviations and quantiles of many draws.

The mode is found by mean shift, x <- m x0(x), whose fixed points are the modes of p_t, at every time of a
grid that goes down: annealing from one wide mode to those of the data.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from score_jax._check import check, check_count
from score_jax._math import as_time, bcast
from score_jax.inverse.combining import each, own_operators
from score_jax.inverse.measurement import Measurement, check_measurement
from score_jax.inverse.methods import pigdm
from score_jax.inverse.sampling import posterior_sample
from score_jax.score import denoise
from score_jax.types import SDE, Data, PRNGKey, ScoreFn, Step, StepOut, Time, stateless

HELD = 2**24  # numbers of stored draws that are read at once for quantiles


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
    """Of n draws for each y: mean and standard deviations (b, *d), quantiles (q, b, *d), float64."""

    mean: np.ndarray
    std: np.ndarray
    n: int
    quantiles: np.ndarray | None = None

    @property
    def error(self) -> np.ndarray:
        """The standard error of the mean: (b, *d)."""
        return self.std / np.sqrt(self.n)


class _Moments:
    """Mean and squared deviations of the draws so far, added part by part."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, np.zeros(()), np.zeros(())

    def add(self, x: np.ndarray) -> None:
        """Add k draws of each: (b, k, *d)."""
        x, k = x.astype(np.float64), x.shape[1]
        mean = x.mean(axis=1)
        moved = mean - self.mean
        self.squares = self.squares + np.square(x - mean[:, None]).sum(axis=1)
        self.squares = self.squares + np.square(moved) * self.n * k / (self.n + k)
        self.mean = self.mean + moved * k / (self.n + k)
        self.n += k


def posterior_summary(
    key: PRNGKey,
    sde: SDE,
    score: Any,
    measurement: Measurement,
    method: Any = pigdm,
    *,
    num: int = 1000,
    chunk: int = 256,
    quantiles: Sequence[float] = (),
    store: Any = None,
    of: Callable[[np.ndarray], Any] | None = None,
    y: Any = None,
    **kwargs: Any,
) -> Summary:
    """Mean and deviations of p(x0 | y) for each of b measurements over `num` draws: `Summary`.

    No more than about `chunk` draws are in memory at once (at least one of each measurement), so `num`
    may be any number. `store`, an array (b, num, *d) that takes slices, such as
    `np.lib.format.open_memmap` or one of zarr, receives the draws. `quantiles` are those of every
    entry, such as (0.05, 0.95) for a credible interval of 90 %; they are exact and are read from the
    store, without one from a temporary file of all draws. `of` is a function of draws (n, *d) ->
    (n, *e) that is summarised and stored in their place. `y` are labels, or any tree of arrays, with
    one entry for each measurement. The other arguments are those of `posterior_sample`. The draws are
    the same for equal `chunk`.

    Raises ValueError as `posterior_sample`, and for num below 2, quantiles outside [0, 1], a store of
    another shape, and results of `of` without an entry for each draw.

    >>> found = posterior_summary(key, sde, score, measurement, mmps, num=10_000, grid=grid,
    ...                           quantiles=(0.05, 0.95))
    >>> np.savez("posterior.npz", mean=found.mean, std=found.std, interval=found.quantiles)
    """
    check_count(2, num=num)
    check_count(chunk=chunk)
    check("quantiles", quantiles, all(0 <= q <= 1 for q in quantiles), "in [0, 1]")
    check_measurement(measurement)
    b = len(measurement.y)
    many = min(num, max(1, chunk // b))
    every = _repeated(measurement, many)
    if y is not None:
        sizes = {np.shape(v)[:1] for v in jax.tree.leaves(y)}
        check("y", y, sizes <= {(b,)}, f"labels, one for each of {b} measurements")
        kwargs["y"] = jax.tree.map(lambda v: np.repeat(np.asarray(v), many, axis=0), y)
    moments = _Moments()
    while moments.n < num:
        done, used = moments.n, min(many, num - moments.n)
        out = posterior_sample(
            key, sde, score, every, method, chunk=min(chunk, many * b), first=done * b, **kwargs
        )
        x = np.asarray(out.x if of is None else of(out.x))
        check("of", x.shape, x.shape[:1] == (many * b,), f"a function to ({many * b}, *e)")
        x = x.reshape(b, many, *x.shape[1:])[:, :used]
        if done == 0 and (quantiles or store is not None):
            store = _checked(store, (b, num, *x.shape[2:]), x.dtype)
        if store is not None:
            store[:, done : done + used] = x
        moments.add(x)
    found = _quantiles(store, quantiles) if quantiles else None
    return Summary(moments.mean, np.sqrt(moments.squares / (num - 1)), num, found)


def _repeated(measurement: Measurement, many: int) -> Measurement:
    """Each measurement, and the operator of each, `many` times."""
    repeated = lambda v: np.repeat(np.asarray(v), many, axis=0)
    own = own_operators(measurement.operator)
    operator = measurement.operator if own is None else each(jax.tree.map(repeated, own))
    return dataclasses.replace(measurement, operator=operator, y=repeated(measurement.y))


def _checked(store: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The store, or a temporary file that the system removes; ValueError for another shape."""
    if store is None:
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, dtype, "w+", shape=shape)
    check("store", tuple(store.shape), tuple(store.shape) == shape, f"of shape {shape}")
    return store


def _quantiles(store: Any, levels: Sequence[float]) -> np.ndarray:
    """Quantiles of stored draws (b, num, *d) over their number, some rows at a time: (q, b, *d)."""
    b, num, *d = store.shape
    found = np.empty((len(levels), b, *d))
    rows = max(1, HELD // (num * math.prod(d[1:])))
    for i in range(b):
        for at in range(0, d[0], rows) if d else [None]:
            part = (i,) if at is None else (i, slice(None), slice(at, at + rows))
            where = (slice(None), i) if at is None else (slice(None), i, slice(at, at + rows))
            found[where] = np.quantile(np.asarray(store[part], np.float64), levels, axis=0)
    return found
