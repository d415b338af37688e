r"""Langevin dynamics: correctors that stay at a level, and annealed dynamics as a sampler by itself.

One move with step size e is

    x + e score(x, t) + sqrt(2 e) z

A corrector's e follows from a signal-to-noise ratio snr (arXiv:2011.13456, algorithms 4 and 5)

    langevin             e = 2 (snr ||z|| / ||score||)^2
    annealed_langevin    e = 2 (snr s(t))^2

without the factor alpha that the authors' programs put there for VP, which depends on a number of
steps (`score_jax.samplers.song` has it); so all SDEs have the same corrector. The norms' ratio is a
function: `per_batch`, `per_sample`, `root_dim`, or any other of (z, score).

A corrector in a chain moves before the predictor, at t; `at_next` moves it after it, to t_next:

    chain(langevin(...), reverse_diffusion(...))            corrected, then predicted
    chain(reverse_diffusion(...), at_next(langevin(...)))   predicted, then corrected
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax._check import check_count, check_positive
from score_jax._math import as_time, batch_norm, bcast
from score_jax.types import (
    SDE,
    Data,
    Grid,
    Moved,
    PerExample,
    PRNGKey,
    Scalar,
    ScoreFn,
    State,
    Step,
    StepOut,
    Time,
    check_process,
    score_at,
    stateless,
)

Ratio = Callable[[Data, Data], Time]  # (z, score) -> () or (b,)
StepSize = Callable[[Data, Data, Time], Time]  # (z, score, t) -> e: () or (b,)


def _divide(above: float | Time, norm: Time) -> Time:
    """above / norm, and 0 where the norm is 0, with derivatives that are finite too."""
    zero = norm == 0
    return jnp.where(zero, 0, above / jnp.where(zero, 1, norm))


def per_batch(z: Data, gradient: Data) -> Scalar:
    """||z|| / ||score||, each averaged over the batch first, as in the paper: ()."""
    return _divide(batch_norm(z).mean(), batch_norm(gradient).mean())


def per_sample(z: Data, gradient: Data) -> PerExample:
    """||z|| / ||score|| of each sample by itself, which no neighbour changes: (b,)."""
    return _divide(batch_norm(z), batch_norm(gradient))


def root_dim(z: Data, gradient: Data) -> Scalar:
    """sqrt(d) / ||score||, the noise's norm by its typical value, averaged over the batch: ()."""
    return _divide(math.sqrt(math.prod(z.shape[1:])), batch_norm(gradient).mean())


def move(x: Data, z: Data, gradient: Data, e: Time) -> StepOut:
    """One Langevin move with step size e, () or (b,): x + e gradient + sqrt(2 e) z."""
    x_mean = x + bcast(e, x) * gradient
    return StepOut(x_mean + bcast(jnp.sqrt(2 * e), x) * z, x_mean)


Moves = Callable[[PRNGKey, Data, Time], StepOut]  # (key, x, t) -> StepOut


def moves(score: ScoreFn, n_steps: int, size: StepSize) -> Moves:
    """n_steps Langevin moves at t with step size size(z, score, t), () or (b,): (key, x, t) -> StepOut.

    Raises ValueError unless n_steps >= 1.
    """
    check_count(n_steps=n_steps)

    def run(key: PRNGKey, x: Data, t: Time) -> StepOut:
        t = as_time(t)

        def once(carry: StepOut, i: Any) -> tuple[StepOut, None]:
            x = carry.x
            gradient = score_at(score, x, t)
            z = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
            return move(x, z, gradient, size(z, gradient, t)), None

        if n_steps == 1:
            return once(StepOut(x, x), 0)[0]
        return jax.lax.scan(once, StepOut(x, x), jnp.arange(n_steps))[0]

    return run


def corrector(score: ScoreFn, n_steps: int, size: StepSize) -> Step:
    """`moves` as a Step, which stays at t. Raises ValueError unless n_steps >= 1."""
    run = moves(score, n_steps, size)
    return stateless(lambda key, x, t, t_next: run(key, x, t), n_steps)


def langevin_size(snr: float, ratio: Ratio) -> StepSize:
    """e = 2 (snr ratio(z, score))^2. Raises ValueError unless snr > 0 and ratio is a function."""
    check_positive(snr=snr)
    if not callable(ratio):
        raise ValueError(f"ratio must be a function of (z, score) such as per_batch, got {ratio!r}")
    return lambda z, gradient, t: 2 * jnp.square(snr * ratio(z, gradient))


def annealed_size(sde: SDE, snr: float) -> StepSize:
    """e = 2 (snr s(t))^2. Raises ValueError unless snr > 0."""
    check_positive(snr=snr)
    return lambda z, gradient, t: 2 * jnp.square(snr * sde.std(t))


def langevin(
    sde: SDE, score: ScoreFn, *, snr: float = 0.16, n_steps: int = 1, ratio: Ratio = per_batch
) -> Step:
    """Langevin dynamics at the level t: a corrector for any SDE. `n_steps` evaluations.

    The step size is e = 2 (snr ||z|| / ||score||)^2, the quotient of norms by `ratio`. A score that is
    exactly zero has no norm to divide by: there the move is omitted, and x stays.

    Raises ValueError unless snr > 0 and n_steps >= 1.

    >>> step = chain(langevin(sde, score, ratio=per_sample), reverse_diffusion(sde, score))
    """
    check_process(sde, score)
    return corrector(score, n_steps, langevin_size(snr, ratio))


def annealed_langevin(sde: SDE, score: ScoreFn, *, snr: float = 0.16, n_steps: int = 1) -> Step:
    """Annealed Langevin dynamics at t, e = 2 (snr s(t))^2: a corrector. `n_steps` evaluations.

    Raises ValueError unless snr > 0 and n_steps >= 1.
    """
    check_process(sde, score)
    return corrector(score, n_steps, annealed_size(sde, snr))


def at_next(step: Step) -> Step:
    """The same step taken at the end of the interval: a corrector that follows a predictor.

    >>> step = chain(reverse_diffusion(sde, score), at_next(langevin(sde, score)))
    """

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, state: State) -> tuple[StepOut, State]:
        return step.update(key, x, t_next, t_next, state)

    return step._replace(update=update)


def langevin_dynamics(
    sde: SDE, score: ScoreFn, *, epsilon: float, n_steps: int, anneal: bool = True
) -> Step:
    """Langevin dynamics alone as a sampler, the NCSN way: n_steps moves at every time of the grid.

    With noise levels s_1 > ... > s_L, the stds at the times of the grid, the move at level i is
    x + alpha_i score / 2 + sqrt(alpha_i) z with alpha_i = epsilon s_i^2 / s_L^2 (arXiv:1907.05600
    algorithm 1); without `anneal` alpha_i = epsilon, plain Langevin dynamics. All times of the grid
    are levels, the last too: n + 1 times cost (n + 1) n_steps evaluations. Meant for VE, whose m is 1.

    Raises ValueError unless epsilon > 0 and n_steps >= 1.

    >>> step = langevin_dynamics(sde, score, epsilon=2e-5, n_steps=100)
    >>> out = simulate(key, step, x, geometric_levels)
    """
    check_process(sde, score)
    check_positive(epsilon=epsilon)
    check_count(n_steps=n_steps)

    def moves_down_to(last: Scalar) -> Moves:
        def size(z: Data, gradient: Data, t: Time) -> Time:
            scale = sde.std(t) / sde.std(last) if anneal else jnp.ones_like(t)
            return 0.5 * epsilon * jnp.square(scale)

        return moves(score, n_steps, size)

    def init(x: Data, grid: Grid) -> Scalar:
        return grid[-1]

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, last: Scalar) -> Moved:
        run = moves_down_to(last)
        here, there = jax.random.split(key)
        out = run(here, x, t)
        # The last time ends an interval and begins none.
        ends = as_time(t_next) <= last
        more = lambda out: run(there, out.x, t_next)
        return jax.lax.cond(ends, more, lambda out: out, out), last

    return Step(init, update, n_steps, n_steps)
