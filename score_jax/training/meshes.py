"""Meshes of devices, and how the state of a training step is divided over them.

| axis of a mesh | what is divided over it |
|---|---|
| "devices" | the batch |
| "data" | the batch |
| "fsdp" | the batch and the state |
| "space" | the height of every image, where one image is too much work for one device |

More devices than `MOST` on the axis "fsdp" would save little memory and leave few entries of each array
to a device: a TPU's compiler scatters gradients only where a device keeps a multiple of eight output
channels. Further devices repeat the division along the axis "data". Each step gathers the
parameters before it uses them, and sums the gradients so that each device receives its own part of
them: fully sharded data parallelism (arXiv:1910.02054, arXiv:2004.13336).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from score_jax._check import check
from score_jax.training.step import Gradient, mean_over
from score_jax.types import Batch, Metrics, Params, PRNGKey

AXIS = "devices"
DATA, FSDP, SPACE = "data", "fsdp", "space"
MOST = 32  # devices that a state is divided over
_WHOLE = 2**12  # entries: smaller arrays are not divided

ShardingOf = Callable[[Any], NamedSharding]  # a leaf, or its shape -> how it lies on the devices


def make_mesh(
    devices: Sequence[jax.Device] | None = None,
    axis_name: str = AXIS,
    *,
    fsdp: int | None = None,
    space: int = 1,
) -> Mesh:
    """A mesh over the devices, all of all hosts by default.

    It has one axis; or with `fsdp` the axes ("data", "fsdp"), the second of that length; and with
    `space` > 1 also "space", over which the height of images is divided. Neighbours in the list of
    devices, which are mostly those of one host, share an image, and then a state.

    Raises ValueError unless the number of devices is a multiple of `fsdp` times `space`.

    >>> mesh = make_mesh(fsdp=division(state, len(jax.devices())))
    """
    found = np.asarray(jax.devices() if devices is None else devices)
    check(
        "space", space, space >= 1 and found.size % space == 0, f"a divisor of {found.size} devices"
    )
    if fsdp is not None:
        ok = fsdp >= 1 and (found.size // space) % fsdp == 0
        check(
            "fsdp", fsdp, ok, f"a divisor of the {found.size // space} devices for different images"
        )
    lengths = [*([-1] if fsdp is None else [-1, fsdp]), *([space] if space > 1 else [])]
    names = [*([axis_name] if fsdp is None else [DATA, FSDP]), *([SPACE] if space > 1 else [])]
    return Mesh(found.reshape(lengths), names)


def rows_of(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """The axes of a mesh that the batch is divided over."""
    return tuple(name for name in mesh.axis_names if name != SPACE)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _divided_axis(shape: tuple[int, ...], pieces: int) -> int | None:
    """The axis that is cut into pieces: the last one, else the longest; None if none can be.

    The input channels of a convolution's kernel, its last axis but one, are never cut: XLA would divide
    the convolution itself instead of gathering the kernel.
    """
    inputs = len(shape) - 2 if len(shape) >= 3 else None
    axes = [i for i, n in enumerate(shape) if n % pieces == 0 and i != inputs]
    if len(shape) - 1 in axes:
        return len(shape) - 1
    return max(axes, key=lambda i: shape[i], default=None)


def replicated(mesh: Mesh | AbstractMesh) -> ShardingOf:
    """leaf -> its sharding when every device of a mesh holds the whole state.

    >>> step = global_step(scan_steps(step, 10), sharding_of=replicated(make_mesh(space=4)))
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return lambda leaf: whole


def divided(mesh: Mesh | AbstractMesh, *, smallest: int = _WHOLE) -> ShardingOf:
    """leaf -> its sharding when parameters, optimiser and averages are divided over a mesh.

    They are divided over the axis "fsdp" of the mesh, or over its only axis. An array is cut along its
    last axis if the number of pieces divides that, otherwise along the longest axis that it divides, but
    never along the input channels of a convolution. Arrays of fewer than `smallest` entries, and those
    without such an axis, are replicated. An abstract mesh serves for arithmetic without devices.

    >>> mesh = make_mesh(fsdp=division(state, len(jax.devices())))
    >>> step = global_step(scan_steps(step, 10), sharding_of=divided(mesh))
    """
    name = rows_of(mesh)[-1]
    pieces = mesh.shape[name]

    def sharding_of(leaf: Any) -> NamedSharding:
        axis = None if _is_key(leaf) else _divided_axis(leaf.shape, pieces)
        if axis is None or math.prod(leaf.shape) < smallest:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, name))

    return sharding_of


class Share(NamedTuple):
    """Bytes of a state: `whole`, and `held` by each of the devices that it is divided over."""

    whole: int
    held: int
    pieces: int

    @property
    def ratio(self) -> float:
        """What a device holds beside an even share of the whole, 1 at best."""
        return self.held * self.pieces / self.whole if self.whole else 1.0


def share_of(state: Any, sharding_of: ShardingOf) -> Share:
    """What each device holds of a state, or of its shapes, by exact arithmetic; keys are not counted.

    >>> share_of(state, divided(mesh)).ratio <= 1.2
    True
    """
    whole = held = 0
    mesh = sharding_of(jax.ShapeDtypeStruct((), jnp.float32)).mesh
    leaves = [leaf for leaf in jax.tree.leaves(state) if not _is_key(leaf)]
    # Networks have few shapes, each many times.
    for (shape, dtype), times in Counter((leaf.shape, leaf.dtype) for leaf in leaves).items():
        size = times * dtype.itemsize
        lies = sharding_of(jax.ShapeDtypeStruct(shape, dtype))
        whole += size * math.prod(shape)
        held += size * math.prod(lies.shard_shape(shape))
    return Share(whole, held, mesh.shape[rows_of(mesh)[-1]])


def division(state: Any, n_devices: int, *, most: int = MOST) -> int:
    """The number of devices to divide a state over: the divisor of `n_devices`, at most `most`, with
    which a device holds the least.

    state: the state or its shapes.

    >>> division(state, 256)
    32
    """
    check("n_devices", n_devices, n_devices >= 1, ">= 1")
    check("most", most, most >= 1, ">= 1")
    divisors = [n for n in range(1, min(most, n_devices) + 1) if n_devices % n == 0]
    held = lambda n: share_of(state, divided(AbstractMesh((n,), (FSDP,)))).held
    return min(divisors, key=held)


def gathering(mesh: Mesh, sharding_of: ShardingOf) -> Callable[[Gradient], Gradient]:
    """gradient of a batch -> that of a batch and parameters which are divided over a mesh.

    Every device gathers the parameters, computes the gradient of its part of the batch, and receives its
    own part of the mean over all devices, which is computed in float32. The gradient's metrics are
    averaged too, except "per_example". Devices that share images ("space") each average a part of a
    large gradient over the rest of the devices, and gather it, unless the state is divided.
    """
    axes = rows_of(mesh)
    last, n = axes[-1], math.prod(mesh.shape[name] for name in axes)
    rows, whole = PartitionSpec(axes), PartitionSpec()
    space = mesh.shape.get(SPACE, 1)

    def axis_of(spec: PartitionSpec) -> int | None:
        return next((i for i, name in enumerate(spec) if name == last), None)

    def gather(leaf: Any, spec: PartitionSpec) -> Any:
        axis = axis_of(spec)
        return leaf if axis is None else jax.lax.all_gather(leaf, last, axis=axis, tiled=True)

    def over_space(leaf: Any) -> Any:
        # XLA adds up a gradient over "space" before anything else is done with it. Each device then adds
        # up a part over the rest. The whole is asked for first, or XLA would cut the convolution.
        free = [i for i, size in enumerate(leaf.shape) if size % space == 0]
        if 1 in (space, n) or leaf.size < _WHOLE or not free:
            return mean_over(leaf, axes)
        cut = PartitionSpec(*[None] * max(free, key=lambda i: leaf.shape[i]), SPACE)
        lie = jax.lax.with_sharding_constraint
        return lie(mean_over(lie(lie(leaf, whole), cut), axes), whole)

    def scatter(leaf: Any, spec: PartitionSpec) -> Any:
        axis = axis_of(spec)
        if axis is None:
            return over_space(leaf)
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        part = jax.lax.psum_scatter(wide, last, scatter_dimension=axis, tiled=True)
        part = jax.lax.psum(part, axes[:-1]) if len(axes) > 1 else part
        return (part / n).astype(leaf.dtype)

    def spread(gradient: Gradient) -> Gradient:
        def divided_gradient(
            params: Params, key: PRNGKey, batch: Batch, drawn: dict[str, Any]
        ) -> tuple[Params, Metrics]:
            specs = jax.tree.map(lambda leaf: sharding_of(leaf).spec, params)

            def part(params: Params, key: PRNGKey, batch: Batch, drawn: Any) -> Any:
                full = jax.tree.map(gather, params, specs)
                grads, metrics = gradient(full, key, batch, drawn)
                each = metrics.pop("per_example", None)
                return jax.tree.map(scatter, grads, specs), mean_over(metrics, axes), each

            grads, metrics, each = jax.shard_map(
                part, mesh=mesh, in_specs=(specs, whole, rows, rows),
                out_specs=(specs, whole, rows), axis_names=set(axes), check_vma=False,
            )(params, key, batch, drawn)  # fmt: skip
            return grads, metrics if each is None else {**metrics, "per_example": each}

        return divided_gradient

    return spread
