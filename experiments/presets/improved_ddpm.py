"""Runs of Improved DDPM (arXiv:2102.09672) and of guided-diffusion, and small ones on the digits.

Facts of the commands in github.com/openai/improved-diffusion (README) and of the paper's appendix A.
"""

import dataclasses

from experiments.config import Config
from experiments.parts.fields import DataConfig, OptimConfig, TableLossConfig, TrainConfig
from experiments.parts.nets import UNetConfig
from experiments.parts.process import DiffusionConfig
from experiments.parts.sample_config import SampleConfig

_replace = dataclasses.replace

_HYBRID = TableLossConfig(objective="hybrid")
_VLB = TableLossConfig(objective="vlb", indices="loss_second_moment")
_SIMPLE = TableLossConfig(objective="simple")
_COSINE = DiffusionConfig(steps=4_000)
# Levels of grey are points here, at both ends of the range: x = -1 + 2 k / (levels - 1).
_SAMPLE = SampleConfig(sampler="table_ancestral", steps=250, threshold="static", finish="none")

# On the digits: a small U-Net, at one budget. A hundred steps, because the first noise should be about
# as wide as a bin (section 3.2 of the paper), and 17 levels have wide bins: on a thousand steps half of
# the bound is spent on rounding to the nearest level (docs/improved_ddpm.md).
_digits = Config(
    data=DataConfig(dequantize=False),
    sde=DiffusionConfig(steps=100),
    net=UNetConfig(
        width=32, channel_mult=(1.0, 2.0), num_blocks=1, attention=(2,), num_heads=4, label="index"
    ),
    loss=_HYBRID,
    sample=_replace(_SAMPLE, steps=100),
)

# As published.
_CIFAR10 = Config(
    data=DataConfig(
        name="tfds", builder="cifar10", image_size=32, num_classes=10, dequantize=False
    ),
    sde=_COSINE,
    net=UNetConfig(
        width=128, channel_mult=(1.0, 2.0, 2.0, 2.0), num_blocks=3, attention=(2, 4), num_heads=4,
        dropout=0.3, label="index",
    ),
    loss=_HYBRID,
    optim=OptimConfig(lr=1e-4, warmup=0, grad_clip=None, ema_decay=0.9999),
    train=TrainConfig(
        steps=500_000, batch_size=128, steps_per_call=5, log_every=50, sample_every=50_000,
        checkpoint_every=10_000,
    ),
    sample=_replace(_SAMPLE, steps=4_000),
)  # fmt: skip
_IMAGENET64 = _replace(
    _CIFAR10,
    data=_replace(
        _CIFAR10.data, builder="downsampled_imagenet/64x64", image_size=64, num_classes=None
    ),
    net=_replace(_CIFAR10.net, channel_mult=(1.0, 2.0, 3.0, 4.0), attention=(4, 8), dropout=0.0),
    train=_replace(_CIFAR10.train, steps=1_500_000, steps_per_call=1),
)
# The class-conditional runs: indices told as they are, and the bound's term not scaled by N / 1,000.
_AS_THEY_ARE = _replace(_COSINE, rescale_labels=False)
_UNSCALED = _replace(_HYBRID, weight=1 / 4_000)
_IMAGENET64_COND = _replace(
    _IMAGENET64,
    data=_replace(_IMAGENET64.data, builder="imagenet_resized/64x64", num_classes=1_000),
    sde=_AS_THEY_ARE,
    loss=_UNSCALED,
    net=_replace(_IMAGENET64.net, width=192, conditional=True),
    optim=_replace(_CIFAR10.optim, lr=3e-4),
    train=_replace(_IMAGENET64.train, steps=250_000, batch_size=2_048),
)
_UPSAMPLE = _replace(
    _IMAGENET64_COND,
    data=_replace(_IMAGENET64_COND.data, builder="imagenet2012", image_size=256),
    sde=_replace(_AS_THEY_ARE, schedule="linear"),
    net=_replace(
        _IMAGENET64_COND.net, channel_mult=(1.0, 1.0, 2.0, 2.0, 4.0, 4.0), num_blocks=2,
        attention=(16, 32), super_resolution=4,
    ),
    train=_replace(_IMAGENET64_COND.train, steps=500_000, batch_size=256),
)  # fmt: skip
_BEDROOM = _replace(
    _CIFAR10,
    data=_replace(_CIFAR10.data, builder="lsun/bedroom", image_size=256, num_classes=None),
    sde=DiffusionConfig(steps=1_000, schedule="linear", rescale_labels=False),
    net=_replace(
        _CIFAR10.net, channel_mult=(1.0, 1.0, 2.0, 2.0, 4.0, 4.0), num_blocks=2, attention=(16,),
        num_heads=1, scale_shift=False, dropout=0.0,
    ),
    train=_replace(_CIFAR10.train, steps=1_200_000, steps_per_call=1),
    sample=_replace(_SAMPLE, steps=1_000),
)  # fmt: skip

PRESETS: dict[str, Config] = {
    "digits_iddpm": _digits,
    "digits_iddpm_vlb": _replace(_digits, loss=_VLB),
    "digits_iddpm_linear": _replace(
        _digits, sde=_replace(_digits.sde, schedule="linear", variance="large"), loss=_SIMPLE
    ),
    "iddpm_cifar10": _CIFAR10,
    "iddpm_cifar10_vlb": _replace(_CIFAR10, loss=_VLB),
    "iddpm_imagenet64": _IMAGENET64,
    "iddpm_imagenet64_vlb": _replace(_IMAGENET64, loss=_VLB),
    "iddpm_imagenet64_cond": _IMAGENET64_COND,
    "iddpm_upsample_64_256": _UPSAMPLE,
    "iddpm_lsun_bedroom": _BEDROOM,
}
