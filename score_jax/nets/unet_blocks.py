r"""Blocks of the Improved DDPM / ADM networks: one, two or three spatial axes, channels last.

    label   e = (cos(label w), sin(label w)),  w_i = 10000^(-i / (d/2)),  i = 0 .. d/2 - 1
    block   h = conv(silu(norm(x)));  h = norm(h) (1 + scale) + shift  or  norm(h + shift);
            x + conv(silu(h)), the last convolution zero at first
    attend  softmax(q k^T / sqrt(c)) v in every head, the last map zero at first

Improved DDPM: arXiv:2102.09672 (scale and shift, several heads); ADM: arXiv:2105.05233 (heads of a
given width, blocks that halve and double). Sub-modules are named after the parameters of the authors'
PyTorch programs, dots written as underscores: `in_layers.0.weight` is `in_layers_0/scale`.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax.nets.convolution import Volume, conv
from score_jax.nets.layers import Dropout, GroupNorm, at_least_float32, kept


def timestep_embedding(label: Float[Array, " b"], dim: int) -> Float[Array, "b dim"]:
    """Cosines, then sines of label at dim/2 frequencies from 1 to 1e-4 (exclusive): (b,) -> (b, dim).

    Labels may be fractions. An odd `dim` ends with a zero. arXiv:1706.03762 with other frequencies.
    """
    half = dim // 2
    # In NumPy: an error of one rounding in a frequency is seen at labels of a thousand.
    exponent = np.arange(half, dtype=np.float32) * np.float32(-math.log(10_000)) / np.float32(half)
    angle = at_least_float32(label)[:, None] * jnp.asarray(np.exp(exponent))[None]
    embedding = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def _uniform(fan_in: int, zero: bool) -> Callable[..., Any]:
    """Uniform on +-1/sqrt(fan_in), as PyTorch starts convolutions and linear maps; or zeros."""
    if zero:
        return nn.initializers.zeros
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def linear(x: Array, features: int, dtype: Any, name: str, *, zero: bool = False) -> Array:
    """Map the channels of x to `features`, (..., i) -> (..., features); to zero at first if `zero`."""
    start = _uniform(x.shape[-1], zero)
    return nn.Dense(features, dtype=dtype, kernel_init=start, bias_init=start, name=name)(x)


def norm(x: Array, groups: int, name: str) -> Array:
    """Normalise (b, ..., c) in groups of channels, over all places, in float32; epsilon 1e-5."""
    flat = x.reshape(x.shape[0], -1, 1, x.shape[-1])
    return GroupNorm(groups, 1e-5, name=name)(flat).reshape(x.shape)


class ConvNd(nn.Module):
    """Convolution along one, two or three axes, (b, ..., i) -> (b, ..., features), kernel 1 or 3.

    Padded with zeros by half the kernel on both sides; `stride` has one number for every axis (none:
    1). Gradients are fast in loops on a CPU, as those of `nets.convolution`.
    """

    features: int
    size: int = 3
    stride: tuple[int, ...] | None = None
    zero: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        """Convolve x."""
        d, i, half = x.ndim - 2, x.shape[-1], self.size // 2
        stride = self.stride or (1,) * d
        start = _uniform(i * self.size**d, self.zero)
        w = self.param("kernel", start, (self.size,) * d + (i, self.features))
        bias = self.param("bias", start, (self.features,))
        x, w, bias = nn.dtypes.promote_dtype(x, w, bias, dtype=self.dtype)
        y = conv(x, w, (half, half), stride=stride)
        return y + bias.reshape((1,) * (d + 1) + (-1,))


def factors(dims: int) -> tuple[int, ...]:
    """By how much every axis is halved or doubled: of three axes, the first is kept."""
    return (1, 2, 2) if dims == 3 else (2,) * dims


def double(x: Volume) -> Volume:
    """Double the resolution by copies; of three axes, only the last two."""
    for axis, factor in enumerate(factors(x.ndim - 2), start=1):
        x = x if factor == 1 else jnp.repeat(x, factor, axis=axis)
    return x


def halve(x: Volume) -> Volume:
    """Halve the resolution by averages; of three axes, only the last two."""
    for axis, factor in enumerate(factors(x.ndim - 2), start=1):
        shape = (*x.shape[:axis], x.shape[axis] // factor, factor, *x.shape[axis + 1 :])
        x = x if factor == 1 else x.reshape(shape).mean(axis=axis + 1)
    return x


def unchanged(x: Volume) -> Volume:
    """Keep the resolution."""
    return x


class Resample(nn.Module):
    """Halve (`op`) or double (`conv`) the resolution, with a convolution or without.

    With one, halving is its stride and doubling comes before it.
    """

    up: bool
    with_conv: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        """Resample x."""
        if not self.with_conv:
            return double(x) if self.up else halve(x)
        if self.up:
            return ConvNd(x.shape[-1], dtype=self.dtype, name="conv")(double(x))
        stride = factors(x.ndim - 2)
        return ConvNd(x.shape[-1], 3, stride, dtype=self.dtype, name="op")(x)


class ResBlock(nn.Module):
    """Residual block of two convolutions: (b, ..., i), embedding (b, e) -> (b, ..., features).

    The embedding is added, or with `scale_shift_norm` scales and shifts the normalised values.
    `resample` (`halve`, `double`, `unchanged`) changes the resolution of both paths.
    """

    features: int
    dropout: float = 0.0
    scale_shift_norm: bool = False
    resample: Callable[[Array], Array] = unchanged
    groups: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Volume, emb: Float[Array, "b e"], train: bool = False) -> Volume:
        """Apply the block."""
        h = self.resample(nn.silu(norm(x, self.groups, "in_layers_0")))
        x = self.resample(x)
        h = ConvNd(self.features, dtype=self.dtype, name="in_layers_2")(h)
        # The maps of the embedding stay in float32, as the authors keep them.
        width = 2 * self.features if self.scale_shift_norm else self.features
        told = linear(nn.silu(emb), width, None, "emb_layers_1").astype(h.dtype)
        told = told.reshape((x.shape[0],) + (1,) * (x.ndim - 2) + (width,))
        if self.scale_shift_norm:
            scale, shift = jnp.split(told, 2, axis=-1)
            h = norm(h, self.groups, "out_layers_0") * (1 + scale) + shift
        else:
            h = norm(h + told, self.groups, "out_layers_0")
        h = Dropout(self.dropout)(nn.silu(h), train=train)
        h = ConvNd(self.features, zero=True, dtype=self.dtype, name="out_layers_3")(h)
        if x.shape[-1] != self.features:
            x = ConvNd(self.features, 1, dtype=self.dtype, name="skip_connection")(x)
        return kept(x + h)


def attend(
    q: Float[Array, "b n h c"], k: Float[Array, "b m h c"], v: Float[Array, "b m h c"]
) -> Float[Array, "b n h c"]:
    """Scaled dot-product attention in every head: softmax(q k^T / sqrt(c)) v, softmax in float32."""
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v)
    # jax.nn.dot_product_attention would take its logits to float32, from float64 too.
    logits = jnp.einsum("bnhc,bmhc->bhnm", q, k) / math.sqrt(q.shape[3])
    return jnp.einsum("bhnm,bmhc->bnhc", jax.nn.softmax(logits), v)


def split_heads(
    qkv: Float[Array, "b n c3"], heads: int, heads_first: bool
) -> tuple[Array, Array, Array]:
    """Queries, keys and values (b, n, heads, c) of one map's (b, n, 3 heads c).

    `heads_first` (Improved DDPM, ADM by default): the channels are ordered head, q/k/v, c; otherwise
    (ADM's "new attention order") q/k/v, head, c.
    """
    b, n, width = qkv.shape
    if heads < 1 or width % (3 * heads):
        raise ValueError(f"{width // 3} channels cannot be shared by {heads} attention heads")
    c = width // (3 * heads)
    if heads_first:
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, heads, 3, c), 3, 0)
    else:
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, heads, c), 2, 0)
    return q, k, v


class AttentionBlock(nn.Module):
    """Self-attention of all places with several heads and a residual connection: shape kept."""

    heads: int
    heads_first: bool = True
    groups: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        """Attend."""
        b, c = x.shape[0], x.shape[-1]
        y = norm(x, self.groups, "norm").reshape(b, -1, c)
        qkv = linear(y, 3 * c, self.dtype, "qkv")
        y = attend(*split_heads(qkv, self.heads, self.heads_first))
        y = linear(y.reshape(b, -1, c), c, self.dtype, "proj_out", zero=True)
        return kept(x + y.reshape(x.shape))
