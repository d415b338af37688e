r"""Twisted sequential Monte Carlo: draws that converge to the posterior as their number grows.

Particles go down the grid by Gaussian moves q towards y, and weights correct what the moves get wrong.
With p(x' | x) the unconditional move, psi_t(x) a guess of p(y | x(t) = x), and psi = p(y | x0) at the
end,

    w' = w  p(x' | x) psi_t'(x') / (q(x' | x) psi_t(x))

Where few particles carry the weight, they are drawn again (systematic resampling). The product of the
mean weights is an unbiased estimate of p(y) under the chain of the grid. Any guess gives the right
answer in the limit of many particles; a good one needs fewer. arXiv:2306.17775 (TDS), with

    psi_t(x) = N(y; A x0(x), sigma^2 I + r^2 A A^T)          for linear operators, as PiGDM
    psi_t(x) = N(y; A(x0(x)), (sigma^2 + r^2) I)             for others

up to factors that do not depend on x, which cancel. The moves are x0_coeff x0 + x_coeff x of the bridge
between the times, with variance bridge + x0_coeff^2 r^2: exact for normal data of standard deviation
`data_std` on any grid, and for all data as the steps get finer.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Key

from score_jax._batched import AXIS, in_chunks
from score_jax._check import check as require
from score_jax._check import check_count, check_key, check_score
from score_jax._math import batch_sum
from score_jax.analytic import Weighted
from score_jax.inverse.combining import example_of, own_operators, shared
from score_jax.inverse.measurement import Measurement, check_measurement, measurement_logp
from score_jax.inverse.methods import Conditional, check_stds, spread
from score_jax.inverse.operators import LinearOperator
from score_jax.samplers import check_grid
from score_jax.score import denoise
from score_jax.types import SDE, Data, GridLike, PerExample, check_sde


class _Problem(NamedTuple):
    """What all systems of particles have in common."""

    key: Any
    times: Any
    sde: Any
    score: Any
    measurement: Any
    method: Any
    options: tuple[tuple[str, Any], ...]
    stds: Any
    shape: tuple[int, ...]
    particles: int
    threshold: float
    pieces: int


class _State(NamedTuple):
    """A system: x (k, *d), log-weights (k,), what the next weight has already, log p(y) so far.

    k are the particles of one device: all of them, or a piece.
    """

    x: Any
    logs: Any
    pending: Any
    evidence: Any
    resampled: Any


class Systems(NamedTuple):
    """The result of `twisted_smc`.

    found: the weighted particles of each of the b measurements, all islands together; resamplings
    (b, islands): how often each system was drawn again; seconds and compile_seconds as in `Samples`.
    """

    found: list[Weighted]
    resamplings: np.ndarray
    seconds: float
    compile_seconds: float


def whole_logp(measurement: Measurement, x0: Data) -> PerExample:
    """log p(y | x0) in nats, with its constant: (b,)."""
    logp = measurement_logp(measurement)(x0, jnp.zeros(()))
    if measurement.noise is not None:
        return logp
    # Entries that are not measured are 0 for every x0.
    x = jax.random.normal(jax.random.key(0), x0.shape, x0.dtype)
    count = batch_sum((measurement.operator.forward(x) != 0).astype(x0.dtype))
    return logp - count * (0.5 * math.log(2 * math.pi) + math.log(measurement.noise_std))


def twist(measurement: Measurement, x0: Data, r2: Any) -> PerExample:
    """log psi of the estimate x0 with variance r2, up to a constant: (b,)."""
    residual = measurement.residual(x0)
    noise: Any = measurement.noise_std**2
    solved = residual / (noise + r2)
    operator = measurement.operator
    if isinstance(operator, LinearOperator):
        back = operator.forward(operator.ridge(residual, r2, noise))
        solved = (residual - r2 * back) / noise
    return -0.5 * batch_sum(residual * solved)


def _resampled(key: Any, logs: Any, threshold: float) -> tuple[Any, Any, Any]:
    """Which particles go on (p,), their new log-weights of mean weight 1, and whether they were drawn."""
    p = logs.shape[0]
    total = jax.nn.logsumexp(logs)
    weights = jnp.exp(logs - total)
    few = 1 / jnp.square(weights).sum() < threshold * p
    at = (jnp.arange(p) + jax.random.uniform(key)) / p
    chosen = jnp.minimum(jnp.searchsorted(jnp.cumsum(weights), at), p - 1)
    index = jnp.where(few, chosen, jnp.arange(p))
    level = total - math.log(p)
    return index, jnp.where(few, jnp.zeros_like(logs), logs - level), few


def _moments(problem: _Problem, measurement: Any, x: Any, t: Any) -> tuple[Any, Any, Any]:
    """x0(x), the x0 that the particles move to, and log psi_t(x) (p,)."""
    sde, r2 = problem.sde, spread(problem.sde, t, problem.stds)
    if problem.method is not None:
        x0 = denoise(sde, problem.score, x, t)
        guided = problem.method(sde, problem.score, measurement, **dict(problem.options))
        return x0, denoise(sde, guided, x, t), twist(measurement, x0, r2)

    def guess(x: Any) -> tuple[Any, Any]:
        x0 = denoise(sde, problem.score, x, t)
        logs = twist(measurement, x0, r2)
        return logs.sum(), (x0, logs)

    slope, (x0, logs) = jax.grad(guess, has_aux=True)(x)
    return x0, x0 + jnp.square(sde.std(t)) / sde.mean_coeff(t) * slope, logs


def _system(problem: _Problem, part: Any) -> tuple[Any, Any, Any, Any]:
    """One system or this device's piece: x (k, *d), log-weights (k,), log p(y), resamplings.

    `part` is the number of the system, y (*out) and its operator, None where all systems share that of
    the problem. Each piece takes its own of the random numbers of all, so that the draws do not depend
    on the division; weights and particles are gathered for resampling.
    """
    number, y, own = part
    sde, p, k = problem.sde, problem.particles, problem.particles // problem.pieces
    divided = problem.pieces > 1
    first = jax.lax.axis_index(AXIS) * k if divided else 0
    mine = lambda v: jax.lax.dynamic_slice_in_dim(v, first, k) if divided else v
    whole = lambda v: jax.lax.all_gather(v, AXIS, tiled=True) if divided else v
    start_key, scan_key = jax.random.split(jax.random.fold_in(problem.key, number))
    every = jnp.broadcast_to(y[None], (k, *y.shape))
    operator = problem.measurement.operator if own is None else own
    measurement = dataclasses.replace(problem.measurement, operator=operator, y=every)
    x = mine(sde.prior_sample(start_key, (p, *problem.shape)))

    def body(state: _State, this: Any) -> tuple[_State, None]:
        i, t, t_next = this
        resample_key, noise_key = jax.random.split(jax.random.fold_in(scan_key, i))
        x0, wanted, psi = _moments(problem, measurement, state.x, t)
        logs = whole(_alive(state.logs + state.pending + psi))
        level = jax.nn.logsumexp(logs) - math.log(p)
        index, logs, few = _resampled(resample_key, logs, problem.threshold)
        index, logs = mine(index), mine(logs)
        x, x0, wanted, psi = (whole(v)[index] for v in (state.x, x0, wanted, psi))
        a, g2 = sde.transition(t, t_next)
        s2, s2_next = jnp.square(sde.std(t)), jnp.square(sde.std(t_next))
        share = sde.mean_coeff(t_next) * g2 / s2
        variance = g2 * s2_next / s2 + jnp.square(share) * spread(sde, t, problem.stds)
        plain, moved = (share * v + a * s2_next / s2 * x for v in (x0, wanted))
        z = mine(jax.random.normal(noise_key, (p, *problem.shape), x.dtype))
        new = moved + jnp.sqrt(variance) * z
        away = lambda mean: -0.5 * batch_sum(jnp.square(new - mean)) / variance
        pending = away(plain) - away(moved) - psi
        return _State(new, logs, pending, state.evidence + level, state.resampled + few), None

    zeros = jnp.zeros(k, x.dtype)
    start = _State(x, zeros, zeros, jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32))
    times = (jnp.arange(len(problem.times) - 1), problem.times[:-1], problem.times[1:])
    end, _ = jax.lax.scan(body, start, times)
    logs = _alive(end.logs + end.pending + whole_logp(measurement, end.x))
    return end.x, logs, end.evidence, end.resampled


def _alive(logs: Any) -> Any:
    """Log-weights with those that are not numbers at minus infinity."""
    return jnp.where(jnp.isnan(logs), -jnp.inf, logs)


def _run(problem: _Problem, index: Any, part: Any) -> Any:
    """The systems of a chunk, or this device's pieces of them, on one device."""
    return jax.vmap(partial(_system, problem))(part)


def _together(out: Any, pieces: int, chunk: int) -> list[np.ndarray]:
    """Pieces of systems, device by device in each chunk, as whole systems."""
    x, logs, evidence, resampled = (v.reshape(-1, pieces, chunk, *v.shape[1:]) for v in out)
    joined = lambda v: np.moveaxis(v, 1, 2).reshape(-1, pieces * v.shape[3], *v.shape[4:])
    return [joined(x), joined(logs), evidence[:, 0].ravel(), resampled[:, 0].ravel()]


def twisted_smc(
    key: Key[Array, ""],
    sde: SDE,
    score: Any,
    measurement: Any,
    method: Callable[..., Conditional] | None = None,
    *,
    grid: GridLike,
    particles: int = 256,
    islands: int = 4,
    threshold: float = 0.5,
    data_std: ArrayLike | Sequence[float] = 1.0,
    options: dict[str, Any] | None = None,
    chunk: int = 16,
    divided: bool = False,
    devices: Sequence[Any] | None = None,
    progress: bool | None = None,
) -> Systems:
    """Draw x0 given each of the b measurements by twisted sequential Monte Carlo: `Systems`.

    `islands` systems of `particles` are run for each y, independent of each other: their mean evidence
    is unbiased for the chain of the grid, and its error is known from their spread. The particles
    move by the gradient of psi (TDS), or by the score of a `method` with `options`, such as `mmps`; one
    that acts on the steps is not possible. A system is resampled when its effective number falls
    below `threshold` times the particles: 0 never, 1 at every step. `data_std` as in `pigdm`. Systems
    are spread over the `devices`, `chunk` at a time. With `divided` the particles of every system are,
    which must be a multiple of the devices: for more of them than one device can evaluate, with the
    same draws up to rounding.

    Costs an evaluation and a backward pass a step and particle, an evaluation more with a method. As the
    particles grow, the draws converge to the posterior and the evidence to p(y), of the chain of the
    grid, and that to the data's as the steps get finer. The grid's last time is followed by a draw of
    x0, so s / m there should be small against the noise and the details of the posterior.

    Raises ValueError for a measurement without noise or of another shape, arguments out of range and
    methods that act on steps; FloatingPointError if all particles of a y died.

    >>> out = twisted_smc(key, sde, score, Measurement(operator, y[None], 0.1),
    ...                   grid=log_snr_grid(sde, 100), particles=1000)
    >>> found = out.found[0]
    >>> found.mean, found.log_evidence, found.error, found.draw(500)
    """
    check_key(key, "twisted_smc(key, sde, score, measurement)")
    check_sde(sde)
    check_score(score)
    shape = check_measurement(measurement)
    require(
        "noise_std", measurement.noise_std, measurement.noise_std > 0, "> 0: weights need noise"
    )
    check_count(2, particles=particles)
    check_count(islands=islands)
    check_count(chunk=chunk)
    require("threshold", threshold, 0 <= threshold <= 1, "in [0, 1]")
    devices = jax.local_devices() if devices is None else list(devices)
    pieces = max(1, len(devices)) if divided else 1
    require("particles", particles, particles % pieces == 0, f"a multiple of {pieces} devices")
    _check_method(sde, score, measurement, method, options)
    times = np.append(np.asarray(check_grid(grid, sde.t1)), np.float32(0))
    stds = check_stds(data_std)
    given = tuple(sorted((options or {}).items()))
    problem = _Problem(
        key, jnp.asarray(times), sde, score, shared(measurement), method, given, stds, shape, particles,
        float(threshold), pieces,
    )  # fmt: skip
    part = (np.asarray(measurement.y), own_operators(measurement.operator))
    num = islands * len(measurement.y)
    chunk = min(chunk, num)

    def take(index: np.ndarray) -> Any:
        # Of a divided chunk each device has a piece of all systems.
        number = index // (pieces * chunk) * chunk + index % chunk if divided else index
        own = jax.tree.map(lambda v: v[number % num // islands], part)
        return number.astype(np.uint32), *own

    done = in_chunks(
        _run, problem, take, -(-num // chunk) * chunk * pieces if divided else num,
        chunk=chunk * pieces, devices=devices, progress=progress, desc="system",
    )  # fmt: skip
    out = _together(done.out, pieces, chunk) if divided else done.out
    parts = [v[:num].reshape(-1, islands, *v.shape[1:]) for v in out]
    found = [_joined(*part) for part in zip(*parts[:3], strict=True)]
    return Systems(found, parts[3], done.seconds, done.compile_seconds)


def _check_method(sde: Any, score: Any, measurement: Any, method: Any, options: Any) -> None:
    """Raise ValueError for a method whose steps are not moves by a score."""
    if method is None:
        return
    if method(sde, score, example_of(measurement, 0), **(options or {})).wrap is not None:
        raise ValueError(
            "method must be a score alone, such as pigdm, mmps or tmpd: the moves of one that acts on "
            "steps have no known density"
        )


def _joined(x: np.ndarray, logs: np.ndarray, evidence: np.ndarray) -> Weighted:
    """The systems of one y, x (i, p, *d), logs (i, p), evidence (i,), as one set of particles."""
    logs = logs.astype(np.float64) + evidence[:, None]
    if not np.isfinite(logs).any():
        raise FloatingPointError(
            "all particles died: every weight is 0 or not a number. Use more particles, a finer grid, "
            "a larger noise_std, or a data_std nearer to that of the data"
        )
    each = np.logaddexp.reduce(logs, axis=1) - math.log(logs.shape[1])
    top = each.max()
    share = np.exp(each - top)
    error = share.std(ddof=1) / share.mean() / math.sqrt(len(share)) if len(share) > 1 else math.nan
    return Weighted(
        x.reshape(-1, *x.shape[2:]), logs.reshape(-1), float(top + np.log(share.mean())), float(error)
    )  # fmt: skip
