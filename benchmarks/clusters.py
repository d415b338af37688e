"""Devices of clusters that are not there, for which JAX compiles: used by `benchmarks.scale` and tests.

libtpu must be importable: `make libtpu` puts it into .cache/libtpu.
"""

import dataclasses
import importlib.util
import os
import pathlib
import sys
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "libtpu"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip by its data sheet: TFLOP/s in bfloat16, GB, GB/s of memory, GB/s to its neighbours."""

    tflops: float
    memory: float
    bandwidth: float
    links: float


# From the documentation of Cloud TPU; links: all of a chip.
CHIPS = {
    "v4": Chip(275, 32, 1228, 300),
    "v5e": Chip(197, 16, 819, 200),
    "v5p": Chip(459, 95, 2765, 600),
    "v6e": Chip(918, 32, 1640, 448),
}
# Topologies of 4, 16, 64 and 256 chips.
SIZES = {
    "v4": ["2x2x1", "2x2x4", "4x4x4", "4x8x8"],
    "v5e": ["2x2", "4x4", "8x8", "16x16"],
    "v5p": ["2x2x1", "2x2x4", "4x4x4", "4x8x8"],
    "v6e": ["2x2", "4x4", "8x8", "16x16"],
}


class NotInstalled(ImportError):
    """The compiler for a kind of chip is not installed."""


def prepare() -> None:
    """Set what the compilers read at JAX's import; this process computes on its CPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # A second process would otherwise stop at the lock file of libtpu.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    if importlib.util.find_spec("libtpu") is None and FOLDER.is_dir():
        sys.path.append(str(FOLDER))


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:16x16. Raises ValueError for an unknown one."""
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not shape:
        known = ", ".join(f"{name}:{sizes[1]}" for name, sizes in SIZES.items())
        raise ValueError(f"--topology must be like one of {known}, got {topology!r}")
    return CHIPS[name]


def devices(topology: str) -> list[Any]:
    """The devices of a topology. Raises NotInstalled without the compiler for them."""
    chip_of(topology)
    from jax.experimental import topologies

    if importlib.util.find_spec("libtpu") is None:
        raise NotInstalled("libtpu is not installed: make libtpu, or the extra tpu-compile")
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    return list(found.devices)


def lowered(step: Any, state: Any, batch: Any, lies: Any, *, scanned: bool = False) -> Any:
    """The program of a `MappedStep` for the shapes of a state and a batch, as they lie on a mesh.

    scanned: the batch has a leading axis of steps.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from score_jax import training

    mesh = lies(jnp.zeros(())).mesh
    lead = (None,) if scanned else ()
    names, space = training.rows_of(mesh), mesh.shape.get("space", 1)
    shaped = lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at)

    def rows(leaf: Any) -> Any:
        high = ("space",) if space > 1 and len(leaf.shape) >= len(lead) + 4 else ()
        return shaped(leaf, NamedSharding(mesh, PartitionSpec(*lead, names, *high)))

    args = [jax.tree.map(lambda s: shaped(s, lies(s)), state), jax.tree.map(rows, batch)]
    if len({device.process_index for device in mesh.devices.flat}) > 1:
        wishes = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        args.append(jax.ShapeDtypeStruct((mesh.size,), jnp.int32, sharding=wishes))
    return step.program.lower(*args)
