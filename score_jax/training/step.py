"""One pure training step: gradient, optimiser, averages. A step that is not finite is skipped."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import draws
from score_jax._check import check
from score_jax.training.ema import Decay, exponential
from score_jax.training.state import TrainState
from score_jax.types import Batch, IndexSampler, Loss, Metrics, Params, PRNGKey, Scalar

Prepare = Callable[[PRNGKey, Batch], Batch]  # run inside the jitted step

# The number that the key of a step is folded with, for each purpose.
_PREPARE, _LOSS, _DRAW, _INDEX = range(4)


@dataclass(frozen=True)
class TrainStep:
    """A pure step: `run(state, batch) -> (state, metrics)`, also called directly.

    run: also takes `spread`, a function of the gradient's function, by which `global_step` has the
    gradient computed on a mesh. axis_name: the mapped axis it averages over, None for one
    device or for global arrays. n_steps: None for one step with scalar metrics; n for a scan of n,
    whose batches and metrics have a leading axis n. microbatches: the number of microbatches of each
    device's share of a batch.
    """

    run: Callable[..., tuple[TrainState, Metrics]]
    axis_name: str | None = None
    n_steps: int | None = None
    microbatches: int = 1

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Run the step."""
        return self.run(state, batch)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
    prepare: Prepare | None = None,
    axis_name: str | None = None,
    index_sampler: IndexSampler | None = None,
    averages: Mapping[str, Decay] | None = None,
    microbatches: int = 1,
) -> TrainStep:
    """The training step of eq. (1) of `score_jax.training`, pure and not yet jitted.

    Batches are dicts of arrays (b, ...). `prepare(key, batch)` runs inside the step (dequantise,
    flip, scale), so that integers travel to the device. With `axis_name` the step must be mapped over
    that axis (`pmap_step`, `shard_map_step`); gradients and metrics are averaged over it, in float32.
    Metrics: those of the loss, "loss", "grad_norm" (before clipping) and "finite" (loss, gradients and
    update are all finite). A step whose loss or gradient is not finite changes only the number of the
    step. If these are finite and the update is not, the entries that it would make infinite or NaN keep
    their values.

    `prepare` and the loss receive the batch with batch["draw"], a `score_jax.draws.Draw`. What is
    drawn from it (`draw_of(key, batch)`) does not depend on the number of devices, hosts and
    microbatches. The plain key is the same on all devices: it is for what the whole batch shares. The
    loss also receives batch["step"] (b,), the number of the step.

    With `index_sampler` the loss also receives "index" and "weight" (b,), drawn for the whole batch,
    and returns "per_example" (b,) among its metrics, from which the sampler learns. `averages` are
    kept beside `ema_params`, each by its own `Decay` (`exponential`, `power`). The state must be made
    with the same sampler and names. With `microbatches` > 1 the gradient of a batch is the mean over
    that many microbatches, one after the other: the same step in less memory.

    Raises ValueError unless 0 <= ema_decay < 1 and microbatches >= 1.

    >>> step = make_train_step(loss, optimizer, ema_decay=0.999)
    >>> state, metrics = jax.jit(step)(state, {"x": x})
    """
    check("ema_decay", ema_decay, 0 <= ema_decay < 1, "in [0, 1)")
    check("microbatches", microbatches, microbatches >= 1, ">= 1")
    decays = {} if averages is None else dict(averages)
    gradient = _in_microbatches(_gradient_of(loss, prepare), microbatches)

    def train_step(
        state: TrainState, batch: Batch, spread: Callable[[Gradient], Gradient] | None = None
    ) -> tuple[TrainState, Metrics]:
        check("batch", type(batch).__name__, isinstance(batch, dict), "a dict of arrays")
        key = jax.random.fold_in(state.key, state.step)
        first, b, total = _share(batch, axis_name)
        draw_key = jax.random.fold_in(key, _DRAW)
        drawn: dict[str, Any] = {"draw": draws.number(draw_key, b, first=first, total=total)}
        drawn["step"] = jnp.full((b,), state.step)
        if index_sampler is not None:
            index_key = jax.random.fold_in(key, _INDEX)
            whole = index_sampler.draw(state.index_sampler, index_key, total)
            part = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, b)
            drawn["index"], drawn["weight"] = jax.tree.map(part, whole)
        whole_gradient = gradient if spread is None else spread(gradient)
        grads, metrics = whole_gradient(state.params, key, batch, drawn)
        learned = state.index_sampler
        if index_sampler is not None:
            found = (drawn["index"], metrics.pop("per_example"))
            if axis_name is not None:
                found = jax.lax.all_gather(found, axis_name, tiled=True)
            learned = index_sampler.update(learned, *found)
        if axis_name is not None:
            grads, metrics = mean_over((grads, metrics), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        mean = lambda old, decay: optax.incremental_update(params, old, 1 - decay(step))
        ema_params = mean(state.ema_params, exponential(ema_decay))
        more = state.averages and {n: mean(state.averages[n], d) for n, d in decays.items()}
        grad_norm = _global_norm(grads)
        # The state does not wait for a sum over all updates, which would be a second pass over it.
        finite = jnp.isfinite(metrics["loss"] + grad_norm)
        new = TrainState(step, params, ema_params, opt_state, state.key, learned, more)
        all_finite = finite & jnp.isfinite(_global_norm(updates))
        metrics |= {"grad_norm": grad_norm, "finite": all_finite}
        return new.where(finite, state), metrics

    return TrainStep(train_step, axis_name, microbatches=microbatches)


def _global_norm(tree: Any) -> Scalar:
    """The Euclidean norm of all leaves together, in float32."""
    squares = (jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def _share(batch: Batch, axis_name: str | None) -> tuple[Any, int, int]:
    """(place of this device's first example in the whole batch, its examples, those of all devices)."""
    shape = jax.tree.leaves(batch)[0].shape
    b = shape[0] if shape else 1
    if axis_name is None:
        return 0, b, b
    return b * jax.lax.axis_index(axis_name), b, b * jax.lax.axis_size(axis_name)


def mean_over(tree: Any, axis_name: Any) -> Any:
    """The mean of every leaf over mapped axes, computed in float32 if its own type is shorter."""

    def mean(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.lax.pmean(leaf, axis_name)
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        return jax.lax.pmean(wide, axis_name).astype(leaf.dtype)

    return jax.tree.map(mean, tree)


# (params, key, batch, what is drawn for it) -> (gradient, metrics)
Gradient = Callable[[Params, PRNGKey, Batch, dict[str, Any]], tuple[Params, Metrics]]


def _gradient_of(loss: Loss, prepare: Prepare | None) -> Gradient:
    """The gradient and the metrics of a prepared batch."""

    def gradient(
        params: Params, key: PRNGKey, batch: Batch, drawn: dict[str, Any]
    ) -> tuple[Params, Metrics]:
        draw = drawn["draw"]
        if prepare is not None:
            prepare_key = jax.random.fold_in(key, _PREPARE)
            batch = prepare(prepare_key, {**batch, "draw": draw.fold(_PREPARE)})
        loss_key = jax.random.fold_in(key, _LOSS)
        batch = {**batch, **drawn, "draw": draw.fold(_LOSS)}
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, loss_key, batch)
        return grads, {**metrics, "loss": value}

    return gradient


def _in_microbatches(gradient: Gradient, microbatches: int) -> Gradient:
    """The mean of `gradient` and its metrics over microbatches; "per_example" is joined."""
    if microbatches == 1:
        return gradient

    def cut(leaf: Any) -> Any:
        # Microbatch i has the examples i, i + microbatches, ...: no example changes its device.
        b = leaf.shape[0]
        whole = b % microbatches == 0
        check("a device's share of the batch", b, whole, f"a multiple of {microbatches=}")
        return jnp.moveaxis(leaf.reshape(b // microbatches, microbatches, *leaf.shape[1:]), 1, 0)

    def mean(
        params: Params, key: PRNGKey, batch: Batch, drawn: dict[str, Any]
    ) -> tuple[Params, Metrics]:
        def one(part: Any) -> tuple[Any, Any]:
            grads, metrics = gradient(params, key, *part)
            return (grads, metrics), metrics.pop("per_example", None)

        def add(total: Any, part: Any) -> tuple[Any, Any]:
            new, each = one(part)
            return jax.tree.map(jnp.add, total, new), each

        parts = jax.tree.map(cut, (batch, drawn))
        first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), parts)
        shapes, _ = jax.eval_shape(one, first)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, each = jax.lax.scan(add, zero, parts)
        grads, metrics = jax.tree.map(lambda leaf: leaf / microbatches, total)
        if each is not None:
            metrics["per_example"] = jnp.moveaxis(each, 0, 1).reshape(-1)
        return grads, metrics

    return mean


def scan_steps(train_step: TrainStep, n: int) -> TrainStep:
    """n steps as one program, a `lax.scan` over batches stacked on a leading axis of length n.

    The parameters equal those of n single steps, with fewer dispatches. Metrics have the leading axis
    too.

    Raises ValueError for n < 1 or a step that is already a scan.

    >>> state, metrics = jax.jit(scan_steps(step, 10))(state, {"x": ten_batches})
    """
    check("n", n, n >= 1, ">= 1")
    check("train_step", train_step, train_step.n_steps is None, "a single step, not a scan")

    def run(state: TrainState, batches: Batch, spread: Any = None) -> tuple[TrainState, Metrics]:
        one = functools.partial(train_step.run, spread=spread)
        return jax.lax.scan(one, state, batches, length=n)

    return TrainStep(run, train_step.axis_name, n, train_step.microbatches)
