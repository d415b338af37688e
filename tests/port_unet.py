"""The authors' PyTorch weights of Improved DDPM and ADM networks, laid out for `UNet` (for tests)."""

import json

import numpy as np

from score_jax.nets import UNet
from tests.golden_files import golden


def module_name(torch_module, known):
    """The Flax path of one PyTorch module: the same characters, dots as underscores."""
    return next(path for path in known if "_".join(path) == torch_module.replace(".", "_"))


def leaf(torch_name, value):
    """(Flax path as one string joined with underscores, value in Flax's layout) of one tensor."""
    module, _, kind = torch_name.rpartition(".")
    value = np.asarray(value, np.float32)
    if kind == "bias":
        return module, "bias", value
    if value.ndim == 1:
        return module, "scale", value
    if module == "label_emb":
        return module, "embedding", value
    if value.ndim == 3 and module.rpartition(".")[2] in ("qkv", "proj_out"):
        value = value[:, :, 0]
    return module, "kernel", np.moveaxis(value, (0, 1), (-1, -2))


def nested(state, shapes):
    """A torch state dict {name: array} as the variables of the network with these shapes."""
    paths = {}

    def walk(tree, path):
        for key, value in tree.items():
            if hasattr(value, "shape"):
                paths["_".join(path)] = path
            else:
                walk(value, (*path, key))

    walk(shapes["params"], ())
    params = {}
    for name, value in state.items():
        module, kind, value = leaf(name, value)
        place = params
        for part in paths[module.replace(".", "_")]:
            place = place.setdefault(part, {})
        place[kind] = value
    return {"params": params}


def network(h):
    """The module of the authors' hyper-parameters."""
    return UNet(
        channels=h["model_channels"],
        channel_mult=tuple(h["channel_mult"]),
        num_blocks=h["num_res_blocks"],
        attention_factors=tuple(h["attention_resolutions"]),
        dropout=h["dropout"],
        conv_resample=h["conv_resample"],
        scale_shift_norm=h["use_scale_shift_norm"],
        num_classes=h["num_classes"],
        num_heads=h["num_heads"],
        out_channels=h["out_channels"],
    )


def state_dict(arrays):
    """The tensors of a reference file under the authors' names."""
    start = "state_dict/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


def load(name):
    """(module, state dict, arrays) of one reference file."""
    arrays = golden(name)
    return network(json.loads(str(arrays["meta"]))["hparams"]), state_dict(arrays), arrays
