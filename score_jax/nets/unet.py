r"""The U-Net of Improved DDPM and of ADM (guided-diffusion) as one Linen module.

    Improved DDPM  num_heads=4, scale_shift_norm as published; arXiv:2102.09672
    ADM            resblock_updown=True, num_head_channels=64 (or num_heads=4), scale_shift_norm=True;
                   arXiv:2105.05233

Structure and names are the authors': joined with underscores, the path of a parameter is that of the
PyTorch `state_dict` with its dots written as underscores, but for the last part, which is Flax's:

    input_blocks.3.0.in_layers.0.weight   params/input_blocks_3_0/in_layers_0/scale     (c,)
    input_blocks.3.0.in_layers.2.weight   params/input_blocks_3_0/in_layers_2/kernel    (*k, i, o)
    input_blocks.3.1.qkv.weight           params/input_blocks_3_1/qkv/kernel            (i, o)
    label_emb.weight                      params/label_emb/embedding                    (classes, e)

A `weight` is `scale` if it has one axis, `embedding` in `label_emb`, else `kernel`, whose axes (o, i,
*k) become (*k, i, o); the one-dimensional convolutions of size 1 of `qkv` and `proj_out` are plain maps
(i, o).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_jax.nets.layers import check_labels
from score_jax.nets.unet_blocks import (
    AttentionBlock,
    ConvNd,
    Resample,
    ResBlock,
    Volume,
    double,
    factors,
    halve,
    linear,
    norm,
    timestep_embedding,
    unchanged,
)


class UNetHalf(nn.Module):
    """What the U-Net and the classifier share: their fields, the way down and the middle.

    Fields, with the authors' names for them in brackets:
      channels: of the first level, before `channel_mult` (model_channels).
      channel_mult: factor of every level's channels; fractions are allowed, their product is cut.
      num_blocks: residual blocks a level (num_res_blocks).
      attention_factors: how far the image is down-sampled where there is attention: (2, 4) is 16 and 8
        pixels of 32 (attention_resolutions, as their networks take it).
      dropout: probability, inside the residual blocks.
      num_heads, num_head_channels: heads of the attention, or instead the channels of every head.
      scale_shift_norm: the label scales and shifts normalised values, rather than being added.
      resblock_updown: residual blocks change the resolution, rather than `conv_resample`.
      conv_resample: convolutions change the resolution, rather than averages and copies.
      new_attention_order: channels of the attention ordered q/k/v, head rather than head, q/k/v.
      dims: spatial axes, 1 to 3; of three, the first keeps its length.
      groups: of every group normalisation; 32 in all published networks.
      remat: recompute every block in the backward pass, which saves memory (use_checkpoint).
      dtype: of the computation between the embedding and the output layers, both float32.
    """

    channels: int = 128
    channel_mult: tuple[float, ...] = (1, 2, 2, 2)
    num_blocks: int = 3
    attention_factors: tuple[int, ...] = (2, 4)
    dropout: float = 0.0
    num_heads: int = 4
    num_head_channels: int | None = None
    scale_shift_norm: bool = True
    resblock_updown: bool = False
    conv_resample: bool = True
    new_attention_order: bool = False
    dims: int = 2
    groups: int = 32
    remat: bool = False
    dtype: Any = None

    def _check(self, x: Array) -> None:
        for field in ("channels", "num_blocks", "num_heads", "groups"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not self.channel_mult or min(self.channel_mult) <= 0:
            raise ValueError(f"channel_mult must be positive numbers, got {self.channel_mult}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.dims not in (1, 2, 3):
            raise ValueError(f"dims must be 1, 2 or 3, got {self.dims}")
        if x.ndim != self.dims + 2:
            raise ValueError(
                f"x must have a batch axis, {self.dims} spatial axes and channels, got {x.shape}"
            )
        depth = len(self.channel_mult) - 1
        needed = tuple(f**depth for f in factors(self.dims))
        if any(n % f or n < 1 for n, f in zip(x.shape[1:-1], needed, strict=True)):
            raise ValueError(
                f"the size of x must be divisible by {needed}, because it is halved {depth} times, "
                f"got {x.shape[1:-1]}"
            )

    def _width(self, level: int) -> int:
        return int(self.channel_mult[level] * self.channels)

    def _heads(self, channels: int, heads: int) -> int:
        if self.num_head_channels is None:
            return heads
        if self.num_head_channels < 1 or channels % self.num_head_channels:
            raise ValueError(
                f"num_head_channels must divide {channels} channels, got {self.num_head_channels}"
            )
        return channels // self.num_head_channels

    def _embed(self, label: Array) -> Array:
        emb = timestep_embedding(label, self.channels)
        emb = nn.silu(linear(emb, 4 * self.channels, None, "time_embed_0"))
        return linear(emb, 4 * self.channels, None, "time_embed_2")

    def _block(
        self, h: Array, emb: Array, features: int, name: str, train: bool, resample: Any = unchanged
    ) -> Array:
        kind = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        block = kind(
            features, self.dropout, self.scale_shift_norm, resample, self.groups, self.dtype,
            name=name,
        )  # fmt: skip
        return block(h, emb, train)

    def _attention(self, h: Array, name: str, heads: int | None = None) -> Array:
        kind = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        heads = self._heads(h.shape[-1], heads or self.num_heads)
        return kind(heads, not self.new_attention_order, self.groups, self.dtype, name=name)(h)

    def _resample(self, h: Array, emb: Array, up: bool, name: str, train: bool) -> Array:
        if self.resblock_updown:
            return self._block(h, emb, h.shape[-1], name, train, double if up else halve)
        return Resample(up, self.conv_resample, self.dtype, name=name)(h)

    def _encode(self, x: Array, emb: Array, train: bool) -> list[Array]:
        """What the authors' input blocks return, one after the other."""
        h = ConvNd(self._width(0), dtype=self.dtype, name="input_blocks_0_0")(x)
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
    """U-Net: (x (b, *size, c), label (b,), y (b,), low_res) -> (b, *size, out_channels).

    Fields beside those of `UNetHalf`:
      out_channels: as many as x has if None; twice as many for a learned variance.
      num_classes: y is needed exactly when it is given.
      num_heads_upsample: heads on the way up, if they differ.
      super_resolution: `low_res` (b, *smaller, c) is needed: it is brought to the size of x by linear
        interpolation and given to the network behind the channels of x.

    The label may be any number: Improved DDPM tells an index of its table, or that scaled to 1000.
    The parameters and the output are float32 whatever `dtype` is.

    Raises ValueError for fields outside their range, x of another rank than `dims` says or of a size
    that cannot be halved, and missing or unasked y or low_res.

    >>> net = UNet(channels=32, channel_mult=(1, 2), num_blocks=1, out_channels=6)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    """

    out_channels: int | None = None
    num_classes: int | None = None
    num_heads_upsample: int | None = None
    super_resolution: bool = False

    def _with_low_res(self, x: Array, low_res: Array | None) -> Array:
        if (low_res is not None) != self.super_resolution:
            raise ValueError(
                "low_res is needed exactly when super_resolution is set, got super_resolution="
                f"{self.super_resolution} and low_res={'None' if low_res is None else 'data'}"
            )
        if low_res is None:
            return x
        if low_res.ndim != x.ndim or low_res.shape[0] != x.shape[0]:
            raise ValueError(f"low_res must be as x of shape {x.shape}, got {low_res.shape}")
        shape = (*x.shape[:-1], low_res.shape[-1])
        wide = jax.image.resize(low_res.astype(x.dtype), shape, "linear", antialias=False)
        return jnp.concatenate([x, wide], axis=-1)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        label: Float[Array, " b"],
        y: Int[Array, " b"] | None = None,
        *,
        low_res: Float[Array, "..."] | None = None,
        train: bool = False,
    ) -> Volume:
        """Predict from x, the label, the classes and the image of low resolution."""
        self._check(x)
        check_labels(x, label, y, self.num_classes)
        out_channels = self.out_channels or x.shape[-1]
        start = self._with_low_res(x, low_res)
        emb = self._embed(label)
        if y is not None:
            normal = nn.initializers.normal(1.0)
            classes = nn.Embed(
                self.num_classes or 0, emb.shape[1], embedding_init=normal, name="label_emb"
            )
            emb = emb + classes(y)

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

        h = nn.silu(norm(h.astype(x.dtype), self.groups, "out_0"))
        return ConvNd(out_channels, zero=True, name="out_2")(h).astype(x.dtype)
