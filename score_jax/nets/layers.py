"""Layers that the networks share: normalisation, convolution, attention, embeddings, dropout."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, Num

from score_jax._check import check, check_classes, check_count
from score_jax.nets.convolution import Pads, Sizes, Volume, conv, each_axis
from score_jax.nets.periodic import Periodic, continued, wrap

Init = Callable[..., Array]
Levels = tuple[float, float, int]
# What a network is conditioned on: class labels (b,), or vectors (b, k).
Condition = Int[Array, " b"] | Float[Array, "b _"] | None

SHAPES = {1: "(b, l, c) of series", 2: "(b, h, w, c) of images", 3: "(b, d, h, w, c) of volumes"}
KEPT = "block"  # the name of what `kept` marks, for `jax.checkpoint_policies`


def default_init(scale: float = 1.0) -> Init:
    """Uniform, variance `scale` over the average of fan-in and fan-out (the authors' choice)."""
    # With a scale of exactly zero the variance-scaling initialiser divides by zero.
    return nn.initializers.variance_scaling(max(scale, 1e-10), "fan_avg", "uniform")


def starts(plain: bool, scale: float, fan_in: int) -> tuple[Init, Init]:
    """The initialisers of a kernel and its bias.

    With `plain` both are uniform within 1 / sqrt(fan_in), as in PyTorch, or zero if `scale` is 0.
    Otherwise they are `default_init(scale)` and zero.
    """
    if not plain:
        return default_init(scale), nn.initializers.zeros
    if scale == 0:
        return nn.initializers.zeros, nn.initializers.zeros
    bound = 1 / math.sqrt(fan_in)
    uniform = lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )
    return uniform, uniform


def at_least_float32(x: Num[Array, "*n"]) -> Float[Array, "*n"]:
    """Raise integers and half precision to float32; leave float32 and float64 as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def plus(
    y: Float[Array, "..."], shift: Array | np.ndarray, scale: Array | np.ndarray | None = None
) -> Float[Array, "..."]:
    """y + shift, or y (1 + scale) + shift, in the type of y, for scales and shifts of all places.

    Computed in float32 or better: the gradients of scale and shift are sums over all places, which in
    bfloat16 would stop growing at 256 times a term.
    """
    wide = at_least_float32(y)
    if scale is not None:
        wide = wide * (1 + scale.astype(wide.dtype))
    return (wide + shift.astype(wide.dtype)).astype(y.dtype)


def check_inputs(
    x: Array,
    noise_input: Array,
    y: Array | None = None,
    num_classes: int | None = None,
    cond_size: int | None = None,
) -> None:
    """Raise ValueError unless every example has a noise input, and the y that the network needs.

    y is labels (b,) exactly when `num_classes` is given, vectors (b, cond_size) exactly when
    `cond_size` is.
    """
    batch = x.shape[:1]
    check("noise_input", noise_input.shape, noise_input.shape == batch, f"of shape {batch}")
    if num_classes is not None and cond_size is not None:
        raise ValueError(
            f"num_classes and cond_size exclude each other, got {num_classes} and {cond_size}"
        )
    if (y is None) != (num_classes is None and cond_size is None):
        raise ValueError(
            "class labels y are needed exactly when num_classes is given, and vectors y exactly when "
            f"cond_size is, got num_classes={num_classes}, cond_size={cond_size} and "
            f"y={'None' if y is None else y.shape}"
        )
    if y is not None:
        shape = batch if cond_size is None else (*batch, cond_size)
        check("y", y.shape, y.shape == shape, f"of shape {shape}")
    if y is not None and num_classes is not None:
        check_classes(y, num_classes)


def class_rows(embed: nn.Embed, y: Int[Array, " b"]) -> Float[Array, "b width"]:
    """The embeddings of classes; a class outside, as only a compiled program can have it, gets zeros."""
    inside = (y >= 0) & (y < embed.num_embeddings)
    return jnp.where(inside[:, None], embed(jnp.where(inside, y, 0)), 0)


def with_low_res(x: Array, low_res: Array | None, needed: bool, periodic: Periodic = ()) -> Array:
    """x with the channels of `low_res`, brought to the size of x by linear interpolation.

    Raises ValueError unless `low_res` is given exactly when it is needed, with the rank and the number
    of examples of x, and has lengths that divide those of x along the periodic axes.
    """
    if (low_res is not None) != needed:
        raise ValueError(
            "low_res is needed exactly when super_resolution is set, got super_resolution="
            f"{needed} and low_res={'None' if low_res is None else 'data'}"
        )
    if low_res is None:
        return x
    if low_res.ndim != x.ndim or low_res.shape[0] != x.shape[0]:
        raise ValueError(f"low_res must be as x of shape {x.shape}, got {low_res.shape}")
    sizes = list(zip(x.shape[1:-1], low_res.shape[1:-1], strict=True))
    divide = all(n % m == 0 for (n, m), on in zip(sizes, periodic, strict=False) if on)
    check("low_res", low_res.shape, divide, f"of lengths that divide those of x {x.shape}")

    def resized(low: Array) -> Array:
        # `low` is longer than `low_res` along the periodic axes.
        each = zip(low.shape[1:-1], sizes, strict=True)
        lengths = (k * n // m if k != m else n for k, (n, m) in each)
        shape = (x.shape[0], *lengths, low.shape[-1])
        return jax.image.resize(low, shape, "linear", antialias=False)

    wide = continued(resized, low_res.astype(x.dtype), periodic, 1)
    return jnp.concatenate([x, wide], axis=-1)


def with_powers(x: Float[Array, "*b c"], powers: tuple[int, ...]) -> Float[Array, "*b d"]:
    """x with the sines, then the cosines, of 2^n 2 pi x for all powers n: fine details as channels.

    arXiv:2107.00630, appendix C.
    """
    if not powers:
        return x
    scales = jnp.asarray([2.0**n * 2 * math.pi for n in powers], x.dtype)
    angle = (x[..., None] * scales.reshape((1,) * x.ndim + (-1,))).reshape(*x.shape[:-1], -1)
    return jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle)], axis=-1)


def check_fields(net: Any, *counts: str) -> None:
    """Raise ValueError unless the named fields are at least 1 and those that U-Nets share are valid."""
    check_count(**{name: getattr(net, name) for name in counts})
    mult = net.channel_mult
    check("channel_mult", mult, mult and min(mult) > 0, "one or more positive numbers")
    check("dropout", net.dropout, 0 <= net.dropout < 1, "in [0, 1)")


def check_size(shape: Sizes, dims: int, depth: int, patch: int = 1) -> None:
    """Raise ValueError unless x has `dims` axes of space, each divisible as often as it is halved.

    With patches, every axis is divided by their size first.
    """
    check("x", shape, len(shape) == dims + 2, f"of shape {SHAPES[dims]}")
    needed = tuple(patch * f**depth for f in factors(dims))
    if any(n % f or n < 1 for n, f in zip(shape[1:-1], needed, strict=True)):
        cut = "" if patch == 1 else f"cut into patches of {patch} and "
        raise ValueError(
            f"the size of x must be divisible by {needed}, because it is {cut}halved {depth} times, "
            f"got {shape[1:-1]}"
        )


def folded(x: Float[Array, "..."], patch: int) -> Float[Array, "..."]:
    """Move patches of `patch` places along every axis into the channels.

    (b, *size, c) becomes (b, *size / patch, patch^axes c); one place of the result is one patch.
    """
    if patch == 1:
        return x
    axes = x.ndim - 2
    cut = [n for size in x.shape[1:-1] for n in (size // patch, patch)]
    x = x.reshape(x.shape[0], *cut, x.shape[-1])
    order = (*range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2))
    x = x.transpose(0, *order, 2 * axes + 1)
    return x.reshape(*x.shape[: axes + 1], -1)


def unfolded(x: Float[Array, "..."], patch: int) -> Float[Array, "..."]:
    """Move the channels back into patches: the inverse of `folded`."""
    if patch == 1:
        return x
    axes, grid = x.ndim - 2, x.shape[1:-1]
    x = x.reshape(x.shape[0], *grid, *[patch] * axes, -1)
    order = [axis for i in range(1, axes + 1) for axis in (i, axes + i)]
    x = x.transpose(0, *order, 2 * axes + 1)
    return x.reshape(x.shape[0], *[n * patch for n in grid], -1)


def factors(dims: int) -> Sizes:
    """The factor by which each axis is halved or doubled; the first of three keeps its length."""
    return (1, 2, 2) if dims == 3 else (2,) * dims


def sinusoids(
    noise_input: Num[Array, " b"], dim: int, *, cosines_first: bool = False
) -> Float[Array, "b dim"]:
    """Sines and cosines of the noise input at `dim`/2 frequencies from 1 to 1e-4: (b,) -> (b, dim).

    Vaswani et al. 2017 (arXiv:1706.03762). DDPM has the sines first and the last frequency at 1e-4;
    Improved DDPM, `cosines_first`, ends one step before it. An odd `dim` ends with a zero.
    """
    half = dim // 2
    # As the references of each family round them: an error of one rounding in a frequency is seen at
    # noise inputs of a thousand.
    places, log = np.arange(half, dtype=np.float32), -math.log(10_000)
    if cosines_first:
        frequency = jnp.asarray(np.exp(places * np.float32(log) / np.float32(half)))
    else:
        frequency = jnp.exp(jnp.asarray(places * np.float32(log / max(half - 1, 1))))
    angle = at_least_float32(noise_input)[:, None] * frequency[None]
    parts = [jnp.sin(angle), jnp.cos(angle)]
    embedding = jnp.concatenate(parts[::-1] if cosines_first else parts, axis=1)
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


def noise_levels(levels: Levels) -> np.ndarray:
    """Noise levels (first, last, number) in geometric progression: (number,) float64.

    The first is the largest in the authors' programs, and index 0. ValueError unless the levels are
    positive and there is at least one.

    >>> noise_levels((50.0, 0.5, 3))
    array([50. ,  5. ,  0.5])
    """
    first, last, number = levels
    ok = first > 0 and last > 0 and number >= 1
    check("sigmas", levels, ok, "(first > 0, last > 0, number of at least 1)")
    return np.geomspace(first, last, number)


def divide_by_sigma(
    h: Float[Array, "b *d"], noise_input: Num[Array, " b"], levels: Levels | None
) -> Float[Array, "b *d"]:
    """h over sigma: the noise input itself or, given `levels`, the one at that index."""
    sigma = noise_input
    if levels is not None:
        sigma = jnp.asarray(noise_levels(levels), h.dtype)[noise_input.astype(jnp.int32)]
    return h / sigma.reshape(sigma.shape + (1,) * (h.ndim - 1)).astype(h.dtype)


def default_groups(channels: int) -> int:
    """The largest divisor of `channels` that is at most min(channels // 4, 32)."""
    return next(g for g in range(max(min(channels // 4, 32), 1), 0, -1) if channels % g == 0)


class GroupNorm(nn.Module):
    """Group normalisation over all places and groups of channels, as x * a + c per channel.

    (b, ..., c) -> the same, computed in float32 or better; `groups` are `default_groups(c)` unless
    given; arXiv:1803.08494. One pass of sums per channel was the fastest form measured on a CPU.
    """

    groups: int | None = None
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b *d c"]) -> Float[Array, "b *d c"]:
        """Normalise x."""
        b, c = x.shape[0], x.shape[-1]
        groups = default_groups(c) if self.groups is None else self.groups
        if groups < 1 or c % groups:
            raise ValueError(f"{c} channels cannot be normalised in {groups} groups")
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        y = at_least_float32(x)
        places = tuple(range(1, x.ndim - 1))
        count = math.prod(x.shape[1:-1]) * (c // groups)
        in_groups = lambda s: s.reshape(b, groups, c // groups).sum(axis=2) / count
        mean = in_groups(y.sum(axis=places))
        variance = in_groups(jnp.square(y).sum(axis=places)) - jnp.square(mean)
        inverse = jax.lax.rsqrt(jnp.maximum(variance, 0) + self.epsilon)
        per_channel = lambda s: jnp.repeat(s, c // groups, axis=1)
        a = per_channel(inverse) * scale[None]
        shift = bias[None] - per_channel(mean) * a
        a, shift = (jnp.expand_dims(v, places) for v in (a, shift))
        return (y * a + shift).astype(x.dtype)


class Conv(nn.Module):
    """Convolution along one, two or three axes: (b, ..., i) -> (b, ..., features).

    Differentiating it is fast in loops on a CPU too (`nets.convolution`). Without `padding` a stride
    of 1 keeps the size. For `plain_init` and `init_scale` see `starts`.
    """

    features: int
    size: int = 3  # of the kernel
    stride: int | tuple[int, ...] = 1
    use_bias: bool = True
    init_scale: float = 1.0
    dtype: Any = None
    spacing: int = 1  # of the taps of the kernel
    plain_init: bool = False
    # before and after, of every axis alike or each; None: half of the kernel's reach
    padding: tuple[int, int] | Pads | None = None
    periodic: Periodic = ()  # axes that are padded with their other end rather than zeros

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        """Convolve x."""
        shape = (self.size,) * (x.ndim - 2) + (x.shape[-1], self.features)
        start, start_bias = starts(self.plain_init, self.init_scale, math.prod(shape[:-1]))
        w = self.param("kernel", start, shape)
        reach = (self.size - 1) * self.spacing
        padding: tuple[int, int] | Pads = self.padding or (reach // 2, reach - reach // 2)
        x, padding = wrap(x, each_axis(padding, x.ndim - 2), self.periodic)
        x = x.astype(nn.dtypes.canonicalize_dtype(x, w, dtype=self.dtype))
        y = conv(x, w, padding, stride=self.stride, spacing=self.spacing)
        if not self.use_bias:
            return y
        bias = self.param("bias", start_bias, (self.features,))
        return plus(y, bias.reshape((1,) * (y.ndim - 1) + (-1,)))


class Dense(nn.Module):
    """A linear map of the last axis: (..., i) -> (..., features).

    The parameters are those of `flax.linen.Dense`, and their gradients are sums in float32 where the
    computation (`dtype`) is in bfloat16.
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Init = nn.linear.default_kernel_init
    bias_init: Init = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Num[Array, "*b i"]) -> Float[Array, "*b o"]:
        """Map x."""
        w = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        x = x.astype(nn.dtypes.canonicalize_dtype(x, w, dtype=self.dtype))
        y = conv(jnp.atleast_2d(x), w, ()).reshape(*x.shape[:-1], self.features)
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init, (self.features,))
        return plus(y, bias.reshape((1,) * (y.ndim - 1) + (-1,)))


class Pointwise(nn.Module):
    """A linear map of the channels ("network in network"): (..., c) -> (..., features)."""

    features: int
    init_scale: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b o"]:
        """Map the channels of x."""
        start = default_init(self.init_scale)
        return Dense(self.features, kernel_init=start, dtype=self.dtype, name="map")(x)


def attend(
    q: Float[Array, "b n heads c"], k: Float[Array, "b m heads c"], v: Float[Array, "b m heads c"]
) -> Float[Array, "b n heads c"]:
    """softmax(q k^T / sqrt(c)) v for every head: (b, n, heads, c) -> the same; arXiv:1706.03762."""
    if q.dtype != jnp.float64:
        return jax.nn.dot_product_attention(q, k, v)
    # That function computes its softmax in float32 for every dtype.
    weights = jax.nn.softmax(jnp.einsum("bnhc,bmhc->bhnm", q, k) / math.sqrt(q.shape[3]))
    return jnp.einsum("bhnm,bmhc->bnhc", weights, v)


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


def kept(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Mark the output of a block: all that is kept of it if the rest is computed again."""
    return checkpoint_name(x, KEPT)


def residual(x: Float[Array, "..."], y: Float[Array, "..."], rescale: bool) -> Float[Array, "..."]:
    """x + y, divided by sqrt(2) if `rescale`, which keeps the variance."""
    return (x + y) * math.sqrt(0.5) if rescale else x + y


class Dropout(nn.Module):
    """Zero entries with probability `rate` in training, and scale the rest by 1 / (1 - rate).

    The mask is drawn from the stream "dropout". With a key from `score_jax.draws.row_key`, as losses
    give it, an example has the same mask on whichever device and in whichever microbatch it is.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b *d"], *, train: bool = False) -> Float[Array, "b *d"]:
        """Drop entries of x if `train`."""
        if not train or self.rate == 0:
            return x
        # Half a word an entry: drawing the words is most of what dropout costs on a CPU. The rate is
        # rounded to a multiple of 2^-16, and the scale follows it.
        limit = max(round((1 - self.rate) * 2**16), 1)
        n = (x.shape[-1] + 1) // 2
        words = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], n))
        # Cut where the key of `row_key` joins the two words of a block, and compared before they are
        # joined: XLA then stores a byte an entry, where it stored thirteen.
        parts = jnp.split(words, [(n + 1) // 2], axis=-1)
        halves = [*(part & 0xFFFF for part in parts), *(part >> 16 for part in parts)]
        keep = jnp.concatenate([half < limit for half in halves], axis=-1)[..., : x.shape[-1]]
        return jnp.where(keep, x * (2**16 / limit), jnp.zeros_like(x))
