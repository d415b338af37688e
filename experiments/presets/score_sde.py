"""The 39 runs of score_sde (arXiv:2011.13456), of which NCSN, NCSNv2 and DDPM are repetitions.

Facts of github.com/yang-song/score_sde_pytorch/tree/main/configs, whose paths are the names here with
"_" for "/". Where a file there cannot be run as it stands, the note beside it says what was meant.
`published` holds the figures of the paper.
"""

import dataclasses
from typing import Any

from experiments.config import Config
from experiments.parts.fields import DataConfig, LossConfig, OptimConfig, TrainConfig
from experiments.parts.nets import DDPMConfig, NCSNConfig, NCSNppConfig, NCSNv2Config
from experiments.parts.process import SDEConfig
from experiments.parts.sample_config import SampleConfig

_replace = dataclasses.replace

# Data. None is dequantised in training: grey levels are points.
_CIFAR10 = DataConfig(
    name="tfds", builder="cifar10", image_size=32, num_classes=10, flip=True, dequantize=False
)
_CELEBA = _replace(_CIFAR10, builder="celeb_a", image_size=64, num_classes=None)
_BEDROOM = _replace(_CELEBA, builder="lsun/bedroom", image_size=256)
_CHURCH = _replace(_BEDROOM, builder="lsun/church_outdoor")
_CELEBAHQ = _replace(_BEDROOM, builder="celeb_a_hq/256")
_FFHQ = _replace(_BEDROOM, builder="ffhq")


def _uncentered(data: DataConfig) -> DataConfig:
    """VE sees data in [0, 1], and the network centres them itself."""
    return _replace(data, range=(0.0, 1.0))


# Optimisation: EMA with the authors' warm-up min(decay, (1 + n) / (10 + n)).
_OPTIM = OptimConfig(lr=2e-4, warmup=5_000, grad_clip=1.0, ema_decay=0.9999)
_OPTIM_VE = _replace(_OPTIM, ema_decay=0.999)
_OPTIM_LARGE_DDPM = _replace(_OPTIM, lr=2e-5)
_OPTIM_NCSN = OptimConfig(lr=1e-3, warmup=0, grad_clip=None, ema_decay=0.0)
_OPTIM_NCSNV2 = _replace(_OPTIM_NCSN, lr=1e-4, ema_decay=0.999)

_CIFAR10_TRAIN = TrainConfig(
    steps=1_300_000, batch_size=128, steps_per_call=5, log_every=50, sample_every=50_000,
    checkpoint_every=10_000,
)  # fmt: skip
_DEEP_TRAIN = _replace(_CIFAR10_TRAIN, steps=950_000)
_CELEBA_TRAIN = _replace(_CIFAR10_TRAIN, steps_per_call=1)
_LARGE_TRAIN = _replace(_CELEBA_TRAIN, steps=2_400_000, batch_size=64, checkpoint_every=5_000)
_1024_TRAIN = _replace(_LARGE_TRAIN, batch_size=8)

_MEAN = LossConfig(times="uniform", reduction="mean")
_SUM = LossConfig(times="uniform", reduction="half_sum")

# Forward processes.
_VP, _SUBVP = SDEConfig(kind="vp"), SDEConfig(kind="subvp")
_VP_LEVELS = SDEConfig(kind="vp", levels=1_000)


def _ve(sigma_max: float, levels: int | None = None) -> SDEConfig:
    return SDEConfig(kind="ve", sigma_min=0.01, sigma_max=sigma_max, levels=levels)


# Sampling.
_EULER = SampleConfig(
    sampler="pc", predictor="euler_maruyama", corrector="none", steps=1_000, t0=1e-3
)
_REVERSE = _replace(_EULER, predictor="reverse_diffusion")
_ANCESTRAL = _replace(_EULER, predictor="ancestral")


def _pc(snr: float, steps: int = 1_000) -> SampleConfig:
    return _replace(_REVERSE, corrector="langevin", snr=snr, steps=steps, t0=1e-5)


def _ald(snr: float, corrector_steps: int, steps: int) -> SampleConfig:
    return _replace(
        _EULER, predictor="none", corrector="annealed", snr=snr, corrector_steps=corrector_steps,
        steps=steps, t0=1e-5,
    )  # fmt: skip


# Networks.
_DDPM = DDPMConfig(width=128, channel_mult=(1, 2, 2, 2), num_blocks=2, attention=(16,), dropout=0.1)
_LARGE_DDPM = _replace(_DDPM, channel_mult=(1, 1, 2, 2, 4, 4), dropout=0.0, label="index")
_DDPMPP = NCSNppConfig(
    width=128, channel_mult=(1, 2, 2, 2), num_blocks=4, attention=(16,), dropout=0.1
)
_NCSNPP = _replace(_DDPMPP, fir=True, progressive_input="residual")
_VE_NCSNPP = _replace(_NCSNPP, embedding="fourier", output="score", label="std")
_LARGE_NCSNPP = _replace(
    _VE_NCSNPP, channel_mult=(1, 1, 2, 2, 2, 2, 2), num_blocks=2, dropout=0.0,
    progressive="output_skip", progressive_input="input_skip",
)  # fmt: skip
_1024_NCSNPP = _replace(
    _LARGE_NCSNPP, width=16, channel_mult=(1, 2, 4, 8, 16, 32, 32, 32), num_blocks=1
)
_NCSN = NCSNConfig(width=128, output="score", label="index")
_NCSNV2 = NCSNv2Config(width=128, output="score", label="index")


def _levels(net: Any, **changes: Any) -> Any:
    """The same network, told the index of a noise level."""
    return _replace(net, label="index", **changes)


def _cifar10(sde: SDEConfig, net: Any, sample: SampleConfig, *, deep: bool = False) -> Config:
    """VP and sub-VP on CIFAR-10."""
    net = _replace(net, num_blocks=8) if deep else net
    return Config(
        _CIFAR10, sde, net, _MEAN, _OPTIM, _DEEP_TRAIN if deep else _CIFAR10_TRAIN, sample, seed=42
    )


def _cifar10_ve(sde: SDEConfig, net: Any, *, deep: bool = False) -> Config:
    base = _cifar10(sde, net, _pc(0.16), deep=deep)
    return _replace(base, data=_uncentered(_CIFAR10), loss=_SUM, optim=_OPTIM_VE)


def _large_ve(data: DataConfig, sigma_max: float) -> Config:
    return Config(
        _uncentered(data), _ve(sigma_max), _LARGE_NCSNPP, _SUM, _OPTIM_VE, _LARGE_TRAIN,
        _pc(0.075, 2_000), seed=42,
    )  # fmt: skip


def _1024_ve(data: DataConfig, loss: LossConfig) -> Config:
    return Config(
        _uncentered(_replace(data, image_size=1024)), _ve(1348.0), _1024_NCSNPP, loss, _OPTIM,
        _1024_TRAIN, _pc(0.15, 2_000), seed=42,
    )  # fmt: skip


def _large_ddpm(data: DataConfig) -> Config:
    return Config(
        data, _VP_LEVELS, _LARGE_DDPM, _MEAN, _OPTIM_LARGE_DDPM, _LARGE_TRAIN, _ANCESTRAL, seed=42
    )


def _ncsn(
    data: DataConfig, sigma_max: float, levels: int, snr: float, steps_each: int, *, ema: float
) -> Config:
    """Annealed Langevin dynamics on a table of noise levels."""
    return Config(
        _uncentered(data), _ve(sigma_max, levels), _NCSN, _SUM, _replace(_OPTIM_NCSN, ema_decay=ema),
        _CIFAR10_TRAIN if data is _CIFAR10 else _CELEBA_TRAIN, _ald(snr, steps_each, levels),
        seed=42,
    )  # fmt: skip


def _ncsnv2(data: DataConfig, sigma_max: float, levels: int, snr: float) -> Config:
    base = _ncsn(data, sigma_max, levels, snr, 5, ema=0.999)
    return _replace(base, net=_NCSNV2, optim=_OPTIM_NCSNV2)


_celeba_ncsnpp = Config(
    _uncentered(_CELEBA), _ve(90.0, 1_000), _levels(_VE_NCSNPP, embedding="positional"), _SUM,
    _OPTIM_VE, _CELEBA_TRAIN, _pc(0.17), seed=42,
)  # fmt: skip

PRESETS: dict[str, Config] = {
    "vp_cifar10_ddpmpp": _cifar10(_VP_LEVELS, _levels(_DDPMPP), _ANCESTRAL),
    "vp_cifar10_ddpmpp_continuous": _cifar10(_VP, _DDPMPP, _EULER),
    "vp_cifar10_ddpmpp_deep_continuous": _cifar10(_VP, _DDPMPP, _EULER, deep=True),
    "vp_cifar10_ncsnpp": _cifar10(_VP_LEVELS, _levels(_NCSNPP), _REVERSE),
    "vp_cifar10_ncsnpp_continuous": _cifar10(_VP, _NCSNPP, _EULER),
    "vp_cifar10_ncsnpp_deep_continuous": _cifar10(_VP, _NCSNPP, _EULER, deep=True),
    "vp_ddpm_cifar10": _cifar10(_VP_LEVELS, _levels(_DDPM), _ANCESTRAL),
    "vp_ddpm_cifar10_continuous": _cifar10(_VP, _DDPM, _EULER),
    "vp_ddpm_cifar10_unconditional": _cifar10(
        _VP_LEVELS, _levels(_DDPM, time_conditional=False), _ANCESTRAL
    ),
    "vp_ddpm_bedroom": _large_ddpm(_BEDROOM),
    "vp_ddpm_church": _large_ddpm(_CHURCH),
    "vp_ddpm_celebahq": _large_ddpm(_CELEBAHQ),
    "subvp_cifar10_ddpm_continuous": _cifar10(_SUBVP, _DDPM, _EULER),
    "subvp_cifar10_ddpmpp_continuous": _cifar10(_SUBVP, _DDPMPP, _EULER),
    "subvp_cifar10_ddpmpp_deep_continuous": _cifar10(_SUBVP, _DDPMPP, _EULER, deep=True),
    "subvp_cifar10_ncsnpp_continuous": _cifar10(_SUBVP, _NCSNPP, _EULER),
    "subvp_cifar10_ncsnpp_deep_continuous": _cifar10(_SUBVP, _NCSNPP, _EULER, deep=True),
    "ve_cifar10_ddpm": _cifar10_ve(_ve(50.0, 1_000), _levels(_DDPM, output="score")),
    "ve_cifar10_ncsnpp": _cifar10_ve(
        _ve(50.0, 1_000), _levels(_VE_NCSNPP, embedding="positional")
    ),
    "ve_cifar10_ncsnpp_continuous": _cifar10_ve(_ve(50.0), _VE_NCSNPP),
    "ve_cifar10_ncsnpp_deep_continuous": _cifar10_ve(_ve(50.0), _VE_NCSNPP, deep=True),
    "ve_celeba_ncsnpp": _celeba_ncsnpp,
    "ve_bedroom_ncsnpp_continuous": _large_ve(_BEDROOM, 378.0),
    "ve_church_ncsnpp_continuous": _large_ve(_CHURCH, 380.0),
    "ve_celebahq_256_ncsnpp_continuous": _large_ve(_CELEBAHQ, 348.0),
    "ve_ffhq_256_ncsnpp_continuous": _large_ve(_FFHQ, 348.0),
    "ve_celebahq_ncsnpp_continuous": _1024_ve(_replace(_CELEBAHQ, builder="celeb_a_hq/1024"), _SUM),
    "ve_ffhq_ncsnpp_continuous": _1024_ve(_FFHQ, _MEAN),
    "ve_ncsn_cifar10": _ncsn(_CIFAR10, 1.0, 10, 0.316, 100, ema=0.0),
    "ve_ncsn_cifar10_5": _ncsn(_CIFAR10, 1.0, 10, 0.316, 100, ema=0.999),
    "ve_ncsn_cifar10_124": _ncsn(_CIFAR10, 50.0, 232, 0.176, 5, ema=0.0),
    "ve_ncsn_cifar10_1245": _ncsn(_CIFAR10, 50.0, 232, 0.176, 5, ema=0.999),
    # Its file sets training.loss where training.sde is meant.
    "ve_ncsn_celeba": _ncsn(_CELEBA, 1.0, 10, 0.316, 100, ema=0.0),
    "ve_ncsn_celeba_5": _ncsn(_CELEBA, 1.0, 10, 0.316, 100, ema=0.999),
    "ve_ncsn_celeba_124": _ncsn(_CELEBA, 90.0, 500, 0.128, 5, ema=0.0),
    "ve_ncsn_celeba_1245": _ncsn(_CELEBA, 90.0, 500, 0.128, 5, ema=0.999),
    "ve_ncsnv2_cifar10": _ncsnv2(_CIFAR10, 50.0, 232, 0.176),
    "ve_ncsnv2_celeba": _ncsnv2(_CELEBA, 90.0, 500, 0.128),
    # Its file spells training.continuous wrongly: levels are meant, as in the other two.
    "ve_ncsnv2_bedroom": Config(
        _uncentered(_replace(_BEDROOM, image_size=128)), _ve(190.0, 1_086),
        _replace(_NCSNV2, variant=128), _SUM, _replace(_OPTIM_NCSNV2, ema_decay=0.9999),
        _replace(_LARGE_TRAIN, batch_size=128), _ald(0.095, 3, 1_086), seed=42,
    ),
}  # fmt: skip

# The paper's names of the runs that its tables are made of.
ALIASES = {
    "cifar10_ddpmpp": "vp_cifar10_ddpmpp",
    "cifar10_ddpmpp_continuous": "vp_cifar10_ddpmpp_continuous",
    "cifar10_ddpmpp_deep_continuous": "vp_cifar10_ddpmpp_deep_continuous",
    "cifar10_ddpm": "vp_ddpm_cifar10",
    "cifar10_ddpm_continuous": "vp_ddpm_cifar10_continuous",
    "cifar10_ncsnpp": "ve_cifar10_ncsnpp",
    "cifar10_ncsnpp_continuous": "ve_cifar10_ncsnpp_continuous",
    "cifar10_ncsnpp_deep_continuous": "ve_cifar10_ncsnpp_deep_continuous",
}
