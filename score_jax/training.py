"""Training: the state, one pure step, its optimiser and average, and the mappings onto devices.

    key_n = fold_in(key, n)         all randomness of step n: its state is the step number
    g     = grad loss(params, key_n, prepare(batch)), averaged over the devices
    params <- params + optimizer(clip(g))
    ema    <- d_n ema + (1 - d_n) params,   d_n = min(d, (1 + n) / (10 + n))         (1)

The step is one function of `(state, batch)`. `scan_steps` makes n of them one program; `jit_step`
and `pmap_step` put either on devices as a `MappedStep`, which is what `fit` drives.

>>> optimizer = make_optimizer(learning_rate=2e-4, warmup=1000)
>>> step = make_train_step(loss, optimizer, ema_decay=0.999, axis_name="devices")
>>> state = init_state(jax.random.key(0), params, optimizer)
>>> with open_checkpoints(workdir / "checkpoints") as checkpoints:
...     result = fit(state, pmap_step(scan_steps(step, 10)), batches, steps=5000,
...                  checkpoints=checkpoints, metrics_path=workdir / "metrics.jsonl")
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ._fit import FitResult as FitResult
from ._fit import MappedStep as MappedStep
from ._fit import NonFiniteLoss as NonFiniteLoss
from ._fit import fit as fit
from .types import Batch, Loss, Metrics, Params

Prepare = Callable[[Any, Any], Any]  # (key, batch) -> batch, run inside the jitted step

_INDEX_STREAM = 0x1DE0  # of the keys, apart from devices and from splits
_FIELDS = ("step", "params", "ema_params", "opt_state", "key")  # of every state


@runtime_checkable
class IndexSampler(Protocol):
    """What draws the index of every example: `score_jax.losses.IndexSampler` has the words."""

    @property
    def init(self) -> Callable[[], Any]:
        """() -> state."""
        ...

    @property
    def draw(self) -> Callable[[Any, Any, int], tuple[Any, Any]]:
        """(state, key, b) -> (index (b,), weight (b,))."""
        ...

    @property
    def update(self) -> Callable[[Any, Any, Any], Any]:
        """(state, index, losses) -> state."""
        ...


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class TrainState:
    """All that training carries from one step to the next; every field holds only arrays.

    step: int32 (), updates done; params: Linen variables; ema_params: their average, float32;
    opt_state: of the optimiser; key: typed, the same during the whole run (steps fold their number
    into it); index_sampler: what the sampler of indices has learned (`score_jax.losses`), None
    without one.
    """

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any
    key: Any
    index_sampler: Any = None

    def tree_flatten_with_keys(self) -> tuple[Any, tuple[str, ...]]:
        """The fields; no node for a sampler that is not there, as in states saved before it was."""
        names = _FIELDS if self.index_sampler is None else (*_FIELDS, "index_sampler")
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], children: Any) -> "TrainState":
        """The state of these fields."""
        return cls(**dict(zip(names, children, strict=True)))


def init_state(
    key: Key[Array, ""],
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    index_sampler: IndexSampler | None = None,
) -> TrainState:
    """The state before the first step. The average starts at the parameters, in float32.

    `index_sampler` is the one that the step is made with, if any.

    >>> state = init_state(jax.random.key(0), module.init(init_key, x, label), optimizer)
    """
    # Its own buffers: a donated state must not hold one buffer twice.
    ema_params = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
    drawn = None if index_sampler is None else index_sampler.init()
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, ema_params, optimizer.init(params), key, drawn)


def _check(name: str, value: Any, ok: bool, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def warmed_up(
    learning_rate: float | Callable[[Any], Any], warmup: int
) -> Callable[[Any], Float[Array, ""]]:
    """The rate of update n = 0, 1, ...: rate(n) * min(1, (n + 1) / warmup).

    The peak is the learning rate itself. `learning_rate` is a number or an optax schedule.

    >>> warmed_up(2e-4, 1000)(999)
    Array(0.0002, dtype=float32)
    """
    _check("warmup", warmup, warmup >= 0, "an integer >= 0")
    if not callable(learning_rate):
        ok = math.isfinite(learning_rate) and learning_rate > 0
        _check("learning_rate", learning_rate, ok, "a finite number > 0 or a schedule")

    def schedule(n: Any) -> Float[Array, ""]:
        rate = learning_rate(n) if callable(learning_rate) else learning_rate
        n = jnp.asarray(n, jnp.float32)
        return jnp.asarray(rate, jnp.float32) * jnp.minimum(1.0, (n + 1) / max(warmup, 1))

    return schedule


def make_optimizer(
    *,
    learning_rate: float | Callable[[Any], Any] = 2e-4,
    warmup: int = 0,
    grad_clip: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam (AdamW with `weight_decay`) after clipping by the global norm, with linear warm-up.

    learning_rate: the peak, or an optax schedule n -> rate that the warm-up multiplies; warmup: the
    number of updates until the full rate; grad_clip: the largest Euclidean norm of all gradients
    together, None for no clipping; weight_decay: only on leaves of two axes or more, so not on
    biases and norms.

    Raises ValueError naming the argument for values outside these ranges.

    >>> optimizer = make_optimizer(learning_rate=2e-4, warmup=5000, grad_clip=1.0)
    """
    if grad_clip is not None:
        _check("grad_clip", grad_clip, grad_clip > 0, "> 0 or None")
    _check("b1", b1, 0 <= b1 < 1, "in [0, 1)")
    _check("b2", b2, 0 <= b2 < 1, "in [0, 1)")
    _check("eps", eps, eps > 0, "> 0")
    _check("weight_decay", weight_decay, weight_decay >= 0, ">= 0")
    clip = optax.identity() if grad_clip is None else optax.clip_by_global_norm(grad_clip)
    decay = (
        optax.add_decayed_weights(weight_decay, lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
        if weight_decay
        else optax.identity()
    )
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        decay,
        optax.scale_by_learning_rate(warmed_up(learning_rate, warmup)),
    )


def ema_decay_at(step: int | Int[Array, ""], decay: float) -> Float[Array, ""]:
    """d_n of eq. (1): min(decay, (1 + n) / (10 + n)) for the n-th update, n = 1, 2, ...

    An average that starts short, so that the samples drawn early are usable.

    >>> ema_decay_at(1, 0.999)
    Array(0.18181819, dtype=float32)
    """
    n = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + n) / (10 + n))


@dataclass(frozen=True)
class TrainStep:
    """A pure step: `run(state, batch) -> (state, metrics)`, also called directly.

    axis_name: the mapped axis it averages over, None for one device. n_steps: None for one step
    with scalar metrics; n for a scan of n, whose batches and metrics have a leading axis n.
    """

    run: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    axis_name: str | None = None
    n_steps: int | None = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Run the step."""
        return self.run(state, batch)


def _global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, in float32."""
    squares = (jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))


def _draw_indices(
    sampler: IndexSampler, state: TrainState, batch: Batch, axis_name: str | None
) -> Batch:
    """The batch with "index" and "weight" (b,): this device's share of one draw for all of them.

    The draw does not depend on how many devices there are.
    """
    # A number of its own, out of the way of the devices' and of what `split` folds in.
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), _INDEX_STREAM)
    b = jax.tree.leaves(batch)[0].shape[0]
    n_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    index, weight = sampler.draw(state.index_sampler, key, b * n_devices)
    if axis_name is not None:
        start = jax.lax.axis_index(axis_name) * b
        index, weight = (jax.lax.dynamic_slice_in_dim(a, start, b) for a in (index, weight))
    return {**batch, "index": index, "weight": weight}


def _learn_indices(
    sampler: IndexSampler, state: TrainState, index: Any, losses: Any, axis_name: str | None
) -> Any:
    """The sampler's state after the losses (b,) of all devices, the same on each of them."""
    if axis_name is not None:
        index, losses = (jax.lax.all_gather(a, axis_name, tiled=True) for a in (index, losses))
    return sampler.update(state.index_sampler, index, losses)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
    prepare: Prepare | None = None,
    axis_name: str | None = None,
    index_sampler: IndexSampler | None = None,
) -> TrainStep:
    """The training step of eq. (1), pure and not yet jitted.

    `prepare(key, batch)` runs inside the step (dequantise, flip, scale), so that integers travel to
    the device. With `axis_name` the step must be mapped over that axis (`pmap_step`): every device
    draws its own noise, gradients and metrics are averaged. Metrics: those of the loss, "loss",
    "grad_norm" (before clipping) and "finite" (loss, gradients and update all finite).

    With `index_sampler` the batch, a dict, reaches the loss with "index" and "weight" (b,), and the
    loss gives back "per_example" (b,) among its metrics, from which the sampler learns
    (`score_jax.losses.discrete_loss`). The state must be made with the same sampler.

    Raises ValueError unless 0 <= ema_decay < 1.

    >>> step = make_train_step(loss, optimizer, ema_decay=0.999)
    >>> state, metrics = jax.jit(step)(state, {"x": x})
    """
    _check("ema_decay", ema_decay, 0 <= ema_decay < 1, "in [0, 1)")

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        prepare_key, loss_key = jax.random.split(key)
        if prepare is not None:
            batch = prepare(prepare_key, batch)
        learned = state.index_sampler
        if index_sampler is not None:
            batch = _draw_indices(index_sampler, state, batch, axis_name)
        grad_fn = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), grads = grad_fn(state.params, loss_key, batch)
        metrics = {**metrics, "loss": value}
        if index_sampler is not None:
            per_example = metrics.pop("per_example")
            learned = _learn_indices(index_sampler, state, batch["index"], per_example, axis_name)
        if axis_name is not None:
            grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        ema_params = optax.incremental_update(
            params, state.ema_params, 1 - ema_decay_at(step, ema_decay)
        )
        grad_norm = _global_norm(grads)
        sizes = metrics["loss"] + grad_norm + _global_norm(updates)
        metrics |= {"grad_norm": grad_norm, "finite": jnp.isfinite(sizes)}
        return TrainState(step, params, ema_params, opt_state, state.key, learned), metrics

    return TrainStep(train_step, axis_name)


def scan_steps(train_step: TrainStep, n: int) -> TrainStep:
    """n steps as one program, a `lax.scan` over batches stacked on a leading axis of length n.

    The same parameters as n single steps; fewer dispatches. Metrics get the leading axis too.

    Raises ValueError for n < 1 or a step that is already a scan.

    >>> state, metrics = jax.jit(scan_steps(step, 10))(state, {"x": ten_batches})
    """
    _check("n", n, n >= 1, ">= 1")
    _check("train_step", train_step, train_step.n_steps is None, "a single step, not a scan")

    def run(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(train_step.run, state, batches, length=n)

    return TrainStep(run, train_step.axis_name, n)


def _stack(train_step: TrainStep, batches: Sequence[Batch]) -> Batch:
    """The argument of one call: the only batch, or all of them on a new leading axis."""
    if train_step.n_steps is None:
        return batches[0]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _read(metrics: Metrics) -> dict[str, np.ndarray]:
    """Metrics as arrays on the host with one entry per step."""
    return {name: np.reshape(value, -1) for name, value in jax.device_get(metrics).items()}


def jit_step(
    train_step: TrainStep, *, compiler_options: dict[str, Any] | None = None
) -> MappedStep:
    """The step jitted for one device, the state donated.

    Raises ValueError if the step wants a mapped axis.

    >>> result = fit(state, jit_step(scan_steps(step, 10)), batches, steps=1000)
    """
    ok = train_step.axis_name is None
    _check("axis_name", train_step.axis_name, ok, "None for jit_step; pmap_step maps an axis")
    return MappedStep(
        call=jax.jit(train_step.run, donate_argnums=0, compiler_options=compiler_options),
        n_steps=train_step.n_steps or 1,
        enter=lambda state: jax.tree.map(lambda leaf: leaf.copy(), state),
        leave=lambda state: state,
        place=lambda batches: _stack(train_step, batches),
        read=_read,
    )


def replicate(state: Any, devices: Sequence[jax.Device], axis_name: str = "devices") -> Any:
    """A copy of every leaf on every device, on a new leading axis of that length, for `jax.pmap`.

    The copies own their buffers: donating them leaves `state` as it is.
    """
    mesh = jax.sharding.Mesh(np.asarray(devices), (axis_name,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis_name))

    def spread(leaf: Any) -> Any:
        row = leaf.reshape((1, *leaf.shape))
        # device_put to the device where an array already is returns the same buffer.
        rows = [jax.device_put(row, device).copy() for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *leaf.shape), sharding, rows)

    return jax.tree.map(spread, state)


@jax.jit
def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def unreplicate(state: Any) -> Any:
    """The copy of the first device, on that device, without the leading axis."""
    return _first(jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, state))


def split_batch(batch: Batch, n_devices: int, *, axis: int = 0) -> Batch:
    """Split the batch axis over devices and put the devices first: (k, b, ...) -> (n, k, b/n, ...).

    `axis` is where the batch axis is, 0 or 1 (after the steps of a scan).

    Raises ValueError if the batch cannot be divided evenly.
    """

    def split(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        size = leaf.shape[axis]
        if size % n_devices:
            raise ValueError(f"the batch of {size} does not divide evenly over {n_devices} devices")
        shape = (*leaf.shape[:axis], n_devices, size // n_devices, *leaf.shape[axis + 1 :])
        return np.moveaxis(leaf.reshape(shape), axis, 0)

    return jax.tree.map(split, batch)


def pmap_step(train_step: TrainStep, *, devices: Sequence[jax.Device] | None = None) -> MappedStep:
    """The step mapped by `jax.pmap` over `devices` (all local ones by default), state donated.

    Each device has a copy of the state, which stay identical, and its share of every batch.

    Raises ValueError if the step was made without `axis_name` (it would never average).

    >>> result = fit(state, pmap_step(scan_steps(step, 10)), batches, steps=1000)
    """
    name = train_step.axis_name
    if name is None:
        raise ValueError("axis_name must be given to make_train_step for pmap_step, got None")
    devices = list(jax.local_devices() if devices is None else devices)
    axis = 0 if train_step.n_steps is None else 1
    return MappedStep(
        call=jax.pmap(train_step.run, axis_name=name, devices=devices, donate_argnums=0),
        n_steps=train_step.n_steps or 1,
        enter=lambda state: replicate(state, devices, name),
        leave=unreplicate,
        place=lambda batches: split_batch(_stack(train_step, batches), len(devices), axis=axis),
        read=lambda metrics: _read(unreplicate(metrics)),
    )
