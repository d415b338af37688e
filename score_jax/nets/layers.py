"""Layers that the networks share: normalisation, convolution, attention, embeddings of the label."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Num

from score_jax.nets.convolution import Geometry, conv


def default_init(scale: float = 1.0) -> Callable[..., Any]:
    """Uniform, variance `scale` over the average of fan-in and fan-out (the authors' choice)."""
    # A scale of exactly zero would make the variance-scaling initialiser divide by zero.
    return nn.initializers.variance_scaling(max(scale, 1e-10), "fan_avg", "uniform")


def at_least_float32(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Raise half precision to float32 and leave float32 and float64 as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_labels(x: Array, label: Array, y: Array | None, num_classes: int | None) -> None:
    """Raise ValueError unless there is a label for every example, and y if and only if asked for."""
    if label.shape != x.shape[:1]:
        raise ValueError(f"label must have shape {x.shape[:1]}, got {label.shape}")
    if (y is None) != (num_classes is None):
        raise ValueError(
            "class labels y are needed exactly when num_classes is given, got "
            f"num_classes={num_classes} and y={'None' if y is None else 'labels'}"
        )
    if y is not None and y.shape != x.shape[:1]:
        raise ValueError(f"y must have shape {x.shape[:1]}, got {y.shape}")


def positional_embedding(label: Num[Array, " b"], dim: int) -> Float[Array, "b dim"]:
    """Sines and cosines of label at `dim`/2 frequencies from 1 to 1e-4: (b,) -> (b, dim).

    Vaswani et al. 2017 (arXiv:1706.03762), as in DDPM: sines first.
    """
    half = dim // 2
    step = -math.log(10_000) / max(half - 1, 1)
    frequency = jnp.exp(jnp.arange(half, dtype=jnp.float32) * step)
    # An index of a noise level is an integer.
    label = label.astype(jnp.promote_types(label.dtype, jnp.float32))
    angle = label[:, None] * frequency[None]
    embedding = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


class FourierEmbedding(nn.Module):
    """Sines and cosines at fixed random frequencies of standard deviation `scale`.

    (b,) -> (b, 2 * dim); arXiv:2006.10739. The frequencies are stored with the parameters, so that
    they are saved with them, but have no gradient.
    """

    dim: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, x: Float[Array, " b"]) -> Float[Array, "b e"]:
        """Embed x."""
        w = self.param("frequency", nn.initializers.normal(self.scale), (self.dim,))
        angle = x[:, None] * jax.lax.stop_gradient(w)[None] * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


Levels = tuple[float, float, int]


def noise_levels(levels: Levels) -> np.ndarray:
    """The table (first, last, number) of noise levels in geometric progression: (number,) float64.

    The first is the largest in the authors' programs, and index 0. ValueError unless the levels are
    positive and there is at least one.

    >>> noise_levels((50.0, 0.5, 3))
    array([50. ,  5. ,  0.5])
    """
    first, last, number = levels
    if first <= 0 or last <= 0 or number < 1:
        raise ValueError(
            f"sigmas must be (first > 0, last > 0, number of at least 1), got {levels}"
        )
    return np.geomspace(first, last, number)


def divide_by_sigma(
    h: Float[Array, "b *d"], label: Num[Array, " b"], levels: Levels | None
) -> Float[Array, "b *d"]:
    """h over sigma: the label itself or, given a table, its entry at the label's whole part."""
    if levels is not None:
        label = jnp.asarray(noise_levels(levels), h.dtype)[label.astype(jnp.int32)]
    return h / label.reshape(label.shape + (1,) * (h.ndim - 1)).astype(h.dtype)


def default_groups(channels: int) -> int:
    """The largest divisor of `channels` that is at most min(channels // 4, 32)."""
    return next(g for g in range(max(min(channels // 4, 32), 1), 0, -1) if channels % g == 0)


class GroupNorm(nn.Module):
    """Group normalisation over (h, w) and groups of channels, as x * a + c with a, c per channel.

    (b, h, w, c) -> the same. `default_groups(c)` groups unless given, epsilon 1e-6; arXiv:1803.08494.
    One pass of per-channel sums was the fastest form measured on a CPU.
    """

    groups: int | None = None
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalise x."""
        b, h, w, c = x.shape
        groups = default_groups(c) if self.groups is None else self.groups
        if groups < 1 or c % groups:
            raise ValueError(f"{c} channels cannot be normalised in {groups} groups")
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        y = at_least_float32(x)
        count = h * w * (c // groups)
        in_groups = lambda s: s.reshape(b, groups, c // groups).sum(axis=2) / count
        mean = in_groups(y.sum(axis=(1, 2)))
        variance = in_groups(jnp.square(y).sum(axis=(1, 2))) - jnp.square(mean)
        inverse = jax.lax.rsqrt(jnp.maximum(variance, 0) + self.epsilon)
        per_channel = lambda s: jnp.repeat(s, c // groups, axis=1)
        a = per_channel(inverse) * scale[None]
        shift = bias[None] - per_channel(mean) * a
        return (y * a[:, None, None] + shift[:, None, None]).astype(x.dtype)


def _within(bound: float) -> Callable[..., Any]:
    """Initialise uniformly within the bound."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)


class Conv(nn.Module):
    """Convolution (b, h, w, i) -> (b, h, w, features), size kept, gradients fast in loops.

    `stride` 2 pads one row and column on the far side, as the authors' down-sampling does. The taps
    of the kernel are `spacing` places apart. With `plain_init` kernel and bias start uniform within
    1 / sqrt(fan-in), else the kernel with `default_init(init_scale)` and the bias at zero.
    """

    features: int
    size: int = 3
    stride: int = 1
    use_bias: bool = True
    init_scale: float = 1.0
    dtype: Any = None
    spacing: int = 1
    plain_init: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b h2 w2 o"]:
        """Convolve x."""
        shape = (self.size, self.size, x.shape[3], self.features)
        start, start_bias = default_init(self.init_scale), nn.initializers.zeros
        if self.plain_init:
            start = start_bias = _within(1 / math.sqrt(math.prod(shape[:3])))
        w = self.param("kernel", start, shape)
        half = (self.size - 1) * self.spacing // 2
        pad = (half, (self.size - 1) * self.spacing - half) if self.stride == 1 else (0, 1)
        x, w = nn.dtypes.promote_dtype(x, w, dtype=self.dtype)
        y = conv(x, w, Geometry(self.stride, 1, (pad, pad), self.spacing), train=train)
        if not self.use_bias:
            return y
        bias = self.param("bias", start_bias, (self.features,))
        return y + bias.astype(y.dtype)[None, None, None]


class Pointwise(nn.Module):
    """A linear map of the channels ("network in network"): (..., c) -> (..., features)."""

    features: int
    init_scale: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b o"]:
        """Map the channels of x."""
        return nn.Dense(
            self.features, kernel_init=default_init(self.init_scale), dtype=self.dtype, name="map"
        )(x)


def attend(
    q: Float[Array, "b n heads c"], k: Float[Array, "b m heads c"], v: Float[Array, "b m heads c"]
) -> Float[Array, "b n heads c"]:
    """softmax(q k^T / sqrt(c)) v for every head: (b, n, heads, c) -> the same; arXiv:1706.03762."""
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v)
    # That function takes its softmax in float32 whatever comes in.
    weights = jax.nn.softmax(jnp.einsum("bnhc,bmhc->bhnm", q, k) / math.sqrt(q.shape[3]))
    return jnp.einsum("bhnm,bmhc->bnhc", weights, v)


class Attention(nn.Module):
    """Self-attention over all places of an image, one head, with a residual connection.

    (b, h, w, c) -> the same. The output map starts near zero (`init_scale`); with `skip_rescale` the
    sum is divided by sqrt(2). `groups` are those of the norm.
    """

    init_scale: float = 0.0
    skip_rescale: bool = False
    dtype: Any = None
    groups: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Attend."""
        b, h, w, c = x.shape
        y = GroupNorm(self.groups, name="norm")(x).reshape(b, h * w, 1, c)
        q, k, v = (Pointwise(c, dtype=self.dtype, name=n)(y) for n in ("query", "key", "value"))
        y = Pointwise(c, self.init_scale, dtype=self.dtype, name="out")(attend(q, k, v))
        return kept(residual(x, y.reshape(b, h, w, c), self.skip_rescale))


KEPT = "block"  # the name of what `kept` marks, for `jax.checkpoint_policies`


def kept(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Mark the output of a block: all that need be kept of it where the rest is computed again."""
    return checkpoint_name(x, KEPT)


def residual(x: Float[Array, "..."], y: Float[Array, "..."], rescale: bool) -> Float[Array, "..."]:
    """x + y, divided by sqrt(2) if `rescale`, which keeps the variance."""
    return (x + y) * math.sqrt(0.5) if rescale else x + y


class Dropout(nn.Module):
    """Zero entries with probability `rate` in training, and scale the rest by 1 / (1 - rate).

    The mask is drawn from the stream "dropout". It does not follow the examples: under `pmap` and
    `shard_map` devices draw different masks for the same place.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b *d"], *, train: bool = False) -> Float[Array, "b *d"]:
        """Drop entries of x if `train`."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, x.shape)
        return jnp.where(mask, x / keep, jnp.zeros_like(x))
