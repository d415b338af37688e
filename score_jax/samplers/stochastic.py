r"""The reverse SDE (arXiv:2011.13456 eq. 6) by diffrax's general stochastic solvers.

    dx = -[f(x, t) - g(t)^2 score(x, t)] dtau + g(t) dw,   t = t_from - tau

in a time tau that runs forward, because stochastic Runge-Kutta methods are wrong for a negative step.
The noise is additive (g does not depend on x), so that Ito's and Stratonovich's equations are one, and
methods of strong order 1.5 such as ShARK and SRA1 keep their order.

For low dimensions, small numbers of steps, and one Brownian path at several resolutions: the same key
gives the same path for any grid and solver. The path is a tree that is descended anew for every step,
so for images and a thousand steps `simulate` with a `Step` is many times faster.
"""

import math
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax  # type: ignore[import-untyped]
from jaxtyping import Array, Float, Int, Key

from score_jax._check import check_count, check_float
from score_jax._hoisted import hoisted
from score_jax._math import as_time
from score_jax.samplers.grids import check_grid
from score_jax.sde import reverse_drift
from score_jax.types import SDE, Data, GridLike, Number, ScoreFn

# They evaluate the drift once a step.
ONCE = (diffrax.Euler, diffrax.EulerHeun, diffrax.ItoMilstein, diffrax.StratonovichMilstein)


class StochasticOut(NamedTuple):
    """Samples x (b, *d) and their cost: evaluations, accepted and rejected steps."""

    x: Data
    nfe: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]


def _evaluations(solver: diffrax.AbstractSolver) -> int | None:
    """Drift evaluations of one step, None where that is not known."""
    if isinstance(solver, ONCE):
        return 1
    tableau: Any = getattr(solver, "tableau", None)
    if isinstance(solver, diffrax.AbstractSRK):
        ignored = tableau.ignore_stage_f
        return len(tableau.b_sol) - (0 if ignored is None else int(sum(ignored)))
    if isinstance(solver, diffrax.AbstractERK) and not tableau.fsal:
        return int(tableau.num_stages)
    return None


def _raw(key: Key[Array, ""]) -> Any:
    """An untyped key of JAX's default generator, drawn from `key`.

    The tree splits its key in a loop that keeps one of the parts. JAX's check for reused keys
    (`jax_debug_key_reuse`) takes that for a reuse, and looks at typed keys only.
    """
    return jax.random.bits(key, jax.random.key_data(jax.random.key(0)).shape, jnp.uint32)


def diffrax_sde(
    key: Key[Array, ""],
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    grid: GridLike,
    *,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    resolution: Number | None = None,
    max_steps: int | None = None,
) -> StochasticOut:
    """Carry x (b, *d) at grid[0] along the reverse SDE to grid[-1] with a solver of diffrax's.

    The steps are those of the grid or, with a `controller` of diffrax's that adapts to the error,
    only its ends are. `solver` (default ShARK, strong order 1.5 in two evaluations a step) may be any
    explicit one for stochastic equations. `resolution` is the smallest interval at which the path is
    resolved: by default half of the smallest of the grid, a 64th of it with a controller. `max_steps`:
    by default as many as the grid has, 4096 with a controller.

    nfe is exact; -1 for solvers whose cost is not known. Raises ValueError for a grid that does
    not decrease strictly in (0, t1], data that are not floating point, or bad options.

    >>> out = diffrax_sde(key, sde, score, x, log_snr_grid(sde, 20), solver=diffrax.SRA1())
    """
    check_float("x", x)
    grid = check_grid(grid, sde.t1)
    if max_steps is not None:
        check_count(max_steps=max_steps)
    solver = diffrax.ShARK() if solver is None else solver
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    grid = grid.astype(dtype)
    tau = grid[0] - grid
    smallest = jnp.diff(tau).min()
    if resolution is None:
        resolution = smallest / (2 if controller is None else 64)

    def drift(s: Any, y: Any, args: Any) -> Any:
        moved = y.reshape(x.shape).astype(x.dtype)
        return -reverse_drift(sde, score, moved, grid[0] - s).astype(dtype).reshape(-1)

    def diffusion(s: Any, y: Any, args: Any) -> Any:
        g = as_time(sde.diffusion(grid[0] - s)).astype(dtype)
        return lineax.DiagonalLinearOperator(jnp.broadcast_to(g, y.shape))

    path = diffrax.VirtualBrownianTree(
        jnp.zeros((), dtype),
        tau[-1],
        tol=jnp.asarray(resolution, dtype),
        shape=(math.prod(x.shape),),
        key=_raw(key),
        levy_area=diffrax.SpaceTimeLevyArea,
    )
    steps, start = grid.shape[0] - 1, (jnp.zeros((), dtype), x.astype(dtype).reshape(-1))
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(
            diffrax.ODETerm(hoisted(drift, *start, None)),
            diffrax.ControlTerm(hoisted(diffusion, *start, None), path),
        ),
        solver,
        t0=start[0],
        t1=tau[-1],
        dt0=None if controller is None else smallest,
        y0=start[1],
        stepsize_controller=diffrax.StepTo(tau) if controller is None else controller,
        saveat=diffrax.SaveAt(t1=True),
        max_steps=max_steps or (steps if controller is None else 4096),
    )
    accepted = solution.stats["num_accepted_steps"]
    rejected = solution.stats["num_rejected_steps"]
    each = _evaluations(solver)
    nfe = jnp.full_like(accepted, -1) if each is None else each * (accepted + rejected)
    return StochasticOut(solution.ys[0].reshape(x.shape).astype(x.dtype), nfe, accepted, rejected)
