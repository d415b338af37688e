"""The config.json of older versions, whose fields had other names, in the present form."""

import json
from typing import Any

KINDS = {
    "ncsnpp": "NCSNpp", "ddpm": "DDPM", "ncsnv2": "NCSNv2", "ncsn": "NCSN", "unet": "UNet",
    "series": "SeriesUNet", "mlp": "MLP",
}  # fmt: skip
SDES = {"vp": "VP", "subvp": "SubVP", "ve": "VE", "cosine": "CosineVP", "edm": "LinearVE"}
# Fields of an SDE of each kind, among those that a config had for all of them.
SDE_FIELDS = {
    "VP": ("beta_min", "beta_max"), "SubVP": ("beta_min", "beta_max"),
    "VE": ("sigma_min", "sigma_max"),
}  # fmt: skip
RENAMED = {
    "net": {"width": "channels", "time_conditional": "noise_conditional"},
    "unet": {
        "attention": "attention_factors", "head_channels": "num_head_channels",
        "scale_shift": "scale_shift_norm", "resample_in_blocks": "resblock_updown",
    },
    "train": {
        "accumulate": "microbatches", "bad_steps": "nonfinite_limit", "score": "checkpoint_metric",
    },
    "sample": {"finish": "final_denoising"},
    "parametrization": {"x0": "denoised"},
    "objective": {"vlb": "variational"},
    "sampler": {"table_ancestral": "ancestral", "table_ddim": "ddim"},
}  # fmt: skip


def upgraded(text: str) -> str:
    """The text of a config in the present form, whichever version wrote it."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError:
        return text
    if not isinstance(tree, dict):
        return text
    try:
        old = tree["sde"]["kind"] in {*SDES, "diffusion"} and "label" in tree["net"]
    except (KeyError, TypeError):
        old = False
    tree = _upgraded(tree) if old else tree
    data = tree.get("data")
    if isinstance(data, dict) and "image_size" in data:
        tree |= {"data": _data(data)}
    return json.dumps(tree)


def _data(tree: dict[str, Any]) -> dict[str, Any]:
    """The data of a config that has the size and channels of "tfds", whatever the kind of the data."""
    rest = {k: v for k, v in tree.items() if k not in ("image_size", "channels")}
    if tree.get("name") != "tfds":
        return rest
    return rest | {"size": [tree["image_size"]], "channels": tree.get("channels", 3)}


def _renamed(tree: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(k, k): v for k, v in tree.items()}


def _upgraded(tree: dict[str, Any]) -> dict[str, Any]:
    net, sde, loss, sample = (dict(tree[name]) for name in ("net", "sde", "loss", "sample"))
    output, label, conditional = (net.pop(name) for name in ("output", "label", "conditional"))
    kind = net.pop("kind")
    factor = net.pop("super_resolution", None)
    if net.pop("dtype", "float32") != "float32":
        net["dtype"] = tree["net"]["dtype"]
    if kind in ("ncsnpp", "ddpm", "ncsnv2"):
        net["scale_by_sigma"] = output == "score"
    if kind in ("ncsnv2", "ncsn"):
        net.pop("dropout")
    if kind == "unet":
        net["new_attention_order"] = not net.pop("legacy_attention")
        net = _renamed(net, RENAMED["unet"])
    if kind != "mlp":
        net = _renamed(net, RENAMED["net"])
    schedule = sde["kind"] == "diffusion"
    if schedule:
        process = {"kind": sde["schedule"].capitalize() + "Betas", "n": sde["steps"]}
        output = sde["predicts"]
        given = {"kind": "IndexInput", "top": 1000.0 if sde["rescale_labels"] else None}
        loss["objective"] = RENAMED["objective"].get(loss["objective"], loss["objective"])
        loss["times"] = "uniform"
        sample["finish"] = "tweedie" if "table" in sample["sampler"] else sample["finish"]
    else:
        process = {"kind": SDES[sde["kind"]]}
        process |= {name: sde[name] for name in SDE_FIELDS.get(process["kind"], ())}
        levels = {"kind": "LevelInput", "n": sde["levels"]}
        if sde["levels"] and sde["kind"] == "vp":
            ends = {"start": sde["beta_min"] / 1000, "end": sde["beta_max"] / 1000}
            process = {"kind": "LinearBetas", "n": sde["levels"], **ends}
            levels = {"kind": "IndexInput", "rounded": True}
        loss["times"] = "uniform" if sde["levels"] else loss["times"]
        given = {"time": {"kind": "TimeInput"}, "std": {"kind": "StdInput"}}.get(label, levels)
    loss.pop("kind")
    sample["sampler"] = RENAMED["sampler"].get(sample["sampler"], sample["sampler"])
    return tree | {
        "data": tree["data"] | {"low_res_factor": factor},
        "net": {"kind": KINDS[kind], **net},
        "sde": process,
        "noise_input": given,
        "parametrization": RENAMED["parametrization"].get(output, output),
        "variance": sde["variance"] if schedule else None,
        "class_conditional": conditional,
        "loss": loss | {"t0": sde["t0"]},
        "train": _renamed(tree["train"], RENAMED["train"]),
        "sample": _renamed(sample, RENAMED["sample"]),
    }
