r"""Methods of inverse problems: what becomes of a score and of a step when y = A x0 + n was measured.

Each method is a function (sde, score, measurement) -> `Conditional`. A Conditional is a ScoreFn, so
that every sampler and the likelihood take it; methods that act on the state besides wrap the step
(`Conditional.step`), and `finish` makes the last x0 agree with a noiseless measurement. With
x0 = (x + s^2 score) / m and r^2 = s^2 tau^2 / (m^2 tau^2 + s^2), the variance of x0 given x for data of
standard deviation tau:

    pigdm        score + J^T A^T (r^2 A A^T + sigma^2)^-1 (y - A x0),  J = dx0/dx     Song et al. 2023
    projection   the same with J = m r^2 / s^2, what it is on average: no backward pass  arXiv:2212.00490
    dps          a step, then -scale grad ||y - A x0||^2 / ||y - A x0||              arXiv:2209.14687
    replacement  after a step to t, A x is set to the measurement noised to t        arXiv:2011.13456

`score_jax.inverse.hold` has the last one and RePaint. pigdm is exact for normal data of covariance
tau^2 I; the others are approximations everywhere.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax._math import as_time, batch_sum, bcast
from score_jax.inverse.measurement import Measurement, check, consistent
from score_jax.inverse.operators import LinearOperator
from score_jax.score import denoise
from score_jax.types import SDE, ScoreFn, State, Step, StepOut, score_at


def as_it_was(value: Any) -> Any:
    """What it is given."""
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class Conditional:
    """A score of p(x(t) | y), how steps are wrapped, and how the last estimate of x0 is finished.

    >>> conditional = replacement(sde, score, measurement)
    >>> step = conditional.step(reverse_diffusion(sde, conditional))
    """

    score: ScoreFn
    wrap: Callable[[Step], Step] | None = None
    finish: Callable[[Any], Any] = as_it_was

    def __call__(self, x: Any, t: Any) -> Any:
        """The score at x (b, *d), t () or (b,)."""
        return self.score(x, t)

    def step(self, step: Step) -> Step:
        """The step that ends where the measurement allows."""
        return step if self.wrap is None else self.wrap(step)


Method = Callable[..., Conditional]  # (sde, score, measurement, **options)


def linear(measurement: Any) -> LinearOperator:
    """The operator; ValueError unless it is linear and fits y."""
    check(measurement)
    if not isinstance(measurement.operator, LinearOperator):
        raise ValueError(
            f"this method needs a linear operator, got {type(measurement.operator).__name__}: use dps"
        )
    return measurement.operator


def ending(measurement: Measurement) -> Callable[[Any], Any]:
    """What makes the last x0 agree with a noiseless measurement."""
    return lambda x0: consistent(measurement, x0)


def require_above(name: str, value: Any) -> None:
    """Raise ValueError unless value is a finite number above 0."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def measured_stds(operator: LinearOperator, x0: Any) -> tuple[float, ...]:
    """Standard deviations of A^+ A x0, what is measured of data x0 (n, *d), along its own directions.

    Those of its principal components, the largest first, without the ones that do not vary: what
    `pigdm` and `projection` want to know of the data. Some hundreds of examples are enough.

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


def check_stds(data_std: Any) -> Any:
    """Standard deviations of the data as (k,); ValueError unless finite, >= 0 and one is above 0."""
    stds = np.atleast_1d(np.asarray(data_std, np.float32))
    if stds.ndim != 1 or not (np.isfinite(stds).all() and (stds >= 0).all() and stds.any()):
        raise ValueError(
            "data_std must be a finite number > 0, or those of several directions, got "
            f"{data_std!r}"
        )
    return stds


def spread(sde: SDE, t: Any, data_std: Any) -> Any:
    """r^2, the variance of x0 given x(t) for normal data of these deviations (k,): shape of t."""
    s2, m2 = jnp.square(sde.std(t))[..., None], jnp.square(sde.mean_coeff(t))[..., None]
    tau2 = jnp.square(jnp.asarray(data_std, s2.dtype)).reshape((1,) * (s2.ndim - 1) + (-1,))
    return (s2 * tau2 / (m2 * tau2 + s2)).mean(axis=-1)


def no_longer(move: Any, reference: Any, limit: float) -> Any:
    """Each example's move, shortened to `limit` times the length of its reference."""
    length = lambda v: jnp.sqrt(batch_sum(jnp.square(v)))
    tiny = jnp.finfo(move.dtype).tiny
    share = jnp.minimum(1, limit * length(reference) / jnp.maximum(length(move), tiny))
    return bcast(share, move) * move


def unconditional(sde: SDE, score: ScoreFn, measurement: Any) -> Conditional:
    """The score as it is: what was measured is not looked at."""
    del sde, measurement
    return Conditional(score)


def pigdm(
    sde: SDE,
    score: ScoreFn,
    measurement: Any,
    *,
    data_std: Any = 1.0,
    scale: float = 1.0,
    limit: float = 3.0,
) -> Conditional:
    """Pseudo-inverse guidance: p(x0 | x) is taken as N(x0, r^2 I), the likelihood of y under it exact.

    Exact for normal data of standard deviation `data_std` in every direction. Of data that vary more
    in some (images do), give those of what is measured (k,), see `measured_stds`: r^2 is then the mean
    of what they leave of its variance. At high noise J of a network is far from exact, and 1 / m makes
    much of it: x0 is corrected by no more than `limit` times as far as `projection` would (math.inf:
    by any). With or without noise, any linear operator; one evaluation and one backward pass. `scale`
    multiplies the guidance. Song, Vahdat, Mardani & Kautz, ICLR 2023, eq. 7 with r^2 of its appendix,
    in the form of a score rather than of a DDIM step; the limit is ours.

    Raises ValueError for an operator that is not linear or does not fit, data_std, scale or limit <= 0.

    >>> score_given_y = pigdm(sde, score, Measurement(BlockAverage(4), y, noise_std=0.05))
    """
    operator = linear(measurement)
    stds = check_stds(data_std)
    require_above("scale", scale)
    if not limit > 0:
        raise ValueError(f"limit must be > 0, got {limit!r}")

    def guided(x: Any, t: Any) -> Any:
        t = as_time(t)
        value, pull = jax.vjp(lambda x: score_at(score, x, t), x)
        m, s2 = bcast(sde.mean_coeff(t), x), bcast(jnp.square(sde.std(t)), x)
        residual = measurement.residual((x + s2 * value) / m)
        r2 = spread(sde, t, stds)
        back = operator.ridge(residual, r2, measurement.noise_std**2)
        move = (back + s2 * pull(back)[0]) / m
        if math.isfinite(limit):
            move = no_longer(move, m * bcast(r2, x) / s2 * back, limit)
        return value + scale * move

    return Conditional(guided, None, ending(measurement))


def projection(sde: SDE, score: ScoreFn, measurement: Any, *, data_std: Any = 1.0) -> Conditional:
    """The estimate of x0 is corrected by y: x0 + r^2 A^T (r^2 A A^T + sigma^2)^-1 (y - A x0).

    Without noise that is x0 + A^+ (y - A x0), the projection on what was measured (arXiv:2212.00490,
    DDNM); with noise the measurement counts for less while r^2 is small. One evaluation, no backward
    pass. Known entries come out right, what is unknown hears of them through the network alone.

    `data_std` as in `pigdm`. Raises ValueError for an operator that is not linear or does not fit, or
    data_std <= 0.

    >>> step = dpmpp_2m(sde, projection(sde, score, measurement))
    """
    operator = linear(measurement)
    stds = check_stds(data_std)

    def guided(x: Any, t: Any) -> Any:
        t = as_time(t)
        m, s2 = bcast(sde.mean_coeff(t), x), bcast(jnp.square(sde.std(t)), x)
        value = score_at(score, x, t)
        residual = measurement.residual((x + s2 * value) / m)
        r2 = spread(sde, t, stds)
        return value + m * bcast(r2, x) / s2 * operator.ridge(
            residual, r2, measurement.noise_std**2
        )

    return Conditional(guided, None, ending(measurement))


def dps(sde: SDE, score: ScoreFn, measurement: Any, *, scale: float = 1.0) -> Conditional:
    """Diffusion posterior sampling: after each step, down the gradient of the residual at its start.

    x - scale grad ||y - A(x0)||^2 / ||y - A(x0)||, arXiv:2209.14687 algorithm 1 with its step size
    scale / ||y - A(x0)||. Any differentiable operator. Costs one evaluation and one backward pass a
    step besides the step's own (which the compiler may share). The noise enters by the scale alone,
    which depends on the number of steps and has to be tuned: the posterior's spread is not right.

    Raises ValueError for an operator that does not fit, or scale <= 0.

    >>> conditional = dps(sde, score, Measurement(Nonlinear(camera, shape), y), scale=0.5)
    >>> step = conditional.step(ancestral(sde, conditional))
    """
    check(measurement)
    require_above("scale", scale)

    def gradient(x: Any, t: Any) -> Any:
        def squares(x: Any) -> Any:
            return batch_sum(jnp.square(measurement.residual(denoise(sde, score, x, t))))

        values, pull = jax.vjp(squares, x)
        norms = jnp.sqrt(jnp.maximum(values, jnp.finfo(x.dtype).tiny))
        return bcast(1 / norms, x) * pull(jnp.ones_like(values))[0]

    def wrap(step: Step) -> Step:
        def update(key: Any, x: Any, t: Any, t_next: Any, state: State) -> tuple[StepOut, State]:
            move = scale * gradient(x, as_time(t))
            out, state = step.update(key, x, t, t_next, state)
            return StepOut(out.x - move, out.x_mean - move), state

        return step._replace(update=update, nfe=step.nfe + 1)

    return Conditional(score, wrap, ending(measurement))
