r"""Draws of p(x0 | y) in one line, with any method and any sampler.

`posterior_sample` is `score_jax.samplers.sample` with a measurement for every sample: the same chunks,
devices and keys, so sample i does not depend on the other samples. `edit` is SDEdit (arXiv:2108.01073):
it starts from given data noised to the first time of the grid; `from_time` cuts a grid for it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from score_jax._check import check_finite, check_score
from score_jax._math import bcast
from score_jax.inverse.combining import each, own_operators, shared
from score_jax.inverse.measurement import check_measurement
from score_jax.inverse.methods import Conditional, pigdm, unconditional
from score_jax.samplers import Samples, check_grid, reverse_diffusion, sample, stepwise
from score_jax.samplers.sampling import Stepwise
from score_jax.types import SDE, Data, Grid, GridLike, PRNGKey, SampleOut, Sampler, Step

Options = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Given:
    """A score with the measurement and start of a chunk, passed through `sample` as its score."""

    score: Any
    measurement: Any
    start: Any

    def __call__(self, x: Any, t: Any) -> Any:
        return self.score(x, t)


@dataclasses.dataclass(frozen=True)
class Restorer:
    """A `Sampler` of p(x0 | y): `method(sde, score, measurement, **options)` around another."""

    sampler: Any
    method: Callable[..., Conditional]
    options: Options = ()

    def run(
        self,
        key: PRNGKey,
        sde: SDE,
        score: Any,
        x: Data,
        grid: Grid,
        save_every: int | None = None,
    ) -> SampleOut:
        """Take x (b, *d) along the grid; `score` is made by `posterior_sample` or `edit`."""
        start_key, key = jax.random.split(key)
        if score.start is not None:
            mean, std = sde.marginal(score.start.astype(x.dtype), grid[0])
            x = mean + bcast(std, x) * jax.random.normal(start_key, x.shape, x.dtype)
        conditional = self.method(sde, score.score, score.measurement, **dict(self.options))
        out = _around(self.sampler, conditional).run(key, sde, conditional, x, grid, save_every)
        clean = conditional.consistent(out.x)
        path = out.trajectory
        return out._replace(
            x=clean,
            x_mean=conditional.consistent(out.x_mean),
            trajectory=None if path is None else path.at[-1].set(clean),
        )


def _around(sampler: Any, conditional: Conditional) -> Any:
    """The sampler with the steps of the method."""
    if conditional.wrap is None:
        return sampler
    if not isinstance(sampler, Stepwise):
        raise ValueError(
            f"this method acts on the steps of a sampler, and {type(sampler).__name__} has none: use "
            "pigdm or projection with it, or a stepwise sampler"
        )
    make = sampler.make
    return dataclasses.replace(
        sampler, make=lambda sde, score, **options: conditional.step(make(sde, score, **options))
    )


def _given(score: Any, common: Any, labelled: bool, part: dict[str, Any]) -> _Given:
    """The part of the arguments that belongs to a chunk; `common` is the measurement without it."""
    scores = score(part["labels"]) if labelled else score
    measurement = common
    if common is not None:
        own = part.get("operators")
        operator = common.operator if own is None else each(own)
        measurement = dataclasses.replace(common, operator=operator, y=part["observed"])
    return _Given(scores, measurement, part.get("start"))


def _draw(
    key: Any, sde: Any, score: Any, shape: Any, restorer: Restorer, grid: Any,
    common: Any, part: dict[str, Any], kwargs: dict[str, Any],
) -> Samples:  # fmt: skip
    check_score(score)
    labels = kwargs.pop("y", None)
    if labels is not None:
        part["labels"] = labels
    maker = jax.tree_util.Partial(_given, score, common, labels is not None)
    return sample(key, sde, maker, shape, sampler=restorer, grid=grid, y=part, **kwargs)


def _entries(name: str, value: Any, num: int | None) -> np.ndarray:
    """One entry a sample: the entries themselves, or the only one `num` times."""
    value = np.asarray(value)
    if value.ndim < 1 or len(value) < 1 or (num is not None and len(value) not in (1, num)):
        raise ValueError(
            f"{name} must have one entry, or one for each of the num={num} samples, got shape "
            f"{value.shape}"
        )
    return value if num is None else np.broadcast_to(value, (num, *value.shape[1:]))


def posterior_sample(
    key: PRNGKey,
    sde: SDE,
    score: Callable[..., Any],
    measurement: Any,
    method: Callable[..., Conditional] = pigdm,
    *,
    grid: GridLike,
    sampler: Sampler | Callable[..., Step] = reverse_diffusion,
    num: int | None = None,
    start: ArrayLike | None = None,
    options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Samples:
    """Draw x0 given y: one sample for each measurement, or `num` of the only one; `Samples`.

    `method` is `pigdm`, `projection`, `dps`, `replacement`, `repaint` or any function (sde, score,
    measurement, **options) -> `Conditional`; `options` are its own. `sampler` is a `Sampler` or a
    factory of steps, `grid` its times; `start` (as many, *d) begins from these data noised to the
    first of them, as `edit`. Other arguments are those of `sample`, such as `chunk`, `devices`, and
    `y`, labels, with which `score` is a function of the chunk's part of them.

    Where the measurement is linear and without noise the samples agree with it.

    Raises ValueError for measurements, methods, samplers and grids that do not fit.

    >>> measurement = Measurement(Mask(mask), image[None], noise_std=0.0)
    >>> out = posterior_sample(jax.random.key(0), sde, score, measurement, pigdm,
    ...                        grid=uniform_grid(sde, 200), num=16)
    """
    shape = check_measurement(measurement)
    observed = _entries("y of the measurement", measurement.y, num)
    part: dict[str, Any] = {"observed": observed}
    own = own_operators(measurement.operator)
    if own is not None:
        entries = lambda v: _entries("the operators of the measurement", v, len(observed))
        part["operators"] = jax.tree.map(entries, own)
    if start is not None:
        part["start"] = _starts(start, len(observed), shape)
    sampler = sampler if isinstance(sampler, Sampler) else stepwise(sampler)
    restorer = Restorer(sampler, method, tuple(sorted((options or {}).items())))
    return _draw(
        key, sde, score, (len(observed), *shape), restorer, grid,
        shared(measurement), part, kwargs,
    )  # fmt: skip


def _starts(start: Any, num: int, shape: tuple[int, ...] | None) -> np.ndarray:
    start = _entries("start", start, num)
    if not np.issubdtype(start.dtype, np.floating):
        raise ValueError(f"start must be floating point, got dtype {start.dtype}: scale it first")
    check_finite("start", start)
    if shape is not None and start.shape[1:] != shape:
        raise ValueError(f"start must have examples of shape {shape}, got {start.shape[1:]}")
    return start


def edit(
    key: PRNGKey,
    sde: SDE,
    score: Callable[..., Any],
    x0: ArrayLike,
    *,
    grid: GridLike,
    sampler: Sampler | Callable[..., Step] = reverse_diffusion,
    num: int | None = None,
    **kwargs: Any,
) -> Samples:
    """SDEdit: x0 (b, *d) noised to the first time of `grid`, and brought back to data; `Samples`.

    The earlier the first time, the more of x0 is kept; at sde.t1 nothing is. `num` draws of one x0;
    other arguments as in `posterior_sample`. arXiv:2108.01073.

    >>> out = edit(jax.random.key(0), sde, score, sketch[None], num=8,
    ...            grid=from_time(uniform_grid(sde, 500), 0.5))
    """
    x0 = np.asarray(x0)
    begin = _starts(x0, len(x0) if num is None else num, None)
    sampler = sampler if isinstance(sampler, Sampler) else stepwise(sampler)
    return _draw(
        key, sde, score, begin.shape, Restorer(sampler, unconditional), grid, None,
        {"start": begin}, kwargs,
    )  # fmt: skip


def from_time(grid: GridLike, t: float) -> Grid:
    """The part of a grid from t on, t first.

    Raises ValueError unless t lies above the last time of the grid, and not above the first.

    >>> from_time([1.0, 0.75, 0.5, 0.25], 0.6)
    Array([0.6 , 0.5 , 0.25], dtype=float32)
    """
    times = np.asarray(check_grid(grid))
    if not times[-1] < t <= times[0]:
        raise ValueError(f"t must be in ({times[-1]}, {times[0]}] of the grid, got {t!r}")
    return check_grid(np.concatenate([[np.asarray(t, times.dtype)], times[times < np.float32(t)]]))
