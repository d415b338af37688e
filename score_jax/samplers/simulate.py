"""Running a `Step` along a grid, and the final denoising at its last time.

A final denoising is made by a factory of the same form as those of steps, (sde, score) -> function. The
function maps (out: StepOut, t), the result of the last step at the time t, to (x, evaluations).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Shaped

from score_jax._check import check, check_count, check_float, check_function, check_key
from score_jax._math import bcast
from score_jax.samplers.grids import check_grid
from score_jax.samplers.restart import RestartGrid
from score_jax.score import denoise
from score_jax.types import (
    SDE,
    Data,
    GridLike,
    SampleOut,
    Scalar,
    ScoreFn,
    Step,
    StepOut,
    check_process,
)

FinalDenoising = Callable[[StepOut, Scalar], tuple[Data, int]]


def tweedie(sde: SDE, score: ScoreFn) -> FinalDenoising:
    """The mean of x0 given x, by one more evaluation: the step to t = 0 without noise.

    >>> out = simulate(key, step, x, grid, final_denoising=tweedie(sde, score))
    """
    check_process(sde, score)
    return lambda out, t: (denoise(sde, score, out.x, t), 1)


def last_mean(sde: SDE, score: ScoreFn) -> FinalDenoising:
    """The state without the noise of the last step, as in the authors' programs."""
    return lambda out, t: (out.x_mean, 0)


def as_it_is(sde: SDE, score: ScoreFn) -> FinalDenoising:
    """The state itself, with noise of level t."""
    return lambda out, t: (out.x, 0)


def denoised(out: SampleOut, final_denoising: FinalDenoising | None, t: Scalar) -> SampleOut:
    """Apply the final denoising, if any, at the last time t; the trajectory then ends in its x."""
    if final_denoising is None:
        return out
    made = "a function (out, t) made by a factory, such as tweedie(sde, score)"
    check_function("final_denoising", final_denoising, made)
    found = final_denoising(StepOut(out.x, out.x_mean), t)
    check("final_denoising", final_denoising, not callable(found), made)
    x, evaluations = found
    path = out.trajectory
    return SampleOut(
        x,
        x if evaluations else out.x_mean,
        out.nfe + evaluations,
        None if path is None else path.at[-1].set(x),
    )


def simulate(
    key: Key[Array, ""],
    step: Step,
    x: Shaped[Array, "b *d"],
    grid: GridLike | RestartGrid,
    *,
    final_denoising: FinalDenoising | None = None,
    save_every: int | None = None,
) -> SampleOut:
    """Run `step` over every interval of `grid`, starting at x (b, *d): one scan, jitted by the caller.

    `final_denoising`, such as `tweedie(sde, score)`, is applied at the last time. Without it x keeps
    the noise of the last step, and x_mean is the authors' "mean of the last step". The state is kept
    every `save_every` steps. A `RestartGrid` has moves up too, which draw noise and cost nothing.

    Raises ValueError for a grid that does not decrease strictly inside (0, inf), save_every < 1,
    x that is not floating point, or arguments of another kind.

    >>> step = chain(langevin(sde, score), reverse_diffusion(sde, score))
    >>> out = simulate(key, step, sde.prior_sample(prior_key, shape), uniform_grid(sde, 500))
    """
    check_key(key, "simulate(key, step, x, grid)")
    if not isinstance(step, Step):
        raise ValueError(f"step must be a Step, such as euler_maruyama(sde, score), got {step!r}")
    check_float("x", x)
    restarts = grid if isinstance(grid, RestartGrid) else None
    times = check_grid(grid) if restarts is None else restarts.times
    n = times.shape[0] - 1
    if save_every is not None:
        check_count(save_every=save_every)

    def body(carry: Any, this: Any) -> Any:
        out, state, trajectory = carry
        i, t, t_next, up = this
        now = jax.random.fold_in(key, i)
        if restarts is None:
            out, state = step.update(now, out.x, t, t_next, state)
        else:
            down = lambda x, state: step.update(now, x, t, t_next, state)
            out, state = jax.lax.cond(t_next > t, partial(rise, now, up), down, out.x, state)
        if save_every is not None:
            # Every step writes to its slot, which keeps the last of each `save_every`.
            trajectory = trajectory.at[i // save_every].set(out.x)
        return (StepOut(*out), state, trajectory), None

    def rise(key: Any, up: Any, x: Data, state: Any) -> Any:
        keep, noise = up
        mean = bcast(keep, x) * x
        x = mean + bcast(noise, x) * jax.random.normal(key, x.shape, x.dtype)
        # The next step down is a first one.
        return StepOut(x, mean), step.init(x, times)

    slots = 0 if save_every is None else -(-n // save_every)
    trajectory = None if save_every is None else jnp.zeros((slots, *x.shape), x.dtype)
    start = (StepOut(x, x), step.init(x, times), trajectory)
    ups = () if restarts is None else (restarts.keep, restarts.noise)
    moves = (jnp.arange(n), times[:-1], times[1:], ups)
    (out, _, trajectory), _ = jax.lax.scan(body, start, moves)
    nfe = step.nfe * (n - (0 if restarts is None else restarts.rises)) + step.nfe_extra
    return denoised(SampleOut(out.x, out.x_mean, nfe, trajectory), final_denoising, times[-1])
