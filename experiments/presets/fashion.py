"""Presets on Fashion-MNIST (arXiv:1708.07747): 70,000 real images of 28 x 28 pixels in ten classes.

The Debian package `dataset-fashion-mnist` installs them; other IDX files are given by --data.path.
"""

import dataclasses

from score_jax.nets import NCSNpp
from score_jax.parametrization import VELOCITY
from score_jax.sde import RectifiedFlow

from ..config import DataConfig, LossConfig, SampleConfig, TrainConfig
from ..run_config import Config
from .shared import FLOW_SAMPLE

# Small enough for two processor cores.
_VP = Config(
    data=DataConfig(
        name="idx", path="/usr/share/datasets/fashion-mnist", size=(28,), channels=1,
        num_classes=10, flip=True,
    ),
    net=NCSNpp(channels=16, channel_mult=(1, 2, 4), num_blocks=1, attention=(7,), dropout=0.0),
    class_conditional=True,
    # Some labels are hidden, for classifier-free guidance.
    loss=LossConfig(label_dropout=0.1),
    train=TrainConfig(steps=20_000, sample_every=5_000, checkpoint_every=1_000),
    sample=SampleConfig(sampler="dpmpp_2m", steps=30),
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
