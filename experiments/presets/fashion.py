"""Presets on Fashion-MNIST (arXiv:1708.07747): 70,000 real images of 28 x 28 pixels in ten classes.

The Debian package `dataset-fashion-mnist` installs them; other IDX files are given by --data.path.
"""

import dataclasses

from score_jax.nets import NCSNpp
from score_jax.parametrization import VELOCITY, edm
from score_jax.sde import RectifiedFlow

from ..config import DataConfig, LossConfig, OptimConfig, SampleConfig, TrainConfig
from ..run_config import Config
from .shared import FLOW_SAMPLE

# About an hour on two processor cores. Patches of 2 leave the first level 14 x 14 places, at a quarter of
# the cost, and EDM's preconditioning and noise levels (arXiv:2206.00364) give clothes early. Images are
# not mirrored: in this data shoes point to the left.
_VP = Config(
    data=DataConfig(
        name="idx", path="/usr/share/datasets/fashion-mnist", size=(28,), channels=1,
        num_classes=10,
    ),
    net=NCSNpp(
        channels=48, channel_mult=(1, 2), num_blocks=1, attention=(), dropout=0.0, patch=2
    ),
    # The standard deviation of the images, scaled to [-1, 1], is 0.71.
    parametrization=edm(0.7),
    class_conditional=True,
    # Some labels are hidden, for classifier-free guidance.
    loss=LossConfig(
        weighting="edm", times="log_normal", log_sigma_std=1.4, label_dropout=0.1
    ),
    optim=OptimConfig(lr=2e-3, warmup=300, beta2=0.99, schedule="cosine"),
    train=TrainConfig(steps=10_000, sample_every=2_500, checkpoint_every=500),
    # Steps that add noise mend what deterministic ones tear with so small a network (docs/gallery.md).
    sample=SampleConfig(sampler="ancestral", steps=40),
)  # fmt: skip

PRESETS: dict[str, Config] = {
    "fashion_vp": _VP,
    "fashion_flow": dataclasses.replace(
        _VP,
        sde=RectifiedFlow(),
        parametrization=VELOCITY,
        loss=LossConfig(weighting="velocity", label_dropout=0.1),
        sample=FLOW_SAMPLE,
    ),
}
