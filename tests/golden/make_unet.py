"""Make `unet_variants.npz`: members of the Improved DDPM and ADM family, computed by the authors' code.

Needs torch (any version from 1.13) and the packages `improved_diffusion` and `guided_diffusion` of
github.com/openai on the path; no test needs them. Weights are not stored: `weights` draws every tensor
from its name, by a generator whose numbers NumPy keeps the same for ever, here and in the tests.

    python tests/golden/make_unet.py tests/golden/unet_variants.npz
"""

import json
import sys
import zlib

import numpy as np

SOURCE = "openai/guided-diffusion @ 22e0df8, openai/improved-diffusion @ 1bc7bbb"
BASE = {
    "in_channels": 3, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1,
    "attention_resolutions": [2], "channel_mult": [1, 2], "num_heads": 4,
}  # fmt: skip
ADM = BASE | {
    "use_scale_shift_norm": True, "resblock_updown": True, "num_head_channels": 16,
}  # fmt: skip
# name: (class, hyper-parameters, size of x, labels, size of low_res)
CASES = {
    "adm_class": (
        "guided.UNetModel",
        ADM | {"num_classes": 5, "out_channels": 6, "use_new_attention_order": True},
        (8, 12), [0.0, 937.0], None,
    ),
    "adm_half": (
        "guided.UNetModel",
        ADM | {"channel_mult": [0.5, 1, 1.5], "model_channels": 64,
               "attention_resolutions": [1, 4]},
        (8, 4), [12.25, 500.5], None,
    ),
    "plain_resampling": (
        "guided.UNetModel",
        BASE | {"conv_resample": False, "num_heads_upsample": 2, "use_new_attention_order": True},
        (4, 4), [3.0, 999.0], None,
    ),
    "series": (
        "guided.UNetModel", ADM | {"dims": 1, "channel_mult": [1, 1]}, (16,), [1.0, 700.0], None,
    ),
    "series_conv": (
        "improved.UNetModel",
        BASE | {"dims": 1, "channel_mult": [1, 1], "num_res_blocks": 2}, (8,), [1.0, 70.0], None,
    ),
    "volume": (
        "guided.UNetModel", BASE | {"dims": 3, "channel_mult": [1, 1]}, (3, 4, 4), [5.0, 20.0], None,
    ),
    "upsampler": (
        "guided.SuperResModel",
        ADM | {"channel_mult": [1, 1], "out_channels": 6, "num_classes": 4},
        (8, 8), [40.0, 41.0], (3, 5),
    ),
    "upsampler_improved": (
        "improved.SuperResModel",
        BASE | {"channel_mult": [1, 1], "use_scale_shift_norm": True, "num_heads_upsample": 1},
        (4, 8), [40.0, 41.0], (2, 4),
    ),
    "classifier_adaptive": (
        "guided.EncoderUNetModel",
        ADM | {"out_channels": 7, "pool": "adaptive"}, (4, 6), [2.0, 900.0], None,
    ),
    "classifier_attention": (
        "guided.EncoderUNetModel",
        ADM | {"out_channels": 7, "pool": "attention", "image_size": 8},
        (8, 8), [2.0, 900.0], None,
    ),
    "classifier_spatial": (
        "guided.EncoderUNetModel",
        BASE | {"out_channels": 7, "pool": "spatial", "channel_mult": [1, 1]},
        (4, 4), [2.0, 900.0], None,
    ),
    "classifier_spatial_v2": (
        "guided.EncoderUNetModel",
        BASE | {"out_channels": 7, "pool": "spatial_v2", "channel_mult": [1, 1],
                "use_new_attention_order": True},
        (4, 4), [2.0, 900.0], None,
    ),
}  # fmt: skip


def weights(name, shape):
    """The tensor of this name: scales near 1, maps that keep the variance, biases near 0."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) > 1:
        draw /= 1 if "embed" in name and "time" not in name else np.sqrt(np.prod(shape[1:]))
    else:
        draw = 0.2 * draw + (1 if name.endswith("weight") else 0)
    return draw.astype(np.float32)


def compute(kind, hparams, size, labels, low):
    """{key: array} of one case."""
    import importlib

    import torch

    program, kind = kind.split(".")
    make = getattr(importlib.import_module(f"{program}_diffusion.unet"), kind)
    theirs = {"image_size": 8} | hparams if program == "guided" else hparams
    net = make(**theirs).eval()
    state = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict({k: torch.tensor(weights(k, v)) for k, v in state.items()})
    rng = np.random.RandomState(zlib.crc32(repr((kind, size)).encode()))
    channels_last = {"x": rng.standard_normal((2, *size, 3))}
    if low:
        channels_last["low_res"] = rng.standard_normal((2, *low, 3))
    inputs = {k: torch.tensor(np.moveaxis(v, -1, 1), dtype=torch.float32).contiguous()
              for k, v in channels_last.items()}  # fmt: skip
    x, label = inputs.pop("x"), torch.tensor(labels)
    out = {k: v.astype(np.float32) for k, v in channels_last.items()}
    out["label"] = np.asarray(labels, np.float32)
    if hparams.get("num_classes"):
        out["y"] = np.array([1, 3], np.int32)
        inputs["y"] = torch.tensor([1, 3])
    with torch.no_grad():
        y = net(x, label, **inputs).numpy()
    out["out"] = np.moveaxis(y, 1, -1) if y.ndim > 2 else y
    meta = {"source": SOURCE, "class": f"{program}.{kind}", "hparams": hparams, "state": state}
    return out | {"meta": np.array(json.dumps(meta))}


def counts():
    """Print the number of parameters of every published network, counted in the authors' modules."""
    import importlib
    import inspect

    import torch
    from tests.published_unets import CLASSIFIER_DEFAULTS, DEFAULTS, PUBLISHED

    # Nothing is drawn: only shapes are asked for.
    for name in ("kaiming_uniform_", "uniform_", "normal_"):
        setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    for name, (program, flags, pinned) in PUBLISHED.items():
        package = "guided" if program == "classifier" else program
        script = importlib.import_module(f"{package}_diffusion.script_util")
        if program == "classifier":
            theirs = script.classifier_defaults()
            assert all(theirs[k] == v for k, v in CLASSIFIER_DEFAULTS.items())
            make = script.create_classifier
        else:
            theirs = script.model_and_diffusion_defaults() | {"small_size": 64}
            assert all(theirs[k] == v for k, v in DEFAULTS.items() if k in theirs)
            make = script.sr_create_model if "large_size" in flags else script.create_model
        asked = inspect.signature(make).parameters
        net = make(**{k: v for k, v in (theirs | flags).items() if k in asked})
        print(name, sum(p.numel() for p in net.parameters()), pinned, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "counts":
        counts()
    else:
        arrays = {
            f"{name}/{key}": value
            for name, case in CASES.items()
            for key, value in compute(*case).items()
        }
        np.savez_compressed(sys.argv[1], **arrays)
