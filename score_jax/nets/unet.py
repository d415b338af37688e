r"""The U-Net of Improved DDPM and of ADM (guided-diffusion) as one Linen module.

    Improved DDPM  num_heads=4, scale_shift_norm as published; arXiv:2102.09672
    ADM            resblock_updown=True, num_head_channels=64 (or num_heads=4), scale_shift_norm=True;
                   arXiv:2105.05233

Structure and names are the authors': joined with underscores, the path of a parameter is that of the
PyTorch `state_dict` with its dots written as underscores, except for the last part, which is Flax's:

    input_blocks.3.0.in_layers.0.weight   params/input_blocks_3_0/in_layers_0/scale     (c,)
    input_blocks.3.0.in_layers.2.weight   params/input_blocks_3_0/in_layers_2/kernel    (*k, i, o)
    input_blocks.3.1.qkv.weight           params/input_blocks_3_1/qkv/kernel            (i, o)
    label_emb.weight                      params/label_emb/embedding                    (classes, e)

A `weight` is `scale` if it has one axis, `embedding` in `label_emb`, else `kernel`, whose axes (o, i,
*k) become (*k, i, o); the one-dimensional convolutions of size 1 of `qkv` and `proj_out` are plain maps
(i, o).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check
from score_jax.nets.blocks import ADM, Attention, Move, Resample, ResBlock, Style
from score_jax.nets.convolution import Volume
from score_jax.nets.layers import (
    Condition,
    check_fields,
    check_inputs,
    check_size,
    sinusoids,
    with_low_res,
)
from score_jax.nets.periodic import ZEROS, Padding, periodic_axes


class UNetHalf(nn.Module):
    """What the U-Net and the classifier share: their fields, the way down and the middle.

    Where the authors have another name for a field, it is in brackets. All published networks have
    norms of 32 groups. The embedding and the output layers are computed in float32.
    """

    channels: int = 128  # of the first level, before `channel_mult` (model_channels)
    # factor of every level's channels; cut to integers
    channel_mult: tuple[float, ...] = (1, 2, 2, 2)
    num_blocks: int = 3  # residual blocks per level (num_res_blocks)
    attention_factors: tuple[int, ...] = (2, 4)  # down-sampling factors with self-attention
    dropout: float = 0.0  # probability, in the residual blocks
    num_heads: int = 4  # of the attention
    num_head_channels: int | None = None  # channels of every head, in place of `num_heads`
    # the noise input scales and shifts the norms rather than being added
    scale_shift_norm: bool = True
    resblock_updown: bool = False  # residual blocks change the resolution
    conv_resample: bool = True  # otherwise convolutions do, rather than averages and copies
    new_attention_order: bool = False  # channels of the attention ordered q/k/v, head
    dims: int = 2  # axes of space, 1 to 3; of three, the first keeps its length
    # of every group normalisation; None: a quarter of the channels, at most 32
    groups: int | None = 32
    remat: bool = False  # compute every block again in the backward pass (use_checkpoint)
    dtype: Any = None  # of the computation; parameters and output stay float32
    padding: tuple[Padding, ...] = ZEROS  # of all axes of space, or of each: circular if periodic

    @property
    def style(self) -> Style:
        """What all layers share."""
        periodic = periodic_axes(self.padding, self.dims)
        return dataclasses.replace(ADM, groups=self.groups, dtype=self.dtype, periodic=periodic)

    def _check(self, x: Array) -> None:
        counts = ("channels", "num_blocks", "num_heads", "groups")
        check_fields(self, *(name for name in counts if getattr(self, name) is not None))
        check("dims", self.dims, self.dims in (1, 2, 3), "1, 2 or 3")
        periodic_axes(self.padding, self.dims)
        check_size(x.shape, self.dims, len(self.channel_mult) - 1)

    def _width(self, level: int) -> int:
        return int(self.channel_mult[level] * self.channels)

    def _heads(self, channels: int, heads: int) -> int:
        each = self.num_head_channels
        if each is None:
            return heads
        ok = each >= 1 and channels % each == 0
        check("num_head_channels", each, ok, f"a divisor of {channels} channels")
        return channels // each

    def _embed(
        self, noise_input: Array, y: Array | None, num_classes: int | None,
        augment: Array | None = None, augment_size: int = 0,
    ) -> Array:  # fmt: skip
        emb = sinusoids(noise_input, self.channels, cosines_first=True)
        emb = self.style.embed_augment(emb, augment, augment_size)
        return self.style.embed(emb, y, 4 * self.channels, num_classes)

    def _block(
        self, h: Array, emb: Array, features: int, name: str, train: bool,
        resample: Move = "none",
    ) -> Array:  # fmt: skip
        kind = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        block = kind(self.style, features, self.dropout, resample, self.scale_shift_norm, name=name)
        return block(h, emb, train)

    def _attention(self, h: Array, name: str, heads: int | None = None) -> Array:
        kind = nn.remat(Attention) if self.remat else Attention
        heads = self._heads(h.shape[-1], heads or self.num_heads)
        return kind(self.style, heads, True, not self.new_attention_order, name=name)(h)

    def _resample(self, h: Array, emb: Array, up: bool, name: str, train: bool) -> Array:
        if self.resblock_updown:
            return self._block(h, emb, h.shape[-1], name, train, "up" if up else "down")
        return Resample(self.style, up, h.shape[-1] if self.conv_resample else None, name=name)(h)

    def _encode(self, x: Array, emb: Array, train: bool) -> list[Array]:
        """The outputs of the authors' input blocks, one after the other."""
        h = self.style.conv(self._width(0), "input_blocks_0_0")(x)
        outputs = [h]
        for level in range(len(self.channel_mult)):
            if level:
                h = self._resample(h, emb, False, f"input_blocks_{len(outputs)}_0", train)
                outputs.append(h)
            for _ in range(self.num_blocks):
                name = f"input_blocks_{len(outputs)}"
                h = self._block(h, emb, self._width(level), f"{name}_0", train)
                if 2**level in self.attention_factors:
                    h = self._attention(h, f"{name}_1")
                outputs.append(h)
        return outputs

    def _middle(self, h: Array, emb: Array, train: bool) -> Array:
        h = self._block(h, emb, h.shape[-1], "middle_block_0", train)
        h = self._attention(h, "middle_block_1")
        return self._block(h, emb, h.shape[-1], "middle_block_2", train)


class UNet(UNetHalf):
    """U-Net: (x (b, *size, c), noise input (b,), y (b,), low_res) -> (b, *size, out_channels).

    The noise input may be any number: Improved DDPM gives an index of its noise schedule, or that
    scaled to 1000. With `super_resolution`, `low_res` (b, *smaller, k) is needed: a small image, or a
    field of the size of x. It is brought to the size of x by linear interpolation and appended to the
    channels of x. y is class labels (b,) exactly when `num_classes` is given, and vectors (b, cond_size)
    exactly when `cond_size` is. `augment` (b, augment_size) is the vector of `score_jax.data.augment` in
    training; without it, as in sampling, it is zero.

    Raises ValueError for fields outside their range, x of another rank than `dims` says or of a size
    that cannot be halved, and missing or superfluous y or low_res.

    >>> net = UNet(channels=32, channel_mult=(1, 2), num_blocks=1, out_channels=6)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    """

    out_channels: int | None = (
        None  # as many as x has if None; twice as many for a learned variance
    )
    num_classes: int | None = None  # number of classes, if conditioned on them
    num_heads_upsample: int | None = None  # heads on the way up, if they differ
    super_resolution: bool = False  # conditioned on an image of low resolution, or a field
    cond_size: int | None = None  # length of the vector, if conditioned on one
    augment_size: int = 0  # length of the augmentation's vector, if trained with one

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        noise_input: Float[Array, " b"],
        y: Condition = None,
        *,
        low_res: Float[Array, "..."] | None = None,
        augment: Float[Array, "b _"] | None = None,
        train: bool = False,
    ) -> Volume:
        """Predict from x, the noise input, the classes or vectors and the image of low resolution."""
        self._check(x)
        check_inputs(x, noise_input, y, self.num_classes, self.cond_size)
        out_channels = self.out_channels or x.shape[-1]
        start = with_low_res(x, low_res, self.super_resolution, self.style.periodic)
        emb = self._embed(noise_input, y, self.num_classes, augment, self.augment_size)

        skips = self._encode(start, emb, train)
        h = self._middle(skips[-1], emb, train)
        index = 0
        for level in reversed(range(len(self.channel_mult))):
            for i in range(self.num_blocks + 1):
                name, part = f"output_blocks_{index}", 1
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(h, emb, self._width(level), f"{name}_0", train)
                if 2**level in self.attention_factors:
                    h = self._attention(h, f"{name}_{part}", self.num_heads_upsample)
                    part += 1
                if level and i == self.num_blocks:
                    h = self._resample(h, emb, True, f"{name}_{part}", train)
                index += 1

        h = nn.silu(self.style.norm("out_0")(h.astype(x.dtype)))
        out = self.style.conv(out_channels, "out_2", init_scale=0.0, dtype=None)
        return out(h).astype(x.dtype)
