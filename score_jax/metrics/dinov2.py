"""DINOv2 (arXiv:2304.07193), the features of FD-DINOv2 (arXiv:2306.04675)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax.metrics.resize import cubic_matrix

PATCH, HEAD = 14, 64  # pixels along a patch; width of an attention head, of every published size
OFFSET = 0.1  # the authors add it to the number of patches when they resize the positions
CLASS_TOKEN = "class_token"

Tokens = Float[Array, "b n c"]
_HIGHEST = jax.lax.Precision.HIGHEST


class TransformerBlock(nn.Module):
    """Attention and MLP, each behind a layer norm and scaled by a vector."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Map tokens (b, n, width) to the same shape."""
        dense = lambda n, name: nn.Dense(n, dtype=self.dtype, precision=_HIGHEST, name=name)
        norm = lambda name: nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)
        scale = lambda name: self.param(name, nn.initializers.ones, (self.width,)).astype(
            self.dtype
        )
        b, n, _ = x.shape
        q, k, v = jnp.moveaxis(
            dense(3 * self.width, "qkv")(norm("norm1")(x)).reshape(b, n, 3, -1, HEAD), 2, 0
        )
        weights = jnp.einsum("bqhd,bkhd->bhqk", q * HEAD**-0.5, k, precision=_HIGHEST)
        weights = jax.nn.softmax(weights.astype(jnp.float32), -1).astype(self.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v, precision=_HIGHEST)
        gamma = scale("ls1").reshape(1, 1, -1)
        x = x + gamma * dense(self.width, "proj")(mixed.reshape(b, n, -1))
        hidden = nn.gelu(dense(4 * self.width, "fc1")(norm("norm2")(x)), approximate=False)
        return x + scale("ls2").reshape(1, 1, -1) * dense(self.width, "fc2")(hidden)


class DINOv2(nn.Module):
    """The vision transformer; `grid` are the patches along a side that its positions were made for."""

    width: int = 1024
    depth: int = 24
    grid: int = 37
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b c"]]:
        """Map normalized images, with sides divisible by 14, to the class token after the last norm."""
        patches = nn.Conv(
            self.width, (PATCH, PATCH), PATCH, "VALID", dtype=self.dtype, precision=_HIGHEST,
            name="patch_embed",
        )(x)  # fmt: skip
        b, h, w, _ = patches.shape
        zeros = nn.initializers.zeros
        first = self.param("cls_token", zeros, (1, 1, self.width))
        places = self.param("pos_embed", zeros, (1, 1 + self.grid**2, self.width))
        tokens = jnp.concatenate([jnp.repeat(first, b, 0), patches.reshape(b, h * w, -1)], 1)
        x = (tokens + self._places(places, h, w)).astype(self.dtype)
        for i in range(self.depth):
            x = TransformerBlock(self.width, self.dtype, name=f"blocks_{i}")(x)
        out = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x[:, 0])
        return {CLASS_TOKEN: out.astype(jnp.float32)}

    def _places(self, places: Any, h: int, w: int) -> Any:
        """Positions (1, 1 + h * w, width), bicubic from those of the grid."""
        if h == w == self.grid:
            return places
        rows, columns = (
            jnp.asarray(cubic_matrix(self.grid, n, self.grid / (n + OFFSET)), jnp.float32)
            for n in (h, w)
        )
        square = places[:, 1:].reshape(self.grid, self.grid, self.width)
        square = jnp.einsum("hi,wj,ijc->hwc", rows, columns, square, precision=_HIGHEST)
        return jnp.concatenate([places[:, :1], square.reshape(1, h * w, self.width)], 1)
