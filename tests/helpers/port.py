"""The authors' PyTorch weights of NCSN++, DDPM++ and DDPM, laid out for our networks (parity tests)."""

import json

import numpy as np

from score_jax.nets import DDPM, NCSNpp
from tests.helpers.golden_files import golden

PREFIX = "state_dict/module.all_modules."
BLOCK = {
    "GroupNorm_0": "norm0", "GroupNorm_1": "norm1", "Conv_0": "conv0", "Conv_1": "conv1",
    "Conv_2": "skip", "NIN_0": "skip", "Dense_0": "label",
}  # fmt: skip
ATTENTION = {
    "GroupNorm_0": "norm", "NIN_0": "query", "NIN_1": "key", "NIN_2": "value", "NIN_3": "out",
}  # fmt: skip
RESAMPLE = {"Conv_0": "conv", "Conv2d_0": "conv"}
POINTWISE = ("query", "key", "value", "out", "skip")


def network(meta):
    """The module of a reference file's configuration."""
    model, config = meta["config"]["model"], meta["config"]
    discrete = model["scale_by_sigma"] and not config["training"]["continuous"]
    table = (float(model["sigma_max"]), float(model["sigma_min"]), model["num_scales"])
    common = {
        "channels": model["nf"],
        "channel_mult": tuple(model["ch_mult"]),
        "num_blocks": model["num_res_blocks"],
        "attention": tuple(model["attn_resolutions"]),
        "dropout": model["dropout"],
        "resample_with_conv": model["resamp_with_conv"],
        "scale_by_sigma": model["scale_by_sigma"],
        "sigmas": table if discrete else None,
        "centered": config["data"]["centered"],
        "noise_conditional": model["conditional"],
    }
    if model.get("name") == "ddpm":
        return DDPM(**common)
    return NCSNpp(
        **common,
        block=model["resblock_type"],
        embedding=model["embedding_type"],
        fourier_scale=model.get("fourier_scale", 16.0),
        fir=model["fir"],
        fir_kernel=tuple(model["fir_kernel"]),
        progressive=model["progressive"],
        progressive_input=model["progressive_input"],
        combine=model["progressive_combine"],
        skip_rescale=model["skip_rescale"],
        init_scale=model["init_scale"],
    )


def names(net, size):
    """(Flax name, table of its parts) in the order in which the authors' program makes its modules."""
    resample = RESAMPLE if net.block == "ddpm" else BLOCK
    out = [("fourier", {})] if net.embedding == "fourier" else []
    out += [("embed0", {}), ("embed1", {})] if net.noise_conditional else []
    out += [("first", {})]
    last = len(net.channel_mult) - 1
    for level in range(last + 1):
        for i in range(net.num_blocks):
            out.append((f"enc{level}_{i}", BLOCK))
            if size >> level in net.attention:
                out.append((f"enc{level}_{i}_attention", ATTENTION))
        if level != last:
            out.append((f"down{level}", resample))
            if net.progressive_input == "residual":
                out.append((f"input{level}", RESAMPLE))
            elif net.progressive_input == "input_skip":
                out.append((f"input{level}_combine", {"Conv_0": None}))
    out += [("mid0", BLOCK), ("mid_attention", ATTENTION), ("mid1", BLOCK)]
    for level in range(last, -1, -1):
        out += [(f"dec{level}_{i}", BLOCK) for i in range(net.num_blocks + 1)]
        if size >> level in net.attention:
            out.append((f"dec{level}_attention", ATTENTION))
        if net.progressive == "residual" and level != last:
            out.append((f"output{level}", RESAMPLE))
        elif net.progressive != "none":
            out += [(f"output{level}_norm", {}), (f"output{level}_conv", {})]
        if level:
            out.append((f"up{level}", resample))
    return out if net.progressive == "output_skip" else [*out, ("last_norm", {}), ("last", {})]


def _leaf(kind, value):
    value = np.asarray(value, np.float32)
    if kind in ("bias", "b"):
        return "bias", value
    if kind == "W":
        return ("kernel", value) if value.ndim == 2 else ("frequency", value)
    if value.ndim == 4:
        return "kernel", np.transpose(value, (2, 3, 1, 0))
    return ("kernel", value.T) if value.ndim == 2 else ("scale", value)


def load(name):
    """(module, params, arrays) of one reference file, or of one "file/variant" of several."""
    file, _, variant = name.partition("/")
    arrays = golden(file)
    if variant:
        start = f"{variant}/"
        arrays = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
    net = network(json.loads(str(arrays["meta"])))
    order = names(net, arrays["net/x"].shape[1])
    params = {}
    for key, value in arrays.items():
        if not key.startswith(PREFIX):
            continue
        index, *path = key[len(PREFIX) :].split(".")
        module, table = order[int(index)]
        folders = [module, *filter(None, (table[p] for p in path[:-1]))]
        if folders[-1] == "label" and not net.noise_conditional:
            continue  # the authors' program makes these maps and never uses them
        leaf, value = _leaf(path[-1], value)
        if folders[-1] in POINTWISE:
            folders.append("map")
            value = value[0, 0] if value.ndim == 4 else value
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = np.asarray(value)
    return net, {"params": params}, arrays
