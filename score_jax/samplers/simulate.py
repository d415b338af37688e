"""Running a `Step` along a grid: one `lax.scan` for every fixed-step sampler."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Shaped

from score_jax.samplers.arguments import check_array
from score_jax.samplers.final import FinalDenoising, denoised
from score_jax.samplers.grids import check_float, check_grid
from score_jax.types import SampleOut, Step, StepOut


def simulate(
    key: Key[Array, ""],
    step: Step,
    x: Shaped[Array, "b *d"],
    grid: Any,
    *,
    final_denoising: FinalDenoising | None = None,
    save_every: int | None = None,
) -> SampleOut:
    """Run `step` over every interval of `grid`, starting at x (b, *d): one scan, jitted by the caller.

    `final_denoising`, such as `tweedie(sde, score)`, is applied at the last time. Without it x keeps
    the noise of the last step, and x_mean is the authors' "mean of the last step". `save_every`
    keeps the state after every so many steps.

    Raises ValueError for a grid that does not decrease strictly inside (0, inf), save_every < 1, or
    x that is not floating point.

    >>> step = chain(langevin(sde, score), reverse_diffusion(sde, score))
    >>> out = simulate(key, step, sde.prior_sample(prior_key, shape), uniform_grid(sde, 500))
    """
    if not isinstance(step, Step):
        raise ValueError(f"step must be a Step, such as euler_maruyama(sde, score), got {step!r}")
    check_array("x", x)
    check_float(x)
    grid = check_grid(grid)
    n = grid.shape[0] - 1
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")

    def body(carry: Any, this: Any) -> Any:
        out, state, trajectory = carry
        i, t, t_next = this
        out, state = step.update(jax.random.fold_in(key, i), out.x, t, t_next, state)
        if save_every is not None:
            # Every step writes to its slot, which keeps the last of each `save_every`.
            trajectory = trajectory.at[i // save_every].set(out.x)
        return (StepOut(*out), state, trajectory), None

    slots = 0 if save_every is None else -(-n // save_every)
    trajectory = None if save_every is None else jnp.zeros((slots, *x.shape), x.dtype)
    start = (StepOut(x, x), step.init(x, grid), trajectory)
    (out, _, trajectory), _ = jax.lax.scan(body, start, (jnp.arange(n), grid[:-1], grid[1:]))
    nfe = step.nfe * n + step.nfe_extra
    return denoised(SampleOut(out.x, out.x_mean, nfe, trajectory), final_denoising, grid[-1])
