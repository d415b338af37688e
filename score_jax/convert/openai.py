"""Weights of improved-diffusion (arXiv:2102.09672) and guided-diffusion (arXiv:2105.05233).

Their files are plain state dicts, `model*.pt` of the last step and `ema_0.9999_*.pt` of an average
alike, and the names are those of `UNet` and `EncoderUNet` with dots for underscores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
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
    tensors,
    transposed,
    unwrapped,
)
from score_jax.convert.torch_file import read_torch
from score_jax.model import Model
from score_jax.nets import EncoderUNet, UNet
from score_jax.parametrization import LARGE, LEARNED_RANGE, IndexInput
from score_jax.types import SDE

FIRST = "input_blocks.0.0.weight"
PLACES = "out.2.positional_embedding"
MOVES: dict[str, Move] = {
    "scale": same, "bias": same, "embedding": same, "positional_embedding": transposed,
}  # fmt: skip


def _kernel(here: int, there: int) -> Move:
    """The move of a kernel with `there` axes in the file to `here` axes in the network."""
    if there == here:
        return transposed if here == 2 else outward
    return pointwise


def _plan(shapes: Tree, weights: Mapping[str, Any]) -> dict[str, Slot]:
    """Where every tensor goes: names differ only in dots, underscores and the last part."""
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
    """The shapes of the network's parameters for the number of axes and channels of the file."""
    shape = np.shape(weights.get(FIRST, 0))
    if len(shape) < 3:
        raise ValueError(
            f"{path} has no tensor {FIRST!r}, so it is not a network of these programs"
        )
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


def _read(
    path: str | Path, module: Any, kinds: tuple[type, ...], ema: bool
) -> tuple[Tree, dict[str, Any]]:
    if not isinstance(module, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"module must be a {names}, got {type(module).__name__}")
    found, said = unwrapped(read_torch(path), path, ema=ema)
    weights = tensors(found, path)
    shapes = _shapes(module, weights, path)
    params = assemble(shapes, _plan(shapes, weights), weights, path)
    return params, {"unwrapped": said} if said else {}


def _model(module: Any, sde: SDE, params: Tree, given: dict[str, Any]) -> Model:
    """The model of a network; a fixed variance is the larger one, as in the authors' programs."""
    variance = None
    if isinstance(module, UNet):
        tree = params["params"]
        channels = tree["input_blocks_0_0"]["kernel"].shape[-2] // (1 + module.super_resolution)
        learned = tree["out_2"]["kernel"].shape[-1] == 2 * channels
        variance = LEARNED_RANGE if learned else LARGE
    defaults = {"noise_input": IndexInput(top=1000.0), "variance": variance}
    return Model(sde, module.apply, **(defaults | given))


def from_improved_diffusion(
    path: str | Path, module: nn.Module, sde: SDE, *, ema: bool = True, **given: Any
) -> tuple[Model, Tree, dict[str, Any]]:
    """A network with the weights of a `.pt` of improved-diffusion: (model, params, info).

    Args:
      path: the file, which holds tensors only. The weights of `ema_0.9999_*.pt` are averaged, those of
        `model*.pt` are not.
      module: the network of its flags.
      sde: the noise schedule of its flags.
      ema: of a file that holds both, which a fork may write: the averaged weights or the others.
      given: fields of `Model` that differ from those of the published networks: the noise input is the
        index scaled to 1000 timesteps, and the variance is learned if the network returns one.

    Wrappers of forks ({"state_dict": ...}, {"ema": ...}, "module.", "_orig_mod.") are taken off; `info`
    has them as "unwrapped", and is empty for a plain file. Raises ValueError, naming file and tensor,
    if the file cannot be read or does not fit the network exactly; OSError if it cannot be opened.

    >>> net = UNet(out_channels=6)
    >>> model, params, _ = from_improved_diffusion("ema_0.9999_500000.pt", net, CosineBetas(4000))
    """
    params, info = _read(path, module, (UNet,), ema)
    return _model(module, sde, params, given), params, info


def from_guided_diffusion(
    path: str | Path, module: nn.Module, sde: SDE, *, ema: bool = True, **given: Any
) -> tuple[Model, Tree, dict[str, Any]]:
    """A network with the weights of a `.pt` of guided-diffusion: (model, params, info).

    As `from_improved_diffusion`, also for an `EncoderUNet`, whose model has a classifier's `apply`.

    >>> net = EncoderUNet(channel_mult=(1, 2, 3, 4), num_head_channels=64, resblock_updown=True)
    >>> model, params, _ = from_guided_diffusion("64x64_classifier.pt", net, CosineBetas(1000))
    """
    params, info = _read(path, module, (UNet, EncoderUNet), ema)
    return _model(module, sde, params, given), params, info
