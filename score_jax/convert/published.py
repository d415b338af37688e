"""The networks and processes of published runs, by the names of their presets.

score_sde (arXiv:2011.13456): github.com/yang-song/score_sde_pytorch/tree/main/configs, with "_" for
"/" in the names. Improved DDPM (arXiv:2102.09672): the commands in
github.com/openai/improved-diffusion and the paper's appendix A. EDM (arXiv:2206.00364): its table 7.
EDM2 (arXiv:2312.02696): configuration G.
"""

import dataclasses
from typing import Any

import flax.linen as nn

from score_jax._names import choose
from score_jax.convert.records import Ingredients
from score_jax.nets import DDPM, EDM2, NCSN, NCSNpp, NCSNv2, UNet
from score_jax.parametrization import (
    LEARNED_RANGE,
    SCORE,
    TIMESTEP_NOISE,
    IndexInput,
    LevelInput,
    LogSigmaInput,
    StdInput,
    TimeInput,
    consistency,
    edm,
)
from score_jax.sde import VE, VP, CosineBetas, LinearBetas, LinearVE, SubVP

_DDPM = DDPM()
_LARGE_DDPM = DDPM(channel_mult=(1, 1, 2, 2, 4, 4), dropout=0.0)
_DDPMPP = NCSNpp()
_NCSNPP = NCSNpp(fir=True, progressive_input="residual")
_FOURIER = _NCSNPP.clone(embedding="fourier")
_LARGE_NCSNPP = _FOURIER.clone(
    channel_mult=(1, 1, 2, 2, 2, 2, 2), num_blocks=2, dropout=0.0, progressive="output_skip",
    progressive_input="input_skip",
)  # fmt: skip
_1024_NCSNPP = _LARGE_NCSNPP.clone(
    channels=16, channel_mult=(1, 2, 4, 8, 16, 32, 32, 32), num_blocks=1
)


def _vp(net: nn.Module) -> Ingredients:
    return Ingredients(net, VP(), TimeInput())


def _subvp(net: nn.Module) -> Ingredients:
    return Ingredients(net, SubVP(), TimeInput())


def _vp_levels(net: nn.Module) -> Ingredients:
    """Between two timesteps the authors keep the fraction of the index and truncate that of the std."""
    return Ingredients(net, LinearBetas(1000), IndexInput(), TIMESTEP_NOISE)


def _ve(net: Any, sigma_max: float = 50.0) -> Ingredients:
    """VE networks see data in [0, 1] and divide their output by sigma."""
    net = net.clone(centered=False, scale_by_sigma=True)
    return Ingredients(net, VE(0.01, sigma_max), StdInput(), SCORE)


def _ve_levels(net: Any, sigma_max: float, n: int) -> Ingredients:
    net = net.clone(centered=False, scale_by_sigma=True, sigmas=(sigma_max, 0.01, n))
    return Ingredients(net, VE(0.01, sigma_max), LevelInput(n), SCORE)


def _ncsn(sigma_max: float, n: int) -> Ingredients:
    """The first NCSN learns the score itself, with norms conditioned on the noise level."""
    return Ingredients(NCSN(num_levels=n), VE(0.01, sigma_max), LevelInput(n), SCORE)


def _deep(net: Any) -> Any:
    return net.clone(num_blocks=8)


_UNET = UNet(out_channels=6)
_CIFAR10 = Ingredients(
    _UNET.clone(dropout=0.3), CosineBetas(4000), IndexInput(top=1000.0), variance=LEARNED_RANGE
)
_IMAGENET64 = dataclasses.replace(
    _CIFAR10, net=_UNET.clone(channel_mult=(1.0, 2.0, 3.0, 4.0), attention_factors=(4, 8))
)
# The noise input of the class-conditional networks is the index itself.
_IMAGENET64_COND = dataclasses.replace(
    _IMAGENET64, net=_IMAGENET64.net.clone(channels=192, num_classes=1000), noise_input=IndexInput()
)
_UPSAMPLE = dataclasses.replace(
    _IMAGENET64_COND,
    net=_IMAGENET64_COND.net.clone(
        channel_mult=(1.0, 1.0, 2.0, 2.0, 4.0, 4.0), num_blocks=2, attention_factors=(16, 32),
        super_resolution=True,
    ),
    sde=LinearBetas(4000),
)  # fmt: skip
_BEDROOM = dataclasses.replace(
    _CIFAR10,
    net=_UNET.clone(
        channel_mult=(1.0, 1.0, 2.0, 2.0, 4.0, 4.0), num_blocks=2, attention_factors=(16,),
        num_heads=1, scale_shift_norm=False,
    ),
    sde=LinearBetas(1000),
    noise_input=IndexInput(),
)  # fmt: skip


def _edm(net: nn.Module) -> Ingredients:
    """EDM's preconditioning; the time of the process is sigma."""
    return Ingredients(net, LinearVE(), LogSigmaInput(), edm())


# "vp" and "ve" name the networks, DDPM++ and NCSN++, in the form of EDM's program.
_EDM_VP = NCSNpp(channel_mult=(2, 2, 2), dropout=0.13, condition_first=True)
_EDM_VE = _EDM_VP.clone(embedding="plain_fourier", fir=True, progressive_input="residual")
_EDM_ADM = UNet(
    channels=192, channel_mult=(1.0, 2.0, 3.0, 4.0), attention_factors=(2, 4, 8), dropout=0.1,
    num_head_channels=64, resblock_updown=True, num_classes=1000, out_channels=3,
)  # fmt: skip
# The consistency models of OpenAI's JAX program, and the EDM network that they start from
# (arXiv:2303.01469).
_JCM = _edm(_EDM_VE.clone(condition_first=False, dropout=0.0))
_EDM2_S = EDM2(num_classes=1000, out_channels=3)

PUBLISHED: dict[str, Ingredients] = {
    "vp_cifar10_ddpmpp": _vp_levels(_DDPMPP),
    "vp_cifar10_ddpmpp_continuous": _vp(_DDPMPP),
    "vp_cifar10_ddpmpp_deep_continuous": _vp(_deep(_DDPMPP)),
    "vp_cifar10_ncsnpp": _vp_levels(_NCSNPP),
    "vp_cifar10_ncsnpp_continuous": _vp(_NCSNPP),
    "vp_cifar10_ncsnpp_deep_continuous": _vp(_deep(_NCSNPP)),
    "vp_ddpm_cifar10": _vp_levels(_DDPM),
    "vp_ddpm_cifar10_continuous": _vp(_DDPM),
    "vp_ddpm_cifar10_unconditional": _vp_levels(_DDPM.clone(noise_conditional=False)),
    "vp_ddpm_bedroom": _vp_levels(_LARGE_DDPM),
    "vp_ddpm_church": _vp_levels(_LARGE_DDPM),
    "vp_ddpm_celebahq": _vp_levels(_LARGE_DDPM),
    "subvp_cifar10_ddpm_continuous": _subvp(_DDPM),
    "subvp_cifar10_ddpmpp_continuous": _subvp(_DDPMPP),
    "subvp_cifar10_ddpmpp_deep_continuous": _subvp(_deep(_DDPMPP)),
    "subvp_cifar10_ncsnpp_continuous": _subvp(_NCSNPP),
    "subvp_cifar10_ncsnpp_deep_continuous": _subvp(_deep(_NCSNPP)),
    "ve_cifar10_ddpm": _ve_levels(_DDPM, 50.0, 1000),
    "ve_cifar10_ncsnpp": _ve_levels(_NCSNPP, 50.0, 1000),
    "ve_cifar10_ncsnpp_continuous": _ve(_FOURIER),
    "ve_cifar10_ncsnpp_deep_continuous": _ve(_deep(_FOURIER)),
    "ve_celeba_ncsnpp": _ve_levels(_NCSNPP, 90.0, 1000),
    "ve_bedroom_ncsnpp_continuous": _ve(_LARGE_NCSNPP, 378.0),
    "ve_church_ncsnpp_continuous": _ve(_LARGE_NCSNPP, 380.0),
    "ve_celebahq_256_ncsnpp_continuous": _ve(_LARGE_NCSNPP, 348.0),
    "ve_ffhq_256_ncsnpp_continuous": _ve(_LARGE_NCSNPP, 348.0),
    "ve_celebahq_ncsnpp_continuous": _ve(_1024_NCSNPP, 1348.0),
    "ve_ffhq_ncsnpp_continuous": _ve(_1024_NCSNPP, 1348.0),
    "ve_ncsn_cifar10": _ncsn(1.0, 10),
    "ve_ncsn_cifar10_5": _ncsn(1.0, 10),
    "ve_ncsn_cifar10_124": _ncsn(50.0, 232),
    "ve_ncsn_cifar10_1245": _ncsn(50.0, 232),
    "ve_ncsn_celeba": _ncsn(1.0, 10),
    "ve_ncsn_celeba_5": _ncsn(1.0, 10),
    "ve_ncsn_celeba_124": _ncsn(90.0, 500),
    "ve_ncsn_celeba_1245": _ncsn(90.0, 500),
    "ve_ncsnv2_cifar10": _ve_levels(NCSNv2(), 50.0, 232),
    "ve_ncsnv2_celeba": _ve_levels(NCSNv2(), 90.0, 500),
    "ve_ncsnv2_bedroom": _ve_levels(NCSNv2(variant=128), 190.0, 1086),
    "iddpm_cifar10": _CIFAR10,
    "iddpm_cifar10_vlb": _CIFAR10,
    "iddpm_imagenet64": _IMAGENET64,
    "iddpm_imagenet64_vlb": _IMAGENET64,
    "iddpm_imagenet64_cond": _IMAGENET64_COND,
    "iddpm_upsample_64_256": _UPSAMPLE,
    "iddpm_lsun_bedroom": _BEDROOM,
    "cifar10_edm_vp": _edm(_EDM_VP),
    "cifar10_edm_ve": _edm(_EDM_VE),
    "imagenet64_edm_adm": _edm(_EDM_ADM),
    "imagenet64_edm2_s": _edm(_EDM2_S),
    "cifar10_edm_jcm": _JCM,
    "cifar10_consistency": dataclasses.replace(_JCM, parametrization=consistency()),
}

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


def lookup(name: str, known: dict[str, Any], kind: str = "preset") -> Any:
    """The entry of this name or alias; ValueError listing the known names if there is none."""
    return choose(ALIASES.get(name, name), known, kind)
