"""Make variants.npz: what the authors' PyTorch program computes for rarer members of the family.

    python tests/golden/make_variants.py CLONE_OF_score_sde_pytorch

Needs torch (CPU) and numpy, which the project does not; run by hand, never by the tests. The clone is
copied and repaired in four places, where the program crashes as published: the kernels are flipped
by torch.flip, the transposed convolution gets two strides and no output padding, and
interpolation is told its mode by name.
"""

import json
import pathlib
import shutil
import sys
import tempfile
import types

import numpy as np
import torch

COMMIT = "cb1f359"
REPAIRS = {
    "up_or_down_sampling.py": [
        ("w[..., ::-1, ::-1]", "torch.flip(w, (-2, -1))"),
        ("stride = [1, 1, factor, factor]", "stride = [factor, factor]"),
        ("stride[1] - convW)", "stride[1] - convW)\n  output_padding = (0, 0)"),
    ],
    "layerspp.py": [("(H * 2, W * 2), 'nearest'", "(H * 2, W * 2), mode='nearest'")],
}
BASE = {
    "nf": 8, "ch_mult": [1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "dropout": 0.1,
    "resamp_with_conv": True, "conditional": True, "fir": True, "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True, "resblock_type": "biggan", "progressive": "none",
    "progressive_input": "none", "progressive_combine": "sum", "embedding_type": "fourier",
    "fourier_scale": 16, "init_scale": 1.0, "scale_by_sigma": True, "nonlinearity": "swish",
    "normalization": "GroupNorm", "sigma_min": 0.01, "sigma_max": 50.0, "num_scales": 1000,
}  # fmt: skip
POSITIONAL = {"embedding_type": "positional", "scale_by_sigma": False}
VARIANTS = {
    "skips_cat": {"progressive": "output_skip", "progressive_input": "input_skip",
                  "progressive_combine": "cat"},
    "residuals": {"progressive": "residual", "progressive_input": "residual"},
    "ddpm": {**POSITIONAL, "resblock_type": "ddpm", "fir": False, "skip_rescale": False,
             "progressive": "residual", "progressive_input": "residual"},
    "ddpm_fir": {**POSITIONAL, "resblock_type": "ddpm", "progressive": "output_skip",
                 "progressive_input": "input_skip", "fir_kernel": [1, 2, 1]},
    "ddpm_bare": {**POSITIONAL, "resblock_type": "ddpm", "fir": False, "resamp_with_conv": False,
                  "conditional": False, "progressive_input": "input_skip"},
}  # fmt: skip


def repaired(clone, folder):
    """A copy of the clone that runs on a CPU."""
    for part in ("models", "op"):
        shutil.copytree(clone / part, folder / part)
    shutil.copy(clone / "sde_lib.py", folder)
    for name, pairs in REPAIRS.items():
        path = folder / "models" / name
        text = path.read_text()
        for old, new in pairs:
            assert old in text, (name, old)
            text = text.replace(old, new)
        path.write_text(text)


def record(variant):
    """One variant: its configuration, weights of float16 values, inputs and output (float32)."""
    from models.ncsnpp import NCSNpp

    config = {
        "model": BASE | variant,
        "data": {"image_size": 8, "num_channels": 2, "centered": "conditional" not in variant},
        "training": {"continuous": True},
    }
    space = types.SimpleNamespace(**{k: types.SimpleNamespace(**v) for k, v in config.items()})
    net = NCSNpp(space).eval()
    for value in net.state_dict().values():
        value.copy_((value + 0.05 * torch.randn_like(value)).half())
    x = torch.randn(2, 2, 8, 8)
    label = torch.tensor([0.3, 21.0])
    with torch.no_grad():
        out = net(x, label)
    arrays = {f"state_dict/module.{k}": v.numpy() for k, v in net.state_dict().items()}
    arrays = {k: v.astype(np.float16) for k, v in arrays.items() if "all_modules" in k}
    arrays["net/x"] = x.permute(0, 2, 3, 1).numpy()
    arrays["net/label"] = label.numpy()
    arrays["net/out"] = out.permute(0, 2, 3, 1).numpy()
    source = f"yang-song/score_sde_pytorch @ {COMMIT}, repaired by make_variants.py"
    arrays["meta"] = np.array(json.dumps({"config": config, "source": source}))
    return arrays


def main(clone):
    """Write variants.npz beside this file; keys are `variant/...`."""
    torch.manual_seed(0)
    torch.utils.cpp_extension.load = lambda *args, **kwargs: None  # the CUDA kernels are not used
    with tempfile.TemporaryDirectory() as folder:
        repaired(clone, pathlib.Path(folder))
        sys.path.insert(0, folder)
        arrays = {
            f"{name}/{key}": value
            for name, variant in VARIANTS.items()
            for key, value in record(variant).items()
        }
    place = pathlib.Path(__file__).with_name("variants.npz")
    np.savez_compressed(place, **arrays)
    print(place, place.stat().st_size)


if __name__ == "__main__":
    import torch.utils.cpp_extension

    main(pathlib.Path(sys.argv[1]))
