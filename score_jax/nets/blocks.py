"""Residual blocks, resampling and the label's embedding of the score_sde U-Nets (arXiv:2011.13456)."""

from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Array, Float

from score_jax.nets.convolution import Image
from score_jax.nets.layers import Conv, Dropout, GroupNorm, Pointwise, default_init, kept, residual
from score_jax.nets.resample import (
    average_down,
    fir_conv_down,
    fir_conv_up,
    fir_down,
    fir_up,
    nearest_up,
)


class FirConv(nn.Module):
    """FIR filter and a 3x3 convolution that halves (`up` False) or doubles the resolution."""

    features: int
    taps: tuple[int, ...]
    up: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Resample x."""
        w = self.param("kernel", default_init(), (3, 3, x.shape[3], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, w = nn.dtypes.promote_dtype(x, w, dtype=self.dtype)
        y = (fir_conv_up if self.up else fir_conv_down)(x, w, self.taps)
        return y + bias.astype(y.dtype)[None, None, None]


class Resample(nn.Module):
    """Halve or double the resolution, with or without a convolution, with or without FIR."""

    up: bool
    taps: tuple[int, ...] | None  # None: copies and averages
    features: int | None = None  # None: no convolution
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image) -> Image:
        """Resample x."""
        if self.taps is not None:
            if self.features is not None:
                return FirConv(self.features, self.taps, self.up, self.dtype, name="conv")(x)
            return (fir_up if self.up else fir_down)(x, self.taps)
        if self.features is None:
            return nearest_up(x) if self.up else average_down(x)
        layer = Conv(self.features, stride=1 if self.up else 2, dtype=self.dtype, name="conv")
        return layer(nearest_up(x) if self.up else x)


class ResBlock(nn.Module):
    """Residual block: norm, SiLU, convolution, the label added, norm, SiLU, dropout, convolution.

    `resample` (BigGAN's form) halves or doubles both paths before the first convolution. `groups` are
    those of the norms.
    """

    features: int
    dropout: float = 0.0
    skip_rescale: bool = True
    init_scale: float = 0.0
    resample: Literal["none", "up", "down"] = "none"
    taps: tuple[int, ...] | None = None
    dtype: Any = None
    shortcut_scale: float = 1.0  # of the shortcut's map at the start
    groups: int | None = None

    # `train` may be positional: nn.remat keeps only positional arguments out of the trace.
    @nn.compact
    def __call__(self, x: Image, emb: Float[Array, "b e"] | None, train: bool = False) -> Image:
        """Transform x given the embedding of the label."""
        y = nn.silu(GroupNorm(self.groups, name="norm0")(x))
        if self.resample != "none":
            move = Resample(self.resample == "up", self.taps, name="move")
            x, y = move(x), move(y)
        y = Conv(self.features, dtype=self.dtype, name="conv0")(y)
        if emb is not None:
            dense = nn.Dense(
                self.features, kernel_init=default_init(), dtype=self.dtype, name="label"
            )
            y = y + dense(nn.silu(emb))[:, None, None].astype(y.dtype)
        y = nn.silu(GroupNorm(self.groups, name="norm1")(y))
        y = Dropout(self.dropout)(y, train=train)
        y = Conv(self.features, init_scale=self.init_scale, dtype=self.dtype, name="conv1")(y)
        if x.shape[3] != self.features or self.resample != "none":
            x = Pointwise(self.features, self.shortcut_scale, dtype=self.dtype, name="skip")(x)
        return kept(residual(x, y, self.skip_rescale))


def embed_label(
    emb: Float[Array, "b e"], y: Array | None, width: int, num_classes: int | None
) -> Float[Array, "b width"]:
    """Two dense layers "embed0", "embed1" and the classes' embedding, of the module that calls.

    In float32 whatever the network computes in: it costs nothing, and times stay apart.
    """
    dense = lambda name: nn.Dense(width, kernel_init=default_init(), name=name)
    emb = dense("embed1")(nn.silu(dense("embed0")(emb)))
    if y is not None:
        emb = emb + nn.Embed(num_classes or 0, width, name="classes")(y)
    return emb


def check_fields(net: Any, at_least_one: tuple[str, ...] = ("channels", "num_blocks")) -> None:
    """Raise ValueError for numbers out of range among the fields that the U-Nets share."""
    for field in at_least_one:
        if getattr(net, field) < 1:
            raise ValueError(f"{field} must be at least 1, got {getattr(net, field)}")
    if not net.channel_mult or min(net.channel_mult) < 1:
        raise ValueError(f"channel_mult must be numbers from 1 on, got {net.channel_mult}")
    if not 0 <= net.dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {net.dropout}")


def check_images(shape: tuple[int, ...], factor: int) -> None:
    """Raise ValueError unless x is images whose sides are divisible by the factor."""
    if len(shape) != 4:
        raise ValueError(f"x must be images (b, h, w, c), got shape {shape}")
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(f"height and width must be divisible by {factor}, got shape {shape}")
