"""Runs of Improved DDPM (arXiv:2102.09672) and of guided-diffusion, and small ones on the digits.

Facts of the commands in github.com/openai/improved-diffusion (README) and of the paper's appendix A.
"""

import dataclasses
from typing import Any

from score_jax.nets import UNet
from score_jax.parametrization import LARGE, LEARNED_RANGE, IndexInput
from score_jax.sde import CosineBetas, LinearBetas

from ..config import DataConfig, LossConfig, OptimConfig, SampleConfig, TrainConfig
from ..run_config import Config
from .shared import published

_replace = dataclasses.replace

# The smallest time is that of the likelihood's ODE.
_HYBRID = LossConfig(objective="hybrid", times="uniform", t0=1e-3)
# Indices that are drawn by their losses leave no times to choose.
_VLB = LossConfig(objective="variational", indices="loss_second_moment", t0=_HYBRID.t0)
# Grey levels are points here, at both ends of the range: x = -1 + 2 k / (levels - 1).
_SAMPLE = SampleConfig(sampler="ancestral", steps=250, threshold="static")

# On the digits: a small U-Net, at one budget. A hundred steps, because the first noise should be about
# as wide as a bin (section 3.2 of the paper), and 17 levels have wide bins: with a thousand steps half
# of the bound is spent on rounding to the nearest level (docs/benchmarks.md).
_digits = Config(
    data=DataConfig(dequantize=False),
    net=UNet(channels=32, channel_mult=(1.0, 2.0), num_blocks=1, attention_factors=(2,)),
    sde=CosineBetas(100),
    noise_input=IndexInput(top=1000.0),
    variance=LEARNED_RANGE,
    loss=_HYBRID,
    sample=_replace(_SAMPLE, steps=100),
)

_IMAGENET64 = DataConfig(
    name="tfds", builder="downsampled_imagenet/64x64", size=(64,), channels=3, dequantize=False
)
_CIFAR10 = _replace(_IMAGENET64, builder="cifar10", size=(32,), num_classes=10)
_BEDROOM = _replace(_IMAGENET64, builder="lsun/bedroom", size=(256,))
_LABELLED = _replace(_IMAGENET64, builder="imagenet_resized/64x64", num_classes=1_000)
_OPTIM = OptimConfig(lr=1e-4, warmup=0, grad_clip=None, ema_decay=0.9999)
_TRAIN = TrainConfig(
    steps=1_500_000, batch_size=128, steps_per_call=1, log_every=50, sample_every=50_000,
    checkpoint_every=10_000,
)  # fmt: skip


def _published(name: str, data: DataConfig, train: TrainConfig = _TRAIN, **changes: Any) -> Config:
    sample = _replace(_SAMPLE, steps=4_000)
    base = Config(data, loss=_HYBRID, optim=_OPTIM, train=train, sample=sample, **published(name))
    return _replace(base, **changes)


def _conditional(name: str, data: DataConfig, train: TrainConfig) -> Config:
    # The term of the bound is not scaled by n / 1,000.
    loss = _replace(_HYBRID, weight=1 / 4_000)
    return _published(
        name, data, train, loss=loss, optim=_replace(_OPTIM, lr=3e-4), class_conditional=True
    )


# diffusers' UNet2DModel as its script train_unconditional makes it, with a learned variance. A run of it
# is written for diffusers by `convert --to diffusers`. The images are those of --data.path.
_UNET2D = UNet(
    channel_mult=(1.0, 1.0, 2.0, 2.0, 4.0, 4.0), num_blocks=2, attention_factors=(16,), num_heads=1,
    num_head_channels=8, scale_shift_norm=False,
)  # fmt: skip
_CIFAR10_TRAIN = _replace(_TRAIN, steps=500_000, steps_per_call=5)

PRESETS: dict[str, Config] = {
    "digits_iddpm": _digits,
    "digits_iddpm_vlb": _replace(_digits, loss=_VLB),
    "digits_iddpm_linear": _replace(
        _digits, sde=LinearBetas(100), variance=LARGE, loss=_replace(_HYBRID, objective="simple")
    ),
    "iddpm_unet2d_64": Config(
        data=DataConfig(
            name="folder", path="images", size=(64,), channels=3, flip=True, dequantize=False
        ), net=_UNET2D,
        sde=CosineBetas(1_000), noise_input=IndexInput(), variance=LEARNED_RANGE, loss=_HYBRID,
        optim=_replace(_OPTIM, warmup=500, grad_clip=1.0),
        train=_replace(_TRAIN, steps=100_000, batch_size=64, sample_every=10_000), sample=_SAMPLE,
    ),
    "iddpm_cifar10": _published("iddpm_cifar10", _CIFAR10, _CIFAR10_TRAIN),
    "iddpm_cifar10_vlb": _published("iddpm_cifar10_vlb", _CIFAR10, _CIFAR10_TRAIN, loss=_VLB),
    "iddpm_imagenet64": _published("iddpm_imagenet64", _IMAGENET64),
    "iddpm_imagenet64_vlb": _published("iddpm_imagenet64_vlb", _IMAGENET64, loss=_VLB),
    "iddpm_imagenet64_cond": _conditional(
        "iddpm_imagenet64_cond", _LABELLED, _replace(_TRAIN, steps=250_000, batch_size=2_048)
    ),
    "iddpm_upsample_64_256": _conditional(
        "iddpm_upsample_64_256",
        _replace(_LABELLED, builder="imagenet2012", size=(256,), low_res_factor=4),
        _replace(_TRAIN, steps=500_000, batch_size=256),
    ),
    "iddpm_lsun_bedroom": _published(
        "iddpm_lsun_bedroom", _BEDROOM, _replace(_TRAIN, steps=1_200_000),
        sample=_replace(_SAMPLE, steps=1_000),
    ),
}  # fmt: skip
