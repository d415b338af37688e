"""The network of a config, and how it is joined to its forward process."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from experiments.configs import Config
from experiments.configs.nets import MLPConfig, NCSNppConfig, NetConfig
from score_jax.nets import MLP, NCSNpp

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def make_net(config: Config, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
    """Make the network for examples of this shape, conditioned on so many classes (None: not)."""
    c = config.net
    maker = MAKERS[type(c)]
    if maker in IMAGES and len(shape) != 3:
        raise ValueError(
            f"net.kind={c.kind!r} needs images (n, h, w, c), got shape {('n', *shape)}"
        )
    return maker(config, c, shape, num_classes)


def common(c: NetConfig) -> dict[str, Any]:
    """Fields that all networks share."""
    return {"dropout": c.dropout, "dtype": DTYPES[c.dtype]}


def ncsnpp(config: Config, c: Any, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
    """Make a network of the NCSN++ / DDPM++ family."""
    return NCSNpp(
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
        scale_by_sigma=c.output == "score",
        centered=config.data.range[0] < 0,
        conditional=c.time_conditional,
        num_classes=num_classes,
        **common(c),
    )


def mlp(config: Config, c: Any, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
    """Make a residual MLP."""
    return MLP(width=c.width, num_blocks=c.num_blocks, num_classes=num_classes, **common(c))


MAKERS: dict[type, Callable[..., nn.Module]] = {NCSNppConfig: ncsnpp, MLPConfig: mlp}
IMAGES = {ncsnpp}
