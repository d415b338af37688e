r"""The probability-flow ODE (arXiv:2011.13456 eq. 13) by diffrax's adaptive solvers, both ways.

    dx/dt = f(x, t) - g(t)^2 score(x, t) / 2

takes latents at t1 to samples at t0 and samples to their latents. Time is re-parametrised so that the
solver always runs forward.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax.sde import reverse_drift
from score_jax.types import SDE, ScoreFn


class ODEOut(NamedTuple):
    """The state at the end, and what it cost; scalars, or (b,) under per-sample error control."""

    x: Any
    nfe: Any
    accepted: Any
    rejected: Any


def evaluations(solver: diffrax.AbstractSolver, attempts: Any) -> Any:
    """Vector-field evaluations of an explicit Runge-Kutta solve with `attempts` tried steps.

    A first-same-as-last method saves one a step and needs one to start. An implicit method iterates
    to convergence: its count is not known, and -1 says so.
    """
    if not isinstance(solver, diffrax.AbstractERK | diffrax.Euler):
        return jnp.full_like(attempts, -1)
    tableau = getattr(solver, "tableau", None)
    stages = 1 if tableau is None else tableau.num_stages
    reuses = int(tableau is not None and tableau.fsal)
    return attempts * (stages - reuses) + reuses


def solve_forward(
    field: Callable[[Any, Any], Any],
    start: Any,
    t_from: Any,
    t_to: Any,
    *,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    dt0: float | None = None,
    max_steps: int = 4096,
) -> tuple[Any, Any, Any, Any]:
    """Solve dy/dt = field(t, y) from t_from to t_to, either way: (y, nfe, accepted, rejected)."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    solver = diffrax.Tsit5() if solver is None else solver
    controller = diffrax.PIDController(rtol=rtol, atol=atol) if controller is None else controller
    t_from, t_to = jnp.asarray(t_from, float), jnp.asarray(t_to, float)
    direction, span = jnp.sign(t_to - t_from), jnp.abs(t_to - t_from)

    def forward(tau: Any, y: Any, args: Any) -> Any:
        del args
        return jax.tree.map(
            lambda v: direction.astype(v.dtype) * v, field(t_from + direction * tau, y)
        )

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(forward),
        solver,
        t0=jnp.zeros_like(t_from),
        t1=span,
        # Given, because a solver that guesses it evaluates the network uncounted.
        dt0=0.01 * span if dt0 is None else jnp.asarray(dt0, span.dtype),
        y0=start,
        stepsize_controller=controller,
        max_steps=max_steps,
    )
    end = jax.tree.map(lambda v: v[0], solution.ys)
    accepted = solution.stats["num_accepted_steps"]
    rejected = solution.stats["num_rejected_steps"]
    return end, evaluations(solver, accepted + rejected), accepted, rejected


def probability_flow(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    *,
    t_from: Any,
    t_to: Any,
    per_sample: bool = False,
    **options: Any,
) -> ODEOut:
    """Carry x (b, *d) along the probability flow from t_from to t_to: ODEOut.

    From t1 to t0 latents become samples, from t0 to t1 samples their latents. The error is that of
    the whole batch (root mean square), or with `per_sample` of each sample on its own: slower, but
    no sample depends on its neighbours. Options: `solver` (default Tsit5) and `controller`, any of
    diffrax's; `rtol`, `atol`; `dt0`, the first step (default a hundredth of the way) or, with a
    constant step size, all of them; `max_steps`.

    Raises ValueError for bad options; a solve that needs more than `max_steps` raises at run time.

    >>> out = probability_flow(sde, score, z, t_from=sde.t1, t_to=1e-3)
    """

    def solve(batch: Any) -> ODEOut:
        field = lambda t, y: reverse_drift(sde, score, y, t, ode=True)
        return ODEOut(*solve_forward(field, batch, t_from, t_to, **options))

    if not per_sample:
        return solve(x)
    out = jax.vmap(lambda one: solve(one[None]))(x)
    return out._replace(x=out.x[:, 0])
