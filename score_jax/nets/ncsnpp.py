r"""The NCSN++ / DDPM++ family of U-Nets (arXiv:2011.13456, appendix H) as one Linen module.

    DDPM++   block "biggan", positional embedding, no FIR, no progressive paths, VP and sub-VP
    NCSN++   block "biggan", Fourier embedding of log sigma, FIR, progressive_input "residual", VE

The number of blocks, channels, attention and every published variation are plain fields; the structure
is that of the published networks, so that their weights fit.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_jax.nets.layers import (
    Attention,
    Conv,
    FourierEmbedding,
    GroupNorm,
    Pointwise,
    check_labels,
    default_init,
    positional_embedding,
    residual,
)
from score_jax.nets.resample import (
    DEFAULT_KERNEL,
    average_down,
    fir_conv_down,
    fir_conv_up,
    fir_down,
    fir_up,
    nearest_up,
)

Image = Float[Array, "_ _ _ _"]
CHOICES = {
    "block": ("biggan", "ddpm"),
    "embedding": ("positional", "fourier"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "combine": ("sum", "cat"),
}


class FirConv(nn.Module):
    """FIR filter and a 3x3 convolution that halves (`up` False) or doubles the resolution."""

    features: int
    taps: tuple[int, ...]
    up: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, *, train: bool = False) -> Image:
        """Resample x."""
        w = self.param("kernel", default_init(), (3, 3, x.shape[3], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, w = nn.dtypes.promote_dtype(x, w, dtype=self.dtype)
        y = (fir_conv_up if self.up else fir_conv_down)(x, w, self.taps, train=train)
        return y + bias.astype(y.dtype)[None, None, None]


class Resample(nn.Module):
    """Halve or double the resolution, with or without a convolution, with or without FIR."""

    up: bool
    taps: tuple[int, ...] | None  # None: copies and averages
    features: int | None = None  # None: no convolution
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Image, *, train: bool = False) -> Image:
        """Resample x."""
        if self.taps is not None:
            if self.features is not None:
                return FirConv(self.features, self.taps, self.up, self.dtype, name="conv")(
                    x, train=train
                )
            return (fir_up if self.up else fir_down)(x, self.taps)
        if self.features is None:
            return nearest_up(x) if self.up else average_down(x)
        layer = Conv(self.features, stride=1 if self.up else 2, dtype=self.dtype, name="conv")
        return layer(nearest_up(x) if self.up else x, train=train)


class ResBlock(nn.Module):
    """Residual block: norm, SiLU, convolution, the label added, norm, SiLU, dropout, convolution.

    `resample` (BigGAN's form) halves or doubles both paths before the first convolution.
    """

    features: int
    dropout: float = 0.0
    skip_rescale: bool = True
    init_scale: float = 0.0
    resample: Literal["none", "up", "down"] = "none"
    taps: tuple[int, ...] | None = None
    dtype: Any = None
    shortcut_scale: float = 1.0  # of the shortcut's map at the start

    @nn.compact
    def __call__(self, x: Image, emb: Float[Array, "b e"] | None, *, train: bool = False) -> Image:
        """Transform x given the embedding of the label."""
        y = nn.silu(GroupNorm(name="norm0")(x))
        if self.resample != "none":
            move = Resample(self.resample == "up", self.taps, name="move")
            x, y = move(x, train=train), move(y, train=train)
        y = Conv(self.features, dtype=self.dtype, name="conv0")(y, train=train)
        if emb is not None:
            dense = nn.Dense(
                self.features, kernel_init=default_init(), dtype=self.dtype, name="label"
            )
            y = y + dense(nn.silu(emb))[:, None, None].astype(y.dtype)
        y = nn.silu(GroupNorm(name="norm1")(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = Conv(self.features, init_scale=self.init_scale, dtype=self.dtype, name="conv1")(
            y, train=train
        )
        if x.shape[3] != self.features or self.resample != "none":
            x = Pointwise(self.features, self.shortcut_scale, dtype=self.dtype, name="skip")(x)
        return residual(x, y, self.skip_rescale)


class NCSNpp(nn.Module):
    """U-Net of the NCSN++ / DDPM++ family: (x (b, h, w, c), label (b,), y (b,)) -> shape of x.

    `label` is what `score_fn` tells: t * 999 for the positional embedding, sigma for the Fourier one
    (its logarithm is embedded). Class labels `y` are needed exactly when `num_classes` is given;
    their embedding is added to the label's. Height and width must be divisible by
    2 ** (len(channel_mult) - 1). With train=True a key for "dropout" is needed if dropout > 0.

    Raises ValueError for unknown choices, numbers out of range, sizes that do not divide, labels of
    another length than x, and missing or unasked y.

    >>> net = NCSNpp(channels=32, channel_mult=(1, 2), attention=(4,))
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    """

    channels: int = 128  # of the finest level
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)  # of every level
    num_blocks: int = 4  # residual blocks a level
    attention: tuple[int, ...] = (16,)  # heights with self-attention
    dropout: float = 0.1
    block: str = "biggan"
    embedding: str = "positional"
    fourier_scale: float = 16.0
    fir: bool = False  # FIR filters, else copies and averages
    fir_kernel: tuple[int, ...] = DEFAULT_KERNEL
    resample_with_conv: bool = True  # in block "ddpm" and the progressive paths' way
    progressive: str = "none"
    progressive_input: str = "none"
    combine: str = "sum"  # of progressive_input "input_skip"
    skip_rescale: bool = True
    init_scale: float = 0.0  # of the last convolution of every block
    scale_by_sigma: bool = False  # divide the output by the label
    centered: bool = True  # x in [-1, 1]; False: in [0, 1]
    conditional: bool = True  # told of the label at all
    num_classes: int | None = None
    dtype: Any = None  # of the computation; parameters stay float32

    @property
    def taps(self) -> tuple[int, ...] | None:
        """FIR taps, or None."""
        return self.fir_kernel if self.fir else None

    def _check(self, x: Any, label: Any, y: Any) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {allowed}, got {getattr(self, field)!r}")
        for field in ("channels", "num_blocks"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult must be numbers from 1 on, got {self.channel_mult}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if x.ndim != 4:
            raise ValueError(f"x must be images (b, h, w, c), got shape {x.shape}")
        factor = 2 ** (len(self.channel_mult) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(f"height and width must be divisible by {factor}, got shape {x.shape}")
        check_labels(x, label, y, self.num_classes)

    def _block(self, features: int, name: str, resample: Any = "none") -> ResBlock:
        # The authors start the shortcuts of the two block types differently.
        shortcut_scale = 0.1 if self.block == "ddpm" else 1.0
        return ResBlock(
            features, self.dropout, self.skip_rescale, self.init_scale, resample,
            self.taps, self.dtype, shortcut_scale, name=name,
        )  # fmt: skip

    def _attention(self, name: str) -> Attention:
        return Attention(self.init_scale, self.skip_rescale, self.dtype, name=name)

    def _conv(self, features: int, name: str, init_scale: float = 1.0) -> Conv:
        return Conv(features, init_scale=init_scale, dtype=self.dtype, name=name)

    def _embed(self, label: Array, y: Array | None) -> Array | None:
        if self.embedding == "fourier":
            emb = FourierEmbedding(self.channels, self.fourier_scale, name="fourier")(
                jnp.log(label)
            )
        else:
            emb = positional_embedding(label, self.channels)
        if not self.conditional:
            return None
        width = 4 * self.channels
        dense = lambda name: nn.Dense(
            width, kernel_init=default_init(), dtype=self.dtype, name=name
        )
        emb = dense("embed1")(nn.silu(dense("embed0")(emb)))
        if y is not None:
            emb = emb + nn.Embed(self.num_classes or 0, width, dtype=self.dtype, name="classes")(y)
        return emb

    def _down(self, h: Image, emb: Any, level: int, train: bool) -> Image:
        name = f"down{level}"
        if self.block == "ddpm":
            features = h.shape[3] if self.resample_with_conv else None
            return Resample(False, self.taps, features, self.dtype, name=name)(h, train=train)
        return self._block(h.shape[3], name, "down")(h, emb, train=train)

    def _input_path(self, pyramid: Image, h: Image, level: int, train: bool) -> tuple[Any, Any]:
        """One step of the progressive input: (pyramid, h) at the next resolution."""
        name = f"input{level}"
        if self.progressive_input == "input_skip":
            pyramid = Resample(False, self.taps, None, self.dtype)(pyramid, train=train)
            side = Conv(h.shape[3], size=1, dtype=self.dtype, name=f"{name}_combine")(
                pyramid, train=train
            )
            return pyramid, side + h if self.combine == "sum" else jnp.concatenate([side, h], 3)
        pyramid = Resample(False, self.taps, h.shape[3], self.dtype, name=name)(
            pyramid, train=train
        )
        pyramid = residual(pyramid, h, self.skip_rescale)
        return pyramid, pyramid

    def _output_path(self, pyramid: Any, h: Image, level: int, channels: int, train: bool) -> Any:
        """One step of the progressive output: (pyramid, h) at this resolution."""
        name = f"output{level}"
        normed = lambda: nn.silu(GroupNorm(name=f"{name}_norm")(h))
        if self.progressive == "output_skip":
            side = self._conv(channels, f"{name}_conv", self.init_scale)(normed(), train=train)
            if pyramid is None:
                return side, h
            return Resample(True, self.taps, None, self.dtype)(pyramid, train=train) + side, h
        if pyramid is None:
            return self._conv(h.shape[3], f"{name}_conv")(normed(), train=train), h
        pyramid = Resample(True, self.taps, h.shape[3], self.dtype, name=name)(pyramid, train=train)
        pyramid = residual(pyramid, h, self.skip_rescale)
        return pyramid, pyramid

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        label: Float[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Image:
        """Predict (noise, or score with scale_by_sigma) from x, the label and the classes."""
        # Longer than most functions: the U shape is read best in one piece.
        self._check(x, label, y)
        channels, last = x.shape[3], len(self.channel_mult) - 1
        emb = self._embed(label, y)
        pyramid = h = x if self.centered else 2 * x - 1
        skips = [h := self._conv(self.channels, "first")(h, train=train)]
        for level, mult in enumerate(self.channel_mult):
            for i in range(self.num_blocks):
                h = self._block(self.channels * mult, f"enc{level}_{i}")(h, emb, train=train)
                if h.shape[1] in self.attention:
                    h = self._attention(f"enc{level}_{i}_attention")(h)
                skips.append(h)
            if level != last:
                h = self._down(h, emb, level, train)
                if self.progressive_input != "none":
                    pyramid, h = self._input_path(pyramid, h, level, train)
                skips.append(h)

        h = self._block(h.shape[3], "mid0")(h, emb, train=train)
        h = self._attention("mid_attention")(h)
        h = self._block(h.shape[3], "mid1")(h, emb, train=train)

        output: Any = None
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=3)
                h = self._block(self.channels * mult, f"dec{level}_{i}")(h, emb, train=train)
            if h.shape[1] in self.attention:
                h = self._attention(f"dec{level}_attention")(h)
            if self.progressive != "none":
                output, h = self._output_path(output, h, level, channels, train)
            if level:
                h = self._up(h, emb, level, train)
        if self.progressive == "output_skip":
            h = output
        else:
            h = nn.silu(GroupNorm(name="last_norm")(h))
            h = self._conv(channels, "last", self.init_scale)(h, train=train)
        h = h.astype(x.dtype)
        return h / label[:, None, None, None].astype(h.dtype) if self.scale_by_sigma else h

    def _up(self, h: Image, emb: Any, level: int, train: bool) -> Image:
        name = f"up{level}"
        if self.block == "ddpm":
            features = h.shape[3] if self.resample_with_conv else None
            return Resample(True, self.taps, features, self.dtype, name=name)(h, train=train)
        return self._block(h.shape[3], name, "up")(h, emb, train=train)
