"""Make edm2.npz: outputs of EDM2's network and preconditioning on weights drawn from their names.

    python tests/golden/make_edm2.py FOLDER   (a checkout of NVlabs/edm2, run with torch, e.g. 2.14)

As make_edm.py: the program is run, and nothing of it is kept. `python make_edm2.py FOLDER counts` prints
the numbers of parameters of the published sizes.
"""

import json
import pathlib
import sys
import zlib

import numpy as np

SMALL = {
    "img_resolution": 8, "img_channels": 3, "label_dim": 5, "model_channels": 16,
    "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 8,
}  # fmt: skip
CASES = {
    "edm2": SMALL,
    "edm2_other": SMALL | {
        "label_dim": 0, "channel_mult_noise": 2, "channel_mult_emb": 3, "concat_balance": 0.4,
        "channel_mult": [2], "res_balance": 0.2, "attn_balance": 0.6, "clip_act": 1,
        "sigma_data": 0.6, "attn_resolutions": [],
    },
}  # fmt: skip
OUTER = ("img_resolution", "img_channels", "label_dim", "sigma_data")


def drawn(name, shape):
    """The weights of one tensor: gains of 0.8, all else of unit variance, phases too."""
    if not shape:
        return np.array(0.8, np.float32)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.normal(0, 1, shape).astype(np.float32)


def main(folder, *what):
    """Run the program of the folder."""
    import torch

    sys.path.insert(0, folder)
    from training.networks_edm2 import Precond

    if what:
        for channels in (128, 192, 256, 320, 384):
            with torch.device("meta"):
                net = Precond(64, 3, 1000, model_channels=channels).unet
            every = [*net.parameters(), *net.buffers()]
            print(channels, sum(v.numel() for v in every))
        return
    found, rng = {}, np.random.default_rng(0)
    for case, fields in CASES.items():
        net = Precond(**fields, use_fp16=False).eval().requires_grad_(False)
        tensors = dict(net.unet.named_parameters()) | dict(net.unet.named_buffers())
        for name, value in tensors.items():
            value.copy_(torch.as_tensor(drawn(name, tuple(value.shape))))
        x = rng.normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
        sigma = np.array([0.7, 5.0], np.float32)
        y = torch.nn.functional.one_hot(torch.tensor([1, 3]), 5).float()
        given = torch.as_tensor(x).permute(0, 3, 1, 2), torch.as_tensor(sigma)
        out = net(*given, y if net.label_dim else None).permute(0, 2, 3, 1).numpy()
        shapes = {n: list(v.shape) for n, v in tensors.items()}
        found |= {f"{case}/x": x, f"{case}/sigma": sigma, f"{case}/out": out}
        found[f"{case}/shapes"] = np.array(json.dumps(shapes))
    np.savez_compressed(pathlib.Path(__file__).with_name("edm2.npz"), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
