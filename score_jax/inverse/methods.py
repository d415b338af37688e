r"""Methods of inverse problems: the score and the step given a measurement y = A x0 + n.

Each method is a function (sde, score, measurement) -> `Conditional`. A Conditional is a ScoreFn, which
every sampler and the likelihood accept; methods that also act on the state wrap the step
(`Conditional.step`), and `consistent` makes the last x0 agree with a noiseless measurement. With
x0 = (x + s^2 score) / m and r^2 = s^2 tau^2 / (m^2 tau^2 + s^2), the variance of x0 given x for data of
standard deviation tau:

    pigdm        score + J^T A^T (r^2 A A^T + sigma^2)^-1 (y - A x0),  J = dx0/dx     Song et al. 2023
    projection   the same with J = m r^2 / s^2, its average: no backward pass     arXiv:2212.00490
    dps          a step, then -scale grad F / sqrt(F), F = ||y - A x0||^2            arXiv:2209.14687
    replacement  after a step to t, A x is set to the measurement noised to t        arXiv:2011.13456

`score_jax.inverse.hold` has the last one and RePaint. pigdm is exact for normal data of covariance
tau^2 I; the others are approximations everywhere.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from score_jax._check import check_positive
from score_jax._math import as_time, batch_sum, bcast
from score_jax.inverse.measurement import check_measurement, consistent, misfit
from score_jax.inverse.operators import LinearOperator
from score_jax.score import denoise, tweedie_at, x0_of
from score_jax.types import (
    SDE,
    Data,
    Moved,
    PRNGKey,
    ScoreFn,
    ScoreOut,
    State,
    Step,
    StepOut,
    Time,
    TimeLike,
    as_returned,
    score_out,
)


def unchanged(x0: Data) -> Data:
    """x0 as it is."""
    return x0


@dataclasses.dataclass(frozen=True, eq=False)
class Conditional:
    """A score of p(x(t) | y), a wrapper of steps, and the map that makes the last x0 agree with y.

    >>> conditional = replacement(sde, score, measurement)
    >>> step = conditional.step(reverse_diffusion(sde, conditional))
    """

    score: ScoreFn
    wrap: Callable[[Step], Step] | None = None
    consistent: Callable[[Data], Data] = unchanged

    def __call__(self, x: Data, t: TimeLike) -> Data | ScoreOut:
        """The score at x (b, *d), t () or (b,)."""
        return self.score(x, t)

    def step(self, step: Step) -> Step:
        """The step with what the method adds to it."""
        return step if self.wrap is None else self.wrap(step)


Method = Callable[..., Conditional]  # (sde, score, measurement, **options)


def linear(measurement: Any) -> LinearOperator:
    """The operator; ValueError unless it is linear and fits y."""
    check_measurement(measurement)
    if not isinstance(measurement.operator, LinearOperator):
        raise ValueError(
            f"this method needs a linear operator, got {type(measurement.operator).__name__}: use dps"
        )
    return measurement.operator


def measured_stds(operator: LinearOperator, x0: ArrayLike) -> tuple[float, ...]:
    """Standard deviations of A^+ A x0, the measured part of data x0 (n, *d), along its own directions.

    Those of its principal components, the largest first, without constant ones: the `data_std` of
    `pigdm` and `projection`. Some hundreds of examples are enough.

    Raises ValueError for an operator that is not linear or does not fit, and for data that do not vary.

    >>> options = {"data_std": measured_stds(operator, images)}
    """
    if not isinstance(operator, LinearOperator):
        raise ValueError(f"operator must be linear, got {type(operator).__name__}")
    x0 = jnp.asarray(x0, jnp.float32)
    operator.out_shape(x0.shape[1:])
    seen = np.asarray(operator.pinv(operator.forward(x0))).reshape(len(x0), -1)
    away = seen - seen.mean(axis=0, keepdims=True)
    stds = np.linalg.svd(away, compute_uv=False) / np.sqrt(len(away))
    if not stds[0] > 0:
        raise ValueError("x0 must vary in what the operator measures, got constant data")
    return tuple(map(float, stds[stds > 1e-3 * stds[0]]))


def check_stds(data_std: ArrayLike | Sequence[float]) -> Float[np.ndarray, " k"]:
    """Standard deviations of the data as (k,); ValueError unless finite, >= 0 and one is above 0."""
    stds = np.atleast_1d(np.asarray(data_std, np.float32))
    if stds.ndim != 1 or not (np.isfinite(stds).all() and (stds >= 0).all() and stds.any()):
        raise ValueError(
            "data_std must be a finite number > 0, or those of several directions, got "
            f"{data_std!r}"
        )
    return stds


def spread(sde: SDE, t: Time, data_std: ArrayLike) -> Time:
    """r^2, the variance of x0 given x(t) for normal data of these deviations (k,): shape of t."""
    s2, m2 = jnp.square(sde.std(t))[..., None], jnp.square(sde.mean_coeff(t))[..., None]
    tau2 = jnp.square(jnp.asarray(data_std, s2.dtype)).reshape((1,) * (s2.ndim - 1) + (-1,))
    return (s2 * tau2 / (m2 * tau2 + s2)).mean(axis=-1)


class Linearized(NamedTuple):
    """The estimate of x0 at x, the score it is of, and pull(v) = J^T v with J = dx0/dx."""

    x0: Any
    out: ScoreOut
    pull: Callable[[Any], Any]

    def guided(self, move: Data) -> Data | ScoreOut:
        """The score with `move` added, as a ScoreFn returns it."""
        return as_returned(self.out._replace(score=self.out.score + move))


def linearized(sde: SDE, score: ScoreFn, x: Data, t: Time) -> Linearized:
    """Tweedie's estimate of x0 and its derivative: one evaluation, one backward pass for each pull."""

    def estimate(x: Data) -> tuple[Data, ScoreOut]:
        out = score_out(score, x, t)
        return x0_of(sde, out, x, t), out

    found: Any = jax.vjp(estimate, x, has_aux=True)
    x0, pull, out = found
    return Linearized(x0, out, lambda v: pull(v)[0])


def no_longer(move: Data, reference: Data, limit: float) -> Data:
    """Each example's move, shortened to `limit` times the length of its reference."""
    length = lambda v: jnp.sqrt(batch_sum(jnp.square(v)))
    tiny = jnp.finfo(move.dtype).tiny
    share = jnp.minimum(1, limit * length(reference) / jnp.maximum(length(move), tiny))
    return bcast(share, move) * move


def unconditional(sde: SDE, score: ScoreFn, measurement: Any) -> Conditional:
    """The score as it is: the measurement is ignored."""
    return Conditional(score)


def pigdm(
    sde: SDE,
    score: ScoreFn,
    measurement: Any,
    *,
    data_std: ArrayLike | Sequence[float] = 1.0,
    scale: float = 1.0,
    limit: float = 3.0,
) -> Conditional:
    """Pseudo-inverse guidance: the exact likelihood of y if p(x0 | x) is approximated by N(x0, r^2 I).

    Exact for normal data of standard deviation `data_std` in every direction. For data whose spread
    depends on the direction, such as images, pass those of the measured part (k,), see `measured_stds`:
    r^2 is then the mean of the variances that they leave. At high noise J of a network is far from exact
    and 1 / m magnifies the error, so x0 is corrected by at most `limit` times the correction of
    `projection` (math.inf: no limit). With or without noise, any linear operator; one evaluation and
    one backward pass. `scale` multiplies the guidance. Song, Vahdat, Mardani & Kautz, ICLR 2023, eq. 7
    with r^2 of its appendix, as a score instead of a DDIM step; the limit is an addition.

    Raises ValueError for an operator that is not linear or does not fit, data_std, scale or limit <= 0.

    >>> score_given_y = pigdm(sde, score, Measurement(BlockAverage(4), y, noise_std=0.05))
    """
    operator = linear(measurement)
    stds = check_stds(data_std)
    check_positive(scale=scale)
    if not limit > 0:
        raise ValueError(f"limit must be > 0, got {limit!r}")

    def guided(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        there, found = tweedie_at(sde, x, t), linearized(sde, score, x, t)
        r2 = spread(sde, t, stds)
        back = operator.ridge(measurement.residual(found.x0), r2, measurement.noise_std**2)
        move = found.pull(back)
        if math.isfinite(limit):
            move = no_longer(move, there.push(bcast(r2, x) * back), limit)
        return found.guided(scale * move)

    return Conditional(guided, None, partial(consistent, measurement))


def projection(
    sde: SDE, score: ScoreFn, measurement: Any, *, data_std: ArrayLike | Sequence[float] = 1.0
) -> Conditional:
    """The estimate of x0 is corrected by y: x0 + r^2 A^T (r^2 A A^T + sigma^2)^-1 (y - A x0).

    Without noise that is x0 + A^+ (y - A x0), the projection on what was measured (arXiv:2212.00490,
    DDNM); with noise the measurement counts for less while r^2 is small. One evaluation, no backward
    pass. Known entries are reproduced; only the network couples the unknown entries to them.

    `data_std` as in `pigdm`. Raises ValueError for an operator that is not linear or does not fit, or
    data_std <= 0.

    >>> step = dpmpp_2m(sde, projection(sde, score, measurement))
    """
    operator = linear(measurement)
    stds = check_stds(data_std)

    def guided(x: Data, t: TimeLike) -> Data | ScoreOut:
        t = as_time(t)
        there, out = tweedie_at(sde, x, t), score_out(score, x, t)
        x0 = x0_of(sde, out, x, t)
        residual = measurement.residual(x0)
        r2 = spread(sde, t, stds)
        move = bcast(r2, x) * operator.ridge(residual, r2, measurement.noise_std**2)
        return as_returned(there.with_x0(out, x0, x0 + move))

    return Conditional(guided, None, partial(consistent, measurement))


def dps(
    sde: SDE, score: ScoreFn, measurement: Any, *, scale: float = 1.0, limit: float = 1.0
) -> Conditional:
    """Diffusion posterior sampling: after each step x descends the gradient of the misfit at its start.

    x - scale grad F / sqrt(F) with F = ||y - A(x0)||^2, arXiv:2209.14687 algorithm 1 with its step size
    scale / ||y - A(x0)||. A `noise` of the measurement enters by its likelihood: F is then
    2 sigma^2 (log p(y | A = y) - log p(y | x0)), which is the same for normal noise. Any differentiable
    operator. Costs one evaluation and one backward pass a step besides the step's own (which the
    compiler may share). The level of normal noise enters by the scale alone, which depends on the number
    of steps and has to be tuned; the spread of the samples is not that of the posterior.

    With F0 what noise leaves of F in the mean (q sigma^2 for q numbers with normal noise), no step is
    longer than `limit` times 2 (F - F0) / ||grad F||^2, twice Polyak's. Where A(x0(x)) is linear in x, a
    limit below 2, for other noise with a concave log-likelihood of at most 1, never takes x further from
    the points with F = 0, so that no scale makes samples diverge, and the noise is not fitted. The limit
    is an addition; math.inf is the published algorithm.

    Raises ValueError for an operator that does not fit, a noise without its standard deviation, or
    scale or limit <= 0.

    >>> conditional = dps(sde, score, Measurement(Nonlinear(camera, shape), y), scale=0.5)
    >>> step = conditional.step(ancestral(sde, conditional))
    """
    check_measurement(measurement)
    check_positive(scale=scale)
    if not limit > 0:
        raise ValueError(f"limit must be > 0, got {limit!r}")
    misses = misfit(measurement)

    def descent(x: Data, t: Time) -> Data:
        values, pull = jax.vjp(lambda x: misses.of(denoise(sde, score, x, t)), x)
        slope = pull(jnp.ones_like(values))[0]
        tiny = jnp.finfo(x.dtype).tiny
        size = scale / jnp.sqrt(jnp.maximum(values, tiny))
        if math.isfinite(limit):
            above = jnp.maximum(values - misses.noise, 0)
            polyak = 2 * above / jnp.maximum(batch_sum(jnp.square(slope)), tiny)
            size = jnp.minimum(size, limit * polyak)
        return bcast(size, x) * slope

    def wrap(step: Step) -> Step:
        def update(key: PRNGKey, x: Data, t: Time, t_next: Time, state: State) -> Moved:
            move = descent(x, as_time(t))
            out, state = step.update(key, x, t, t_next, state)
            return StepOut(out.x - move, out.x_mean - move), state

        return step._replace(update=update, nfe=step.nfe + 1)

    return Conditional(score, wrap, partial(consistent, measurement))
