"""The network of a config."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.config import Config
from experiments.parts.nets import (
    DDPMConfig,
    MLPConfig,
    NCSNConfig,
    NCSNppConfig,
    NCSNv2Config,
    NetConfig,
    SeriesConfig,
    UNetConfig,
)
from experiments.parts.process import DiffusionConfig, SDEConfig
from score_jax import nets

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def make_net(config: Config, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
    """Make the network for examples of this shape, conditioned on so many classes (None: not).

    Raises ValueError where the kind of network does not fit the data or the process.
    """
    c = config.net
    maker, ranks, classes = MAKERS[type(c)]
    if len(shape) not in ranks:
        raise ValueError(f"net.kind={c.kind!r} does not take examples of shape {shape}")
    if num_classes is not None and not classes:
        raise ValueError(f"net.kind={c.kind!r} cannot be conditioned on classes")
    if learns_variance(config) and not isinstance(c, UNetConfig):
        raise ValueError(
            f"a learned sde.variance needs twice the channels, which net.kind="
            f"{c.kind!r} cannot return: use net.kind='unet', or sde.variance 'small' or 'large'"
        )
    return maker(config, c, shape, num_classes)


def learns_variance(config: Config) -> bool:
    """Whether the network returns the variance of a step too."""
    return isinstance(config.sde, DiffusionConfig) and config.sde.variance.startswith("learned")


def _common(c: NetConfig) -> dict[str, Any]:
    return {"dropout": c.dropout, "dtype": DTYPES[c.dtype], "remat": c.remat}


def _sigmas(config: Config) -> tuple[float, float, int] | None:
    """The table that an index is looked up in, from the largest noise level down."""
    c = config.sde
    if config.net.output == "score" and isinstance(c, SDEConfig) and c.levels is not None:
        return (c.sigma_max, c.sigma_min, c.levels)
    return None


def _pixels(config: Config) -> dict[str, Any]:
    """What the networks of score_sde are told of the data and of sigma."""
    return {
        "scale_by_sigma": config.net.output == "score",
        "sigmas": _sigmas(config),
        "centered": config.data.range[0] < 0,
    }


def _ncsnpp(config: Config, c: Any, shape: Any, num_classes: int | None) -> nn.Module:
    return nets.NCSNpp(
        channels=c.width,
        channel_mult=c.channel_mult,
        num_blocks=c.num_blocks,
        attention=c.attention,
        block=c.block,
        embedding=c.embedding,
        fourier_scale=c.fourier_scale,
        fir=c.fir,
        progressive=c.progressive,
        progressive_input=c.progressive_input,
        combine=c.combine,
        skip_rescale=c.skip_rescale,
        noise_conditional=c.time_conditional,
        num_classes=num_classes,
        **_pixels(config),
        **_common(c),
    )


def _ddpm(config: Config, c: Any, shape: Any, num_classes: int | None) -> nn.Module:
    return nets.DDPM(
        channels=c.width,
        channel_mult=c.channel_mult,
        num_blocks=c.num_blocks,
        attention=c.attention,
        noise_conditional=c.time_conditional,
        norm_groups=min(32, c.width),
        attend_every_block=c.attend_every_block,
        num_classes=num_classes,
        **_pixels(config),
        **_common(c),
    )


def _ncsnv2(config: Config, c: Any, shape: Any, num_classes: int | None) -> nn.Module:
    return nets.NCSNv2(
        channels=c.width,
        variant=c.variant,
        dtype=DTYPES[c.dtype],
        remat=c.remat,
        **_pixels(config),
    )


def _ncsn(config: Config, c: Any, shape: Any, num_classes: int | None) -> nn.Module:
    levels = getattr(config.sde, "levels", None)
    if levels is None:
        raise ValueError("net.kind='ncsn' needs a table of noise levels: give sde.levels")
    # The first NCSN learns the score itself: its norms know the level, nothing is divided.
    return nets.NCSN(
        num_levels=levels,
        channels=c.width,
        centered=config.data.range[0] < 0,
        dtype=DTYPES[c.dtype],
        remat=c.remat,
    )


def _unet(config: Config, c: Any, shape: Any, num_classes: int | None) -> nn.Module:
    return nets.UNet(
        channels=c.width,
        channel_mult=c.channel_mult,
        num_blocks=c.num_blocks,
        attention_factors=c.attention,
        num_heads=c.num_heads,
        num_head_channels=c.head_channels,
        num_heads_upsample=c.num_heads_upsample,
        scale_shift_norm=c.scale_shift,
        resblock_updown=c.resample_in_blocks,
        new_attention_order=not c.legacy_attention,
        dims=len(shape) - 1,
        groups=c.groups,
        out_channels=shape[-1] * (2 if learns_variance(config) else 1),
        num_classes=num_classes,
        super_resolution=c.super_resolution is not None,
        **_common(c),
    )


def _series(config: Config, c: Any, shape: Any, num_classes: int | None) -> nn.Module:
    return nets.SeriesUNet(channels=c.width, num_classes=num_classes, **_common(c))


def _mlp(config: Config, c: Any, shape: Any, num_classes: int | None) -> nn.Module:
    return nets.MLP(width=c.width, num_blocks=c.num_blocks, num_classes=num_classes, **_common(c))


# Record -> (maker, ranks of an example it takes, whether it knows classes).
MAKERS: dict[type, tuple[Callable[..., nn.Module], tuple[int, ...], bool]] = {
    NCSNppConfig: (_ncsnpp, (3,), True),
    DDPMConfig: (_ddpm, (3,), True),
    NCSNv2Config: (_ncsnv2, (3,), False),
    NCSNConfig: (_ncsn, (3,), False),
    UNetConfig: (_unet, (2, 3, 4), True),
    SeriesConfig: (_series, (1, 2), True),
    MLPConfig: (_mlp, (1, 2, 3, 4), True),
}
