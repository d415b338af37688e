"""One pure step of training: gradient, optimiser, averages; skipped where it is not finite."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from score_jax._check import check
from score_jax.training.ema import Decay, exponential
from score_jax.training.state import IndexSampler, TrainState
from score_jax.types import Batch, Loss, Metrics, Rows

Prepare = Callable[[Any, Any], Any]  # (key, batch) -> batch, run inside the jitted step

_INDEX_STREAM = 0x1DE0  # of the keys, apart from devices and from splits


@dataclass(frozen=True)
class TrainStep:
    """A pure step: `run(state, batch) -> (state, metrics)`, also called directly.

    axis_name: the mapped axis it averages over, None for one device or for global arrays. n_steps:
    None for one step with scalar metrics; n for a scan of n, whose batches and metrics have a
    leading axis n. accumulate: the parts that each device's share of a batch is taken in.
    """

    run: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    axis_name: str | None = None
    n_steps: int | None = None
    accumulate: int = 1

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Run the step."""
        return self.run(state, batch)


def _global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, in float32."""
    squares = (jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def _rows(key: Any, batch: Batch, axis_name: str | None) -> Rows:
    """Which examples of the whole batch this device has."""
    b = math.prod(jax.tree.leaves(batch)[0].shape[:1])
    index, total = jnp.arange(b, dtype=jnp.int32), b
    if axis_name is not None:
        index = index + b * jax.lax.axis_index(axis_name)
        total = b * jax.lax.axis_size(axis_name)
    return Rows(key, index, total)


def _strided(tree: Any, parts: int) -> Any:
    """(b, ...) -> (parts, b/parts, ...), part p with rows p, p + parts, ...

    So a batch whose rows are spread over devices is cut without moving any of them.
    """

    def cut(leaf: Any) -> Any:
        if leaf.shape[0] % parts:
            raise ValueError(
                f"a device's share of the batch, {leaf.shape[0]}, must be a multiple of {parts=}"
            )
        return jnp.moveaxis(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(cut, tree)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
    prepare: Prepare | None = None,
    axis_name: str | None = None,
    index_sampler: IndexSampler | None = None,
    averages: Mapping[str, Decay] | None = None,
    accumulate: int = 1,
) -> TrainStep:
    """The training step of eq. (1) of `score_jax.training`, pure and not yet jitted.

    `prepare(key, batch)` runs inside the step (dequantise, flip, scale), so that integers travel to
    the device. With `axis_name` the step must be mapped over that axis (`pmap_step`,
    `shard_map_step`), and gradients and metrics are averaged over it. Metrics: those of the loss,
    "loss", "grad_norm" (before clipping) and "finite" (loss, gradients and update all finite).
    A step that is not finite changes nothing but the step's number.

    A batch that is a dict reaches `prepare` and the loss with "rows", `score_jax.types.Rows`: what
    draws with them (the losses here do) draws the same for any number of devices. The plain key
    differs from device to device.

    With `index_sampler` the batch, a dict, reaches the loss with "index" and "weight" (b,), and the
    loss gives back "per_example" (b,) among its metrics, from which the sampler learns
    (`score_jax.losses.discrete_loss`). `averages` are kept beside `ema_params`, each by its own
    `Decay` (`exponential`, `power`). The state must be made with the same sampler and names.
    `accumulate` parts of a batch are taken one after the other: the same step in less memory.

    Raises ValueError unless 0 <= ema_decay < 1 and accumulate >= 1.

    >>> step = make_train_step(loss, optimizer, ema_decay=0.999)
    >>> state, metrics = jax.jit(step)(state, {"x": x})
    """
    check("ema_decay", ema_decay, 0 <= ema_decay < 1, "in [0, 1)")
    check("accumulate", accumulate, accumulate >= 1, ">= 1")
    decays = {} if averages is None else dict(averages)
    gradient = _gradient_of(loss, prepare, axis_name, accumulate)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rows = _rows(jax.random.fold_in(state.key, state.step), batch, axis_name)
        if index_sampler is not None:
            # A number of its own, out of the way of the devices' and of what `split` folds in.
            key = jax.random.fold_in(rows.key, _INDEX_STREAM)
            draw = lambda key, b: index_sampler.draw(state.index_sampler, key, b)
            index, weight = rows.shared(draw, key)
            batch = {**batch, "index": index, "weight": weight}
        grads, metrics = gradient(state.params, batch, rows)
        learned = state.index_sampler
        if index_sampler is not None:
            learned = _learn(index_sampler, learned, index, metrics.pop("per_example"), axis_name)
        if axis_name is not None:
            grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        mean = lambda old, decay: optax.incremental_update(params, old, 1 - decay(step))
        ema_params = mean(state.ema_params, exponential(ema_decay))
        more = state.averages and {n: mean(state.averages[n], d) for n, d in decays.items()}
        grad_norm = _global_norm(grads)
        finite = jnp.isfinite(metrics["loss"] + grad_norm + _global_norm(updates))
        metrics |= {"grad_norm": grad_norm, "finite": finite}
        new = (params, ema_params, opt_state, learned, more)
        old = (state.params, state.ema_params, state.opt_state, state.index_sampler, state.averages)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        params, ema_params, opt_state, learned, more = kept
        return TrainState(step, params, ema_params, opt_state, state.key, learned, more), metrics

    return TrainStep(train_step, axis_name, accumulate=accumulate)


def _gradient_of(
    loss: Loss, prepare: Prepare | None, axis_name: str | None, parts: int
) -> Callable[[Any, Batch, Rows], tuple[Any, Metrics]]:
    """(params, batch, rows) -> (gradient, metrics) of a device's share of a batch, in parts."""
    alone = axis_name is None and parts == 1

    def place(batch: Batch, rows: Rows, key: Any) -> tuple[Any, Batch]:
        """The plain key, and the batch with its rows."""
        if isinstance(batch, dict):
            batch = {**batch, "rows": Rows(key, rows.index, rows.total)}
        return (key if alone else jax.random.fold_in(key, rows.index[0])), batch

    def of_part(params: Any, batch: Batch, rows: Rows) -> tuple[Any, Metrics]:
        # Folded, not split: every part of a batch derives its draws from the same key.
        prepare_key, loss_key = (jax.random.fold_in(rows.key, i) for i in range(2))
        if prepare is not None:
            drawn = {
                k: batch[k] for k in ("index", "weight") if isinstance(batch, dict) and k in batch
            }
            batch = prepare(*place(batch, rows, prepare_key))
            batch = {**batch, **drawn} if drawn else batch
        grad_fn = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), grads = grad_fn(params, *place(batch, rows, loss_key))
        return grads, {**metrics, "loss": value}

    if parts == 1:
        return of_part

    def in_parts(params: Any, batch: Batch, rows: Rows) -> tuple[Any, Metrics]:
        def add(total: Any, part: Any) -> tuple[Any, Any]:
            piece, index = part
            grads, metrics = of_part(params, piece, Rows(rows.key, index, rows.total))
            each = {k: metrics.pop(k) for k in ("per_example",) if k in metrics}
            return jax.tree.map(jnp.add, total, (grads, metrics)), each

        cut = _strided((batch, rows.index), parts)
        first = jax.tree.map(lambda leaf: leaf[0], cut)
        shapes = jax.eval_shape(lambda part: add_free(params, rows, part), first)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, each = jax.lax.scan(add, zero, cut)
        grads, metrics = jax.tree.map(lambda leaf: leaf / parts, total)
        # Back from parts to the order of the rows.
        joined = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(-1), each)
        return grads, {**metrics, **joined}

    def add_free(params: Any, rows: Rows, part: Any) -> Any:
        grads, metrics = of_part(params, part[0], Rows(rows.key, part[1], rows.total))
        metrics.pop("per_example", None)
        return grads, metrics

    return in_parts


def _learn(
    sampler: IndexSampler, state: Any, index: Any, losses: Any, axis_name: str | None
) -> Any:
    """The sampler's state after the losses (b,) of all devices, the same on each of them."""
    if axis_name is not None:
        index, losses = (jax.lax.all_gather(a, axis_name, tiled=True) for a in (index, losses))
    return sampler.update(state, index, losses)


def scan_steps(train_step: TrainStep, n: int) -> TrainStep:
    """n steps as one program, a `lax.scan` over batches stacked on a leading axis of length n.

    The same parameters as n single steps; fewer dispatches. Metrics get the leading axis too.

    Raises ValueError for n < 1 or a step that is already a scan.

    >>> state, metrics = jax.jit(scan_steps(step, 10))(state, {"x": ten_batches})
    """
    check("n", n, n >= 1, ">= 1")
    check("train_step", train_step, train_step.n_steps is None, "a single step, not a scan")

    def run(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(train_step.run, state, batches, length=n)

    return TrainStep(run, train_step.axis_name, n, train_step.accumulate)
