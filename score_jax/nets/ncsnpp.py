r"""The NCSN++ / DDPM++ family of U-Nets (arXiv:2011.13456, appendix H), and DDPM, as one Linen module.

    DDPM      block "ddpm", norms of 32 groups (arXiv:2006.11239)
    DDPM++    block "biggan", positional embedding, no FIR, no progressive paths, VP and sub-VP
    NCSN++    block "biggan", Fourier embedding of log sigma, FIR, progressive_input "residual", VE
    1024 pixels   NCSN++ with eight levels, progressive "output_skip", progressive_input "input_skip"

The structure is that of the published networks, so that their weights fit. Modules in the order in
which the authors' program makes them (their PyTorch `all_modules.N`; a level's names end in its number):

    fourier (embedding "fourier")   embed0   embed1   first
    every level      enc{l}_{i}   enc{l}_{i}_attention (at its sizes)
                     down{l}   input{l} or input{l}_combine                 (not at the last level)
    middle           mid0   mid_attention   mid1
    back, every level   dec{l}_{i}   dec{l}_{i}_attention (attend_every_block)   dec{l}_attention
                     output{l}_norm   output{l}_conv   or, "residual" below the last level, output{l}
                     up{l}                                                  (not at level 0)
    last_norm   last                                                        (not with "output_skip")

Inside a block norm0, conv0, label, norm1, conv1, skip/map are GroupNorm_0, Conv_0, Dense_0,
GroupNorm_1, Conv_1, and Conv_2 or NIN_0; in attention norm, query, key, value, out are GroupNorm_0
and NIN_0 to NIN_3 (each with a `map`).
"""

import warnings
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from score_jax._check import check
from score_jax.nets.blocks import Attention, Move, Resample, ResBlock, Style
from score_jax.nets.convolution import Volume
from score_jax.nets.layers import (
    Condition,
    Conv,
    FourierEmbedding,
    Levels,
    at_least_float32,
    check_fields,
    check_inputs,
    check_size,
    divide_by_sigma,
    folded,
    noise_levels,
    residual,
    sinusoids,
    unfolded,
    with_low_res,
    with_powers,
)
from score_jax.nets.periodic import ZEROS, Padding, periodic_axes
from score_jax.nets.resample import DEFAULT_KERNEL

Block = Literal["biggan", "ddpm"]
Embedding = Literal["positional", "fourier", "plain_fourier"]
Output = Literal["none", "output_skip", "residual"]
Input = Literal["none", "input_skip", "residual"]
Combine = Literal["sum", "cat"]
CHOICES = {
    "block": Block, "embedding": Embedding, "progressive": Output, "progressive_input": Input,
    "combine": Combine,
}  # fmt: skip


class NCSNpp(nn.Module):
    """U-Net of the NCSN++ / DDPM++ family: (x (b, *size, c), noise input (b,), y (b,)) -> shape of x.

    The noise input is t * 999 for the positional embedding, sigma for the Fourier one (its logarithm
    is embedded), any number for the plain Fourier one, or an index of `sigmas`. y is class labels (b,)
    exactly when `num_classes` is given, and vectors (b, cond_size) exactly when `cond_size` is;
    `low_res` and `augment` are as for `UNet`. Height and width (or length) must be divisible by
    patch * 2 ** (len(channel_mult) - 1). With train=True a key for "dropout" is needed if dropout > 0.

    Raises ValueError for unknown choices, numbers out of range, sizes that do not divide, noise
    inputs of another length than x, and missing or superfluous y.

    >>> net = NCSNpp(channels=32, channel_mult=(1, 2), attention=(4,))
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    """

    channels: int = 128  # of the finest level
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)  # factor of the channels of every level
    num_blocks: int = 4  # residual blocks per level
    attention: tuple[int, ...] = (16,)  # sizes (of the larger side) with self-attention
    dropout: float = 0.1  # probability, in the residual blocks
    block: Block = "biggan"  # residual block, after BigGAN or after DDPM
    embedding: Embedding = "positional"  # of the noise input: fixed or random frequencies
    fourier_scale: float = 16.0  # standard deviation of the random frequencies
    fir: bool = False  # resample with FIR filters rather than copies and averages
    fir_kernel: tuple[int, ...] = DEFAULT_KERNEL  # taps of the FIR filters
    resample_with_conv: bool = True  # convolutions in block "ddpm" where the resolution changes
    progressive: Output = "none"  # images that the levels add up on the way up
    progressive_input: Input = "none"  # images handed to every level on the way down
    combine: Combine = "sum"  # join the images of "input_skip" by adding or side by side
    skip_rescale: bool = True  # divide sums of residuals by sqrt(2)
    init_scale: float = 0.0  # of the last convolution of every block
    scale_by_sigma: bool = False  # divide the output by sigma
    sigmas: Levels | None = None  # (first, last, number) of levels; the noise input is an index
    centered: bool = True  # x is in [-1, 1] rather than in [0, 1]
    noise_conditional: bool = True  # the network is given the noise input
    num_classes: int | None = None  # number of classes, if conditioned on them
    norm_groups: int | None = None  # of every norm; None: a quarter of the channels, at most 32
    attention_groups: int | None = None  # of norms of attention and before it on the way up
    attend_every_block: bool = False  # on the way up too, rather than after a level's last block
    dtype: Any = None  # of the computation; parameters and output stay float32
    remat: bool = False  # compute every block again in the backward pass: less memory, more time
    dims: int = 2  # axes of space, 1 to 3; of three, the first keeps its length
    super_resolution: bool = False  # conditioned on an image of low resolution, or a field
    cond_size: int | None = None  # length of the vector, if conditioned on one
    # y is added to the embedding of the noise input before its two layers, not after them
    condition_first: bool = False
    augment_size: int = 0  # length of the augmentation's vector, if trained with one
    padding: tuple[Padding, ...] = ZEROS  # of all axes of space, or of each: circular if periodic
    # the network is given sin and cos of 2^n 2 pi x too, of these powers n (arXiv:2107.00630)
    fourier_powers: tuple[int, ...] = ()
    add_input: bool = False  # x is added to the output
    patch: int = 1  # places along every axis that the first convolution sees as channels of one

    @property
    def style(self) -> Style:
        """What all layers share."""
        return Style(
            groups=self.norm_groups, rescale=self.skip_rescale, dtype=self.dtype,
            taps=self.fir_kernel if self.fir else None,
            periodic=periodic_axes(self.padding, self.dims),
        )  # fmt: skip

    def _check(self, x: Array, noise_input: Array, y: Array | None) -> None:
        for field, choices in CHOICES.items():
            value, allowed = getattr(self, field), get_args(choices)
            check(field, value, value in allowed, f"one of {allowed}")
        counts = ("channels", "num_blocks", "norm_groups", "attention_groups", "patch")
        check_fields(self, *(name for name in counts if getattr(self, name) is not None))
        if self.sigmas is not None:
            noise_levels(self.sigmas)
        check("dims", self.dims, self.dims in (1, 2, 3), "1, 2 or 3")
        periodic_axes(self.padding, self.dims)
        check_size(x.shape, self.dims, len(self.channel_mult) - 1, self.patch)
        check_inputs(x, noise_input, y, self.num_classes, self.cond_size)

    def _block(
        self, features: int, name: str, resample: Move = "none", *, beside: bool = False
    ) -> ResBlock:
        make = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        return make(
            self.style, features, self.dropout, resample, init_scale=self.init_scale,
            # The authors start the shortcuts of the two block types differently.
            skip_scale=0.1 if self.block == "ddpm" else 1.0,
            first_groups=self.attention_groups if beside else None, name=name,
        )  # fmt: skip

    def _attention(self, name: str) -> Attention:
        make = nn.remat(Attention) if self.remat else Attention
        groups = None if name.startswith("mid") else self.attention_groups
        return make(self.style, init_scale=self.init_scale, groups=groups, name=name)

    def _attends(self, h: Volume, name: str) -> bool:
        size = max(h.shape[1:-1])
        if size not in self.attention and self.has_variable("params", name):
            warnings.warn(
                f"{type(self).__name__} leaves out {name}, which was trained: attention={self.attention} "
                f"are sizes, and here the size is {size}",
                stacklevel=3,
            )
        return size in self.attention

    def _out_conv(self, channels: int, name: str) -> Conv:
        # Without `dtype`: few channels cost little, and the output keeps its precision.
        return self.style.conv(channels, name, dtype=None, init_scale=self.init_scale)

    def _embed(self, noise_input: Array, y: Array | None, augment: Array | None) -> Array | None:
        if self.embedding == "positional":
            emb = sinusoids(noise_input, self.channels)
        else:
            value = at_least_float32(noise_input)
            value = jnp.log(value) if self.embedding == "fourier" else value
            emb = FourierEmbedding(self.channels, self.fourier_scale, name="fourier")(value)
        if not self.noise_conditional:
            return None
        emb = self.style.embed_augment(emb, augment, self.augment_size)
        if y is not None and self.condition_first:
            emb, y = emb + self.style.embed_condition(y, emb.shape[-1], self.num_classes), None
        return self.style.embed(emb, y, 4 * self.channels, self.num_classes)

    def _move(self, h: Volume, emb: Array | None, up: bool, level: int, train: bool) -> Volume:
        name, features = f"{'up' if up else 'down'}{level}", h.shape[-1]
        if self.block == "ddpm":
            kept_features = features if self.resample_with_conv else None
            return Resample(self.style, up, kept_features, name=name)(h)
        return self._block(features, name, "up" if up else "down")(h, emb, train)

    def _input_path(self, pyramid: Volume, h: Volume, level: int) -> tuple[Volume, Volume]:
        """One step of the progressive input: (pyramid, h) at the next resolution."""
        name, features = f"input{level}", h.shape[-1]
        if self.progressive_input == "input_skip":
            pyramid = Resample(self.style, False)(pyramid)
            side = self.style.conv(features, f"{name}_combine", size=1)(pyramid)
            return pyramid, side + h if self.combine == "sum" else jnp.concatenate([side, h], -1)
        pyramid = Resample(self.style, False, features, name=name)(pyramid)
        pyramid = residual(pyramid, h, self.skip_rescale)
        return pyramid, pyramid

    def _output_path(
        self, pyramid: Volume | None, h: Volume, level: int, channels: int
    ) -> tuple[Volume, Volume]:
        """One step of the progressive output: (pyramid, h) at this resolution."""
        name = f"output{level}"
        normed = lambda h: nn.silu(self.style.norm(f"{name}_norm")(h))
        if self.progressive == "output_skip":
            side = self._out_conv(channels, f"{name}_conv")(normed(at_least_float32(h)))
            return (side if pyramid is None else Resample(self.style, True)(pyramid) + side), h
        if pyramid is None:
            return self.style.conv(h.shape[-1], f"{name}_conv")(normed(h)), h
        pyramid = Resample(self.style, True, h.shape[-1], name=name)(pyramid)
        pyramid = residual(pyramid, h, self.skip_rescale)
        return pyramid, pyramid

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        noise_input: Num[Array, " b"],
        y: Condition = None,
        *,
        low_res: Float[Array, "..."] | None = None,
        augment: Float[Array, "b _"] | None = None,
        train: bool = False,
    ) -> Volume:
        """Predict (noise, or score with scale_by_sigma) from x, the noise input and what is given."""
        # Longer than most functions: the U shape is read best in one piece.
        self._check(x, noise_input, y)
        channels, last = x.shape[-1] * self.patch**self.dims, len(self.channel_mult) - 1
        start = with_low_res(x, low_res, self.super_resolution, self.style.periodic)
        start = folded(with_powers(start, self.fourier_powers), self.patch)
        emb = self._embed(noise_input, y, augment)
        pyramid = h = start if self.centered else 2 * start - 1
        skips = [h := self.style.conv(self.channels, "first")(h)]
        for level, mult in enumerate(self.channel_mult):
            for i in range(self.num_blocks):
                h = self._block(self.channels * mult, f"enc{level}_{i}")(h, emb, train)
                if self._attends(h, attention := f"enc{level}_{i}_attention"):
                    h = self._attention(attention)(h)
                skips.append(h)
            if level != last:
                h = self._move(h, emb, False, level, train)
                if self.progressive_input != "none":
                    pyramid, h = self._input_path(pyramid, h, level)
                skips.append(h)

        h = self._block(h.shape[-1], "mid0")(h, emb, train)
        h = self._attention("mid_attention")(h)
        h = self._block(h.shape[-1], "mid1")(h, emb, train)

        output: Volume | None = None
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            attends = self._attends(h, f"dec{level}_attention")
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                block = self._block(self.channels * mult, f"dec{level}_{i}", beside=attends)
                h = block(h, emb, train)
                if attends and (i == self.num_blocks or self.attend_every_block):
                    part = "" if i == self.num_blocks else f"_{i}"
                    h = self._attention(f"dec{level}{part}_attention")(h)
            if self.progressive != "none":
                output, h = self._output_path(output, h, level, channels)
            if level:
                h = self._move(h, emb, True, level, train)
        if output is None or self.progressive != "output_skip":
            h = nn.silu(self.style.norm("last_norm")(h.astype(x.dtype)))
            output = self._out_conv(channels, "last")(h)
        output = unfolded(output, self.patch)
        h = output.astype(x.dtype) + x if self.add_input else output.astype(x.dtype)
        return divide_by_sigma(h, noise_input, self.sigmas) if self.scale_by_sigma else h


class DDPM(NCSNpp):
    """The U-Net of DDPM (arXiv:2006.11239): `NCSNpp` with other defaults.

    score_sde attends once per level on the way up; the first program and diffusers after every block
    (`attend_every_block`).

    >>> net = DDPM(channels=32, channel_mult=(1, 2), attention=(4,))
    """

    num_blocks: int = 2  # residual blocks per level
    block: Block = "ddpm"  # residual block, after BigGAN or after DDPM
    skip_rescale: bool = False  # divide sums of residuals by sqrt(2)
    norm_groups: int | None = 32  # of every norm; None: a quarter of the channels, at most 32
