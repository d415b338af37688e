r"""Operations that preserve magnitudes: unit variance in, unit variance out (arXiv:2312.02696).

For independent entries of unit variance, with the paper's numbers of the equations:

    SiLU       silu(x) / 0.596                                                  (81)
    sum        ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)                        (88)
    cat        sqrt((A + B) / ((1 - t)^2 + t^2)) [(1 - t) a / sqrt(A),  t b / sqrt(B)]      (103)
    Fourier    sqrt(2) cos(f x + phase)                                         (75)
    map        w x,  every row of w of length 1

Only the direction of a row of weights matters. The optimiser would nevertheless let the stored rows
grow, and with them the effective learning rate would fall. They are therefore brought back to one
length after every update: `unit_directions` with `score_jax.training.projected`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax.nets.convolution import conv, each_axis
from score_jax.nets.layers import at_least_float32
from score_jax.nets.periodic import Periodic, wrap

EPSILON = 1e-4  # added to a root mean square
DIRECTION = "direction"  # the parameters of which only the direction matters
SILU_RMS = 0.596  # of silu(x) for x of N(0, 1)


def normalised(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """x over its root mean square along the axes, computed in float32 or better."""
    wide = at_least_float32(x)
    square = jnp.square(wide).mean(axis=axes, keepdims=True)
    return (wide / (jnp.sqrt(square) + EPSILON)).astype(x.dtype)


def mp_silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """SiLU, scaled to unit variance for unit normal x, computed in float32 or better."""
    return (nn.silu(at_least_float32(x)) / SILU_RMS).astype(x.dtype)


def mp_sum(a: Float[Array, "..."], b: Float[Array, "..."], t: float) -> Float[Array, "..."]:
    """The sum of (1 - t) a and t b, scaled to unit variance, computed in float32 or better."""
    wide_a, wide_b = at_least_float32(a), at_least_float32(b)
    return (((1 - t) * wide_a + t * wide_b) / math.hypot(1 - t, t)).astype(a.dtype)


def mp_cat(a: Float[Array, "*b c"], b: Float[Array, "*b e"], t: float) -> Float[Array, "*b f"]:
    """a and b side by side in the channels, with shares (1 - t)^2 and t^2 of a mean square of 1."""
    width = math.sqrt(a.shape[-1] + b.shape[-1]) / math.hypot(1 - t, t)
    parts = [v * (share * width / math.sqrt(v.shape[-1])) for v, share in ((a, 1 - t), (b, t))]
    return jnp.concatenate(parts, axis=-1)


class MPFourier(nn.Module):
    """Cosines at fixed random frequencies of standard deviation 1, and phases: (b,) -> (b, dim)."""

    dim: int

    @nn.compact
    def __call__(self, x: Float[Array, " b"]) -> Float[Array, "b e"]:
        """Embed x."""
        turn = 2 * math.pi
        w = self.param("frequency", nn.initializers.normal(turn), (self.dim,))
        phase = self.param("phase", nn.initializers.uniform(turn), (self.dim,))
        w, phase = jax.lax.stop_gradient((w, phase))
        return math.sqrt(2) * jnp.cos(x[:, None] * w[None] + phase[None])


def _unit(w: Float[Array, "..."]) -> Float[Array, "..."]:
    """Weights of mean square 1 for every output channel, the last axis."""
    return normalised(w, tuple(range(w.ndim - 1)))


class MPMap(nn.Module):
    """A map of the channels, or a convolution for `size` > 1, with rows of length 1, times `gain`.

    (b, ..., i) -> (b, ..., features).
    """

    features: int
    size: int = 1
    dtype: Any = None
    periodic: Periodic = ()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *d i"], gain: float | Float[Array, ""] = 1.0
    ) -> Float[Array, "b *d o"]:
        """Map x."""
        taps = (self.size,) * (x.ndim - 2) if self.size > 1 else ()
        shape = (*taps, x.shape[-1], self.features)
        w = self.param(DIRECTION, nn.initializers.normal(1.0), shape)
        w = _unit(w) * (gain / math.sqrt(math.prod(shape[:-1])))
        x = x.astype(nn.dtypes.canonicalize_dtype(x, w, dtype=self.dtype))
        if not taps:
            flat = conv(x.reshape(-1, x.shape[-1]), w, ())
            return flat.reshape(*x.shape[:-1], self.features)
        reach = self.size - 1
        pads = each_axis((reach // 2, reach - reach // 2), x.ndim - 2)
        x, pads = wrap(x, pads, self.periodic)
        return conv(x, w, pads)


class MPClasses(nn.Module):
    """Embeddings of classes, each entry of unit variance over the classes: (b,) -> (b, features).

    A class outside, as only a compiled program can have it, gets zeros.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, y: Array) -> Float[Array, "b o"]:
        """Embed labels y."""
        shape = (self.num_classes, self.features)
        rows = _unit(self.param(DIRECTION, nn.initializers.normal(1.0), shape))
        inside = (y >= 0) & (y < self.num_classes)
        return jnp.where(inside[:, None], rows[jnp.where(inside, y, 0)], 0)


def unit_directions(params: Any) -> Any:
    """The parameters with all rows of these layers at one length: forced weight normalisation.

    arXiv:2312.02696, section 2.3. The network computes the same. Other parameters stay.

    >>> optimizer = projected(make_optimizer(), unit_directions)
    """

    def project(path: Any, leaf: Any) -> Any:
        return _unit(leaf) if getattr(path[-1], "key", None) == DIRECTION else leaf

    return jax.tree_util.tree_map_with_path(project, params)
