"""Runs of EDM (arXiv:2206.00364), without its augmentation, of EDM2, and small ones on the digits.

Facts of the paper's table 7 and appendix F.1. The published figures were reached with the non-leaking
augmentation (`--data.augment 0.12` on CIFAR-10), except on ImageNet. The average of the parameters has a
half-life of 0.5 (CIFAR-10) and 50 million images (ImageNet), and a warm-up of its own there.

EDM2 (arXiv:2312.02696 and the presets of its program): configuration G, size S, 2^30 images. Its
averages are power functions, of which `average` makes one of any length; the published FID of 1.58 is at
a relative width of 0.075. Sizes XS, M, L and XL differ in `net.channels` (128, 256, 320, 384),
`net.dropout` (0.1 from M on), `optim.lr` (0.012, 0.009, 0.008, 0.007) and `train.steps`. They were
trained in float16 with float32 parameters; `--net.dtype bfloat16` is the like here. The weight of the
noise levels is learned with the network, as in the paper (`loss.uncertainty`).

`cifar10_consistency` is improved consistency training (arXiv:2310.14189) on the network of the published
consistency models. The paper trains with RAdam and dropout (`--net.dropout 0.3`), and its best network
is twice as deep.
"""

import dataclasses

from score_jax.nets import EDM2
from score_jax.parametrization import LogSigmaInput, edm
from score_jax.sde import LinearVE

from ..config import DataConfig, LossConfig, OptimConfig, SampleConfig, TrainConfig
from ..run_config import Config
from .shared import CONSISTENCY_LOSS, CONSISTENCY_SAMPLE, published

_replace = dataclasses.replace

_LOSS = LossConfig(weighting="edm", times="log_normal", t0=1e-3)
# 35 evaluations: the last step, to sigma = 0, is the final denoising.
_SAMPLE = SampleConfig(sampler="heun", grid="karras", steps=17, t0=0.002)
_CIFAR10 = Config(
    data=DataConfig(
        name="tfds", builder="cifar10", size=(32,), channels=3, num_classes=10, dequantize=False
    ),
    loss=_LOSS,
    optim=OptimConfig(lr=1e-3, warmup=19_530, grad_clip=None, ema_decay=0.5 ** (512 / 500_000)),
    train=TrainConfig(
        steps=390_625, batch_size=512, steps_per_call=5, log_every=50, sample_every=50_000,
        checkpoint_every=10_000,
    ),
    sample=_SAMPLE,
)  # fmt: skip
_IMAGENET64 = _replace(
    _CIFAR10,
    data=_replace(
        _CIFAR10.data, builder="imagenet_resized/64x64", size=(64,), num_classes=1_000
    ),
    optim=OptimConfig(
        lr=1e-4, warmup=2_441, grad_clip=None, ema_decay=0.5 ** (4_096 / 50_000_000)
    ),
    train=TrainConfig(
        steps=610_350, batch_size=4_096, steps_per_call=1, log_every=50, sample_every=50_000,
        checkpoint_every=10_000,
    ),
    sample=_replace(_SAMPLE, steps=39),
    class_conditional=True,
)  # fmt: skip

_EDM2_64 = _replace(
    _IMAGENET64,
    loss=_replace(_LOSS, log_sigma_mean=-0.8, log_sigma_std=1.6, uncertainty=True),
    optim=OptimConfig(
        lr=0.01, warmup=4_882, grad_clip=None, beta2=0.99, schedule="inverse_sqrt",
        decay_after=35_000, ema_decay=0.9999, power_averages=(0.05, 0.1),
    ),
    train=TrainConfig(
        steps=524_288, batch_size=2_048, steps_per_call=1, log_every=64, sample_every=65_536,
        checkpoint_every=8_192, snapshot_every=4_096,
    ),
    sample=_replace(_SAMPLE, steps=31),
)  # fmt: skip

PRESETS: dict[str, Config] = {
    "digits_edm": Config(
        # The standard deviation of the digits, scaled to [-1, 1], is 0.75.
        sde=LinearVE(), noise_input=LogSigmaInput(), parametrization=edm(0.75),
        loss=_LOSS, sample=_SAMPLE,
    ),
    "digits_edm2": Config(
        net=EDM2(
            channels=32, channel_mult=(1, 2), num_blocks=1, attention_factors=(2,),
            num_head_channels=32,
        ),
        sde=LinearVE(), noise_input=LogSigmaInput(), parametrization=edm(0.75),
        loss=_replace(_LOSS, uncertainty=True),
        optim=OptimConfig(
            lr=0.01, grad_clip=None, beta2=0.99, schedule="inverse_sqrt", decay_after=500,
            power_averages=(0.05, 0.1),
        ),
        train=TrainConfig(snapshot_every=250), sample=_SAMPLE,
    ),
    "cifar10_edm_vp": _replace(_CIFAR10, **published("cifar10_edm_vp")),
    "cifar10_edm_ve": _replace(_CIFAR10, **published("cifar10_edm_ve")),
    "imagenet64_edm_adm": _replace(_IMAGENET64, **published("imagenet64_edm_adm")),
    # The EDM network that OpenAI's consistency models start from, and these, by consistency training.
    "cifar10_edm_jcm": _replace(_CIFAR10, **published("cifar10_edm_jcm")),
    "cifar10_consistency": _replace(
        _CIFAR10,
        **published("cifar10_consistency"),
        loss=CONSISTENCY_LOSS,
        optim=OptimConfig(lr=1e-4, grad_clip=None, ema_decay=0.99993),
        train=_replace(_CIFAR10.train, steps=400_000, batch_size=1_024),
        sample=CONSISTENCY_SAMPLE,
    ),
    "imagenet64_edm2_s": _replace(_EDM2_64, **published("imagenet64_edm2_s")),
}  # fmt: skip
