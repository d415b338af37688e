r"""Residual blocks, attention and resampling of the U-Nets, of one, two or three axes of space.

    block      h = conv(silu(norm(x))), resampled;  h = norm(h + noise)  or  norm(h) (1 + scale) + shift;
               shortcut(x) + conv(dropout(silu(h)))
    attention  softmax(q k^T / sqrt(c)) v in every head, of all places

The networks of score_sde (arXiv:2011.13456) and of Improved DDPM and ADM (arXiv:2102.09672,
2105.05233) have the same parts and differ in the fields of `Style`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check
from score_jax.nets.convolution import Volume
from score_jax.nets.layers import (
    Conv,
    Dense,
    Dropout,
    GroupNorm,
    Pointwise,
    attend,
    class_rows,
    default_init,
    factors,
    kept,
    plus,
    residual,
    split_heads,
    starts,
)
from score_jax.nets.periodic import Periodic, continued, filter_reach
from score_jax.nets.resample import double, fir_conv_down, fir_conv_up, fir_down, fir_up, halve

Move = Literal["none", "up", "down"]


class Names(NamedTuple):
    """The names of a network's parts in the tree of its parameters."""

    norm0: str = "norm0"
    conv0: str = "conv0"
    noise: str = "label"
    norm1: str = "norm1"
    conv1: str = "conv1"
    skip: str = "skip"
    down: str = "conv"
    embed0: str = "embed0"
    embed1: str = "embed1"
    classes: str = "classes"
    vector: str = "vector"


SCORE_SDE_NAMES = Names()
ADM_NAMES = Names(
    "in_layers_0", "in_layers_2", "emb_layers_1", "out_layers_0", "out_layers_3",
    "skip_connection", "op", "time_embed_0", "time_embed_2", "label_emb",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Style:
    """What all layers of a network share, with their constructors; `ADM` and the defaults exist."""

    names: Names = SCORE_SDE_NAMES
    groups: int | None = None  # of the norms; None: `default_groups`
    epsilon: float = 1e-6  # of the norms
    plain_init: bool = False  # parameters start as in PyTorch
    padding: tuple[int, int] = (0, 1)  # of convolutions that halve the resolution
    mapped_skip: bool = True  # shortcuts are linear maps, also where a block resamples
    noise_in_float32: bool = False  # the maps of the embedding ignore `dtype`
    rescale: bool = False  # sums of residuals are divided by sqrt(2)
    taps: tuple[int, ...] | None = None  # of FIR filters; None: copies and averages
    dtype: Any = None  # of the computation
    periodic: Periodic = ()  # axes of space without ends

    def norm(self, name: str, groups: int | None = None) -> GroupNorm:
        """Make a norm."""
        return GroupNorm(groups or self.groups, self.epsilon, name=name)

    def conv(self, features: int, name: str, **fields: Any) -> Conv:
        """Make a convolution."""
        own = {"dtype": self.dtype, "plain_init": self.plain_init, "periodic": self.periodic}
        given = own | fields
        return Conv(features, **given, name=name)

    def dense(
        self, x: Array, features: int, name: str, dtype: Any = None, init_scale: float = 1.0
    ) -> Array:
        """Map the channels of x, in float32 unless `dtype` is given."""
        kernel, bias = starts(self.plain_init, init_scale, x.shape[-1])
        return Dense(features, dtype=dtype, kernel_init=kernel, bias_init=bias, name=name)(x)

    def embed(
        self, emb: Float[Array, "b e"], y: Array | None, width: int, num_classes: int | None
    ) -> Float[Array, "b width"]:
        """Two dense layers of the noise input's embedding, plus that of the classes or the vectors y.

        They belong to the calling module and are computed in float32, which costs little and keeps
        neighbouring times distinct.
        """
        h = self.dense(emb, width, self.names.embed0)
        emb = self.dense(nn.silu(h), width, self.names.embed1)
        if y is None:
            return emb
        return emb + self.embed_condition(y, width, num_classes)

    def embed_condition(self, y: Array, width: int, num_classes: int | None) -> Float[Array, "b w"]:
        """The embedding of class labels y (b,), or a linear map of vectors y (b, n)."""
        if num_classes is None:
            return self.dense(y, width, self.names.vector)
        normal, flax = nn.initializers.normal(1.0), nn.linear.default_embed_init
        start = normal if self.plain_init else flax
        classes = nn.Embed(num_classes, width, embedding_init=start, name=self.names.classes)
        return class_rows(classes, y)

    def embed_augment(
        self, emb: Float[Array, "b e"], augment: Array | None, size: int
    ) -> Float[Array, "b e"]:
        """Add a linear map of the augmentation's vectors (b, size); None stands for zeros.

        Raises ValueError for vectors of another shape, and for any where `size` is 0.
        """
        shape = (emb.shape[0], size)
        ok = augment is None or (size > 0 and augment.shape == shape)
        found = getattr(augment, "shape", None)
        check("augment", found, ok, f"of shape {shape}, as augment_size={size} says")
        if not size:
            return emb
        # Without a bias: a vector of zeros leaves the network as it would be without augmentation.
        kernel, _ = starts(self.plain_init, 1.0, size)
        dense = Dense(emb.shape[-1], use_bias=False, kernel_init=kernel, name="augment")
        return emb + dense(jnp.zeros(shape, emb.dtype) if augment is None else augment)


ADM = Style(
    ADM_NAMES, groups=32, epsilon=1e-5, plain_init=True, padding=(1, 1), mapped_skip=False,
    noise_in_float32=True,
)  # fmt: skip


class FirConv(nn.Module):
    """FIR filter and a 3x3 convolution that halves (`up` False) or doubles the resolution."""

    features: int
    taps: tuple[int, ...]
    up: bool
    dtype: Any = None
    periodic: Periodic = ()

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        """Resample x."""
        shape = (3,) * (x.ndim - 2) + (x.shape[-1], self.features)
        w = self.param("kernel", default_init(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x.astype(nn.dtypes.canonicalize_dtype(x, w, dtype=self.dtype))
        move = fir_conv_up if self.up else fir_conv_down
        reach = filter_reach(len(self.taps), w.shape[0], self.up)
        y = continued(lambda x: move(x, w, self.taps), x, self.periodic, reach)
        return plus(y, bias.reshape((1,) * (y.ndim - 1) + (-1,)))


def resize(x: Volume, up: bool, taps: tuple[int, ...] | None, periodic: Periodic = ()) -> Volume:
    """Double or halve the resolution by FIR filters, or by copies and averages."""
    if taps is None:
        return double(x) if up else halve(x)
    move, reach = fir_up if up else fir_down, filter_reach(len(taps), 1, up)
    return continued(lambda x: move(x, taps), x, periodic, reach)


class Resample(nn.Module):
    """Double or halve the resolution, with a convolution to `features` channels or without (None)."""

    style: Style
    up: bool
    features: int | None = None

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        """Resample x."""
        s = self.style
        if self.features is None:
            return resize(x, self.up, s.taps, s.periodic)
        if s.taps is not None:
            conv = FirConv(self.features, s.taps, self.up, s.dtype, s.periodic, name="conv")
            return conv(x)
        if self.up:
            return s.conv(self.features, "conv")(double(x))
        stride = factors(x.ndim - 2)
        padding = tuple(s.padding if n > 1 else (1, 1) for n in stride)
        return s.conv(self.features, s.names.down, stride=stride, padding=padding)(x)


class ResBlock(nn.Module):
    """Residual block of two convolutions: (b, ..., i), embedding (b, e) -> (b, ..., features).

    The embedding is added or, with `scale_shift`, scales and shifts the normalised values. `resample`
    (BigGAN's form) changes the resolution of both paths before the first convolution.
    """

    style: Style
    features: int
    dropout: float = 0.0
    resample: Move = "none"
    scale_shift: bool = False
    init_scale: float = 0.0  # of the last convolution
    skip_scale: float = 1.0  # of the shortcut's map
    first_groups: int | None = None  # of the first norm, if they differ

    # `train` may be positional: nn.remat keeps only positional arguments out of the trace.
    @nn.compact
    def __call__(self, x: Volume, emb: Float[Array, "b e"] | None, train: bool = False) -> Volume:
        """Transform x given the embedding of the noise input."""
        s, names, features = self.style, self.style.names, self.features
        moves = self.resample != "none"
        y = nn.silu(s.norm(names.norm0, self.first_groups)(x))
        if moves:
            x, y = (resize(v, self.resample == "up", s.taps, s.periodic) for v in (x, y))
        y = s.conv(features, names.conv0)(y)
        scale: Any = None
        shift: Any = None
        if emb is not None:
            width = (1 + self.scale_shift) * features
            dtype = None if s.noise_in_float32 else s.dtype
            given = s.dense(nn.silu(emb), width, names.noise, dtype)
            given = jnp.expand_dims(given, tuple(range(1, y.ndim - 1)))
            if self.scale_shift:
                scale, shift = jnp.split(given, 2, axis=-1)
            else:
                y = plus(y, given)
        y = s.norm(names.norm1)(y)
        if scale is not None:
            y = plus(y, shift, scale)
        y = Dropout(self.dropout)(nn.silu(y), train=train)
        y = s.conv(features, names.conv1, init_scale=self.init_scale)(y)
        if s.mapped_skip and (moves or x.shape[-1] != features):
            x = Pointwise(features, self.skip_scale, s.dtype, name=names.skip)(x)
        elif x.shape[-1] != features:
            x = s.conv(features, names.skip, size=1)(x)
        return kept(residual(x, y, s.rescale))


class Attention(nn.Module):
    """Self-attention over all places with a residual connection: (b, ..., c) -> the same.

    score_sde has one head and maps of their own for queries, keys and values; with `joint`, as in
    Improved DDPM and ADM, one map gives all of them for several heads.
    """

    style: Style
    heads: int = 1
    joint: bool = False
    heads_first: bool = True  # the order of the joint map's channels; see `split_heads`
    init_scale: float = 0.0  # of the output map
    groups: int | None = None  # of the norm, if they differ

    @nn.compact
    def __call__(self, x: Volume) -> Volume:
        """Attend."""
        s, b, c = self.style, x.shape[0], x.shape[-1]
        y = s.norm("norm", self.groups)(x).reshape(b, -1, c)
        if self.joint:
            qkv = s.dense(y, 3 * c, "qkv", s.dtype)
            y = attend(*split_heads(qkv, self.heads, self.heads_first)).reshape(b, -1, c)
            y = s.dense(y, c, "proj_out", s.dtype, self.init_scale)
        else:
            maps = (Pointwise(c, dtype=s.dtype, name=n) for n in ("query", "key", "value"))
            q, k, v = (m(y)[:, :, None] for m in maps)
            y = Pointwise(c, self.init_scale, s.dtype, name="out")(attend(q, k, v)[:, :, 0])
        return kept(residual(x, y.reshape(x.shape), s.rescale))
