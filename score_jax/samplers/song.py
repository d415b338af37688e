r"""The authors' own predictor-corrector sampler, number for number, for parity with published figures.

Song et al. (arXiv:2011.13456) discretise an SDE with N steps twice: the network is evaluated at N
times from t1 to t0, both included, while the coefficients are those of steps of length dt = 1/N, from
a table entered at the index trunc(t (N - 1) / t1) in float32. The two agree only for t0 =
1/N: with N = 2000 and t0 = 1e-3 a thousand steps take the entry of a neighbour. `song_grid` therefore
keeps times, indices and dt, which the steps of this module read. Use `score_jax.samplers.steps`, whose
coefficients are those of the interval, unless you reproduce these programs.

    table of VP      beta_i = linspace(beta_min, beta_max, N)_i / N,  alpha_i = 1 - beta_i
    table of VE      sigma_i = sigma_min (sigma_max/sigma_min)^(i / (N - 1)),  sigma_{-1} = 0
    sub-VP           has none: its reverse diffusion is an Euler step of length dt

With c, G, k of the entry and z unit noise

    Euler-Maruyama     x - [f - g^2 score] dt + g sqrt(dt) z
    reverse diffusion  x - c x + G^2 score + G z        c = sqrt(alpha) - 1, G^2 = beta, VE: 0, sigma's
    ancestral          k (x + G^2 score) + noise z      k = 1 / sqrt(alpha), noise^2 = beta; VE: 1, the
                                                        posterior's
    Langevin           e = 2 alpha (snr ||z|| / ||score||)^2, annealed e = 2 alpha (snr s(t))^2
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_jax._math import as_time, bcast
from score_jax.samplers.langevin import (
    Ratio,
    StepSize,
    annealed_size,
    corrector,
    langevin_size,
    per_batch,
)
from score_jax.sde import VE, VP, SubVP, reverse_drift
from score_jax.types import (
    SDE,
    Data,
    PRNGKey,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
    score_at,
    stateless,
)


class SongGrid(NamedTuple):
    """The times, indices and step length of the authors' sampler of `n` steps.

    times (k + 1,): where the network is evaluated, and last a time between 0 and the smallest of them
    that only ends the run; index (k,): the entries of the coefficients of `n` steps; dt: the length of
    a step. A whole grid has k = n.
    """

    times: np.ndarray
    index: Any  # a tuple has a method of this name
    dt: float
    n: int


def song_grid(n: int, t0: float = 1e-3, *, t1: float = 1.0) -> SongGrid:
    """The authors' grid of n steps from t1 to t0 (theirs: 1e-3 for VP and sub-VP, 1e-5 for VE).

    Pass it to the steps of this module and its `times` to `simulate`; the authors' result is x_mean
    (their `noise_removal`) or x. Times are computed as PyTorch's linspace does in float32.

    Raises ValueError unless n >= 2 and 0 < t0 < t1.

    >>> grid = song_grid(1000, 1e-3)
    >>> out = simulate(key, song_reverse_diffusion(VP(), score, grid), x, grid.times).x_mean
    """
    if n < 2:
        raise ValueError(f"n, the number of steps, must be at least 2, got {n}")
    if not 0 < t0 < t1:
        raise ValueError(f"t0 must be in (0, t1={t1}), got {t0}")
    one = np.float32
    gap = (one(t0) - one(t1)) / one(n - 1)
    i = np.arange(n)
    # From both ends to the middle.
    times = np.where(
        i < n // 2, one(t1) + gap * i.astype(one), one(t0) - gap * (n - 1 - i).astype(one)
    ).astype(one)
    index = (times * one(n - 1) / one(t1)).astype(np.int32)
    return SongGrid(np.append(times, times[-1] / 2), index, 1 / n, n)


class _Entries(NamedTuple):
    """Coefficients of the steps of a grid, (k,) each: see the module; c and G are None for sub-VP."""

    alpha: np.ndarray
    shrink: Any
    noise: Any
    grow: Any
    posterior_noise: Any


def _entries(sde: SDE, grid: SongGrid) -> _Entries:
    """Read the tables of the SDE at the indices of the grid, in float64."""
    i = np.asarray(grid.index)
    one = np.ones(i.size)
    if isinstance(sde, VE):
        powers = np.linspace(np.log(sde.sigma_min), np.log(sde.sigma_max), grid.n)
        variance = np.exp(2 * powers)[i]
        below = np.where(i == 0, 0, np.exp(2 * powers)[np.maximum(i - 1, 0)])
        noise = np.sqrt(variance - below)
        return _Entries(one, 0 * one, noise, one, noise * np.sqrt(below / variance))
    if isinstance(sde, VP | SubVP):
        beta = np.linspace(sde.beta_min / grid.n, sde.beta_max / grid.n, grid.n)[i]
        if beta.max() >= 1:
            raise ValueError(f"n={grid.n} steps are too few for {sde}: a beta of {beta.max()}")
        root = np.sqrt(1 - beta)
        if isinstance(sde, SubVP):
            return _Entries(1 - beta, None, None, None, None)
        return _Entries(1 - beta, root - 1, np.sqrt(beta), 1 / root, np.sqrt(beta))
    raise ValueError(f"the authors' sampler has tables for VP, SubVP and VE only, got {sde!r}")


def _place(grid: SongGrid, t: Time) -> Int[Array, "..."]:
    """Which step of the grid begins at t: shape of t."""
    times = np.asarray(grid.times, np.float64)
    between = 0.5 * (times[:-1] + times[1:])[::-1]
    steps = times.size - 1
    # Rising, for searchsorted.
    return jnp.clip(steps - jnp.searchsorted(jnp.asarray(between, t.dtype), t), 0, steps - 1)


def _entry(values: np.ndarray, grid: SongGrid, t: Time, x: Data) -> Float[Array, "..."]:
    """The value of the step that begins at t, to multiply x."""
    return bcast(jnp.asarray(values, t.dtype)[_place(grid, t)], x)


def song_euler_maruyama(sde: SDE, score: ScoreFn, grid: SongGrid, *, ode: bool = False) -> Step:
    """Euler-Maruyama with dt = 1/n at any times, for any SDE. One evaluation."""
    check_process(sde, score)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t = as_time(t)
        x_mean = x - grid.dt * reverse_drift(sde, score, x, t, ode=ode)
        if ode:
            return StepOut(x_mean, x_mean)
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(sde.diffusion(t) * grid.dt**0.5, x) * z, x_mean)

    return stateless(update, 1)


def song_reverse_diffusion(sde: SDE, score: ScoreFn, grid: SongGrid, *, ode: bool = False) -> Step:
    """Reverse diffusion with the authors' tables; for sub-VP Euler-Maruyama. One evaluation.

    Raises ValueError for an SDE without the tables.
    """
    check_process(sde, score)
    entries = _entries(sde, grid)
    if entries.noise is None:
        return song_euler_maruyama(sde, score, grid, ode=ode)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t = as_time(t)
        noise = _entry(entries.noise, grid, t, x)
        push = jnp.square(noise) * (0.5 if ode else 1.0) * score_at(score, x, t)
        x_mean = x - _entry(entries.shrink, grid, t, x) * x + push
        if ode:
            return StepOut(x_mean, x_mean)
        return StepOut(x_mean + noise * jax.random.normal(key, x.shape, x.dtype), x_mean)

    return stateless(update, 1)


def song_ancestral(sde: SDE, score: ScoreFn, grid: SongGrid) -> Step:
    """Ancestral sampling with the authors' tables: VP and VE only. One evaluation.

    Raises ValueError for sub-VP and others, which have none (`ancestral` takes any SDE).
    """
    check_process(sde, score)
    entries = _entries(sde, grid)
    if entries.noise is None:
        raise ValueError(f"the authors' ancestral sampling is for VP and VE only, got {sde!r}")

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t = as_time(t)
        variance = _entry(np.square(entries.noise), grid, t, x)
        x_mean = _entry(entries.grow, grid, t, x) * (x + variance * score_at(score, x, t))
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + _entry(entries.posterior_noise, grid, t, x) * z, x_mean)

    return stateless(update, 1)


def song_langevin(
    sde: SDE,
    score: ScoreFn,
    grid: SongGrid,
    *,
    snr: float = 0.16,
    n_steps: int = 1,
    ratio: Ratio = per_batch,
) -> Step:
    """The Langevin corrector with the authors' factor alpha of the table: 1 for VE.

    For sub-VP, for which their programs have no table and fail, alpha is that of VP with the same betas.

    Raises ValueError for an SDE without the tables, and as `langevin`.
    """
    check_process(sde, score)
    plain = langevin_size(snr, ratio)
    return corrector(score, n_steps, _with_alpha(_entries(sde, grid).alpha, grid, plain))


def song_annealed_langevin(
    sde: SDE, score: ScoreFn, grid: SongGrid, *, snr: float = 0.16, n_steps: int = 1
) -> Step:
    """The annealed Langevin corrector with the authors' factor alpha; see `song_langevin`.

    Raises ValueError for an SDE without the tables, and as `annealed_langevin`.
    """
    check_process(sde, score)
    plain = annealed_size(sde, snr)
    return corrector(score, n_steps, _with_alpha(_entries(sde, grid).alpha, grid, plain))


def _with_alpha(alpha: np.ndarray, grid: SongGrid, size: StepSize) -> StepSize:
    def scaled(z: Data, gradient: Data, t: Time) -> Time:
        return jnp.asarray(alpha, t.dtype)[_place(grid, t)] * size(z, gradient, t)

    return scaled
