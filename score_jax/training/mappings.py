"""The ways to put one pure step onto devices, each a `MappedStep` for `fit`.

| function | state | a device runs |
|---|---|---|
| `jit_step` | on one device | the whole batch |
| `pmap_step` | a copy on every device | its share, by `jax.pmap` |
| `shard_map_step` | replicated over a mesh | its share, by `jax.shard_map` |
| `global_step` | replicated, or divided over a mesh | its share, and its part of the update |

All but the first support devices of several hosts (`score_jax.training.hosts`). Each host then places
its own part of every batch, and a stop request to one host reaches all hosts in the same call.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax._check import check
from score_jax.training.meshes import (
    AXIS,
    SPACE,
    ShardingOf,
    gathering,
    make_mesh,
    replicated,
    rows_of,
)
from score_jax.training.state import TrainState
from score_jax.training.step import TrainStep
from score_jax.types import Batch, Metrics

_ONE_AT_A_TIME = frozenset({"cpu"})


class MappedStep(NamedTuple):
    """A training step as it runs on devices, whatever the mapping.

    call(mapped_state, batch, stop=False) -> (mapped_state, metrics), the state donated; over several
    hosts `stop` says whether this host was asked to stop, and the metric "stop" whether any was;
    n_steps: per call; enter: state -> mapped state, which owns its buffers; leave: back, to one
    device; place: n_steps batches -> the batch of a call; read: metrics -> arrays (n_steps,) on the
    host, which waits; program: what JAX compiles, for its analyses of memory and cost; hold: mapped
    state -> the state as it is saved, a divided one as it lies, valid until the next call; form: state
    -> the template in which a saved state is read, to be given to enter.
    """

    call: Callable[..., tuple[Any, Any]]
    n_steps: int
    enter: Callable[[TrainState], Any]
    leave: Callable[[Any], TrainState]
    place: Callable[[Sequence[Batch]], Any]
    read: Callable[[Any], dict[str, np.ndarray]]
    program: Any = None
    hold: Callable[[Any], TrainState] = lambda mapped: mapped
    form: Callable[[TrainState], TrainState] = lambda state: state


def _stack(train_step: TrainStep, batches: Sequence[Batch]) -> Batch:
    """The argument of one call: the only batch, or all of them on a new leading axis."""
    if train_step.n_steps is None:
        return batches[0]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _read(metrics: Metrics) -> dict[str, np.ndarray]:
    """Metrics as arrays on the host with one entry per step, a number or an array."""
    found = jax.device_get(metrics)
    steps = np.ndim(found["loss"])  # whether the program has an axis of steps
    return {k: np.reshape(v, (-1, *np.shape(v)[steps:])) for k, v in found.items()}


def _mapped(
    train_step: TrainStep,
    program: Callable[..., Any],
    devices: Sequence[jax.Device] = (),
    stops: Callable[[np.ndarray], Any] | None = None,
    read: Callable[[Any], dict[str, np.ndarray]] = _read,
    **ways: Callable[..., Any],
) -> MappedStep:
    """The program as a `MappedStep`; over several hosts `stops` makes the stop requests."""

    def alone(state: Any, batch: Any, stop: bool = False) -> Any:
        return program(state, batch)

    def together(state: Any, batch: Any, stop: bool = False) -> Any:
        assert stops is not None
        out = program(state, batch, stops(np.full(_ours(devices), stop, np.int32)))
        # gloo hangs if two programs that communicate overlap.
        return jax.block_until_ready(out) if devices[0].platform in _ONE_AT_A_TIME else out

    call = together if _several_hosts(devices) else alone
    return MappedStep(call, train_step.n_steps or 1, read=read, program=program, **ways)


def _several_hosts(devices: Sequence[jax.Device]) -> bool:
    return len({device.process_index for device in devices}) > 1


def _ours(devices: Sequence[jax.Device]) -> int:
    """The number of devices of this host."""
    return sum(device.process_index == jax.process_index() for device in devices)


def _stoppable(
    train_step: TrainStep,
    devices: Sequence[jax.Device],
    highest: Callable[[Any], Any],
    spread: Any = None,
) -> Callable[..., Any]:
    """The step, its gradient computed by `spread` if that is given.

    Over several hosts it also takes the stop requests and has the metric "stop".
    """
    run = functools.partial(train_step.run, spread=spread) if spread else train_step.run
    if not _several_hosts(devices):
        return run

    def stoppable(state: Any, batch: Batch, stops: Any) -> tuple[Any, Metrics]:
        state, metrics = run(state, batch)
        return state, {**metrics, "stop": highest(stops)}

    return stoppable


def _axis(train_step: TrainStep, function: str, *, mapped: bool) -> str:
    """The mapped axis of the step. Raises ValueError unless there is one exactly if `mapped`."""
    name = train_step.axis_name
    if mapped:
        check("axis_name", name, name is not None, f"given to make_train_step for {function}")
    else:
        check("axis_name", name, name is None, f"None for {function}; pmap_step maps an axis")
    return name or AXIS


def jit_step(
    train_step: TrainStep, *, compiler_options: dict[str, str | bool | int | float] | None = None
) -> MappedStep:
    """The step jitted for one device, the state donated.

    Raises ValueError if the step has a mapped axis.

    >>> result = fit(state, jit_step(scan_steps(step, 10)), batches, steps=1000)
    """
    _axis(train_step, "jit_step", mapped=False)
    return _mapped(
        train_step,
        jax.jit(train_step.run, donate_argnums=0, compiler_options=compiler_options),
        enter=lambda state: jax.tree.map(jnp.copy, state),
        leave=lambda state: state,
        place=lambda batches: _stack(train_step, batches),
    )


def replicate(state: Any, devices: Sequence[jax.Device], axis_name: str = AXIS) -> Any:
    """A copy of every leaf on every device, on a new leading axis of that length, for `jax.pmap`.

    The copies own their buffers: donating them does not change `state`. With several hosts these are
    the copies of this host's devices.
    """
    devices = [device for device in devices if device.process_index == jax.process_index()]
    sharding = NamedSharding(Mesh(np.asarray(devices), (axis_name,)), PartitionSpec(axis_name))

    def spread(leaf: Any) -> Any:
        row = leaf.reshape((1, *leaf.shape))
        # Without the last argument a device might receive the buffer that it already has.
        rows = [jax.device_put(row, device, may_alias=False) for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *leaf.shape), sharding, rows)

    return jax.tree.map(spread, state)


@jax.jit
def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _local(leaf: Any) -> Any:
    """The part of an array on our first device."""
    return leaf.addressable_shards[0].data


def unreplicate(state: Any) -> Any:
    """The copy of the first device, on that device, without the leading axis."""
    return _first(jax.tree.map(_local, state))


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
    """The step mapped by `jax.pmap` over `devices` (all of all hosts by default), state donated.

    Each device has a copy of the state, which stay identical, and its share of every batch.

    Raises ValueError if the step was made without `axis_name` (it would never average).

    >>> result = fit(state, pmap_step(scan_steps(step, 10)), batches, steps=1000)
    """
    name = _axis(train_step, "pmap_step", mapped=True)
    devices = list(jax.devices() if devices is None else devices)
    run = _stoppable(train_step, devices, lambda stop: jax.lax.pmax(stop, name))
    axis = 0 if train_step.n_steps is None else 1
    return _mapped(
        train_step,
        jax.pmap(run, axis_name=name, devices=devices, donate_argnums=0),
        devices,
        stops=lambda own: own,
        enter=lambda state: replicate(state, devices, name),
        leave=unreplicate,
        hold=unreplicate,
        place=lambda batches: split_batch(_stack(train_step, batches), _ours(devices), axis=axis),
        read=lambda metrics: _read(unreplicate(metrics)),
    )


def _placer(train_step: TrainStep, mesh: Mesh) -> Callable[[Sequence[Batch]], Any]:
    """batches of this host -> the global arrays of one call, divided over the mesh.

    Rows are divided over all axes but "space", which divides the height of images (b, h, w, c) and of
    volumes.
    """
    axis = 0 if train_step.n_steps is None else 1
    names, space = rows_of(mesh), mesh.shape.get(SPACE, 1)
    own = _ours(list(mesh.devices.flat))
    check("space", space, own % space == 0, f"a divisor of the {own} devices of this host")
    ours = own // space  # groups of devices with different rows

    def put(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        size = leaf.shape[axis]
        if size % ours:
            raise ValueError(f"the batch of {size} does not divide evenly over {ours} devices")
        parts: list[Any] = [*[None] * axis, names]
        if space > 1 and leaf.ndim >= axis + 4:
            height = leaf.shape[axis + 1]
            check(
                "space", space, height % space == 0, f"a divisor of the height of images, {height}"
            )
            parts.append(SPACE)
        shape = (*leaf.shape[:axis], size // ours * (mesh.size // space), *leaf.shape[axis + 1 :])
        lies = NamedSharding(mesh, PartitionSpec(*parts))
        return jax.make_array_from_process_local_data(lies, leaf, shape)

    return lambda batches: jax.tree.map(put, _stack(train_step, batches))


def _stops(mesh: Mesh) -> Callable[[np.ndarray], Any]:
    """This host's stop request, one entry per device -> the array of all devices."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return lambda own: jax.make_array_from_process_local_data(sharding, own, (mesh.size,))


def _enter(sharding_of: Callable[[Any], NamedSharding]) -> Callable[[Any], Any]:
    """state -> global arrays that own their buffers, each with its sharding."""

    def put(leaf: Any) -> Any:
        sharding = sharding_of(leaf)
        if sharding.is_fully_addressable:
            # A copy, because device_put returns the buffer that a device already has.
            return jax.device_put(jnp.copy(leaf), sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf  # a restored state lies as it should, and only we hold it
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = np.asarray(jax.random.key_data(leaf))
            impl = jax.random.key_impl(leaf)
            whole = NamedSharding(sharding.mesh, PartitionSpec())
            placed = jax.make_array_from_callback(words.shape, whole, lambda i: words[i])
            return jax.random.wrap_key_data(placed, impl=impl)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])

    return lambda state: jax.tree.map(put, state)


def shard_map_step(
    train_step: TrainStep, *, devices: Sequence[jax.Device] | None = None
) -> MappedStep:
    """The step mapped by `jax.shard_map` over a mesh of `devices` (all by default), state donated.

    The same body as under `pmap_step`; the state is replicated over the mesh without a further axis.

    Raises ValueError if the step was made without `axis_name` (it would never average).

    >>> result = fit(state, shard_map_step(scan_steps(step, 10)), batches, steps=1000)
    """
    name = _axis(train_step, "shard_map_step", mapped=True)
    mesh = make_mesh(devices, name)
    devices = list(mesh.devices.flat)
    run = _stoppable(train_step, devices, lambda stop: jax.lax.pmax(jnp.max(stop), name))
    whole, shared = PartitionSpec(), PartitionSpec(name)
    rows = shared if train_step.n_steps is None else PartitionSpec(None, name)
    specs = (whole, rows, shared) if _several_hosts(devices) else (whole, rows)
    # The body averages by itself; with check_vma, gradients would be summed before that.
    body = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(whole, whole), check_vma=False)
    return _mapped(
        train_step,
        jax.jit(body, donate_argnums=0),
        devices,
        stops=_stops(mesh),
        enter=_enter(lambda leaf: NamedSharding(mesh, whole)),
        leave=_first_copy,
        hold=_first_copy,
        place=_placer(train_step, mesh),
    )


def _first_copy(state: Any) -> Any:
    """The copy of a replicated state on our first device, its own buffers."""
    return jax.tree.map(lambda leaf: _local(leaf).copy(), state)


def global_step(
    train_step: TrainStep,
    *,
    devices: Sequence[jax.Device] | None = None,
    sharding_of: ShardingOf | None = None,
) -> MappedStep:
    """The step jitted on global arrays: rows of the batch divided over `devices`, state donated.

    Each device computes the gradient of its part of the batch, which is averaged in float32. The state
    is replicated, unless `sharding_of` (`divided`, `replicated`) gives the sharding of each leaf. Each
    device then holds and updates its part of the state, and gathers the parameters in every step; the
    devices are those of its mesh, which may divide images too.

    Raises ValueError if the step has a mapped axis.

    >>> result = fit(state, global_step(scan_steps(step, 10)), batches, steps=1000)
    """
    _axis(train_step, "global_step", mapped=False)
    mesh = make_mesh(devices)
    if sharding_of is not None:
        mesh = cast(Mesh, sharding_of(jnp.zeros(())).mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    lies = sharding_of or replicated(mesh)
    devices = list(mesh.devices.flat)
    run = _stoppable(train_step, devices, jnp.max, gathering(mesh, lies))

    def constrained(state: Any, *inputs: Any) -> tuple[Any, Metrics]:
        state, metrics = run(state, *inputs)
        held = jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, lies(a)), state)
        return held, jax.lax.with_sharding_constraint(metrics, whole)

    return _mapped(
        train_step,
        jax.jit(constrained, donate_argnums=0),
        devices,
        stops=_stops(mesh),
        enter=_enter(lies),
        leave=_first_copy if sharding_of is None else _gather(mesh),
        hold=_first_copy if sharding_of is None else lambda state: state,
        form=(lambda state: state) if sharding_of is None else _form(sharding_of),
        place=_placer(train_step, mesh),
    )


def _form(sharding_of: Callable[[Any], NamedSharding]) -> Callable[[Any], Any]:
    """state -> shapes and shardings of its leaves; keys stay, as each host reads them whole."""

    def form(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of(leaf))

    return lambda state: jax.tree.map(form, state)


def _gather(mesh: Mesh) -> Callable[[Any], Any]:
    """A divided state -> the whole of it on the host, one leaf at a time; keys stay keys."""
    whole = jax.jit(lambda leaf: leaf, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def fetch(leaf: Any) -> Any:
        local = _local(jax.block_until_ready(whole(leaf)))
        is_key = jnp.issubdtype(local.dtype, jax.dtypes.prng_key)
        return local.copy() if is_key else np.asarray(local).copy()

    return lambda state: jax.tree.map(fetch, state)
