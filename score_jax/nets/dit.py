r"""The diffusion transformer, DiT (arXiv:2212.09748), with adaLN-zero, along one, two or three axes.

    tokens   patches of x mapped to `width`, plus the sines and cosines of their places
    c        embedding of the noise input + that of the classes or vectors
    block    x + a attention(norm(x) (1 + s) + m),  x + a' mlp(norm(x) (1 + s') + m')
             with m, s, a, m', s', a' a linear map of silu(c) that starts at 0
    last     the same shift and scale, and a linear map to the entries of the patch that starts at 0

Every block starts as the identity, and the first prediction is 0. The places are those of the
program: the sines and cosines of the last axis come first, each at width / (2 axes) frequencies from
1 to nearly 1e-4.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax._check import check, check_count
from score_jax.nets.layers import (
    SHAPES,
    Condition,
    Dense,
    Dropout,
    at_least_float32,
    attend,
    check_inputs,
    class_rows,
    folded,
    kept,
    plus,
    sinusoids,
    split_heads,
    unfolded,
    with_low_res,
)

# Width, depth and heads of the published networks.
DIT_SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 384, "depth": 12, "num_heads": 6},
    "B": {"width": 768, "depth": 12, "num_heads": 12},
    "L": {"width": 1024, "depth": 24, "num_heads": 16},
    "XL": {"width": 1152, "depth": 28, "num_heads": 16},
}
NOISE_SINUSOIDS = 256
_xavier = nn.initializers.xavier_uniform()


def positions(size: tuple[int, ...], width: int) -> np.ndarray:
    """Sines and cosines of the places of a grid: (number of places, width) float32.

    ValueError unless `width` is a multiple of twice the number of axes.
    """
    axes = len(size)
    check("width", width, width % (2 * axes) == 0, f"a multiple of {2 * axes} for {axes} axes")
    each = width // axes
    frequency = np.exp(-math.log(10_000) * np.arange(each // 2) / (each // 2))
    parts = []
    for axis in reversed(range(axes)):
        angle = np.indices(size)[axis].reshape(-1, 1) * frequency[None]
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _gated(x: Array, branch: Array, gate: Array) -> Array:
    """x + gate branch in the type of x; the gradient of the gate is a sum in float32 or better."""
    wide = at_least_float32(branch) * gate.astype(at_least_float32(branch).dtype)
    return x + wide.astype(x.dtype)


class DiTBlock(nn.Module):
    """Attention and an MLP, both modulated by c: (b, n, width), (b, width) -> (b, n, width)."""

    heads: int
    mlp_ratio: float
    dropout: float
    dtype: Any = None

    # `train` may be positional: nn.remat keeps only positional arguments out of the trace.
    @nn.compact
    def __call__(self, x: Array, c: Array, train: bool = False) -> Array:
        """Transform the tokens."""
        width = x.shape[-1]
        given = Dense(
            6 * width, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="modulation"
        )(nn.silu(c))
        m0, s0, a0, m1, s1, a1 = jnp.split(given[:, None], 6, axis=-1)
        norm = lambda v: nn.LayerNorm(
            epsilon=1e-6, use_bias=False, use_scale=False, dtype=self.dtype
        )(v)  # fmt: skip
        dense = lambda n, name: Dense(n, kernel_init=_xavier, dtype=self.dtype, name=name)
        qkv = dense(3 * width, "qkv")(plus(norm(x), m0, s0))
        y = attend(*split_heads(qkv, self.heads, heads_first=False)).reshape(x.shape)
        x = _gated(x, Dropout(self.dropout)(dense(width, "out")(y), train=train), a0)
        y = dense(int(self.mlp_ratio * width), "mlp0")(plus(norm(x), m1, s1))
        y = dense(width, "mlp1")(nn.gelu(y, approximate=True))
        return kept(_gated(x, Dropout(self.dropout)(y, train=train), a1))


class DiT(nn.Module):
    """Transformer: (x (b, *size, c), noise input (b,), y (b,), low_res) -> (b, *size, out_channels).

    The noise input is t * 999 or an index of a noise schedule. y and `low_res` are as for `UNet`. Every
    axis of space must be a multiple of `patch`. The published sizes are in `DIT_SIZES`: DiT-XL/2 is
    DiT(patch=2, **DIT_SIZES["XL"]).

    Raises ValueError for fields outside their range, x of another rank than `dims` says or of a size
    that cannot be cut, and missing or superfluous y or low_res.

    >>> net = DiT(width=64, depth=2, num_heads=4)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    """

    patch: int = 2  # places of a patch along every axis
    width: int = 384  # of the tokens
    depth: int = 12  # blocks
    num_heads: int = 6  # of the attention
    mlp_ratio: float = 4.0  # width of the hidden layers over that of the tokens
    dropout: float = 0.0  # probability, in both branches of a block
    dims: int = 2  # axes of space, 1 to 3
    out_channels: int | None = (
        None  # as many as x has if None; twice as many for a learned variance
    )
    num_classes: int | None = None  # number of classes, if conditioned on them
    cond_size: int | None = None  # length of the vector, if conditioned on one
    super_resolution: bool = False  # conditioned on an image of low resolution, or a field
    remat: bool = False  # compute every block again in the backward pass: less memory, more time
    dtype: Any = None  # of the computation; parameters and output stay float32

    def _check(self, x: Array) -> None:
        names = ("patch", "width", "depth", "num_heads")
        check_count(**{name: getattr(self, name) for name in names})
        check("mlp_ratio", self.mlp_ratio, self.mlp_ratio > 0, "> 0")
        check("dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)")
        check("dims", self.dims, self.dims in (1, 2, 3), "1, 2 or 3")
        check("x", x.shape, x.ndim == self.dims + 2, f"of shape {SHAPES[self.dims]}")
        fits = all(n >= 1 and n % self.patch == 0 for n in x.shape[1:-1])
        check("the size of x", x.shape[1:-1], fits, f"a multiple of patch={self.patch}")

    def _embed(self, noise_input: Array, y: Array | None) -> Array:
        """c, the embedding of the noise input and of y, in float32."""
        normal = nn.initializers.normal(0.02)
        dense = lambda name: Dense(self.width, kernel_init=normal, name=name)
        c = dense("embed0")(sinusoids(noise_input, NOISE_SINUSOIDS, cosines_first=True))
        c = dense("embed1")(nn.silu(c))
        if y is not None and self.num_classes is not None:
            classes = nn.Embed(self.num_classes, self.width, embedding_init=normal, name="classes")
            return c + class_rows(classes, y)
        return c if y is None else c + dense("vector")(y)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "..."],
        noise_input: Float[Array, " b"],
        y: Condition = None,
        *,
        low_res: Float[Array, "..."] | None = None,
        train: bool = False,
    ) -> Float[Array, "..."]:
        """Predict from x, the noise input, the classes or vectors and the image of low resolution."""
        self._check(x)
        check_inputs(x, noise_input, y, self.num_classes, self.cond_size)
        dtype = self.dtype
        start = with_low_res(x, low_res, self.super_resolution)
        c = self._embed(noise_input, y)
        start = folded(start, self.patch)
        grid = start.shape[1:-1]
        tokens = start.reshape(start.shape[0], math.prod(grid), start.shape[-1])
        h = Dense(self.width, kernel_init=_xavier, dtype=dtype, name="first")(tokens)
        places = positions(grid, self.width)
        h = h + jnp.asarray(places, h.dtype)[None]
        make = nn.remat(DiTBlock, static_argnums=(3,)) if self.remat else DiTBlock
        for i in range(self.depth):
            block = make(self.num_heads, self.mlp_ratio, self.dropout, dtype, name=f"block{i}")
            h = block(h, c, train)

        # In float32: few channels cost little, and the output keeps its precision.
        zeros = nn.initializers.zeros
        given = Dense(2 * self.width, kernel_init=zeros, name="last_modulation")(nn.silu(c))
        shift, scale = jnp.split(given[:, None], 2, axis=-1)
        h = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False)(h.astype(x.dtype))
        entries = self.patch**self.dims * (self.out_channels or x.shape[-1])
        out = Dense(entries, kernel_init=zeros, name="last")(plus(h, shift, scale))
        out = out.reshape(out.shape[0], *grid, entries)
        return unfolded(out, self.patch).astype(x.dtype)
