"""Devices of clusters that are not there, for which JAX compiles: used by `benchmarks.scale` and tests.

TPUs need libtpu, which `make libtpu` puts into .cache/libtpu. H100s need JAX's plugin for CUDA and
NVIDIA's compiler and libraries, which `make cuda` puts into .cache/cuda.
"""

import dataclasses
import importlib.util
import os
import pathlib
import sys
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "libtpu"
CUDA = FOLDER.parent / "cuda"
GPU = "h100"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip by its data sheet: TFLOP/s in bfloat16, GB, GB/s of memory, GB/s to its neighbours.

    network: GB/s of a chip to other hosts, where that is not one of its links.
    """

    tflops: float
    memory: float
    bandwidth: float
    links: float
    network: float | None = None


# From the documentation of Cloud TPU and the data sheets of the H100 SXM and of DGX H100; links: all of a
# chip.
CHIPS = {
    "v4": Chip(275, 32, 1228, 300),
    "v5e": Chip(197, 16, 819, 200),
    "v5p": Chip(459, 95, 2765, 600),
    "v6e": Chip(918, 32, 1640, 448),
    GPU: Chip(989, 80, 3350, 900, 50),
}
# Topologies of 4, 16, 64 and 256 chips; of GPUs: slices x hosts x GPUs of a host.
SIZES = {
    "v4": ["2x2x1", "2x2x4", "4x4x4", "4x8x8"],
    "v5e": ["2x2", "4x4", "8x8", "16x16"],
    "v5p": ["2x2x1", "2x2x4", "4x4x4", "4x8x8"],
    "v6e": ["2x2", "4x4", "8x8", "16x16"],
    GPU: ["1x1x4", "1x2x8", "1x8x8", "1x32x8"],
}
MOST = 16  # chips along a side, of TPUs
# What XLA asks for about an H100 SXM: limits of compute capability 9.0 from the CUDA C++ Programming
# Guide, sizes and rates from NVIDIA's data sheet.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3350000000000 device_memory_size: 80000000000 l2_cache_size: 52428800
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class NotInstalled(ImportError):
    """The compiler for a kind of chip is not installed."""


def is_gpu(topology: str) -> bool:
    """Whether a topology such as h100:1x4x8 is one of GPUs."""
    return topology.partition(":")[0] == GPU


def prepare(topology: str = "") -> None:
    """Set what the compilers read at JAX's import; this process computes on its CPU."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if is_gpu(topology):
        # Without a GPU no kernels can be timed.
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0 "
            f"--xla_gpu_shard_autotuning=false --xla_gpu_cuda_data_dir={CUDA}/nvidia/cuda_nvcc"
        )
        sys.path.append(str(CUDA))
        return
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
    sides = [int(side) if side.isdecimal() else 0 for side in shape.split("x")]
    like = SIZES.get(name, [""])[0].split("x")
    if name not in CHIPS or min(sides) < 1 or len(sides) != len(like):
        known = ", ".join(f"{name}:{sizes[1]}" for name, sizes in SIZES.items())
        raise ValueError(f"--topology must be like one of {known}, got {topology!r}")
    # libtpu ends the process for more.
    if name != GPU and max(sides) > MOST:
        raise ValueError(
            f"--topology must have at most {MOST} chips along a side, got {topology!r}"
        )
    return CHIPS[name]


def devices(topology: str) -> list[Any]:
    """The devices of a topology.

    Raises NotInstalled without the compiler for them, ValueError for sizes that no machine has.
    """
    chip_of(topology)
    from jax.experimental import topologies

    if is_gpu(topology):
        if not (CUDA / "jax_plugins").is_dir():
            raise NotInstalled("JAX's plugin for CUDA is not installed: make cuda")
        shape = topology.partition(":")[2]
        found = topologies.get_topology_desc(
            GPU, platform="cuda", target_config=H100, topology=shape
        )
        return list(found.devices)
    if importlib.util.find_spec("libtpu") is None:
        raise NotInstalled("libtpu is not installed: make libtpu, or the extra tpu-compile")
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except RuntimeError as error:
        raise ValueError(f"--topology {topology}: {str(error).splitlines()[0]}") from None
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
    return lower(step.program, args, mesh.devices.flat[0])


def lower(jitted: Any, args: Any, device: Any) -> Any:
    """A jitted function lowered for the platform of a device, which JAX calls "gpu" for CUDA."""
    platform = {"gpu": "cuda"}.get(device.platform, device.platform)
    return jitted.trace(*args).lower(lowering_platforms=(platform,))
