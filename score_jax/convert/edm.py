"""Networks of EDM (arXiv:2206.00364) and EDM2 from NVIDIA's `.pkl` files; their source is never run.

Such a file holds objects that carry the source code of their classes. They are read as records
(`score_jax._pickles.Record`): class name, arguments and state. The networks are the DDPM++ and NCSN++ of
score_sde (`NCSNpp`) and the U-Net of ADM (`UNet`); the preconditionings are EDM's own and those of the
three older processes.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_jax._check import brief, check
from score_jax._files import reading
from score_jax.convert.assemble import Slot, Tree, assemble, find, same, template, transposed
from score_jax.convert.edm2 import EDM2, edm2_modules, edm2_network
from score_jax.convert.nvidia import (
    Embedded,
    Fields,
    are_counts,
    chosen,
    embedded,
    fields_of,
    number_of,
    tensors_of,
)
from score_jax.convert.score_sde import CONV, DENSE, FOURIER, NORM, ONE, Layer, Leaf, Loaded, Part
from score_jax.convert.torch_file import read_torch_pickle
from score_jax.model import Model
from score_jax.nets import NCSNpp, UNet
from score_jax.parametrization import (
    LEARNED_RANGE,
    NOISE,
    SCALED_SCORE,
    IndexInput,
    LogSigmaInput,
    TimeInput,
    edm,
)
from score_jax.sde import VE, VP, CosineBetas, LinearVE

AVERAGE = "ema"  # of the network, in a snapshot

SONG = {
    "model_channels": 128, "channel_mult": [1, 2, 2, 2], "channel_mult_emb": 4, "num_blocks": 4,
    "attn_resolutions": [16], "dropout": 0.1, "embedding_type": "positional",
    "channel_mult_noise": 1, "encoder_type": "standard", "decoder_type": "standard",
    "resample_filter": [1, 1], "label_dim": 0, "augment_dim": 0, "label_dropout": 0,
}  # fmt: skip
DHARIWAL = {
    "model_channels": 192, "channel_mult": [1, 2, 3, 4], "channel_mult_emb": 4, "num_blocks": 3,
    "attn_resolutions": [32, 16, 8], "dropout": 0.1, "label_dim": 0, "augment_dim": 0,
    "label_dropout": 0,
}  # fmt: skip
EMBEDDINGS = {"positional": ("positional", 1), "fourier": ("plain_fourier", 2)}
ENCODERS = {"standard": "none", "residual": "residual", "skip": "input_skip"}
DECODERS = {"standard": "none", "skip": "output_skip"}
HEAD = 64  # channels of a head of ADM

EMBEDDING = Layer((Leaf("embedding", ("embedding",), same),), ())
QKV = Layer((Leaf("weight", ("kernel",), transposed), Leaf("bias", ("bias",))), ())
SONG_BLOCK = (
    Part("norm0", NORM, "norm0"), Part("conv0", CONV, "conv0"), Part("affine", DENSE, "label"),
    Part("norm1", NORM, "norm1"), Part("conv1", CONV, "conv1"), Part("skip", ONE, "skip"),
)  # fmt: skip
SONG_ATTENTION = (
    Part("norm2", NORM, "norm"), Part("q", ONE, "query"), Part("k", ONE, "key"),
    Part("v", ONE, "value"), Part("proj", ONE, "out"),
)  # fmt: skip
ADM_BLOCK = (
    Part("norm0", NORM, "in_layers_0"), Part("conv0", CONV, "in_layers_2"),
    Part("affine", DENSE, "emb_layers_1"), Part("norm1", NORM, "out_layers_0"),
    Part("conv1", CONV, "out_layers_3"), Part("skip", CONV, "skip_connection"),
)  # fmt: skip
ADM_ATTENTION = (
    Part("norm2", NORM, "norm"), Part("joint", QKV, "qkv"), Part("out", QKV, "proj_out"),
)  # fmt: skip


def _check_mult(fields: Fields) -> None:
    """Embeddings are four times as wide as the first level here."""
    value = fields.given["channel_mult_emb"]
    check("channel_mult_emb", brief(value), value == 4, "4")


def _song(fields: Fields) -> NCSNpp:
    """DDPM++ or NCSN++ of a SongUNet's arguments."""
    given = fields.given
    _check_mult(fields)
    embedding, width = chosen(fields, "embedding_type", EMBEDDINGS)
    check("channel_mult_noise", brief(given["channel_mult_noise"]),
          given["channel_mult_noise"] == width, f"{width} for {given['embedding_type']}")  # fmt: skip
    taps = given["resample_filter"]
    ok = are_counts(taps, 1 << 10, 8) and len(taps) % 2 == 0
    check("resample_filter", brief(taps), ok, "an even number of whole numbers")
    return NCSNpp(
        channels=given["model_channels"], channel_mult=tuple(given["channel_mult"]),
        num_blocks=given["num_blocks"], dropout=float(given["dropout"]), embedding=embedding,
        attention=tuple(fields.size >> n for n in fields.attended), fir=tuple(taps) != (1, 1),
        fir_kernel=tuple(taps) if tuple(taps) != (1, 1) else NCSNpp.fir_kernel,
        progressive=chosen(fields, "decoder_type", DECODERS),
        progressive_input=chosen(fields, "encoder_type", ENCODERS),
        num_classes=given["label_dim"] or None, condition_first=True,
    )  # fmt: skip


def _adm(fields: Fields) -> UNet:
    """The U-Net of a DhariwalUNet's arguments."""
    given = fields.given
    _check_mult(fields)
    out = given.get("out_channels")
    known = (fields.channels, 2 * fields.channels)
    check("out_channels", brief(out), out in known, f"one of {known}")
    return UNet(
        channels=given["model_channels"], channel_mult=tuple(map(float, given["channel_mult"])),
        num_blocks=given["num_blocks"], dropout=float(given["dropout"]), out_channels=out,
        attention_factors=tuple(2**n for n in fields.attended), num_head_channels=HEAD,
        resblock_updown=True, num_classes=given["label_dim"] or None,
        groups=32 if given["model_channels"] * min(given["channel_mult"]) >= 128 else None,
    )  # fmt: skip


Module = tuple[str, str, tuple[Part, ...]]  # its name there, its name here, its layers


def _one(there: str, here: str, layer: Layer) -> Module:
    return there, here, (Part("", layer, ""),)


def _song_modules(module: NCSNpp, size: int) -> Iterator[Module]:
    """All modules that a SongUNet may have."""
    last = len(module.channel_mult) - 1
    yield _one("map_noise", "fourier", Layer((Leaf("freqs", ("frequency",)),), FOURIER.flax))
    yield _one("map_layer0", "embed0", DENSE)
    yield _one("map_layer1", "embed1", DENSE)
    yield _one("map_label", "classes", EMBEDDING)
    yield _one(f"enc.{size}x{size}_conv", "first", CONV)
    for level in range(last + 1):
        side = size >> level
        enc, dec = f"enc.{side}x{side}", f"dec.{side}x{side}"
        if level:
            yield f"{enc}_down", f"down{level - 1}", SONG_BLOCK
            yield f"{enc}_aux_residual", f"input{level - 1}", (Part("", CONV, "conv"),)
            yield _one(f"{enc}_aux_skip", f"input{level - 1}_combine", CONV)
        if level != last:
            yield f"{dec}_up", f"up{level + 1}", SONG_BLOCK
        for i in range(module.num_blocks):
            yield f"{enc}_block{i}", f"enc{level}_{i}", SONG_BLOCK
            yield f"{enc}_block{i}", f"enc{level}_{i}_attention", SONG_ATTENTION
        for i in range(module.num_blocks + 1):
            yield f"{dec}_block{i}", f"dec{level}_{i}", SONG_BLOCK
        yield f"{dec}_block{module.num_blocks}", f"dec{level}_attention", SONG_ATTENTION
        yield _one(f"{dec}_aux_norm", f"output{level}_norm", NORM)
        yield _one(f"{dec}_aux_conv", f"output{level}_conv", CONV)
    side = size >> last
    yield f"dec.{side}x{side}_in0", "mid0", SONG_BLOCK
    yield f"dec.{side}x{side}_in0", "mid_attention", SONG_ATTENTION
    yield f"dec.{side}x{side}_in1", "mid1", SONG_BLOCK
    yield _one(f"dec.{size}x{size}_aux_norm", "last_norm", NORM)
    yield _one(f"dec.{size}x{size}_aux_conv", "last", CONV)


def _adm_modules(module: UNet, size: int) -> Iterator[Module]:
    """All modules that a DhariwalUNet may have."""
    yield _one("map_layer0", "time_embed_0", DENSE)
    yield _one("map_layer1", "time_embed_2", DENSE)
    yield _one("map_label", "label_emb", EMBEDDING)
    yield _one(f"enc.{size}x{size}_conv", "input_blocks_0_0", CONV)
    last, down, up = len(module.channel_mult) - 1, 1, 0
    for level in range(last + 1):
        enc = f"enc.{size >> level}x{size >> level}"
        if level:
            yield f"{enc}_down", f"input_blocks_{down}_0", ADM_BLOCK
            down += 1
        for i in range(module.num_blocks):
            yield f"{enc}_block{i}", f"input_blocks_{down}_0", ADM_BLOCK
            yield f"{enc}_block{i}", f"input_blocks_{down}_1", ADM_ATTENTION
            down += 1
    for level in range(last, -1, -1):
        dec = f"dec.{size >> level}x{size >> level}"
        if level == last:
            yield f"{dec}_in0", "middle_block_0", ADM_BLOCK
            yield f"{dec}_in0", "middle_block_1", ADM_ATTENTION
            yield f"{dec}_in1", "middle_block_2", ADM_BLOCK
        else:
            part = 1 + (2 ** (level + 1) in module.attention_factors)
            yield f"{dec}_up", f"output_blocks_{up - 1}_{part}", ADM_BLOCK
        for i in range(module.num_blocks + 1):
            yield f"{dec}_block{i}", f"output_blocks_{up}_0", ADM_BLOCK
            yield f"{dec}_block{i}", f"output_blocks_{up}_1", ADM_ATTENTION
            up += 1
    yield _one("out_norm", "out_0", NORM)
    yield _one("out_conv", "out_2", CONV)


def _in_our_form(weights: dict[str, np.ndarray], adm: bool) -> dict[str, np.ndarray]:
    """The tensors with attention and class labels as the networks here have them.

    The channels of queries, keys and values are ordered head, channel, q/k/v there. Labels are vectors
    with a single one, which SongUNet multiplies by the root of their length.
    """
    made = dict(weights)
    for name, value in weights.items():
        module, _, leaf = name.rpartition(".")
        if module.endswith(".qkv"):
            del made[name]
            block, width = module.removesuffix(".qkv"), len(value) // 3
            if adm:
                parts = value.reshape(width // HEAD, HEAD, 3, *value.shape[1:]).swapaxes(1, 2)
                flat = parts.reshape(3 * width, -1)
                made[f"{block}.joint.{leaf}"] = flat if value.ndim > 1 else flat[:, 0]
            else:
                for k, part in enumerate("qkv"):
                    made[f"{block}.{part}.{leaf}"] = value[k::3]
        elif module.endswith(".proj") and adm:
            del made[name]
            flat = value.reshape(len(value), -1)
            made[f"{module.removesuffix('.proj')}.out.{leaf}"] = flat if value.ndim > 1 else value
    label = made.pop("map_label.weight", None)
    if label is not None:
        bias = made.pop("map_label.bias", np.zeros((), np.float32))
        scale = 1.0 if adm else math.sqrt(label.shape[1])
        made["map_label.embedding"] = (scale * label.T + bias).astype(np.float32)
    return made


def _unused(name: str) -> bool:
    """Whether a tensor has no part here: fixed filters, and the map of the augmentation."""
    return name.endswith(".resample_filter") or name.startswith("map_augment.")


def _plan(modules: Iterator[Module], shapes: Tree) -> dict[str, Slot]:
    plan: dict[str, Slot] = {}
    for there, here, parts in modules:
        for part in parts:
            path = tuple(filter(None, (here, part.target)))
            if find(shapes, path) is not None:
                for leaf in part.layer.torch:
                    source = ".".join(filter(None, (there, part.source, leaf.source)))
                    plan[source] = Slot((*path, *leaf.target), leaf.move)
    return plan


Weights = dict[str, np.ndarray]


class _Kind(NamedTuple):
    """A network: the defaults of its class, our module of its arguments, and the modules of it.

    `form` brings its tensors to the form of ours, and `channels` are the names of its arguments for them.
    """

    defaults: Mapping[str, Any]
    make: Callable[[Fields], Any]
    modules: Callable[[Any, int], Iterator[Module]]
    form: Callable[[Weights], Weights]
    channels: tuple[str, ...] = ("in_channels", "out_channels")


KINDS = {
    "SongUNet": _Kind(SONG, _song, _song_modules, functools.partial(_in_our_form, adm=False)),
    "DhariwalUNet": _Kind(DHARIWAL, _adm, _adm_modules, functools.partial(_in_our_form, adm=True)),
    "UNet": _Kind(EDM2, edm2_network, edm2_modules, dict, ("img_channels",)),
}


def _edm_model(outer: Embedded, net: Any) -> Model:
    return Model(
        LinearVE(), net.apply, LogSigmaInput(), edm(number_of(outer, "sigma_data", 0.5))
    )  # fmt: skip


def _vp_model(outer: Embedded, net: Any) -> Model:
    low, rise = number_of(outer, "beta_min", 0.1), number_of(outer, "beta_d", 19.9)
    steps = number_of(outer, "M", 1000)
    return Model(VP(low, low + rise), net.apply, TimeInput(steps - 1), NOISE)


def _ve_model(outer: Embedded, net: Any) -> Model:
    ends = number_of(outer, "sigma_min", 0.02), number_of(outer, "sigma_max", 100)
    return Model(VE(*ends), net.apply, LogSigmaInput(1.0, 0.5), SCALED_SCORE)


def _iddpm_model(outer: Embedded, net: Any) -> Model:
    first, offset = number_of(outer, "C_1", 0.001), number_of(outer, "C_2", 0.008)
    sde = CosineBetas(int(number_of(outer, "M", 1000)), offset, 1 - first)
    return Model(sde, net.apply, IndexInput(rounded=True), NOISE, LEARNED_RANGE)


MODELS = {
    "EDMPrecond": _edm_model, "VPPrecond": _vp_model, "VEPrecond": _ve_model,
    "iDDPMPrecond": _iddpm_model, "Precond": _edm_model,
}  # fmt: skip
PLACES = {"Precond": "unet"}  # of the network in its preconditioning; the others have "model"


def from_edm(path: str | Path) -> Loaded:
    """The model of a `.pkl` of NVIDIA's EDM or EDM2 program: (model, params, info).

    The file names its network and its preconditioning: EDM's, on `LinearVE`, or those of the older VP,
    VE and Improved DDPM networks. The weights are the averaged ones. Class labels are integers. The
    map of the augmentation's vector is left out, as in the authors' sampling. EDM2's uncertainty is
    left out too, because it belongs to the loss. EDM2's networks for 512 pixels are of the latents of an
    autoencoder.

    `info` has the "module", the "shape" (h, w, c) of an image, the "config" (arguments of the network's
    class) and the "preconditioning".

    Raises ValueError, naming the file, for other objects, other arguments, and weights that do not fit
    exactly; OSError if it cannot be opened. No code of the file is run.

    >>> model, params, info = from_edm("edm-cifar10-32x32-uncond-vp.pkl")
    >>> score = model.score(params)
    """
    file = read_torch_pickle(path)
    with reading(path, "a network of EDM"):
        outer = embedded(file.get(AVERAGE) if isinstance(file, dict) else None, f"its {AVERAGE!r}")
        check(
            "its preconditioning", outer.kind[:80], outer.kind in MODELS, f"one of {list(MODELS)}"
        )
        place = PLACES.get(outer.kind, "model")
        inner = embedded((outer.state.get("_modules") or {}).get(place), "its network")
        check("its network", inner.kind[:80], inner.kind in KINDS, f"one of {list(KINDS)}")
        kind = KINDS[inner.kind]
        fields = fields_of(inner, kind.defaults, kind.channels)
        net = kind.make(fields)
        model = MODELS[outer.kind](outer, net)
        weights = kind.form(tensors_of(inner.state))
    shape = (fields.size, fields.size, fields.channels)
    shapes = template(net, shape, classes=bool(net.num_classes))
    unused = [name for name in weights if _unused(name)]
    params = assemble(shapes, _plan(kind.modules(net, fields.size), shapes), weights, path, unused)
    info = {
        "module": net, "shape": shape, "config": fields.given, "preconditioning": outer.kind,
        "ema": True,
    }  # fmt: skip
    return model, params, info
