r"""The probability flow by an adaptive exponential multistep method: one evaluation a step.

With lambda = log(m/s) and the prediction D(x, t) = E[x0 | x] = (x + s^2 score) / m the probability
flow of every isotropic linear SDE is d(x/s)/d lambda = exp(lambda) D (arXiv:2211.01095 prop. 4.1).
It is solved for the state v = x / sqrt(m^2 + s^2), which is x for VP and of the size of the data for
every SDE, so that the solver depends on lambda alone:

    (1)  v' = (c'/c) v + a' int_0^h exp(-(h - u)) D(lambda + u) du           h = lambda' - lambda
    (2)  a = m / sqrt(m^2 + s^2) = sin(phi),  c = s / sqrt(m^2 + s^2) = cos(phi)

D is replaced by a polynomial through known predictions, integrated exactly for their uneven places
(`score_jax.samplers.uneven`). A step of order q

    predicts   with the q newest predictions,
    evaluates  D at the predicted state: the only evaluation of the step,
    corrects   with these q and the new one (order q + 1).

The difference of the two is the error of the predictor at no further cost, from which that of the
corrector is estimated (`_doubt`). The predictors of all orders are sums of the same predictions, and so
are the errors that other orders would have made: the next order is the one that allows the longest
step. Steps are measured as turns of the angle phi, in which D is interpolated: at high noise equal
turns are steps in lambda that shrink towards the structure of the data, near the data they grow. A PI
controller sets the turn. After a rejection the rejected prediction is kept as a node *ahead*: the
repeated, shorter step interpolates to it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check_count, check_float, check_positive
from score_jax._math import bcast
from score_jax._precision import exact_products
from score_jax.samplers.ode import Cost, batch_rms, check_noise, check_time
from score_jax.samplers.uneven import angle_between, uneven_weights
from score_jax.score import x0_of
from score_jax.types import SDE, Data, Number, Scalar, ScoreFn, check_process, score_out

# Chosen on mixtures other than those of benchmarks/ode_solvers.py: see docs/adr/0009. None is sharp.
_ACCEPT, _SAFETY, _GROW = 4.0, 0.8, 4.0
_HALF, _SHRINK = 0.5, 0.2  # the smallest factors after a rejection and after an accepted step
_TREND, _LEAST = 0.15, 1e-2  # the controller's proportional part, and an error that counts as 0
_SHARE, _FELT, _FELT_MOST = 0.5, 7.0, 0.8  # see `_doubt`
_WIDEST = 0.35  # in the angle: for longer turns the estimates are too small
_LONGEST = 4.0  # in lambda: for longer steps the weights are not exact
_BROKEN = 8  # rejections in a row by a score that is not finite, each for a fifth of the step


class AdaptiveOut(NamedTuple):
    """The state at the end, the denoised state there, and the cost.

    x, denoised: (b, *d), where denoised is E[x0 | x] at the last time, at no further evaluation;
    nfe, accepted, rejected: scalars, or (b,) under per-sample control.
    """

    x: Data
    denoised: Data
    nfe: Cost
    accepted: Cost
    rejected: Cost


class _Flow(NamedTuple):
    """The problem in lambda: place(lam, last) -> (t, its lambda), predict(v, t) -> D, and the ends."""

    t_from: Any
    place: Callable[[Any, Any], Any]
    predict: Callable[[Any, Any], Any]
    start: Any
    end: Any


class _State(NamedTuple):
    """What the loop carries.

    lam, v: the position. values (k, b, *d), nodes (k,): a ring of predictions and of their lambdas;
    `slot` is the place of the next one, which after a rejection (`ahead`) holds the rejected one, and
    `known` how many of the others are there. order, turn: of the next step, in the angle. error: of the
    last accepted step, relative to the allowed one. broken: consecutive rejections by a nonfinite score.
    """

    lam: Any
    v: Any
    values: Any
    nodes: Any
    slot: Any
    ahead: Any
    known: Any
    order: Any
    turn: Any
    error: Any
    accepted: Any
    rejected: Any
    broken: Any
    done: Any


class _Attempt(NamedTuple):
    """A step tried: where it leads, the ring with its prediction, errors by order and its own."""

    lam: Any
    v: Any
    values: Any
    nodes: Any
    turn: Any
    last: Any
    errors: Any
    error: Any


def _sides(lam: Any) -> tuple[Any, Any]:
    """a and c of eq. (2)."""
    return jnp.sqrt(jax.nn.sigmoid(2 * lam)), jnp.sqrt(jax.nn.sigmoid(-2 * lam))


def _size(sde: SDE, t: Any) -> Any:
    """sqrt(m^2 + s^2)."""
    return jnp.sqrt(jnp.square(sde.mean_coeff(t)) + jnp.square(sde.std(t)))


def _flow(sde: SDE, score: ScoreFn, t_from: Any, t_to: Any) -> _Flow:
    low, high = jnp.minimum(t_from, t_to), jnp.maximum(t_from, t_to)
    dtype = t_from.dtype

    def half(t: Any) -> Any:
        return 0.5 * jnp.asarray(sde.log_snr(t), dtype)

    def place(lam: Any, last: Any) -> tuple[Any, Any]:
        t = jnp.clip(jnp.asarray(sde.time_of_log_snr(2 * lam), dtype), low, high)
        t = jnp.where(last, t_to, t)
        # The lambda of the rounded time: the inverse need not be exact.
        return t, half(t)

    def predict(v: Any, t: Any) -> Any:
        x = bcast(_size(sde, t), v) * v
        return x0_of(sde, score_out(score, x, t), x, t).astype(v.dtype)

    return _Flow(t_from, place, predict, half(t_from), half(t_to))


def _first_turn(flow: _Flow, rtol: Any, atol: Any) -> Any:
    """Half the turn at which Euler's error on unit Gaussian data is the allowed one.

    There v stays and D = sin(phi) v, so that dD/dphi = c v and the error is turn^2 / 2 of v.
    """
    allowed = 0.5 * jnp.sqrt(2 * (rtol + atol))
    return jnp.sign(flow.end - flow.start) * jnp.minimum(allowed, _WIDEST)


def _stretch(lam: Any, turn: Any) -> Any:
    """The change of lambda when phi turns by `turn`, at most _LONGEST.

    From tan(phi + turn) by the addition theorem: exact for turns that are short compared with phi and
    with the rest of the right angle.
    """
    way, size = jnp.sign(turn), jnp.tan(jnp.abs(turn))
    near, far = jnp.exp(-way * lam) * size, jnp.exp(way * lam) * size
    inside = far < 0.99
    wide = jnp.log1p(near) - jnp.log1p(-jnp.where(inside, far, 0))
    return way * jnp.where(inside, jnp.minimum(wide, _LONGEST), _LONGEST)


def _combine(weights: Any, values: Any) -> Any:
    """Sum over k of weights (k,) times values (k, b, *d), in one pass."""
    return sum(bcast(weights[j], values[j]) * values[j] for j in range(values.shape[0]))


def _doubt(new: Any, a: Any) -> Any:
    """The corrector's error over what separates it from the predictor, for orders 1 to k - 1: (k - 1,).

    new (k,) are the correctors' weights of the new prediction. The next higher order removes a share of
    the difference, which is the corrector's own error over the predictor's. The new prediction was made
    at the predicted state and inherits its error, more so in longer steps; _FELT includes the effect on
    later steps.
    """
    share = jnp.abs(1 - new[:-1] / new[1:]) ** _SHARE
    felt = jnp.minimum(_FELT * a * jnp.abs(new[:-1]), _FELT_MOST)
    return (share + felt) / (1 - felt)


def _attempt(flow: _Flow, state: _State, scaled: Callable[[Any, Any], Any]) -> _Attempt:
    """Predict, evaluate, correct, and estimate the errors of all orders: one evaluation."""
    k = state.nodes.shape[0]
    rest = flow.end - state.lam
    half = angle_between((flow.end + state.lam) / 2, rest) / 2
    # Extend a step that nearly reaches the end; split the rest evenly rather than leave a tiny step.
    far = _stretch(state.lam, state.turn)
    last = jnp.abs(far) >= jnp.abs(rest) * (1 - 1e-3)
    near = _stretch(state.lam, jnp.sign(half) * jnp.minimum(jnp.abs(half), jnp.abs(state.turn)))
    t, lam = flow.place(state.lam + near, last)
    h = lam - state.lam
    a, c = _sides(lam)
    kept = bcast(c / _sides(state.lam)[1], state.v) * state.v

    age = jnp.mod(state.slot - jnp.arange(k), k)  # 0: the new one's slot, 1: the newest known
    reach = jnp.arange(k)[:, None]
    correctors = age[None, :] <= reach  # rows: of the orders 1 to k, with the new prediction
    predictors = correctors & (age[None, :] >= 1)
    used = predictors[state.order] | (state.ahead & (age == 0))
    weights = a * uneven_weights(state.lam, h, state.nodes, used)
    guess = kept + _combine(weights, state.values)
    values = state.values.at[state.slot].set(flow.predict(guess, t))
    nodes = state.nodes.at[state.slot].set(lam)

    all_weights = jax.vmap(uneven_weights, in_axes=(None, None, None, 0))
    table = a * all_weights(state.lam, h, nodes, jnp.concatenate([correctors, predictors[1:]]))
    correct, predict = table[:k], table[k:]
    v = kept + _combine(correct[state.order], values)
    size = jnp.maximum(jnp.abs(v), jnp.abs(state.v))
    differences = zip(correct[1:], predict, strict=True)
    errors = jnp.stack([scaled(_combine(c - p, values), size) for c, p in differences])
    doubt = _doubt(correct[:, state.slot], a)
    error = doubt[state.order - 1] * scaled(v - guess, size)
    turn = angle_between((lam + state.lam) / 2, h)
    errors, error = jax.lax.stop_gradient((doubt * errors, error))
    return _Attempt(lam, v, values, nodes, turn, last, errors, error)


def _factor(error: Any, order: Any) -> Any:
    """The factor of the step, before the limits; never a tracer of the state."""
    return _SAFETY * jnp.maximum(error, 1e-10) ** (-1.0 / (order + 1))


def _advance(state: _State, tried: _Attempt) -> _State:
    """Accept or reject, and choose order and length of the next step."""
    k = state.nodes.shape[0]
    finite = jnp.isfinite(tried.error)
    kept = tried.error <= _ACCEPT
    orders = jnp.arange(1, k)
    here = state.order - 1

    # Accepted: the order of the widest next turn among those whose error is known.
    trend = (state.error / jnp.maximum(tried.errors[here], _LEAST)) ** (_TREND / (state.order + 1))
    reach = jnp.clip(trend * _factor(tried.errors, orders), _SHRINK, _GROW)
    reach = jnp.where(orders <= state.known, reach, 0)
    best = k - 1 - jnp.argmax(reach[::-1])
    known = jnp.minimum(state.known + 1, k - 1)
    growing = (state.order == state.known) & (known > state.known)
    order = jnp.where(growing, state.order + 1, best)
    onward = jnp.where(growing, reach[here], reach[best - 1])

    # Rejected: by the error that the step would have made without a node ahead.
    back = jnp.clip(_factor(tried.errors[here], state.order), _HALF, 0.9)
    back = jnp.where(finite, back, _SHRINK)

    pick = lambda yes, no: jnp.where(kept, yes, no)
    turn = jnp.clip(tried.turn * pick(onward, back), -_WIDEST, _WIDEST)
    # A NaN must not become a node or stay in the ring.
    values = jnp.where(finite, tried.values, state.values)
    return _State(
        lam=pick(tried.lam, state.lam),
        v=pick(tried.v, state.v),
        values=values,
        nodes=jnp.where(finite, tried.nodes, state.nodes),
        slot=pick((state.slot + 1) % k, state.slot),
        ahead=~kept & finite,
        known=pick(known, state.known),
        order=pick(order, state.order),
        turn=jax.lax.stop_gradient(turn),
        error=pick(jnp.maximum(tried.errors[here], _LEAST), state.error),
        accepted=state.accepted + kept,
        rejected=state.rejected + ~kept,
        broken=jnp.where(finite, 0, state.broken + 1),
        done=kept & tried.last,
    )


def _start(flow: _Flow, v: Any, order: int, rtol: Any, atol: Any) -> _State:
    """The start of the loop, with the first prediction: one evaluation."""
    first = flow.predict(v, flow.t_from)
    return _State(
        lam=flow.start,
        v=v,
        values=jnp.zeros((order + 1, *v.shape), v.dtype).at[0].set(first),
        nodes=jnp.zeros(order + 1, v.dtype).at[0].set(flow.start),
        slot=jnp.asarray(1),
        ahead=jnp.asarray(False),
        known=jnp.asarray(1),
        order=jnp.asarray(1),
        turn=jax.lax.stop_gradient(_first_turn(flow, rtol, atol)),
        error=jnp.ones((), v.dtype),
        accepted=jnp.asarray(0),
        rejected=jnp.asarray(0),
        broken=jnp.where(jnp.isfinite(first).all(), 0, _BROKEN),
        done=flow.start == flow.end,
    )


def _check(rtol: Any, atol: Any, order: Any, max_steps: Any) -> None:
    check_positive(rtol=rtol, atol=atol)
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order must be 1, 2, 3 or 4, got {order}")
    check_count(max_steps=max_steps)


@exact_products
def adaptive_multistep(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    *,
    t_from: Number,
    t_to: Number,
    rtol: Number = 1e-5,
    atol: Number = 1e-5,
    order: int = 4,
    norm: Callable[[Data], Scalar] = batch_rms,
    per_sample: bool = False,
    max_steps: int = 10_000,
) -> AdaptiveOut:
    """Carry x (b, *d) along the probability flow from t_from to t_to, either way: AdaptiveOut.

    The same map as `probability_flow`, for fewer evaluations: one for the start and one for each step
    tried, all counted. The error of a step is measured against atol + rtol |v| in the state
    v = x / sqrt(m^2 + s^2), which for VP is x and near the data is x for every SDE, by `norm`: of the
    whole batch (`batch_rms`), of its worst sample (`worst_sample`), or any function of an error
    (b, *d). With `per_sample` every sample takes steps of its own and none depends on its neighbours,
    though all wait for the slowest. `order` is the highest that is used, 1 to 4.

    Raises ValueError for bad options, times outside [0, t1] or without noise (t = 0 of VP), and data
    that are not floating point. At run time an error says that more than `max_steps` steps would be
    needed, or that the score is not finite.

    The loop is a `lax.while_loop`: `jax.jvp` and `jax.jacfwd` go through it (with the steps as they
    were chosen), reverse mode does not. For `jax.grad` use `probability_flow`.

    >>> out = adaptive_multistep(sde, score, z, t_from=sde.t1, t_to=1e-3, rtol=1e-3, atol=1e-3)
    """
    check_process(sde, score)
    check_float("x", x)
    _check(rtol, atol, order, max_steps)
    for name, t in (("t_from", t_from), ("t_to", t_to)):
        check_time(name, t, sde.t1)
        check_noise(name, sde, t)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    t_from, t_to = jnp.asarray(t_from, dtype), jnp.asarray(t_to, dtype)
    flow = _flow(sde, score, t_from, t_to)

    def scaled(error: Any, size: Any) -> Any:
        # An error below the rounding of a step is not needed.
        rounding = jnp.finfo(dtype).eps * batch_rms(size)
        return jax.lax.stop_gradient(norm(error / (atol + rtol * size + rounding)))

    def more(state: _State) -> Any:
        tries = state.accepted + state.rejected
        return ~state.done & (tries < max_steps) & (state.broken < _BROKEN)

    def solve(batch: Any) -> AdaptiveOut:
        v = batch.astype(dtype) / bcast(_size(sde, t_from), batch.astype(dtype))
        state = _start(flow, v, order, rtol, atol)
        state = jax.lax.while_loop(more, lambda s: _advance(s, _attempt(flow, s, scaled)), state)
        broken = state.broken >= _BROKEN
        # The whole state, because an output that does not depend on a check loses it.
        state = eqx.branched_error_if(
            state,
            broken | ~state.done,
            jnp.where(broken, 0, 1),
            [
                "adaptive_multistep: the score is not finite",
                f"adaptive_multistep: max_steps={max_steps} reached before t_to",
            ],
        )
        end = bcast(_size(sde, t_to), state.v) * state.v
        newest = state.values[(state.slot - 1) % (order + 1)]
        cost = state.accepted + state.rejected
        return AdaptiveOut(
            end.astype(x.dtype), newest.astype(x.dtype), 1 + cost, state.accepted, state.rejected
        )

    if not per_sample:
        return solve(x)
    out = jax.vmap(lambda one: solve(one[None]))(x)
    return out._replace(x=out.x[:, 0], denoised=out.denoised[:, 0])
