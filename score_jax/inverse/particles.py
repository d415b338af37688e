r"""Twisted sequential Monte Carlo: draws that converge to the posterior as their number grows.

Particles go down the grid by Gaussian moves q towards y, and weights correct what the moves get wrong.
With p(x' | x) the unconditional move, psi_t(x) a guess of p(y | x(t) = x), and psi = p(y | x0) at the
end,

    w' = w  p(x' | x) psi_t'(x') / (q(x' | x) psi_t(x))

Where few particles carry the weight, they are drawn again (systematic resampling). The product of the
mean weights is an unbiased estimate of p(y) under the chain of the grid. Any guess gives the right
answer in the limit of many particles; a good one needs fewer. arXiv:2306.17775 (TDS). psi and the moves
are those of `score_jax.inverse.twisting`, for a p(x0 | x) of one variance in every direction or of the
covariance that follows from the derivative of the score. How well p(y) is known follows from the
ancestors of the particles and from several systems (`score_jax.inverse.ancestry`).
"""

import dataclasses
import math
import warnings
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
from score_jax.analytic import Weighted
from score_jax.inverse.ancestry import (
    FAMILIES,
    Families,
    evidence_error,
    first_families,
    relative_variance,
    resampled,
)
from score_jax.inverse.combining import example_of, own_operators, shared
from score_jax.inverse.measurement import check_measurement
from score_jax.inverse.methods import Conditional, check_stds
from score_jax.inverse.twisting import Guess, covariances, isotropic, move, whole_logp
from score_jax.samplers import check_grid
from score_jax.types import SDE, GridLike, check_sde

# The relative error of p(y) above which its estimate is mostly too low.
_KNOWN = 0.5


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
    limit: float
    shape: tuple[int, ...]
    particles: int
    threshold: float
    pieces: int


class _State(NamedTuple):
    """A system: x (k, *d), log-weights (k,), what the next weight has already, log p(y) so far.

    k are the particles of one device: all of them, or a piece. The families are those of all.
    """

    x: Any
    logs: Any
    pending: Any
    evidence: Any
    resampled: Any
    families: Families


class Systems(NamedTuple):
    """The result of `twisted_smc`.

    found: the weighted particles of each of the b measurements, all islands together; resamplings
    (b, islands): how often each system was drawn again; ancestors (b, islands): the effective number of
    the first particles from which the last ones descend; variances (b, islands): that of p(y) which
    follows from the ancestors of each system, relative to p(y)^2, before it is widened; seconds and
    compile_seconds as in `Samples`.
    """

    found: list[Weighted]
    resamplings: np.ndarray
    ancestors: np.ndarray
    variances: np.ndarray
    seconds: float
    compile_seconds: float


class ParticlesDied(FloatingPointError):
    """All particles of some measurements died: every weight is 0 or not a number.

    dead (n,): the numbers of these measurements; systems: the `Systems` of the others, in order.

    >>> try:
    ...     systems, dead = twisted_smc(key, sde, score, measurement, grid=grid), []
    ... except ParticlesDied as error:
    ...     systems, dead = error.systems, error.dead
    """

    def __init__(self, dead: Sequence[int], systems: Systems) -> None:
        self.dead, self.systems = tuple(dead), systems
        named = ", ".join(map(str, self.dead[:5])) + (", ..." if len(dead) > 5 else "")
        super().__init__(
            f"all particles died of {len(dead)} of {len(dead) + len(systems.found)} measurements "
            f"({named}): every weight is 0 or not a number. Use more particles, a finer grid, a larger "
            "noise_std, a smaller limit, or a data_std nearer to that of the data. The error's "
            "`systems` has the others"
        )


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


def _guess(problem: _Problem, measurement: Any, x: Any, t: Any) -> Guess:
    """The guess of p(y | x) at the particles x."""
    sde, score = problem.sde, problem.score
    if problem.stds is None:
        return covariances(sde, score, measurement, x, t)
    guided = None
    if problem.method is not None:
        guided = problem.method(sde, score, measurement, **dict(problem.options))
    return isotropic(sde, score, measurement, guided, problem.stds, problem.limit, x, t)


def _system(problem: _Problem, part: Any) -> tuple[Any, ...]:
    """One system or this device's piece: x (k, *d), log-weights (k,), and numbers of the whole system.

    These are log p(y), its resamplings, the relative variance of p(y), and the ancestors that are left.
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
        guess = _guess(problem, measurement, state.x, t)
        logs = whole(_alive(state.logs + state.pending + guess.logs))
        level = jax.nn.logsumexp(logs) - math.log(p)
        index, after, few = _resampled(resample_key, logs, problem.threshold)
        families = resampled(state.families, logs, index, few)
        index, logs = mine(index), mine(after)
        x, guess = jax.tree.map(lambda v: whole(v)[index], (state.x, guess))
        z = mine(jax.random.normal(noise_key, (p, *problem.shape), x.dtype))
        new, ratio = move(sde, guess, x, t, t_next, z)
        pending = ratio - guess.logs
        done = state.resampled + few
        return _State(new, logs, pending, state.evidence + level, done, families), None

    zeros = jnp.zeros(k, x.dtype)
    nothing, none = jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32)
    start = _State(x, zeros, zeros, nothing, none, first_families(p, x.dtype))
    times = (jnp.arange(len(problem.times) - 1), problem.times[:-1], problem.times[1:])
    end, _ = jax.lax.scan(body, start, times)
    logs = _alive(end.logs + end.pending + whole_logp(measurement, end.x))
    variance, ancestors = relative_variance(end.families, whole(logs))
    return end.x, logs, end.evidence, end.resampled, variance, ancestors


def _alive(logs: Any) -> Any:
    """Log-weights with those that are not numbers at minus infinity."""
    return jnp.where(jnp.isnan(logs), -jnp.inf, logs)


def _run(problem: _Problem, index: Any, part: Any) -> Any:
    """The systems of a chunk, or this device's pieces of them, on one device."""
    return jax.vmap(partial(_system, problem))(part)


def _together(out: Any, pieces: int, chunk: int) -> list[np.ndarray]:
    """Pieces of systems, device by device in each chunk, as whole systems."""
    x, logs, *numbers = (v.reshape(-1, pieces, chunk, *v.shape[1:]) for v in out)
    joined = lambda v: np.moveaxis(v, 1, 2).reshape(-1, pieces * v.shape[3], *v.shape[4:])
    return [joined(x), joined(logs), *(v[:, 0].ravel() for v in numbers)]


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
    data_std: ArrayLike | Sequence[float] | None = 1.0,
    limit: float = 10.0,
    options: dict[str, Any] | None = None,
    chunk: int = 16,
    divided: bool = False,
    devices: Sequence[Any] | None = None,
    progress: bool | None = None,
) -> Systems:
    """Draw x0 given each of the b measurements by twisted sequential Monte Carlo: `Systems`.

    `islands` systems of `particles` are run for each y, independent of each other: their mean evidence
    is unbiased for the chain of the grid, and its error follows from their spread and from the
    ancestors that are left in each (`evidence_error`). It is infinite, with a warning, where too few
    are left. The particles move by the gradient of psi (TDS), or by the score of a `method` with
    `options`, such as `mmps`; one that acts on the steps is not possible. A system is resampled when its
    effective number falls below `threshold` times the particles: 0 never, 1 at every step. `data_std` as
    in `pigdm`; with None the covariance of x0 given x is taken from the derivative of the score, so that
    the weights vary far less: for an accurate score of up to some hundred entries. `limit` as in
    `pigdm`, for moves by the gradient: it changes how many particles are needed, and not what their
    draws converge to; the default hardly touches moves by an exact score. Systems are spread over the
    `devices`, `chunk` at a time. With `divided` the particles of every system are, which must be a
    multiple of the devices: for more of them than one device can evaluate, with the same draws up to
    rounding.

    Costs an evaluation and a backward pass a step and particle, an evaluation more with a method;
    without data_std a derivative for each entry of x0, and some matrices of that size for each of
    the chunk's particles. As the particles grow, the draws converge to the posterior and the evidence to
    p(y), of the chain of the grid, and that to the data's as the steps get finer. The chain is exact
    on any grid for normal data of standard deviation data_std, and without one for all normal data. The
    grid's last time is followed by a draw of x0, so s / m there should be small against the noise and the
    details of the posterior.

    Raises ValueError for a measurement without noise or of another shape, arguments out of range, a
    method without data_std and methods that act on steps; ParticlesDied, a FloatingPointError with the
    results of the others, if all particles of a y died.

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
    require("limit", limit, limit > 0, "> 0")
    devices = jax.local_devices() if devices is None else list(devices)
    pieces = max(1, len(devices)) if divided else 1
    require("particles", particles, particles % pieces == 0, f"a multiple of {pieces} devices")
    _check_method(sde, score, measurement, method, options, data_std)
    times = np.append(np.asarray(check_grid(grid, sde.t1)), np.float32(0))
    stds = None if data_std is None else check_stds(data_std)
    given = tuple(sorted((options or {}).items()))
    problem = _Problem(
        key, jnp.asarray(times), sde, score, shared(measurement), method, given, stds, float(limit),
        shape, particles, float(threshold), pieces,
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
    return _systems(parts, done.seconds, done.compile_seconds)


def _check_method(
    sde: Any, score: Any, measurement: Any, method: Any, options: Any, data_std: Any
) -> None:
    """Raise ValueError for a method whose steps are not moves by a score with one variance."""
    if method is None:
        return
    fits = data_std is not None
    require("data_std", data_std, fits, "given with a method, which moves with one variance")
    if method(sde, score, example_of(measurement, 0), **(options or {})).wrap is not None:
        raise ValueError(
            "method must be a score alone, such as pigdm, mmps or tmpd: the moves of one that acts on "
            "steps have no known density"
        )


def _systems(parts: Sequence[np.ndarray], seconds: float, compile_seconds: float) -> Systems:
    """The result of what `_system` returns for each of the b measurements and islands."""
    x, logs, evidence, resamplings, variances, ancestors = parts
    alive = np.isfinite(logs + evidence[..., None]).any(axis=(1, 2))
    number = np.flatnonzero(alive)
    found = [_joined(x[i], logs[i], evidence[i], variances[i], ancestors[i]) for i in number]
    _warn(found, number, ancestors[alive])
    out = Systems(
        found, resamplings[alive], ancestors[alive], variances[alive], seconds, compile_seconds
    )
    if len(found) < len(alive):
        raise ParticlesDied(np.flatnonzero(~alive).tolist(), out)
    return out


def _joined(
    x: np.ndarray, logs: np.ndarray, evidence: np.ndarray, variances: Any, ancestors: Any
) -> Weighted:
    """The systems of one y, x (i, p, *d), logs (i, p), evidence and the others (i,), as one set."""
    logs = logs.astype(np.float64) + evidence[:, None]
    each = np.logaddexp.reduce(logs, axis=1) - math.log(logs.shape[1])
    total = float(np.logaddexp.reduce(each) - math.log(len(each)))
    error = evidence_error(each, variances, ancestors, logs.shape[1])
    return Weighted(x.reshape(-1, *x.shape[2:]), logs.reshape(-1), total, error)


def _warn(found: list[Weighted], number: np.ndarray, ancestors: np.ndarray) -> None:
    """Warn of measurements whose particles are too few; `number` (b,) is theirs."""
    errors = np.array([one.error for one in found])
    unsure = np.flatnonzero(~(errors <= _KNOWN))
    if not len(unsure):
        return
    worst = int(unsure[np.argmax(errors[unsure])])
    one = found[worst]
    error = f"an error of {one.error:.2g}" if np.isfinite(one.error) else "no known error"
    warnings.warn(
        f"too few particles: for {len(unsure)} of {len(found)} measurements the relative error of p(y) "
        f"is above {_KNOWN:g}, or not known with fewer than {FAMILIES:g} ancestors. Number "
        f"{number[worst]} has {error}, an effective sample size of {one.ess:.0f} of {len(one.x)}, and "
        f"{ancestors[worst].mean():.1f} ancestors a system. p(y) is then mostly too low and the draws "
        "are alike. Use more particles, data_std=None, or a method such as mmps, which moves the "
        "particles",
        stacklevel=4,
    )
