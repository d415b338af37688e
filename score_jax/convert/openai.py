"""Weights of improved-diffusion (arXiv:2102.09672) and guided-diffusion (arXiv:2105.05233).

Their files are plain state dicts, `model*.pt` of the last step and `ema_0.9999_*.pt` of an average
alike, and the names are those of `UNet` and `EncoderUNet` with dots for underscores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax.convert.assemble import (
    Move,
    Slot,
    Tree,
    assemble,
    leaves,
    outward,
    pointwise,
    same,
    template,
    transposed,
)
from score_jax.convert.torch_file import read_torch
from score_jax.nets import EncoderUNet, UNet

Loaded = tuple[Any, Tree, dict[str, Any]]
FIRST = "input_blocks.0.0.weight"
PLACES = "out.2.positional_embedding"
MOVES: dict[str, Move] = {
    "scale": same, "bias": same, "embedding": same, "positional_embedding": transposed,
}  # fmt: skip


def _kernel(here: int, there: int) -> Move:
    """How a kernel goes from so many axes there to so many here."""
    if there == here:
        return transposed if here == 2 else outward
    return pointwise


def _plan(shapes: Tree, weights: Mapping[str, Any]) -> dict[str, Slot]:
    """Where every tensor goes: names are equal but for dots, underscores and the last part."""
    wanted = leaves(shapes)
    places = {"_".join(path[:-1]) + "." + path[-1]: path for path in wanted}
    plan: dict[str, Slot] = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        for own in {"weight": ("kernel", "scale", "embedding")}.get(leaf, (leaf,)):
            path = places.get(module.replace(".", "_") + "." + own)
            if path is not None:
                kernel = _kernel(len(wanted[path].shape), np.ndim(tensor))
                plan[name] = Slot(path, MOVES.get(own, kernel))
    return plan


def _shapes(module: Any, weights: Mapping[str, Any], path: str | Path) -> Tree:
    """The network's parameters for the number of axes and channels that the file's are made for."""
    shape = np.shape(weights.get(FIRST, 0))
    if len(shape) < 3:
        raise ValueError(f"{path} has no tensor {FIRST!r}, so it is no network of these programs")
    dims, channels = len(shape) - 2, shape[1]
    if dims != module.dims:
        raise ValueError(
            f"{FIRST} of {path} has {dims} spatial axes, but module.dims={module.dims}"
        )
    small = 2 ** (len(module.channel_mult) - 1)
    side = small
    if PLACES in weights:
        # The attention pool has a learned position for every place of the coarsest level.
        places = np.shape(weights[PLACES])[-1] - 1
        side = small * max(round(places ** (1 / dims)), 1)
    sides = (side,) * dims
    if not isinstance(module, UNet):
        return template(module, (*sides, channels), classes=False)
    inputs = {}
    if module.super_resolution:
        channels //= 2
        inputs["low_res"] = jnp.zeros((1, *sides, channels))
    return template(module, (*sides, channels), classes=bool(module.num_classes), **inputs)


def _load(path: str | Path, module: Any, kinds: tuple[type, ...]) -> Loaded:
    if not isinstance(module, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"module must be a {names}, got {type(module).__name__}")
    weights = read_torch(path)
    if not isinstance(weights, dict):
        raise ValueError(f"{path} holds a {type(weights).__name__}, not a state dict")
    shapes = _shapes(module, weights, path)
    params = assemble(shapes, _plan(shapes, weights), weights, path)
    return module, params, {}


def from_improved_diffusion(path: str | Path, module: Any) -> Loaded:
    """Weights of a `.pt` of improved-diffusion for a `UNet`: (module, params, info).

    The file decides whether they are averaged: `ema_0.9999_*.pt` are, `model*.pt` are not. `info` is
    empty, for the file says nothing else. Raises ValueError, naming file and tensor, if the file
    cannot be read or does not fit the network exactly; OSError if it cannot be opened.

    >>> net, params, _ = from_improved_diffusion("ema_0.9999_500000.pt", UNet(out_channels=6))
    """
    return _load(path, module, (UNet,))


def from_guided_diffusion(path: str | Path, module: Any) -> Loaded:
    """Weights of a `.pt` of guided-diffusion for a `UNet` or an `EncoderUNet`: (module, params, info).

    Otherwise as `from_improved_diffusion`.

    >>> net = EncoderUNet(channel_mult=(1, 2, 3, 4), num_head_channels=64, resblock_updown=True)
    >>> net, params, _ = from_guided_diffusion("64x64_classifier.pt", net)
    """
    return _load(path, module, (UNet, EncoderUNet))
