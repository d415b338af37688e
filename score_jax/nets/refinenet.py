r"""Parts of the RefineNets of NCSN (arXiv:1907.05600) and NCSNv2 (arXiv:2006.09011).

Each part has two forms: with `levels` None that of NCSNv2, which is not conditioned on the noise level;
with a number of noise levels that of NCSN, whose norms have scales and shifts for every level.

InstanceNorm++ (arXiv:1907.05600, appendix A.1; mu_c, s_c^2 mean and variance of channel c over the
places, m and v^2 mean and variance of the mu_c over the channels):

    z_c = gamma_c ((x_c - mu_c) / s_c + alpha_c (mu_c - m) / v) + beta_c
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from score_jax.nets.convolution import Image
from score_jax.nets.layers import Conv, at_least_float32, kept
from score_jax.nets.resample import halve

Index = Int[Array, " b"] | None


@dataclasses.dataclass(frozen=True)
class Style:
    """What all parts share, passed from one to the next as one field.

    `levels` is the number of noise levels that the norms distinguish, or None. `original` selects
    the papers' PyTorch programs where the JAX program of arXiv:2011.13456 differs: corners are aligned
    in bilinear resizing, the variance of the channels' means is unbiased, and the third refining block
    of the smallest network is half as wide.
    """

    activation: Callable[[Any], Any]
    levels: int | None
    original: bool
    dtype: Any

    def norm(self, name: str) -> "InstanceNormPlus":
        """Make a norm."""
        return InstanceNormPlus(self.levels, self.original, name=name)

    def conv(self, features: int, name: str, **fields: Any) -> Conv:
        """Make a convolution that starts as PyTorch's do."""
        return Conv(features, **({"dtype": self.dtype, "plain_init": True, "name": name} | fields))


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ of (b, h, w, c), in float32 or better, epsilon 1e-5.

    `alpha`, `gamma`, `beta` are (c,), or with `levels` columns of an embedding (levels, 3c) in the
    order gamma, alpha, beta. `unbiased` divides the variance of the means by c - 1.
    """

    levels: int | None = None
    unbiased: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Image, index: Index = None) -> Image:
        """Normalise x."""
        c = x.shape[3]
        y = at_least_float32(x)
        mean = y.mean(axis=(1, 2), keepdims=True)
        centred = y - mean
        over_places = centred * jax.lax.rsqrt(
            jnp.square(centred).mean(axis=(1, 2), keepdims=True) + self.epsilon
        )
        spread = mean - mean.mean(axis=3, keepdims=True)
        variance = jnp.square(spread).sum(axis=3, keepdims=True) / (c - self.unbiased)
        over_channels = spread * jax.lax.rsqrt(variance + self.epsilon)
        gamma, alpha, beta = (v[:, None, None] for v in self._parameters(c, index))
        return (gamma * (over_places + alpha * over_channels) + beta).astype(x.dtype)

    def _parameters(self, c: int, index: Index) -> list[Array]:
        near_one = lambda key, shape, dtype: 1 + 0.02 * jax.random.normal(key, shape, dtype)
        if self.levels is None:
            inits = {"gamma": near_one, "alpha": near_one, "beta": nn.initializers.zeros}
            return [self.param(n, i, (c,), jnp.float32)[None] for n, i in inits.items()]

        def start(key: Any, shape: Any, dtype: Any) -> Array:
            scales = near_one(key, (shape[0], 2 * c), dtype)
            return jnp.concatenate([scales, jnp.zeros((shape[0], c), dtype)], axis=1)

        table = self.param("embedding", start, (self.levels, 3 * c), jnp.float32)
        return jnp.split(table[index], 3, axis=1)


def resize_weights(old: int, new: int, aligned: bool) -> np.ndarray:
    """Weights (new, old) of linear interpolation along one axis.

    Output i is at (i + 1/2) old/new - 1/2, or, `aligned`, at i (old - 1)/(new - 1); positions outside
    are moved to the edge.
    """
    i = np.arange(new)
    at = i * (old - 1) / max(new - 1, 1) if aligned else (i + 0.5) * old / new - 0.5
    at = np.clip(at, 0, old - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)[None]))


def bilinear(x: Image, height: int, width: int, aligned: bool) -> Image:
    """Resize (b, h, w, c) to (b, height, width, c), upwards."""
    exact = jax.lax.Precision.HIGHEST
    if x.shape[1] != height:
        rows = jnp.asarray(resize_weights(x.shape[1], height, aligned), x.dtype)
        x = jnp.einsum("bhwc,Hh->bHwc", x, rows, precision=exact)
    if x.shape[2] != width:
        columns = jnp.asarray(resize_weights(x.shape[2], width, aligned), x.dtype)
        x = jnp.einsum("bhwc,Ww->bhWc", x, columns, precision=exact)
    return x


def pool(x: Image, levels: int | None) -> Image:
    """Maxima (NCSNv2) or means (NCSN, zeros around) over 5 x 5 places, one axis after the other.

    In float32 or better, because a place has its gradient from all windows that it is in.
    """
    reduce = nn.max_pool if levels is None else nn.avg_pool
    y = at_least_float32(x)
    for window in ((5, 1), (1, 5)):
        y = reduce(y, window, strides=(1, 1), padding="SAME")
    return y.astype(x.dtype)


class RefineResBlock(nn.Module):
    """Residual block of the backbone: norm, activation, convolution, twice.

    `down` changes the number of channels to `features`, and halves the resolution by averages after
    the second convolution, unless `dilation` is above 1: then the field of view grows instead.
    """

    style: Style
    features: int
    down: bool = False
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Image, index: Index) -> Image:
        """Transform x."""
        s, act = self.style, self.style.activation
        pooled = self.down and self.dilation == 1
        spaced = {"spacing": self.dilation}
        middle = x.shape[3] if self.down else self.features
        h = act(s.norm("norm1")(x, index))
        h = s.conv(middle, "conv1", **spaced)(h)
        h = act(s.norm("norm2")(h, index))
        h = s.conv(self.features, "conv2", **spaced)(h)
        if self.down:
            shortcut = {"size": 1} if pooled else spaced
            x = s.conv(self.features, "shortcut", **shortcut)(x)
        return kept(halve(h + x) if pooled else h + x)


class ResidualConvUnit(nn.Module):
    """`blocks` residual sums of twice (norm of NCSN,) activation and convolution without bias."""

    style: Style
    blocks: int

    @nn.compact
    def __call__(self, x: Image, index: Index) -> Image:
        """Transform x."""
        s = self.style
        for i in range(1, self.blocks + 1):
            h = x
            for j in (1, 2):
                if s.levels is not None:
                    h = s.norm(f"norm{i}_{j}")(h, index)
                conv = s.conv(x.shape[3], f"conv{i}_{j}", use_bias=False)
                h = conv(s.activation(h))
            x = x + h
        return x


class ResolutionFusion(nn.Module):
    """The sum of (normed,) convolved maps of several resolutions at that of the first."""

    style: Style
    features: int

    @nn.compact
    def __call__(self, xs: list[Image], index: Index) -> Image:
        """Fuse xs."""
        s = self.style
        total: Any = None
        for i, x in enumerate(xs):
            if s.levels is not None:
                x = s.norm(f"norm{i}")(x, index)
            x = s.conv(self.features, f"conv{i}")(x)
            x = bilinear(x, xs[0].shape[1], xs[0].shape[2], s.original)
            total = x if total is None else total + x
        return total


class ResidualPooling(nn.Module):
    """Activation, then the sum of itself and of two rounds of (norm,) pooling and convolution."""

    style: Style

    @nn.compact
    def __call__(self, x: Image, index: Index) -> Image:
        """Transform x."""
        s = self.style
        x = path = s.activation(x)
        for i in range(2):
            if s.levels is not None:
                path = s.norm(f"norm{i}")(path, index)
            conv = s.conv(x.shape[3], f"conv{i}", use_bias=False)
            path = conv(pool(path, s.levels))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """RefineNet's block (arXiv:1611.06612): maps of one or two resolutions -> one of the first's.

    Residual units on every map, fusion into `features` channels, chained residual pooling, and one
    residual unit (three at the `end`).
    """

    style: Style
    features: int
    end: bool = False

    @nn.compact
    def __call__(self, xs: list[Image], index: Index) -> Image:
        """Refine the maps, the finest first."""
        s = self.style
        xs = [ResidualConvUnit(s, 2, name=f"adapt{i}")(x, index)
              for i, x in enumerate(xs)]  # fmt: skip
        h = xs[0]
        if len(xs) > 1:
            h = ResolutionFusion(s, self.features, name="fuse")(xs, index)
        h = ResidualPooling(s, name="pool")(h, index)
        h = ResidualConvUnit(s, 3 if self.end else 1, name="output")(h, index)
        return kept(h)
