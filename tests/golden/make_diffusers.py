"""Make diffusers_unet.npz: outputs of diffusers' UNet2DModel with its default fields.

    python tests/golden/make_diffusers.py   (with torch and diffusers, e.g. 0.42)

Weights are drawn from their names, by the tests too; the file has inputs, outputs, the configuration and
the shapes of the tensors.
"""

import json
import pathlib

import numpy as np

from tests.golden.make_edm import drawn

CASES = {
    "plain": {
        "in_channels": 3, "out_channels": 3, "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "classes": {
        "in_channels": 2, "out_channels": 4, "block_out_channels": (32, 32, 64),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), "num_class_embeds": 5,
    },
}  # fmt: skip


def main():
    """Run diffusers."""
    import torch
    from diffusers import UNet2DModel

    found, rng = {}, np.random.default_rng(0)
    for case, fields in CASES.items():
        net = UNet2DModel(sample_size=8, layers_per_block=1, **fields).eval().requires_grad_(False)
        for name, value in net.named_parameters():
            value.copy_(torch.as_tensor(drawn(name, tuple(value.shape))))
        x = rng.normal(0, 1, (2, 8, 8, fields["in_channels"])).astype(np.float32)
        t, y = torch.tensor([3, 700]), torch.tensor([1, 4])
        given = {"class_labels": y} if "num_class_embeds" in fields else {}
        out = net(torch.as_tensor(x).permute(0, 3, 1, 2), t, **given).sample
        found |= {f"{case}/x": x, f"{case}/out": out.permute(0, 2, 3, 1).numpy()}
        shapes = {n: list(v.shape) for n, v in net.named_parameters()}
        config = {k: v for k, v in net.config.items() if not k.startswith("_")}
        found[f"{case}/shapes"] = np.array(json.dumps(shapes))
        found[f"{case}/config"] = np.array(json.dumps(config))
    np.savez_compressed(pathlib.Path(__file__).with_name("diffusers_unet.npz"), **found)


if __name__ == "__main__":
    main()
