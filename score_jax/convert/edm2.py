"""Where the tensors of EDM2's network (arXiv:2312.02696) lie in NVIDIA's `.pkl` files.

Its names there are those of EDM's networks: blocks by their side, such as `enc.64x64_block0`, of which
`conv_res0`, `emb_linear`, `conv_res1`, `conv_skip`, `attn_qkv` and `attn_proj` are maps without biases,
and `emb_gain` is a number.
"""

from collections.abc import Iterator
from typing import Any

from score_jax._check import brief, check, is_number
from score_jax.convert import nvidia
from score_jax.convert.assemble import outward, pointwise, transposed
from score_jax.convert.nvidia import MOST_BLOCKS, MOST_CHANNELS, Fields
from score_jax.convert.score_sde import Layer, Leaf, Part
from score_jax.nets.edm2 import EDM2 as Network
from score_jax.nets.magnitude import DIRECTION

# The arguments of the network and of its blocks, by the authors' names, with their defaults.
EDM2 = {
    "model_channels": 192, "channel_mult": [1, 2, 3, 4], "channel_mult_noise": None,
    "channel_mult_emb": None, "num_blocks": 3, "attn_resolutions": [16, 8], "label_balance": 0.5,
    "concat_balance": 0.5, "resample_filter": [1, 1], "channels_per_head": 64, "dropout": 0,
    "res_balance": 0.3, "attn_balance": 0.3, "clip_act": 256, "label_dim": 0,
}  # fmt: skip
BALANCES = ("label_balance", "concat_balance", "res_balance", "attn_balance")

LINEAR = Layer((Leaf("weight", (DIRECTION,), transposed),), ())
CONV = Layer((Leaf("weight", (DIRECTION,), outward),), ())
ONE = Layer((Leaf("weight", (DIRECTION,), pointwise),), ())
GAIN = Layer((Leaf("emb_gain", ("gain",)),), ())
FOURIER = Layer((Leaf("freqs", ("frequency",)), Leaf("phases", ("phase",))), ())
BLOCK = (
    Part("conv_res0", CONV, "conv0"), Part("emb_linear", LINEAR, "label"),
    Part("conv_res1", CONV, "conv1"), Part("conv_skip", ONE, "skip"), Part("attn_qkv", ONE, "qkv"),
    Part("attn_proj", ONE, "out"), Part("", GAIN, ""),
)  # fmt: skip

Module = tuple[str, str, tuple[Part, ...]]  # its name there, its name here, its layers


def edm2_network(fields: Fields) -> Network:
    """The network of the arguments; ValueError, naming one, if it is not usable."""
    given = fields.given
    for name in BALANCES:
        ok = is_number(given[name]) and 0 <= given[name] <= 1
        check(name, brief(given[name]), ok, "a number in [0, 1]")
    for name in ("channel_mult_noise", "channel_mult_emb"):
        ok = given[name] is None or nvidia.are_counts([given[name]], MOST_BLOCKS, 1)
        check(name, brief(given[name]), ok, f"a whole number up to {MOST_BLOCKS}, or None")
    heads, clip = given["channels_per_head"], given["clip_act"]
    ok = nvidia.are_counts([heads], MOST_CHANNELS, 1)
    check("channels_per_head", brief(heads), ok, f"a whole number up to {MOST_CHANNELS}")
    check("clip_act", brief(clip), clip is None or (is_number(clip) and clip > 0), "> 0 or None")
    taps = given["resample_filter"]
    check("resample_filter", brief(taps), taps in ([1, 1], (1, 1)), "[1, 1]")
    return Network(
        channels=given["model_channels"], channel_mult=tuple(given["channel_mult"]),
        num_blocks=given["num_blocks"], dropout=float(given["dropout"]),
        attention_factors=tuple(2**n for n in fields.attended), num_head_channels=heads,
        residual_balance=float(given["res_balance"]), concat_balance=float(given["concat_balance"]),
        attention_balance=float(given["attn_balance"]), label_balance=float(given["label_balance"]),
        clip=None if clip is None else float(clip), noise_mult=given["channel_mult_noise"],
        embedding_mult=given["channel_mult_emb"], num_classes=given["label_dim"] or None,
        out_channels=fields.channels,
    )  # fmt: skip


def edm2_modules(module: Any, size: int) -> Iterator[Module]:
    """All modules that the network may have."""
    one = lambda there, here, layer: (there, here, (Part("", layer, ""),))
    yield one("emb_fourier", "fourier", FOURIER)
    yield one("emb_noise", "embed", LINEAR)
    yield one("emb_label", "class_embedding", LINEAR)
    yield one(f"enc.{size}x{size}_conv", "first", CONV)
    last = len(module.channel_mult) - 1
    for level in range(last + 1):
        side = size >> level
        enc, dec = f"enc.{side}x{side}", f"dec.{side}x{side}"
        if level:
            yield f"{enc}_down", f"down{level}", BLOCK
        if level != last:
            yield f"{dec}_up", f"up{level}", BLOCK
        for i in range(module.num_blocks):
            yield f"{enc}_block{i}", f"enc{level}_{i}", BLOCK
        for i in range(module.num_blocks + 1):
            yield f"{dec}_block{i}", f"dec{level}_{i}", BLOCK
    side = size >> last
    yield f"dec.{side}x{side}_in0", "mid0", BLOCK
    yield f"dec.{side}x{side}_in1", "mid1", BLOCK
    yield one("out_conv", "last", CONV)
    yield one("", "", Layer((Leaf("out_gain", ("out_gain",)),), ()))
