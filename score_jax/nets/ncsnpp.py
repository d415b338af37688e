r"""The NCSN++ / DDPM++ family of U-Nets (arXiv:2011.13456, appendix H) as one Linen module.

    DDPM++   block "biggan", positional embedding, no FIR, no progressive paths, VP and sub-VP
    NCSN++   block "biggan", Fourier embedding of log sigma, FIR, progressive_input "residual", VE
    1024 pixels   NCSN++ with eight levels, progressive "output_skip", progressive_input "input_skip"

The number of blocks, channels, attention and every published variation are plain fields; the structure
is that of the published networks, so that their weights fit. Modules in the order in which the
authors' program makes them (their PyTorch `all_modules.N`; a level's names end in its number):

    fourier (embedding "fourier")   embed0   embed1   first
    every level      enc{l}_{i}   enc{l}_{i}_attention (at its sizes)
                     down{l}   input{l} or input{l}_combine                 (but the last level)
    middle           mid0   mid_attention   mid1
    back, every level   dec{l}_{i}   dec{l}_attention
                     output{l}_norm   output{l}_conv   or, "residual" below the last level, output{l}
                     up{l}                                                  (but level 0)
    last_norm   last                                                        (but "output_skip")

Inside a block norm0, conv0, label, norm1, conv1, skip/map are GroupNorm_0, Conv_0, Dense_0,
GroupNorm_1, Conv_1, and Conv_2 or NIN_0; in attention norm, query, key, value, out are GroupNorm_0
and NIN_0 to NIN_3 (each with a `map`).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from score_jax.nets.blocks import Resample, ResBlock, check_fields, check_images, embed_label
from score_jax.nets.convolution import Image
from score_jax.nets.layers import (
    Attention,
    Conv,
    FourierEmbedding,
    GroupNorm,
    Levels,
    check_labels,
    divide_by_sigma,
    noise_levels,
    positional_embedding,
    residual,
)
from score_jax.nets.resample import DEFAULT_KERNEL

CHOICES = {
    "block": ("biggan", "ddpm"),
    "embedding": ("positional", "fourier"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "combine": ("sum", "cat"),
}


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
    attention: tuple[int, ...] = (16,)  # sizes (of the larger side) with self-attention
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
    scale_by_sigma: bool = False  # divide the output by sigma
    sigmas: Levels | None = None  # (first, last, number): the label is an index of this table
    centered: bool = True  # x in [-1, 1]; False: in [0, 1]
    conditional: bool = True  # told of the label at all
    num_classes: int | None = None
    dtype: Any = None  # of the computation; parameters and output stay float32
    remat: bool = False  # compute every block again in the backward pass: less memory, more time

    @property
    def taps(self) -> tuple[int, ...] | None:
        """FIR taps, or None."""
        return self.fir_kernel if self.fir else None

    def _check(self, x: Any, label: Any, y: Any) -> None:
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {allowed}, got {getattr(self, field)!r}")
        check_fields(self)
        if self.sigmas is not None:
            noise_levels(self.sigmas)
        check_images(x.shape, 2 ** (len(self.channel_mult) - 1))
        check_labels(x, label, y, self.num_classes)

    def _block(self, features: int, name: str, resample: Any = "none") -> ResBlock:
        # The authors start the shortcuts of the two block types differently.
        shortcut_scale = 0.1 if self.block == "ddpm" else 1.0
        make = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        return make(
            features, self.dropout, self.skip_rescale, self.init_scale, resample,
            self.taps, self.dtype, shortcut_scale, name=name,
        )  # fmt: skip

    def _attention(self, name: str) -> Attention:
        make = nn.remat(Attention) if self.remat else Attention
        return make(self.init_scale, self.skip_rescale, self.dtype, name=name)

    def _attends(self, h: Image) -> bool:
        return max(h.shape[1], h.shape[2]) in self.attention

    def _conv(self, features: int, name: str) -> Conv:
        return Conv(features, dtype=self.dtype, name=name)

    def _out_conv(self, channels: int, name: str) -> Conv:
        # Without `dtype`: few channels cost little, and the output keeps its precision.
        return Conv(channels, init_scale=self.init_scale, name=name)

    def _embed(self, label: Array, y: Array | None) -> Array | None:
        if self.embedding == "fourier":
            log_sigma = jnp.log(label.astype(jnp.promote_types(label.dtype, jnp.float32)))
            emb = FourierEmbedding(self.channels, self.fourier_scale, name="fourier")(log_sigma)
        else:
            emb = positional_embedding(label, self.channels)
        if not self.conditional:
            return None
        return embed_label(emb, y, 4 * self.channels, self.num_classes)

    def _down(self, h: Image, emb: Any, level: int, train: bool) -> Image:
        name = f"down{level}"
        if self.block == "ddpm":
            features = h.shape[3] if self.resample_with_conv else None
            return Resample(False, self.taps, features, self.dtype, name=name)(h)
        return self._block(h.shape[3], name, "down")(h, emb, train)

    def _input_path(self, pyramid: Image, h: Image, level: int) -> tuple[Any, Any]:
        """One step of the progressive input: (pyramid, h) at the next resolution."""
        name = f"input{level}"
        if self.progressive_input == "input_skip":
            pyramid = Resample(False, self.taps, None, self.dtype)(pyramid)
            side = Conv(h.shape[3], size=1, dtype=self.dtype, name=f"{name}_combine")(pyramid)
            return pyramid, side + h if self.combine == "sum" else jnp.concatenate([side, h], 3)
        pyramid = Resample(False, self.taps, h.shape[3], self.dtype, name=name)(pyramid)
        pyramid = residual(pyramid, h, self.skip_rescale)
        return pyramid, pyramid

    def _output_path(self, pyramid: Any, h: Image, level: int, channels: int) -> Any:
        """One step of the progressive output: (pyramid, h) at this resolution."""
        name = f"output{level}"
        normed = lambda h: nn.silu(GroupNorm(name=f"{name}_norm")(h))
        if self.progressive == "output_skip":
            wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
            side = self._out_conv(channels, f"{name}_conv")(normed(wide))
            if pyramid is None:
                return side, h
            return Resample(True, self.taps, None, self.dtype)(pyramid) + side, h
        if pyramid is None:
            return self._conv(h.shape[3], f"{name}_conv")(normed(h)), h
        pyramid = Resample(True, self.taps, h.shape[3], self.dtype, name=name)(pyramid)
        pyramid = residual(pyramid, h, self.skip_rescale)
        return pyramid, pyramid

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        label: Num[Array, " b"],
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
        skips = [h := self._conv(self.channels, "first")(h)]
        for level, mult in enumerate(self.channel_mult):
            for i in range(self.num_blocks):
                h = self._block(self.channels * mult, f"enc{level}_{i}")(h, emb, train)
                if self._attends(h):
                    h = self._attention(f"enc{level}_{i}_attention")(h)
                skips.append(h)
            if level != last:
                h = self._down(h, emb, level, train)
                if self.progressive_input != "none":
                    pyramid, h = self._input_path(pyramid, h, level)
                skips.append(h)

        h = self._block(h.shape[3], "mid0")(h, emb, train)
        h = self._attention("mid_attention")(h)
        h = self._block(h.shape[3], "mid1")(h, emb, train)

        output: Any = None
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=3)
                h = self._block(self.channels * mult, f"dec{level}_{i}")(h, emb, train)
            if self._attends(h):
                h = self._attention(f"dec{level}_attention")(h)
            if self.progressive != "none":
                output, h = self._output_path(output, h, level, channels)
            if level:
                h = self._up(h, emb, level, train)
        if self.progressive == "output_skip":
            h = output
        else:
            h = nn.silu(GroupNorm(name="last_norm")(h.astype(x.dtype)))
            h = self._out_conv(channels, "last")(h)
        h = h.astype(x.dtype)
        return divide_by_sigma(h, label, self.sigmas) if self.scale_by_sigma else h

    def _up(self, h: Image, emb: Any, level: int, train: bool) -> Image:
        name = f"up{level}"
        if self.block == "ddpm":
            features = h.shape[3] if self.resample_with_conv else None
            return Resample(True, self.taps, features, self.dtype, name=name)(h)
        return self._block(h.shape[3], name, "up")(h, emb, train)
