"""Running a `Step` along a grid: one `lax.scan` for every fixed-step sampler."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from score_jax.samplers.grids import check_float, check_grid
from score_jax.types import Step, StepOut, with_memory


class SampleOut(NamedTuple):
    """Samples x (b, *d), the same without the last noise, their cost, and the way there.

    nfe: network evaluations per sample; trajectory: (k, b, *d), the states after every
    `save_every` steps and after the last, or None.
    """

    x: Any
    x_mean: Any
    nfe: Any
    trajectory: Any


def simulate(
    step: Step,
    key: Key[Array, ""],
    x: Any,
    grid: Any,
    *,
    denoise: Callable[[Any, Any], Any] | None = None,
    save_every: int | None = None,
) -> SampleOut:
    """Run `step` over every interval of `grid`, starting at x (b, *d): one scan, jitted by the caller.

    What a step remembers from one interval to the next travels in the same scan.

    `denoise(x, t)`, one evaluation, is applied at the last time: `functools.partial(denoise, sde,
    score)` is Tweedie's formula. Without it x keeps the noise of the last step, and x_mean is the
    authors' "mean of the last step". `save_every` keeps the state after every so many steps.

    Raises ValueError for a grid that does not decrease strictly inside (0, inf), save_every < 1, or
    x that is not floating point.

    >>> out = simulate(chain(langevin(sde, score), reverse_diffusion(sde, score)), key,
    ...                sde.prior_sample(prior_key, shape), uniform_grid(sde, 500))
    """
    check_float(x)
    grid = check_grid(grid)
    n = grid.shape[0] - 1
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")

    inner = with_memory(step)

    def body(carry: Any, this: Any) -> Any:
        out, memory, trajectory = carry
        i, t, t_next = this
        out, memory = inner.update(jax.random.fold_in(key, i), out.x, t, t_next, memory)
        if save_every is not None:
            # Every step writes to its slot; what stays is the last of each `save_every`.
            trajectory = trajectory.at[i // save_every].set(out.x)
        return (StepOut(*out), memory, trajectory), None

    slots = 0 if save_every is None else -(-n // save_every)
    trajectory = None if save_every is None else jnp.zeros((slots, *x.shape), x.dtype)
    assert inner.init is not None
    start = (StepOut(x, x), inner.init(x, grid), trajectory)
    (out, _, trajectory), _ = jax.lax.scan(body, start, (jnp.arange(n), grid[:-1], grid[1:]))
    nfe = step.nfe * n + step.nfe_extra
    if denoise is None:
        return SampleOut(out.x, out.x_mean, nfe, trajectory)
    clean = denoise(out.x, grid[-1])
    if trajectory is not None:
        trajectory = trajectory.at[-1].set(clean)
    return SampleOut(clean, clean, nfe + 1, trajectory)
