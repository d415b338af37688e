"""The authors' PyTorch weights of Improved DDPM and ADM networks, laid out for ours (for tests)."""

import json

import jax
import numpy as np
from flax import traverse_util

from score_jax.nets import EncoderUNet, UNet
from tests.golden.make_unet import weights
from tests.helpers.golden_files import golden

LEAVES = {"bias": ("bias",), "weight": ("kernel", "scale", "embedding")}
# Our field for theirs; what is missing here has the same meaning in a network of every size.
FIELDS = {
    "model_channels": "channels", "num_res_blocks": "num_blocks", "channel_mult": "channel_mult",
    "attention_resolutions": "attention_factors", "dropout": "dropout", "num_heads": "num_heads",
    "num_head_channels": "num_head_channels", "num_heads_upsample": "num_heads_upsample",
    "use_scale_shift_norm": "scale_shift_norm", "resblock_updown": "resblock_updown",
    "use_new_attention_order": "new_attention_order", "conv_resample": "conv_resample",
    "dims": "dims", "num_classes": "num_classes", "out_channels": "out_channels", "pool": "pool",
}  # fmt: skip
THEIR_DEFAULTS = {"use_scale_shift_norm": False, "num_heads": 1}


def network(hparams, kind="guided.UNetModel"):
    """The module of the authors' hyper-parameters."""
    kind = kind.partition(".")[2]
    given = {FIELDS[k]: v for k, v in (THEIR_DEFAULTS | hparams).items() if k in FIELDS}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v != -1}
    if kind == "EncoderUNetModel":
        given["num_classes"] = given.pop("out_channels")
        return EncoderUNet(**given)
    return UNet(**given, super_resolution=kind == "SuperResModel")


def variables(state, shapes):
    """A torch state dict {name: array} as variables like `shapes`; every tensor is used once."""
    flat = traverse_util.flatten_dict(shapes["params"])
    by_name = {"_".join(path): path for path in flat}
    out = {}
    for name, value in state.items():
        module, _, last = name.rpartition(".")
        stems = [f"{module}.{leaf}".replace(".", "_") for leaf in LEAVES.get(last, (last,))]
        path = by_name[next(stem for stem in stems if stem in by_name)]
        value = np.asarray(value, np.float32)
        if path[-1] == "kernel":
            value = np.moveaxis(value, (0, 1), (-1, -2))
            value = value.reshape(value.shape[-flat[path].ndim :])  # size 1: a plain map
        elif path[-1] == "positional_embedding":
            value = value.T
        assert path not in out
        out[path] = value
    return {"params": traverse_util.unflatten_dict(out)}


def read(name):
    """(module, state dict, arrays) of one reference case.

    "file" has its weights in the file; "file/case" draws them from their names.
    """
    file, _, case = name.partition("/")
    arrays = golden(file)
    if case:
        start = f"{case}/"
        arrays = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
    meta = json.loads(str(arrays["meta"]))
    if case:
        state = {k: weights(k, shape) for k, shape in meta["state"].items()}
    else:
        start = "state_dict/"
        state = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
    return network(meta["hparams"], meta.get("class", "improved.UNetModel")), state, arrays


def load(name):
    """(module, variables, inputs of apply, output) of one reference case; names as in `read`."""
    net, state, arrays = read(name)
    inputs = {"x": arrays["x"], "noise_input": arrays.get("label", arrays.get("t"))}
    inputs |= {k: arrays[k] for k in ("y", "low_res") if k in arrays}
    if "y" in inputs:
        inputs["y"] = inputs["y"].astype(np.int32)
    inputs = jax.device_put(inputs)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), **inputs))
    params = variables(state, shapes)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes), name
    return net, params, inputs, arrays["out"]
