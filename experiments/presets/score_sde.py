"""The 39 runs of score_sde (arXiv:2011.13456), of which NCSN, NCSNv2 and DDPM are repetitions.

Facts of github.com/yang-song/score_sde_pytorch/tree/main/configs, whose paths are the names here with
"_" for "/". If a file there cannot be run as it is, a comment states the intended value.
`figures` holds the figures of the paper.
"""

import dataclasses

from ..config import DataConfig, LossConfig, OptimConfig, SampleConfig, TrainConfig
from ..run_config import Config
from .shared import published

_replace = dataclasses.replace

# Data. None is dequantised in training: grey levels are points.
_CIFAR10 = DataConfig(
    name="tfds",
    builder="cifar10",
    size=(32,),
    channels=3,
    num_classes=10,
    flip=True,
    dequantize=False,
)
_CELEBA = _replace(_CIFAR10, builder="celeb_a", size=(64,), num_classes=None)
_BEDROOM = _replace(_CELEBA, builder="lsun/bedroom", size=(256,))
_CHURCH = _replace(_BEDROOM, builder="lsun/church_outdoor")
_CELEBAHQ = _replace(_BEDROOM, builder="celeb_a_hq/256")
_FFHQ = _replace(_BEDROOM, builder="ffhq")


def _uncentered(data: DataConfig) -> DataConfig:
    """VE has data in [0, 1], which the network centres."""
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


def _config(
    name: str,
    data: DataConfig,
    loss: LossConfig,
    optim: OptimConfig,
    train: TrainConfig,
    sample: SampleConfig,
) -> tuple[str, Config]:
    """(name, config) of the published network and process of this name."""
    made = Config(
        data, loss=loss, optim=optim, train=train, sample=sample, seed=42, **published(name)
    )
    return name, made


def _cifar10(name: str, sample: SampleConfig) -> tuple[str, Config]:
    """VP and sub-VP on CIFAR-10."""
    train = _DEEP_TRAIN if "deep" in name else _CIFAR10_TRAIN
    return _config(name, _CIFAR10, _MEAN, _OPTIM, train, sample)


def _cifar10_ve(name: str) -> tuple[str, Config]:
    train = _DEEP_TRAIN if "deep" in name else _CIFAR10_TRAIN
    return _config(name, _uncentered(_CIFAR10), _SUM, _OPTIM_VE, train, _pc(0.16))


def _large_ve(name: str, data: DataConfig) -> tuple[str, Config]:
    return _config(name, _uncentered(data), _SUM, _OPTIM_VE, _LARGE_TRAIN, _pc(0.075, 2_000))


def _1024_ve(name: str, data: DataConfig, loss: LossConfig) -> tuple[str, Config]:
    data = _uncentered(_replace(data, size=(1024,)))
    return _config(name, data, loss, _OPTIM, _1024_TRAIN, _pc(0.15, 2_000))


def _large_ddpm(name: str, data: DataConfig) -> tuple[str, Config]:
    return _config(name, data, _MEAN, _OPTIM_LARGE_DDPM, _LARGE_TRAIN, _ANCESTRAL)


def _ncsn(
    name: str, data: DataConfig, levels: int, snr: float, moves: int, *, ema: float
) -> tuple[str, Config]:
    """Annealed Langevin dynamics on noise levels, with `moves` moves at each."""
    optim = _replace(_OPTIM_NCSN, ema_decay=ema)
    train = _CIFAR10_TRAIN if data is _CIFAR10 else _CELEBA_TRAIN
    return _config(name, _uncentered(data), _SUM, optim, train, _ald(snr, moves, levels))


def _ncsnv2(name: str, data: DataConfig, levels: int, snr: float) -> tuple[str, Config]:
    train = _CIFAR10_TRAIN if data is _CIFAR10 else _CELEBA_TRAIN
    return _config(name, _uncentered(data), _SUM, _OPTIM_NCSNV2, train, _ald(snr, 5, levels))


PRESETS: dict[str, Config] = dict(
    [
        _cifar10("vp_cifar10_ddpmpp", _ANCESTRAL),
        _cifar10("vp_cifar10_ddpmpp_continuous", _EULER),
        _cifar10("vp_cifar10_ddpmpp_deep_continuous", _EULER),
        _cifar10("vp_cifar10_ncsnpp", _REVERSE),
        _cifar10("vp_cifar10_ncsnpp_continuous", _EULER),
        _cifar10("vp_cifar10_ncsnpp_deep_continuous", _EULER),
        _cifar10("vp_ddpm_cifar10", _ANCESTRAL),
        _cifar10("vp_ddpm_cifar10_continuous", _EULER),
        _cifar10("vp_ddpm_cifar10_unconditional", _ANCESTRAL),
        _large_ddpm("vp_ddpm_bedroom", _BEDROOM),
        _large_ddpm("vp_ddpm_church", _CHURCH),
        _large_ddpm("vp_ddpm_celebahq", _CELEBAHQ),
        _cifar10("subvp_cifar10_ddpm_continuous", _EULER),
        _cifar10("subvp_cifar10_ddpmpp_continuous", _EULER),
        _cifar10("subvp_cifar10_ddpmpp_deep_continuous", _EULER),
        _cifar10("subvp_cifar10_ncsnpp_continuous", _EULER),
        _cifar10("subvp_cifar10_ncsnpp_deep_continuous", _EULER),
        _cifar10_ve("ve_cifar10_ddpm"),
        _cifar10_ve("ve_cifar10_ncsnpp"),
        _cifar10_ve("ve_cifar10_ncsnpp_continuous"),
        _cifar10_ve("ve_cifar10_ncsnpp_deep_continuous"),
        _config(
            "ve_celeba_ncsnpp", _uncentered(_CELEBA), _SUM, _OPTIM_VE, _CELEBA_TRAIN, _pc(0.17)
        ),
        _large_ve("ve_bedroom_ncsnpp_continuous", _BEDROOM),
        _large_ve("ve_church_ncsnpp_continuous", _CHURCH),
        _large_ve("ve_celebahq_256_ncsnpp_continuous", _CELEBAHQ),
        _large_ve("ve_ffhq_256_ncsnpp_continuous", _FFHQ),
        _1024_ve(
            "ve_celebahq_ncsnpp_continuous", _replace(_CELEBAHQ, builder="celeb_a_hq/1024"), _SUM
        ),
        _1024_ve("ve_ffhq_ncsnpp_continuous", _FFHQ, _MEAN),
        _ncsn("ve_ncsn_cifar10", _CIFAR10, 10, 0.316, 100, ema=0.0),
        _ncsn("ve_ncsn_cifar10_5", _CIFAR10, 10, 0.316, 100, ema=0.999),
        _ncsn("ve_ncsn_cifar10_124", _CIFAR10, 232, 0.176, 5, ema=0.0),
        _ncsn("ve_ncsn_cifar10_1245", _CIFAR10, 232, 0.176, 5, ema=0.999),
        # Its file sets training.loss where training.sde is meant.
        _ncsn("ve_ncsn_celeba", _CELEBA, 10, 0.316, 100, ema=0.0),
        _ncsn("ve_ncsn_celeba_5", _CELEBA, 10, 0.316, 100, ema=0.999),
        _ncsn("ve_ncsn_celeba_124", _CELEBA, 500, 0.128, 5, ema=0.0),
        _ncsn("ve_ncsn_celeba_1245", _CELEBA, 500, 0.128, 5, ema=0.999),
        _ncsnv2("ve_ncsnv2_cifar10", _CIFAR10, 232, 0.176),
        _ncsnv2("ve_ncsnv2_celeba", _CELEBA, 500, 0.128),
        # Its file spells training.continuous wrongly: levels are meant, as in the other two.
        _config(
            "ve_ncsnv2_bedroom", _uncentered(_replace(_BEDROOM, size=(128,))), _SUM,
            _replace(_OPTIM_NCSNV2, ema_decay=0.9999), _replace(_LARGE_TRAIN, batch_size=128),
            _ald(0.095, 3, 1_086),
        ),
    ]
)  # fmt: skip
