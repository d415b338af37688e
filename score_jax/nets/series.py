"""A small U-Net of one-dimensional convolutions, for series and for vectors."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int

from score_jax.nets.unet import UNet


class SeriesUNet(nn.Module):
    """U-Net along one axis: (x (b, l, c) or (b, d), label (b,), y (b,)) -> shape of x.

    The blocks of Improved DDPM (`score_jax.nets.UNet` with `dims=1`, whose fields these are) with
    defaults for data of a few to some hundred entries. A vector (b, d) is a series of d entries and one
    channel. The label is t * 999.

    Raises ValueError for x of another rank, a length that cannot be halved len(channel_mult) - 1
    times, and what `UNet` refuses.

    >>> net = SeriesUNet(channels=32, channel_mult=(1, 2))
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 64, 3)), jnp.zeros(1))
    """

    channels: int = 32
    channel_mult: tuple[float, ...] = (1, 2)
    num_blocks: int = 1
    attention_factors: tuple[int, ...] = ()
    dropout: float = 0.0
    num_heads: int = 4
    num_classes: int | None = None
    groups: int = 8
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        label: Float[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "..."]:
        """Predict from x, the label and the classes."""
        if x.ndim not in (2, 3):
            raise ValueError(f"x must be series (b, l, c) or vectors (b, d), got shape {x.shape}")
        series = x if x.ndim == 3 else x[:, :, None]
        net = UNet(
            self.channels, self.channel_mult, self.num_blocks, self.attention_factors, self.dropout,
            self.num_heads, dims=1, groups=self.groups, remat=self.remat, dtype=self.dtype,
            num_classes=self.num_classes, name="unet",
        )  # fmt: skip
        return net(series, label, y, train=train).reshape(x.shape)
