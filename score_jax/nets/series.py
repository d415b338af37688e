"""A small U-Net of one-dimensional convolutions, for series and for vectors."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from score_jax._check import check
from score_jax.nets.layers import Condition
from score_jax.nets.periodic import ZEROS, Padding
from score_jax.nets.unet import UNet


class SeriesUNet(nn.Module):
    """U-Net along one axis: (x (b, l, c) or (b, d), noise input (b,), y (b,)) -> shape of x.

    The blocks of Improved DDPM (`score_jax.nets.UNet` with `dims=1`, whose fields these are) with
    defaults for data of a few to some hundred entries. A vector (b, d) is a series of d entries and one
    channel. The noise input is t * 999. y and low_res are as there.

    Raises ValueError for x of another rank, a length that cannot be halved len(channel_mult) - 1
    times, and as `UNet`.

    >>> net = SeriesUNet(channels=32, channel_mult=(1, 2))
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 64, 3)), jnp.zeros(1))
    """

    channels: int = 32  # of the first level
    channel_mult: tuple[float, ...] = (1, 2)  # factor of every level's channels; cut to integers
    num_blocks: int = 1  # residual blocks per level
    attention_factors: tuple[int, ...] = ()  # down-sampling factors with self-attention
    dropout: float = 0.0  # probability, in the residual blocks
    num_heads: int = 4  # of the attention
    num_classes: int | None = None  # number of classes, if conditioned on them
    groups: int = 8  # of every group normalisation
    remat: bool = False  # compute every block again in the backward pass: less memory, more time
    dtype: Any = None  # of the computation; parameters and output stay float32
    super_resolution: bool = (
        False  # conditioned on a series of low resolution, or of the same length
    )
    cond_size: int | None = None  # length of the vector, if conditioned on one
    padding: tuple[Padding, ...] = ZEROS  # of the convolutions: circular for periodic series

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        noise_input: Float[Array, " b"],
        y: Condition = None,
        *,
        low_res: Float[Array, "..."] | None = None,
        train: bool = False,
    ) -> Float[Array, "..."]:
        """Predict from x, the noise input, the classes or vectors and the series of low resolution."""
        check("x", x.shape, x.ndim in (2, 3), "series (b, l, c) or vectors (b, d)")
        series = x if x.ndim == 3 else x[:, :, None]
        net = UNet(
            self.channels, self.channel_mult, self.num_blocks, self.attention_factors, self.dropout,
            self.num_heads, dims=1, groups=self.groups, remat=self.remat, dtype=self.dtype,
            num_classes=self.num_classes, cond_size=self.cond_size,
            super_resolution=self.super_resolution, padding=self.padding, name="unet",
        )  # fmt: skip
        return net(series, noise_input, y, low_res=low_res, train=train).reshape(x.shape)
