"""Networks of this library as a folder of diffusers' `UNet2DModel`: the way back of `from_diffusers`.

The configurations are made of the fields and then read again: what comes back must be the same network
and the same process, so that nothing that diffusers does not have is lost without an error.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from score_jax._check import brief
from score_jax._files import replacing, write_json
from score_jax.convert.assemble import FREE, disassemble
from score_jax.convert.diffusers import (
    DEFAULTS,
    PLAIN,
    SKIP,
    STEM,
    make_plan,
    model_of,
    network,
    safetensors_of,
)
from score_jax.convert.diffusers_unet import divided
from score_jax.convert.records import Ingredients
from score_jax.convert.schedulers import read_scheduler, scheduler_of
from score_jax.nets import DDPM, NCSNpp, UNet
from score_jax.parametrization import NOISE, SMALL, TIMESTEP_NOISE, IndexInput
from score_jax.sde import NoiseSchedule
from score_jax.types import Params

PROGRAM = "diffusers"


def _one_form(net: Any, shape: tuple[int, ...]) -> Any:
    """The network with its fields as a configuration has them: the same function."""
    levels = range(len(net.channel_mult))
    if not isinstance(net, UNet):
        sizes = tuple(max(shape[:2]) >> n for n in levels)
        return net.clone(attention=tuple(size for size in sizes if size in net.attention))
    factors = tuple(2**n for n in levels if 2**n in net.attention_factors)
    # The middle, at the last level, attends too.
    attended = (n for n in levels if 2**n in factors or n == levels[-1])
    each, widths = (
        net.num_head_channels,
        {int(net.channel_mult[n] * net.channels) for n in attended},
    )
    if each is None and net.num_heads > 1 and len(widths) == 1:
        each = widths.pop() // net.num_heads
    heads = net.num_heads if each is None else 1
    return net.clone(
        attention_factors=factors, num_head_channels=each, num_heads=heads,
        out_channels=net.out_channels or shape[-1],
    )  # fmt: skip


def _config(net: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """The configuration of a network in the form of `_one_form`, as near as diffusers has one."""
    height, width, channels = shape
    levels = range(len(net.channel_mult))
    usual, skips = isinstance(net, UNet), not isinstance(net, UNet | DDPM)
    attended = [
        2**n in net.attention_factors if usual else max(height, width) >> n in net.attention
        for n in levels
    ]
    names = SKIP if skips else PLAIN
    config: dict[str, Any] = {"_class_name": "UNet2DModel"} | DEFAULTS | {
        "in_channels": channels, "dropout": float(net.dropout),
        "out_channels": net.out_channels if usual else channels,
        "sample_size": height if height == width else [height, width],
        "block_out_channels": [int(m * net.channels) for m in net.channel_mult],
        "layers_per_block": net.num_blocks, "num_class_embeds": net.num_classes,
        "down_block_types": [names[1] if attends else names[0] for attends in attended],
        "up_block_types": [names[3] if attends else names[2] for attends in attended[::-1]],
    }  # fmt: skip
    del config["attention_legacy_order"]  # no argument of UNet2DModel: it says so
    if usual:
        groups = {"norm_num_groups": net.groups or DEFAULTS["norm_num_groups"]}
        return config | groups | {"attention_head_dim": net.num_head_channels}
    config |= {
        "attention_head_dim": None, "norm_eps": 1e-6, "center_input_sample": not net.centered,
    }  # fmt: skip
    if skips:
        return config | {
            "norm_num_groups": None, "time_embedding_type": "fourier",
            "mid_block_scale_factor": math.sqrt(2),
        }  # fmt: skip
    return config | {
        "norm_num_groups": net.norm_groups or DEFAULTS["norm_num_groups"],
        "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0,
    }  # fmt: skip


def _at_timesteps(given: Ingredients) -> Ingredients:
    """The ingredients in the form of a scheduler; what lies between two timesteps is not in its files."""
    if not isinstance(given.sde, NoiseSchedule):
        return given
    noise_input, output, variance = given.noise_input, given.parametrization, given.variance
    if isinstance(noise_input, IndexInput) and noise_input.top in (None, given.sde.n):
        noise_input = IndexInput()
    return dataclasses.replace(
        given, noise_input=noise_input, variance=SMALL if variance is None else variance,
        parametrization=NOISE if output is TIMESTEP_NOISE else output,
    )  # fmt: skip


def _check_same(given: Ingredients, net: Any, back: Any, process: Any) -> None:
    """Raise ValueError, naming field and values, unless the files say what the ingredients say."""
    names = [field.name for field in dataclasses.fields(net) if field.name not in FREE]
    pairs = [(f"net.{name}", getattr(net, name), getattr(back, name)) for name in names]
    theirs = model_of(back, process)
    if isinstance(given.sde, NoiseSchedule) and isinstance(theirs.sde, NoiseSchedule):
        pairs.append(("sde.betas", given.sde.betas.tolist(), theirs.sde.betas.tolist()))
    else:
        pairs.append(("sde", given.sde, theirs.sde))
    pairs += [
        (name, getattr(given, name), getattr(theirs, name))
        for name in ("noise_input", "parametrization", "variance")
    ]
    for name, ours, read in pairs:
        if ours != read:
            ours, read = (getattr(value, "name", value) for value in (ours, read))
            raise ValueError(f"{name} must be {brief(read)} for {PROGRAM}, got {brief(ours)}")


def to_diffusers(
    folder: str | Path, ingredients: Ingredients, params: Params, shape: tuple[int, ...]
) -> None:
    """Write a folder that diffusers' `DDPMPipeline` and `from_diffusers` read, whole or not at all.

    Args:
      folder: a new folder: `unet/`, `scheduler/` and `model_index.json`.
      ingredients: a network that diffusers has (a `UNet` without `scale_shift_norm`, a `DDPM` with
        `attend_every_block`, or the `NCSNpp` of `google/ncsnpp-*`) and its process: a noise schedule,
        or a VE or VP SDE.
      params: the parameters, of the last step or averaged.
      shape: (h, w, c) of an image.

    Raises ValueError, naming the field, for networks and processes that diffusers does not have;
    ImportError without safetensors; OSError if the folder cannot be written.

    >>> to_diffusers("my-ddpm", ingredients, params, (32, 32, 3))
    """
    where = f"the configuration for {PROGRAM}"
    if not isinstance(ingredients.net, UNet | NCSNpp):
        kind = type(ingredients.net).__name__
        raise ValueError(f"net must be one of UNet, DDPM or NCSNpp for {PROGRAM}, got {kind}")
    if len(shape) != 3:
        raise ValueError(f"shape must be (height, width, channels), got {shape}")
    given, net = _at_timesteps(ingredients), _one_form(ingredients.net, shape)
    config = _config(net, shape)
    scheduler = scheduler_of(given.sde, given.parametrization, given.variance or SMALL)
    back, _ = network(DEFAULTS | config, Path(where))
    _check_same(given, net, back, read_scheduler(scheduler, where))
    weights = disassemble(params, make_plan(net, params["params"]), PROGRAM)
    if isinstance(net, UNet):
        weights = divided(weights, net)
    with replacing(folder) as part:
        for name in ("unet", "scheduler"):
            (part / name).mkdir(parents=True)
        write_json(part / "unet" / "config.json", config)
        write_json(part / "scheduler" / "scheduler_config.json", scheduler)
        safetensors_of(part).numpy.save_file(
            weights, part / "unet" / f"{STEM}.safetensors", metadata={"format": "pt"}
        )
        parts = {"scheduler": scheduler["_class_name"], "unet": config["_class_name"]}
        places = {name: [PROGRAM, kind] for name, kind in parts.items()}
        write_json(part / "model_index.json", {"_class_name": "DDPMPipeline"} | places)
