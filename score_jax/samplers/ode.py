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

from score_jax._math import batch_mean
from score_jax.samplers.grids import check_float
from score_jax.sde import reverse_drift
from score_jax.types import SDE, ScoreFn


class ODEOut(NamedTuple):
    """The state at the end, and what it cost; scalars, or (b,) under per-sample error control."""

    x: Any
    nfe: Any
    accepted: Any
    rejected: Any


class _Counting(diffrax.AbstractStepSizeController):
    """A controller that also counts the attempts for which a first-same-as-last solver has no slope.

    These are all attempts until the first accepted step, and those after a jump. `num_rejected_steps`
    does not tell a rejection at the start, which costs one evaluation more, from a later one.
    """

    inner: diffrax.AbstractStepSizeController

    def wrap(self, direction: Any) -> Any:
        return _Counting(self.inner.wrap(direction))

    def init(self, *args: Any) -> Any:
        t_next, state = self.inner.init(*args)
        return t_next, (state, jnp.array(True), jnp.array(0))

    def adapt_step_size(
        self, t0: Any, t1: Any, y0: Any, y1: Any, args: Any, y_error: Any, order: Any, state: Any
    ) -> Any:
        state, fresh, count = state
        kept, t0, t1, jumped, state, result = self.inner.adapt_step_size(
            t0, t1, y0, y1, args, y_error, order, state
        )
        state = (state, jnp.where(kept, jumped, fresh), count + fresh)
        return kept, t0, t1, jumped, state, result


def evaluations(solver: diffrax.AbstractSolver, attempts: Any, fresh: Any = 1) -> Any:
    """Vector-field evaluations of an explicit Runge-Kutta solve with `attempts` tried steps.

    A first-same-as-last method saves one a step but for `fresh` attempts. An implicit method iterates
    to convergence: its count is not known, and -1 says so.
    """
    if not isinstance(solver, diffrax.AbstractERK | diffrax.Euler):
        return jnp.full_like(attempts, -1)
    tableau = getattr(solver, "tableau", None)
    if tableau is None:
        return attempts
    return attempts * (tableau.num_stages - tableau.fsal) + tableau.fsal * fresh


def batch_rms(error: Any) -> Any:
    """Root mean square of all entries of a scaled error (b, *d): the whole batch has one error."""
    return jnp.sqrt(jnp.mean(jnp.square(error)))


def worst_sample(error: Any) -> Any:
    """The largest root mean square of a sample in a scaled error (b, *d)."""
    return jnp.sqrt(jnp.max(batch_mean(jnp.square(error))))


def check_time(name: str, t: Any, t1: float) -> None:
    """Refuse a time outside [0, t1], where its value is known."""
    if not isinstance(t, jax.core.Tracer) and not 0 <= float(t) <= t1 * (1 + 1e-6):
        raise ValueError(f"{name} must be in [0, t1={t1}], got {t}")


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
    # At least single precision: a tolerance means nothing in half. Times have the state's precision,
    # since diffrax would otherwise raise the state to theirs.
    dtype = jnp.promote_types(jnp.result_type(*jax.tree.leaves(start)), jnp.float32)
    start = jax.tree.map(lambda v: v.astype(dtype), start)
    t_from, t_to = jnp.asarray(t_from, dtype), jnp.asarray(t_to, dtype)
    direction, span = jnp.sign(t_to - t_from), jnp.abs(t_to - t_from)

    def forward(tau: Any, y: Any, args: Any) -> Any:
        del args
        return jax.tree.map(
            lambda v: direction * v.astype(dtype), field(t_from + direction * tau, y)
        )

    fixed = isinstance(controller, diffrax.StepTo | diffrax.ConstantStepSize)
    reuses = getattr(getattr(solver, "tableau", None), "fsal", False)
    counted = bool(reuses) and not fixed  # fixed steps are never rejected
    first = None if dt0 is None else jnp.asarray(dt0, dtype)
    if dt0 is None and not isinstance(controller, diffrax.StepTo):
        # Given, because a solver that guesses it evaluates the network uncounted.
        first = 0.01 * span

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(forward),
        solver,
        t0=jnp.zeros_like(t_from),
        t1=span,
        dt0=first,
        y0=start,
        stepsize_controller=_Counting(controller) if counted else controller,
        saveat=diffrax.SaveAt(t1=True, controller_state=counted),
        max_steps=max_steps,
    )
    end = jax.tree.map(lambda v: v[0], solution.ys)
    accepted = solution.stats["num_accepted_steps"]
    rejected = solution.stats["num_rejected_steps"]
    fresh = solution.controller_state[2] if counted else 1
    return end, evaluations(solver, accepted + rejected, fresh), accepted, rejected


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
    constant step size, all of them; `max_steps`. The solver's own time runs from 0 to |t_to - t_from|,
    and so do the places of `diffrax.StepTo`. nfe is exact for explicit solvers, -1 for others; with
    `per_sample` it is what each sample needs, though all wait for the slowest.

    Raises ValueError for bad options, times outside [0, t1] and data that are not floating point. A
    solve that needs more than `max_steps` raises at run time and names them; so does one whose score
    is not finite, since no step of it is accepted.

    >>> out = probability_flow(sde, score, z, t_from=sde.t1, t_to=1e-3)
    """

    def solve(batch: Any) -> ODEOut:
        field = lambda t, y: reverse_drift(sde, score, y, t, ode=True)
        end, *costs = solve_forward(field, batch, t_from, t_to, **options)
        return ODEOut(end.astype(x.dtype), *costs)

    check_float(x)
    check_time("t_from", t_from, sde.t1)
    check_time("t_to", t_to, sde.t1)
    if not per_sample:
        return solve(x)
    out = jax.vmap(lambda one: solve(one[None]))(x)
    return out._replace(x=out.x[:, 0])
