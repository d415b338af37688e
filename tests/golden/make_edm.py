"""Make edm.npz: outputs of EDM's networks and preconditionings on weights drawn from their names.

    python tests/golden/make_edm.py FOLDER   (a checkout of NVlabs/edm, run with torch, e.g. 2.14)

The program is run, and nothing of it is kept: the file has inputs, outputs, and the names and shapes of
the tensors. The tests draw the same weights and write them as the program's pickles are, without its
source.
"""

import json
import pathlib
import sys
import types
import zlib

import numpy as np

SONG = {
    "img_resolution": 8, "img_channels": 3, "model_type": "SongUNet", "model_channels": 16,
    "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4],
}  # fmt: skip
NCSNPP = SONG | {
    "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}  # fmt: skip
ADM = {
    "img_resolution": 8, "img_channels": 3, "model_type": "DhariwalUNet", "model_channels": 64,
    "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [8, 4], "label_dim": 4,
}  # fmt: skip
CASES = {
    "vp": ("EDMPrecond", SONG | {"label_dim": 5, "augment_dim": 9}),
    "ve": ("EDMPrecond", NCSNPP | {"sigma_data": 0.6}),
    "adm": ("EDMPrecond", ADM),
    "baseline_vp": ("VPPrecond", SONG | {"label_dim": 5, "augment_dim": 9}),
    "baseline_ve": ("VEPrecond", NCSNPP),
    "baseline_adm": ("iDDPMPrecond", ADM),
}
OUTER = ("img_resolution", "img_channels", "label_dim", "sigma_data", "model_type")


def drawn(name, shape):
    """The weights of one tensor: scales of norms near 1, all else near 0."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    norm = "norm" in name.split(".")[-2] and name.endswith("weight")
    return (rng.normal(0, 0.1, shape) + norm).astype(np.float32)


def main(folder):
    """Run the program of the folder."""
    import torch

    sys.path.insert(0, folder)
    sys.modules.setdefault("requests", types.ModuleType("requests"))
    from training import networks

    found, rng = {}, np.random.default_rng(0)
    for case, (kind, fields) in CASES.items():
        net = getattr(networks, kind)(**fields).eval().requires_grad_(False)
        tensors = dict(net.model.named_parameters()) | {
            n: b for n, b in net.model.named_buffers() if not n.endswith("resample_filter")
        }
        for name, value in tensors.items():
            value.copy_(torch.as_tensor(drawn(name, tuple(value.shape))))
        x = rng.normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
        sigma = np.array([0.7, 5.0], np.float32)
        if kind == "iDDPMPrecond":
            sigma = net.u[[700, 300]].numpy()
        y = torch.nn.functional.one_hot(torch.tensor([1, 3]), max(net.label_dim, 4)).float()
        given = torch.as_tensor(x).permute(0, 3, 1, 2), torch.as_tensor(sigma)
        out = net(*given, y if net.label_dim else None).permute(0, 2, 3, 1).numpy()
        shapes = {n: list(v.shape) for n, v in tensors.items()}
        found |= {f"{case}/x": x, f"{case}/sigma": sigma, f"{case}/out": out}
        found[f"{case}/shapes"] = np.array(json.dumps(shapes))
    np.savez_compressed(pathlib.Path(__file__).with_name("edm.npz"), **found)


if __name__ == "__main__":
    main(sys.argv[1])
