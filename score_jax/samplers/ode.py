r"""The probability-flow ODE (arXiv:2011.13456 eq. 13) by diffrax's adaptive solvers, in both directions.

    (1)  dx/dt = f(x, t) - g(t)^2 score(x, t) / 2

takes latents at t1 to samples at t0 and samples to their latents. With u = log(s/m) and y = x/m, m the
mean coefficient and s the standard deviation, the same flow of every isotropic linear SDE is

    (2)  dy/du = -(s^2 / m) score(m y, t(u))

(arXiv:2206.00364 eq. 4 with sigma = s/m). For geometric VE the two differ by a constant. With the angle
u = arctan(s/m) and y = x/c, c^2 = m^2 + s^2, data and noise are two sides of a right angle, and

    (3)  dy/du = -(s/m) [y + c score(c y, t(u))] = cos(u) noise - sin(u) data

as predicted from x: bounded, slow where data and noise are both on the scale 1, and the same for
every SDE (v of arXiv:2202.00512). The solver's own time is re-parametrised to run forward always.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from score_jax._check import check, check_count, check_float, check_positive, known
from score_jax._hoisted import hoisted
from score_jax._math import as_time, batch_sum, bcast
from score_jax._precision import exact_products
from score_jax.score import x0_of
from score_jax.sde import reverse_drift
from score_jax.types import SDE, Data, Number, Scalar, ScoreFn, Time, check_process, score_out

Cost = Int[Array, "..."]  # a number of evaluations or steps: () or (b,)


class ODEOut(NamedTuple):
    """The state at the end, and its cost; scalars, or (b,) under per-sample error control."""

    x: Data
    nfe: Cost
    accepted: Cost
    rejected: Cost


class _Counting(diffrax.AbstractStepSizeController):
    """A controller that also counts the attempts for which a first-same-as-last solver has no slope.

    These are all attempts until the first accepted step, and those after a jump. `num_rejected_steps`
    does not distinguish a rejection at the start, which costs one more evaluation, from a later one.
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


def evaluations(solver: diffrax.AbstractSolver, attempts: Cost, fresh: Cost | int = 1) -> Cost:
    """Vector-field evaluations of an explicit Runge-Kutta solve with `attempts` tried steps.

    A first-same-as-last method saves one a step, except in `fresh` attempts. An implicit method iterates
    to convergence: its count is unknown and given as -1.
    """
    if not isinstance(solver, diffrax.AbstractERK | diffrax.Euler):
        return jnp.full_like(attempts, -1)
    tableau = getattr(solver, "tableau", None)
    if tableau is None:
        return attempts
    return attempts * (tableau.num_stages - tableau.fsal) + tableau.fsal * fresh


class Coordinate(NamedTuple):
    """A way to write the flow: dy/du = field(sde, score, y, u) for y = x / scale(sde, t).

    u = clock(sde, t).
    """

    clock: Callable[[SDE, Time], Time]
    scale: Callable[[SDE, Time], Time]
    field: Callable[[SDE, ScoreFn, Data, Time], Data]


def _log_noise_field(sde: SDE, score: ScoreFn, y: Data, u: Time) -> Data:
    t = sde.time_of_log_snr(-2 * u)
    m, s = sde.mean_coeff(t), sde.std(t)
    return bcast(-s * s / m, y) * score_out(score, bcast(m, y) * y, t).score


# Eq. (1): plain time, x itself.
IN_TIME = Coordinate(
    lambda sde, t: as_time(t),
    lambda sde, t: jnp.ones_like(as_time(t)),
    lambda sde, score, y, u: reverse_drift(sde, score, y, u, ode=True),
)
# Eq. (2): u = log(s/m), y = x/m.
IN_LOG_NOISE = Coordinate(
    lambda sde, t: -0.5 * sde.log_snr(t),
    lambda sde, t: sde.mean_coeff(t),
    _log_noise_field,
)


def _angle_field(sde: SDE, score: ScoreFn, y: Data, u: Time) -> Data:
    # The rounding of a right angle, pure noise, may lie beyond it.
    t = sde.time_of_log_snr(2 * jnp.log(jnp.abs(jnp.cos(u)) / jnp.sin(u)))
    m, s = sde.mean_coeff(t), sde.std(t)
    c = bcast(jnp.hypot(m, s), y)
    out = score_out(score, c * y, t)
    if out.clean is None:
        return bcast(-s / m, y) * (y + c * out.score)
    x0 = x0_of(sde, out, c * y, t)
    return -(bcast(m * s, y) * out.score + bcast(s, y) * x0) / c


# Eq. (3): u = arctan(s/m), y = x / sqrt(m^2 + s^2).
IN_ANGLE = Coordinate(
    lambda sde, t: jnp.arctan(jnp.exp(-0.5 * sde.log_snr(t))),
    lambda sde, t: jnp.hypot(sde.mean_coeff(t), sde.std(t)),
    _angle_field,
)


def batch_rms(error: PyTree[Float[Array, "..."]]) -> Scalar:
    """Root mean square of all entries of a scaled error, an array or a tree: one for the batch."""
    leaves = jax.tree.leaves(error)
    return jnp.sqrt(sum(jnp.square(v).sum() for v in leaves) / sum(v.size for v in leaves))


def worst_sample(error: PyTree[Float[Array, "..."]]) -> Scalar:
    """The largest root mean square of a sample in a scaled error: (b, *d), or a tree of such.

    No error of a sample is averaged out. On a mixture this needs 1.5 times the evaluations, for ten
    times smaller errors of the worst samples.
    """
    leaves = jax.tree.leaves(error)
    total = sum(batch_sum(jnp.square(v)) for v in leaves)
    return jnp.sqrt(jnp.max(total) / sum(v[0].size for v in leaves))


def check_time(name: str, t: Number, t1: float) -> None:
    """Refuse a time outside [0, t1], where its value is known."""
    if known(t) and not 0 <= float(t) <= t1 * (1 + 1e-6):
        raise ValueError(f"{name} must be in [0, t1={t1}], got {t}")


def check_noise(name: str, sde: SDE, t: Number) -> None:
    """Refuse a time without noise, where its value is known: log(s/m) is infinite there."""
    if not known(t):
        return
    with jax.ensure_compile_time_eval():
        std = float(sde.std(jnp.asarray(float(t))))
    if not std > 0:
        raise ValueError(f"{name} must be a time at which std > 0, got {t}, where it is {std}")


def _check_scale(name: str, sde: SDE, t: Number, coordinate: Coordinate) -> None:
    """Refuse a time at which the coordinate would divide by 0, where its value is known."""
    if not known(t):
        return
    with jax.ensure_compile_time_eval():
        some = float(coordinate.scale(sde, jnp.asarray(float(t)))) > 0
    check(name, t, some, "a time with mean_coeff > 0 in this coordinate: use IN_TIME or IN_ANGLE")


def _controller(rtol: Any, atol: Any, norm: Any, controller: Any) -> Any:
    check_positive(rtol=rtol, atol=atol)
    if controller is None:
        # With a proportional part (docs/benchmarks.md): a tenth fewer evaluations than
        # the plain controller, because fewer steps are rejected.
        return diffrax.PIDController(
            rtol=rtol, atol=atol, norm=norm or batch_rms, pcoeff=0.4, icoeff=0.4
        )
    if norm is not None:
        raise ValueError(f"norm must be None where a controller is given, got {norm}")
    return controller


def _checked(solution: Any, max_steps: int) -> Any:
    """The solution, all of whose outputs raise if the end was not reached."""
    return eqx.branched_error_if(
        solution,
        solution.result != diffrax.RESULTS.successful,
        jnp.where(solution.result == diffrax.RESULTS.max_steps_reached, 0, 1),
        [
            f"probability_flow: max_steps={max_steps} reached before t_to: rtol and atol are too small, "
            "or the score is not finite",
            "probability_flow: diffrax's solver or controller gave up before t_to",
        ],
    )


@exact_products
def _solve(
    field: Callable[[Any, Any], Any],
    start: Any,
    t_from: Any,
    t_to: Any,
    *,
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    rtol: Any = 1e-5,
    atol: Any = 1e-5,
    norm: Callable[[Any], Any] | None = None,
    dt0: Any = None,
    max_steps: int = 4096,
    adjoint: diffrax.AbstractAdjoint | None = None,
    dense: bool = False,
) -> tuple[Any, Any]:
    """As `solve_forward`, with diffrax's solution: (solution, evaluations)."""
    controller = _controller(rtol, atol, norm, controller)
    check_count(max_steps=max_steps)
    solver = diffrax.Dopri5() if solver is None else solver
    # At least single precision, because tolerances are meaningless in half. Times have the state's
    # precision, because diffrax would otherwise raise the state to theirs.
    dtype = jnp.promote_types(jnp.result_type(*jax.tree.leaves(start)), jnp.float32)
    start = jax.tree.map(lambda v: v.astype(dtype), start)
    t_from, t_to = jnp.asarray(t_from, dtype), jnp.asarray(t_to, dtype)
    direction, span = jnp.sign(t_to - t_from), jnp.abs(t_to - t_from)

    def forward(tau: Any, y: Any, args: Any) -> Any:
        return jax.tree.map(
            lambda v: direction * v.astype(dtype), field(t_from + direction * tau, y)
        )

    fixed = isinstance(controller, diffrax.StepTo | diffrax.ConstantStepSize)
    reuses = getattr(getattr(solver, "tableau", None), "fsal", False)
    counted = bool(reuses) and not fixed  # fixed steps are never rejected
    first = None if dt0 is None else jnp.asarray(dt0, dtype)
    if dt0 is None and not isinstance(controller, diffrax.StepTo):
        # Given, because a solver that estimates it makes evaluations that are not counted.
        first = 0.01 * span

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(hoisted(forward, jnp.zeros_like(t_from), start, None)),
        solver,
        t0=jnp.zeros_like(t_from),
        t1=span,
        dt0=first,
        y0=start,
        stepsize_controller=_Counting(controller) if counted else controller,
        saveat=diffrax.SaveAt(t1=True, dense=dense, controller_state=counted),
        max_steps=max_steps,
        adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        throw=False,
    )
    solution = _checked(solution, max_steps)
    attempts = solution.stats["num_accepted_steps"] + solution.stats["num_rejected_steps"]
    fresh = solution.controller_state[2] if counted else 1
    return solution, evaluations(solver, attempts, fresh)


def solve_forward(
    field: Callable[[Time, Any], Any], start: Any, t_from: Number, t_to: Number, **options: Any
) -> tuple[Any, Cost, Cost, Cost]:
    """Solve dy/dt = field(t, y) from t_from to t_to, either way: (y, nfe, accepted, rejected).

    y is a tree of arrays; the options are those of `probability_flow`.
    """
    solution, nfe = _solve(field, start, t_from, t_to, **options)
    end = jax.tree.map(lambda v: v[0], solution.ys)
    stats = solution.stats
    return end, nfe, stats["num_accepted_steps"], stats["num_rejected_steps"]


def _check_flow(
    sde: SDE, score: ScoreFn, x: Data, t_from: Number, t_to: Number, coordinate: Coordinate
) -> None:
    check_process(sde, score)
    check_float("x", x)
    for name, t in (("t_from", t_from), ("t_to", t_to)):
        check_time(name, t, sde.t1)
        if coordinate is not IN_TIME:
            check_noise(name, sde, t)


class FlowEnds(NamedTuple):
    """Clock and scale of both ends in a coordinate, in the state's precision, and a first step."""

    u_from: Scalar
    u_to: Scalar
    scale_from: Scalar
    scale_to: Scalar
    first: Scalar


def flow_ends(sde: SDE, x: Data, t_from: Number, t_to: Number, coordinate: Coordinate) -> FlowEnds:
    """The two ends of a flow that carries x in a coordinate: `FlowEnds`.

    Raises ValueError for pure noise (m = 0) in a coordinate that divides by m.
    """
    for name, t in (("t_from", t_from), ("t_to", t_to)):
        _check_scale(name, sde, t, coordinate)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    times = [jnp.asarray(t, dtype) for t in (t_from, t_to)]
    clocks = [coordinate.clock(sde, t).astype(dtype) for t in times]
    scales = [coordinate.scale(sde, t).astype(dtype) for t in times]
    # Half a unit of log(s/m), the length of the flow's features in every coordinate.
    way = jnp.sign(times[1] - times[0])
    near = sde.time_of_log_snr(sde.log_snr(times[0]) - way).astype(dtype)
    first, span = jnp.abs(coordinate.clock(sde, near) - clocks[0]), jnp.abs(clocks[1] - clocks[0])
    first = jnp.clip(jnp.where(jnp.isfinite(first), first, 0), 0.01 * span, 0.1 * span)
    return FlowEnds(clocks[0], clocks[1], scales[0], scales[1], jax.lax.stop_gradient(first))


def with_first(ends: FlowEnds, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the default of dt0, which `diffrax.StepTo` does not take."""
    if isinstance(options.get("controller"), diffrax.StepTo):
        return options
    given = options.get("dt0")
    return options | {"dt0": ends.first if given is None else given}


def probability_flow(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    *,
    t_from: Number,
    t_to: Number,
    coordinate: Coordinate = IN_TIME,
    per_sample: bool = False,
    **options: Any,
) -> ODEOut:
    """Carry x (b, *d) along the probability flow from t_from to t_to: ODEOut.

    From t1 to t0 latents become samples, from t0 to t1 samples their latents. `coordinate` is IN_TIME,
    eq. (1) of this module, IN_LOG_NOISE, eq. (2), or IN_ANGLE, eq. (3). Options:

    - `solver` and `controller`, any of diffrax's. The default is Dopri5 (docs/benchmarks.md):
      on mixtures it needs as many evaluations as Tsit5 and a third fewer than Dopri8 for an error of
      1e-3, and with a small network it is faster than Tsit5. Or `rtol`, `atol` and `norm`: the error is
      that of the whole batch (`batch_rms`, the default), of its worst sample (`worst_sample`), or any
      function of a scaled error. With `per_sample` it is that of each sample alone, which is slower,
      but no sample depends on its neighbours.
    - `dt0`, the first step or, with a constant step size, all of them (default half a unit of
      log(s/m), within 1 to 10 % of the way); `max_steps`. The solver's own time, and with it
      the places of `diffrax.StepTo`, runs from 0 to |u_to - u_from|, where u is the coordinate's clock.
    - `adjoint`, any of diffrax's: by default reverse mode goes through the steps as they were taken
      (`RecursiveCheckpointAdjoint`), with respect to x, to what the score closes over, and to the two
      times. `diffrax.ForwardMode()` is for `jax.jvp`.

    nfe is exact for explicit solvers, -1 for others; with `per_sample` it is what each sample needs,
    though all wait for the slowest.

    Raises ValueError for bad options, times outside [0, t1] (or without noise, except for IN_TIME)
    and data that are not floating point. A solve that needs more than `max_steps` steps raises at run
    time with their number. A solve whose score is not finite raises too: none of its steps is accepted.

    >>> out = probability_flow(sde, score, z, t_from=sde.t1, t_to=1e-3)
    """

    def solve(batch: Any) -> ODEOut:
        field = lambda u, y: coordinate.field(sde, score, y, u)
        start = batch / bcast(ends.scale_from, batch)
        end, *costs = solve_forward(field, start, ends.u_from, ends.u_to, **options)
        return ODEOut((end * bcast(ends.scale_to, end)).astype(x.dtype), *costs)

    _check_flow(sde, score, x, t_from, t_to, coordinate)
    ends = flow_ends(sde, x, t_from, t_to, coordinate)
    options = with_first(ends, options)
    if not per_sample:
        return solve(x)
    out = jax.vmap(lambda one: solve(one[None]))(x)
    return out._replace(x=out.x[:, 0])


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "nfe", "start", "direction", "inner"],
    meta_fields=["sde", "coordinate"],
)
@dataclasses.dataclass(frozen=True)
class FlowPath:
    """A solved flow, with x at every time between its ends; a tree, which passes through `jit`.

    x (b, *d) is the state at the end, nfe the evaluations of the path; evaluating it costs none.
    """

    x: Data
    nfe: Cost
    start: Scalar
    direction: Scalar
    inner: Any
    sde: SDE
    coordinate: Coordinate

    def at(self, t: Number) -> Data:
        """The state at t, a scalar between the two ends: (b, *d)."""
        t = jnp.asarray(t, self.start.dtype)
        y = self.inner.evaluate(self.direction * (self.coordinate.clock(self.sde, t) - self.start))
        return (y * bcast(self.coordinate.scale(self.sde, t), y)).astype(self.x.dtype)


def probability_path(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    *,
    t_from: Number,
    t_to: Number,
    coordinate: Coordinate = IN_TIME,
    max_steps: int = 256,
    **options: Any,
) -> FlowPath:
    """Carry x (b, *d) as `probability_flow` does and keep the whole path: FlowPath.

    The steps' own polynomials are evaluated (dense output): for encodings at many times from one
    solve. The memory is that of `max_steps` steps, however many are taken. Options and errors as for
    `probability_flow`.

    >>> path = probability_path(sde, score, x, t_from=1e-3, t_to=sde.t1)
    >>> halfway = path.at(0.5)
    """
    _check_flow(sde, score, x, t_from, t_to, coordinate)
    ends = flow_ends(sde, x, t_from, t_to, coordinate)
    field = lambda u, y: coordinate.field(sde, score, y, u)
    start = x / bcast(ends.scale_from, x)
    solution, nfe = _solve(
        field,
        start,
        ends.u_from,
        ends.u_to,
        dense=True,
        max_steps=max_steps,
        **with_first(ends, options),
    )
    end = solution.ys[0] * bcast(ends.scale_to, solution.ys[0])
    direction = jnp.sign(ends.u_to - ends.u_from)
    return FlowPath(
        end.astype(x.dtype), nfe, ends.u_from, direction, solution.interpolation, sde, coordinate
    )
