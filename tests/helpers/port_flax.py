"""Parameters of the authors' JAX programs (Linen names by class and number), laid out for ours.

The programs make their modules unnamed, in the order of the calls; ours have names. A module without
parameters takes a number there as well: so numbers are ranks within a class, not positions.
"""

import re

import numpy as np

from score_jax.nets import NCSN, NCSNv2
from score_jax.nets.ncsnv2 import STAGES
from tests.helpers.port import ATTENTION, BLOCK, POINTWISE, names

LEAVES = {"W": "kernel", "b": "bias", "weight": "kernel"}


def _by_class(tree):
    """{class: [parameters in order of number]}."""
    found = {}
    for key in sorted(tree, key=lambda k: (k.split("_")[0], int(k.split("_")[-1]))):
        found.setdefault(re.sub(r"_\d+$", "", key), []).append(tree[key])
    return found


def _leaves(tree):
    return {LEAVES.get(k, k): np.asarray(v) for k, v in tree.items()}


def _parts(tree, table):
    """The parts of a block by a table of names; `skip` of a 1x1 convolution is a matrix."""
    out = {}
    for key, value in tree.items():
        name, value = table[key], _leaves(value)
        if name in POINTWISE:
            kernel = value["kernel"]
            value = {"map": value | {"kernel": kernel[0, 0] if kernel.ndim == 4 else kernel}}
        out[name] = value
    return out


def unet(net, tree, size):
    """NCSN++ or DDPM."""
    tree, pick = _by_class(tree), {}
    block = next(c for c in tree if c.startswith("ResnetBlock"))
    out = {}
    for name, table in names(net, size):
        if name == "fourier":
            kind = "GaussianFourierProjection"
        elif table is ATTENTION:
            kind = next(c for c in tree if c.startswith("AttnBlock"))
        elif table is BLOCK:
            kind = block
        elif name.endswith("_combine"):
            kind = "Combine"
        elif table:
            kind = "Upsample" if name.startswith(("up", "output")) else "Downsample"
        else:
            kind = "GroupNorm" if "norm" in name else "Conv"
            kind = "Dense" if name.startswith("embed") else kind
        number = pick[kind] = pick.get(kind, -1) + 1
        if kind in ("Upsample", "Downsample") and kind not in tree:
            continue  # no parameters
        value = tree[kind][number]
        if name == "fourier":
            out[name] = {"frequency": np.asarray(value["W"])}
        elif kind == "Combine":
            out[name] = _leaves(value["Conv_0"])
        elif kind in ("Upsample", "Downsample"):
            out[name] = {"conv": _leaves(next(iter(value.values())))}
        else:
            out[name] = _parts(value, table) if table else _leaves(value)
    return {"params": out}


def _norm(tree):
    if "Embed_0" in tree:
        return {"embedding": np.asarray(tree["Embed_0"]["embedding"])}
    return {k: np.asarray(v).reshape(-1) for k, v in tree.items()}


def _numbered(tree, name):
    """Convolutions and norms named by number."""
    out = {}
    for kind, values in _by_class(tree).items():
        for i, value in enumerate(values):
            if kind == "Conv":
                out["conv" + name(i)] = _leaves(value)
            else:
                out["norm" + name(i)] = _norm(value)
    return out


def _res(tree):
    tree = _by_class(tree)
    convs = tree["Conv"] + [pooled["Conv_0"] for pooled in tree.get("ConvMeanPool", [])]
    out = {name: _leaves(c) for name, c in zip(("conv1", "conv2", "shortcut"), convs, strict=False)}
    norms = next(v for k, v in tree.items() if "Norm" in k)
    return out | {f"norm{i + 1}": _norm(v) for i, v in enumerate(norms)}


def _refine(tree):
    tree = {k.removeprefix("Cond"): v for k, v in _by_class(tree).items()}
    pairs = lambda i: f"{i // 2 + 1}_{i % 2 + 1}"
    *adapts, last = (_numbered(t, pairs) for t in tree["RCUBlock"])
    out = {f"adapt{i}": t for i, t in enumerate(adapts)} | {"output": last}
    out["pool"] = _numbered(tree["CRPBlock"][0], str)
    if "MSFBlock" in tree:
        out["fuse"] = _numbered(tree["MSFBlock"][0], str)
    return out


def refinenet(net, tree):
    """NCSN or NCSNv2."""
    tree = {re.sub("^Cond(itional)?(?=Res|Ref)", "", k): v for k, v in tree.items()}
    tree = _by_class(tree)
    downs, ups = STAGES[net.variant]
    levels = ["1", *(name for name, *_ in downs)]
    out = {"first": _leaves(tree["Conv"][0]), "last": _leaves(tree["Conv"][1])}
    out["last_norm"] = _norm(next(v for k, v in tree.items() if "Norm" in k)[0])
    for i, block in enumerate(tree["ResidualBlock"]):
        out[f"res{levels[i // 2]}_{i % 2}"] = _res(block)
    for (name, _), block in zip(ups, tree["RefineBlock"], strict=True):
        out[f"refine{name}"] = _refine(block)
    return {"params": out}


def port(net, tree, size):
    """The parameters of the authors' JAX program for one of our networks."""
    return refinenet(net, tree) if isinstance(net, NCSN | NCSNv2) else unet(net, tree, size)
