r"""Restart sampling: a grid that goes back up, with the noise of each move up (arXiv:2306.14878).

A move up from t to t' > t draws from the forward transition, which needs no score and changes no
marginal:

    x' = A x + G z,   A = m(t')/m(t),   G^2 = s(t')^2 - A^2 s(t)^2

The noise contracts the errors that have accumulated, and the deterministic steps that follow make few
new ones. The coefficients lie in the grid, so that every `Step` takes such a grid; before the first step
down after a move up the state of a step is made anew.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax._check import check, check_count, check_interval
from score_jax.samplers.grids import check_grid, karras_levels, times_at
from score_jax.types import SDE, GridLike, check_sde


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["times", "keep", "noise"],
    meta_fields=["rises"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class RestartGrid:
    """A grid with moves up, made by `restart_grid`.

    times (n + 1,); keep and noise (n,): A and G of the moves up, 1 and 0 for steps down; rises: how
    many moves go up, which cost no evaluation.
    """

    times: Float[Array, " m"]
    keep: Float[Array, " n"]
    noise: Float[Array, " n"]
    rises: int

    def __post_init__(self) -> None:
        # Inside a transformation the leaves may be anything.
        if isinstance(self.times, jax.Array):
            shapes = self.times.shape[0] - 1, *self.keep.shape, *self.noise.shape
            check(
                "the shapes of keep and noise",
                shapes,
                len(set(shapes)) == 1,
                "(n,) for n + 1 times",
            )


def restart_grid(
    sde: SDE,
    grid: GridLike,
    *,
    low: float,
    high: float,
    steps: int = 3,
    repeats: int = 2,
    rho: float = 7.0,
) -> RestartGrid:
    """A decreasing grid that is interrupted by restarts: `repeats` times up to `high` and down again.

    The moves up start at the time of `grid` that is nearest to `low` in log-SNR, and `steps` steps
    lead down from `high` to it, equal in (s/m)^(1/rho). low and high are levels s/m, the paper's t_min
    and t_max: from 0.1 to 0.3 on images in [-1, 1], or larger. n steps cost
    `len(grid) - 1 + repeats * steps` evaluations for a step of one.

    Raises ValueError unless low < high lie in the levels of the grid, and for counts below 1.

    >>> grid = restart_grid(sde, karras_grid(sde, 14), low=0.1, high=0.3, steps=3, repeats=2)
    >>> out = simulate(key, heun(sde, score), x, grid)
    """
    check_sde(sde)
    check_interval("(low, high)", (low, high))
    check_count(steps=steps, repeats=repeats)
    times = np.asarray(check_grid(grid, sde.t1))
    with jax.ensure_compile_time_eval():
        levels = np.exp(-0.5 * np.asarray(sde.log_snr(jnp.asarray(times)), np.float64))
        inside = levels[-1] <= low and high <= levels[0]
        check(
            "(low, high)",
            (low, high),
            inside,
            f"in [{levels[-1]:.3g}, {levels[0]:.3g}], the levels s/m",
        )
        at = int(np.argmin(np.abs(np.log(levels) - np.log(low))))
        top = float(sde.time_of_log_snr(jnp.asarray(-2 * np.log(high))))
        check(
            "high",
            high,
            top > times[at],
            f"above {levels[at]:.3g}, the level of the grid nearest to low",
        )
        ramp = karras_levels(high, levels[at], steps, rho=rho)
        down = np.asarray(times_at(sde, -2 * np.log(ramp), (top, float(times[at]))), times.dtype)
        whole = np.concatenate([times[: at + 1], *[down] * repeats, times[at + 1 :]])
        rising = np.diff(whole) > 0
        ends = jnp.asarray(whole[1:]), jnp.asarray(whole[:-1])
        keep, variance = sde.transition(*(jnp.where(rising, t, whole[1:]) for t in ends))
    return RestartGrid(
        jnp.asarray(whole),
        jnp.where(rising, keep, 1),
        jnp.where(rising, jnp.sqrt(variance), 0),
        int(rising.sum()),
    )
