"""diffusers' `UNet2DModel` with its default fields, as our `UNet`: what `train_unconditional` makes.

It is the U-Net of Improved DDPM with the noise input added and heads of `attention_head_dim` channels,
whose queries, keys and values are maps of their own there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.convert.assemble import transposed
from score_jax.convert.score_sde import CONV, DENSE, NORM, Layer, Leaf, Part
from score_jax.nets import UNet

Module = tuple[str, str, tuple[Part, ...]]  # its name there, its name here, its layers

CLASSES = Layer((Leaf("weight", ("embedding",)),), ())
MAP = Layer((Leaf("weight", ("kernel",), transposed), Leaf("bias", ("bias",))), ())
BLOCK = (
    Part("norm1", NORM, "in_layers_0"), Part("conv1", CONV, "in_layers_2"),
    Part("time_emb_proj", DENSE, "emb_layers_1"), Part("norm2", NORM, "out_layers_0"),
    Part("conv2", CONV, "out_layers_3"), Part("conv_shortcut", CONV, "skip_connection"),
)  # fmt: skip
ATTENTION = (
    Part("group_norm", NORM, "norm"), Part("joint", MAP, "qkv"), Part("to_out.0", MAP, "proj_out"),
)  # fmt: skip
QKV = ("to_q", "to_k", "to_v")
# What the fields must be, beside those that describe the size of the network.
FIELDS: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"), "add_attention": (True,), "attention_legacy_order": (False,),
    "attn_norm_num_groups": (None,), "center_input_sample": (False,), "class_embed_type": (None,),
    "downsample_padding": (1,), "downsample_type": ("conv",), "flip_sin_to_cos": (True,),
    "freq_shift": (0,), "mid_block_scale_factor": (1,), "mid_block_type": ("UNetMidBlock2D",),
    "norm_eps": (1e-5,), "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",), "upsample_type": ("conv",),
}  # fmt: skip


def is_usual(config: Mapping[str, Any]) -> bool:
    """Whether the noise input is embedded as by default, cosines first."""
    return config["flip_sin_to_cos"] is True


def usual_network(config: Mapping[str, Any], attended: list[bool], path: Path) -> UNet:
    """The network of a configuration whose fields are checked; ValueError for other channels."""
    widths, inner, outer = (
        config[k] for k in ("block_out_channels", "in_channels", "out_channels")
    )
    mult = tuple(w / widths[0] for w in widths)
    if outer not in (inner, 2 * inner):
        raise ValueError(
            f"out_channels of {path} must be in_channels, or twice as many for a learned variance, "
            f"got {outer} for {inner}"
        )
    each = config["attention_head_dim"]
    if any(int(m * widths[0]) != w for m, w in zip(mult, widths, strict=True)):
        raise ValueError(f"block_out_channels of {path} must be multiples of the first: {widths}")
    return UNet(
        channels=widths[0], channel_mult=mult, num_blocks=config["layers_per_block"],
        attention_factors=tuple(2**n for n, attends in enumerate(attended) if attends),
        dropout=float(config["dropout"]), num_heads=1, num_head_channels=each,
        scale_shift_norm=False, out_channels=outer, num_classes=config["num_class_embeds"],
        groups=config["norm_num_groups"],
    )  # fmt: skip


def _one(there: str, here: str, layer: Layer) -> Module:
    return there, here, (Part("", layer, ""),)


def usual_modules(module: UNet) -> Iterator[Module]:
    """(name there, name here, layers) of all that the network may have."""
    last = len(module.channel_mult) - 1
    yield _one("time_embedding.linear_1", "time_embed_0", DENSE)
    yield _one("time_embedding.linear_2", "time_embed_2", DENSE)
    yield _one("class_embedding", "label_emb", CLASSES)
    yield _one("conv_in", "input_blocks_0_0", CONV)
    place = 1
    for level in range(last + 1):
        for i in range(module.num_blocks):
            yield f"down_blocks.{level}.resnets.{i}", f"input_blocks_{place}_0", BLOCK
            yield f"down_blocks.{level}.attentions.{i}", f"input_blocks_{place}_1", ATTENTION
            place += 1
        if level != last:
            yield _one(
                f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks_{place}_0/op", CONV
            )
            place += 1
    yield "mid_block.resnets.0", "middle_block_0", BLOCK
    yield "mid_block.attentions.0", "middle_block_1", ATTENTION
    yield "mid_block.resnets.1", "middle_block_2", BLOCK
    place = 0
    for n, level in enumerate(range(last, -1, -1)):
        for i in range(module.num_blocks + 1):
            yield f"up_blocks.{n}.resnets.{i}", f"output_blocks_{place}_0", BLOCK
            yield f"up_blocks.{n}.attentions.{i}", f"output_blocks_{place}_1", ATTENTION
            place += 1
        part = 1 + (2**level in module.attention_factors)
        here = f"output_blocks_{place - 1}_{part}/conv"
        yield _one(f"up_blocks.{n}.upsamplers.0.conv", here, CONV)
    yield _one("conv_norm_out", "out_0", NORM)
    yield _one("conv_out", "out_2", CONV)


def joined(weights: Mapping[str, Any], module: UNet) -> dict[str, Any]:
    """The tensors with one map for queries, keys and values, of channels ordered head, q/k/v, channel."""
    made = dict(weights)
    for name in weights:
        block, _, rest = name.partition(f".{QKV[0]}.")
        parts = [made.pop(f"{block}.{part}.{rest}", None) for part in QKV] if rest else []
        if not parts or any(p is None or p.shape != parts[0].shape for p in parts):
            made |= {
                f"{block}.{k}.{rest}": p for k, p in zip(QKV, parts, strict=False) if p is not None
            }
            continue
        width = len(parts[0])
        each = module.num_head_channels or width
        heads = [p.reshape(width // each, each, *p.shape[1:]) for p in parts]
        made[f"{block}.joint.{rest}"] = np.stack(heads, 1).reshape(3 * width, *parts[0].shape[1:])
    return made


def divided(weights: Mapping[str, Any], module: UNet) -> dict[str, Any]:
    """The tensors with maps of their own for queries, keys and values: the way back of `joined`."""
    made: dict[str, Any] = {}
    for name, value in weights.items():
        block, joint, rest = name.partition(".joint.")
        if not joint:
            made[name] = value
            continue
        width = len(value) // 3
        each = module.num_head_channels or width
        heads = value.reshape(width // each, 3, each, *value.shape[1:])
        for i, part in enumerate(QKV):
            own = heads[:, i].reshape(width, *value.shape[1:])
            made[f"{block}.{part}.{rest}"] = np.ascontiguousarray(own)
    return made
