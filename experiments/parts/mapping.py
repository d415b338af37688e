"""The training step of a run on devices, as the part "mesh" of its config maps it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from score_jax import training

from .. import runs
from ..run_config import Config

MANY = 16  # devices from which on `mesh.shard auto` divides the state


def sharding_of(run: runs.Run, devices: Sequence[jax.Device]) -> Any:
    """How the state lies on a mesh of the devices, for `global_step`; None for a copy on each."""
    c = run.config.mesh
    if c.mapping != "jit":
        return None
    n, space = len(devices), c.space
    if c.shard == "fsdp" or (c.shard == "auto" and n >= MANY):
        fsdp = training.division(run.shapes, n // space)
        return training.divided(training.make_mesh(devices, fsdp=fsdp, space=space))
    return training.replicated(training.make_mesh(devices, space=space)) if space > 1 else None


def mapped_step(run: runs.Run, devices: Sequence[jax.Device] | None = None) -> training.MappedStep:
    """The training step of a run on `devices`, all of all hosts by default."""
    c = run.config
    devices = jax.devices() if devices is None else devices
    step = runs.make_step(run, None if c.mesh.mapping == "jit" else "devices")
    step = training.scan_steps(step, c.train.steps_per_call)
    lies = sharding_of(run, devices)
    return {
        "pmap": lambda: training.pmap_step(step, devices=devices),
        "shard_map": lambda: training.shard_map_step(step, devices=devices),
        "jit": lambda: training.global_step(step, devices=devices, sharding_of=lies),
    }[c.mesh.mapping]()


def with_batch_per_device(config: Config, examples: int | None) -> Config:
    """The config whose batch has this many examples for each device; None: as it is."""
    if examples is None:
        return config
    if examples < 1:
        raise ValueError(f"--per-device must be at least 1, got {examples}")
    size = examples * max(len(jax.devices()) // config.mesh.space, 1)
    train = dataclasses.replace(config.train, batch_size=size)
    return dataclasses.replace(config, train=train)


def check_devices(config: Config) -> None:
    """Raise ValueError unless every device gets as many examples, a multiple of the microbatches."""
    n, space = len(jax.devices()), config.mesh.space
    if n % space:
        raise ValueError(f"mesh.space must be a divisor of the {n} devices, got {space}")
    groups, micro, size = n // space, config.train.microbatches, config.train.batch_size
    if size % (groups * micro) == 0:
        return
    by = f"{groups} devices" if space == 1 else f"{groups} groups of mesh.space={space} devices"
    by += f" times train.microbatches={micro}" if micro > 1 else ""
    per = max(size // groups // micro, 1) * micro
    advice = f"--per-device {per} makes it {per * groups}"
    if size < groups:
        many = _space(n, size)
        advice += f", or --mesh.mapping jit --mesh.space {many} gives every image to {many} devices"
    raise ValueError(f"train.batch_size must be divisible by the {by}, got {size}: {advice}")


def _space(devices: int, size: int) -> int:
    """The fewest devices to an image that divide a batch of `size` evenly."""
    return min(s for s in range(1, devices + 1) if devices % s == 0 and size % (devices // s) == 0)
