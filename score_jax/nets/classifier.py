r"""Classifiers of noisy data: that of ADM (guided-diffusion), the way down of its U-Net and a pool,
and a small one for data of any rank.

p(y | x_t) guides a sampler by the gradient of its logarithm: arXiv:2105.05233, section 4. The pools:

    adaptive    conv(mean over places of silu(norm(h)))
    attention   one query, the mean over places, attends to all places and itself (CLIP's pool,
                arXiv:2103.00020), with learned positions
    spatial     two linear maps with ReLU, of the means over places after every block
    spatial_v2  the same with a group normalisation and SiLU

Names of parameters: those of `score_jax.nets.unet`; the positions of the attention pool,
`out.2.positional_embedding` (c, n + 1), are `out_2/positional_embedding` (n + 1, c) here, and the
convolution of the adaptive pool, `out.3` (classes, c, 1, 1), is the plain map `out_3`.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax.nets.layers import check_labels, positional_embedding
from score_jax.nets.unet import UNetHalf
from score_jax.nets.unet_blocks import attend, linear, norm, split_heads

HIDDEN = 2048  # width of the spatial pools


class AttentionPool(nn.Module):
    """Attend from the mean to all places: (b, ..., c) -> (b, features), with `heads` heads.

    The positions are parameters, so the number of places is fixed by `init`.
    """

    features: int
    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "b o"]:
        """Pool x."""
        b, c = x.shape[0], x.shape[-1]
        x = x.reshape(b, -1, c)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        start = nn.initializers.normal(c**-0.5)
        positions = self.param("positional_embedding", start, (x.shape[1], c))
        qkv = linear(x + positions[None].astype(x.dtype), 3 * c, self.dtype, "qkv_proj")
        q, k, v = split_heads(qkv, self.heads, heads_first=False)
        # Only what the mean sees is asked for, so only its query is used.
        y = attend(q[:, :1], k, v).reshape(b, c)
        return linear(y, self.features, self.dtype, "c_proj")


class EncoderUNet(UNetHalf):
    """Classifier of noisy data: (x (b, *size, c), label (b,)) -> logits (b, num_classes), float32.

    Fields beside those of `UNetHalf`:
      num_classes: how many.
      pool: one of "adaptive", "attention", "spatial", "spatial_v2"; see above. The attention pool
        needs `num_head_channels` and fixes the size of x; the published classifiers use it.

    The label is the one the network to be guided is told. Its gradient is what guides:

    >>> net = EncoderUNet(channels=32, channel_mult=(1, 2), num_head_channels=16, num_classes=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    >>> logp = lambda x: jax.nn.log_softmax(net.apply(params, x, label))[jnp.arange(len(y)), y].sum()
    >>> score_of_class = jax.grad(logp)

    Raises ValueError as `UNet`, and for an unknown pool or an attention pool without
    `num_head_channels`.
    """

    num_classes: int = 1000
    pool: Literal["adaptive", "attention", "spatial", "spatial_v2"] = "attention"

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], label: Float[Array, " b"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Predict the logits of the classes from x and the label."""
        self._check(x)
        check_labels(x, label, None, None)
        pools = {
            "adaptive": self._adaptive,
            "attention": self._attention_pool,
            "spatial": self._spatial,
            "spatial_v2": self._spatial_v2,
        }
        if self.pool not in pools:
            raise ValueError(f"pool must be one of {list(pools)}, got {self.pool!r}")
        emb = self._embed(label)
        outputs = self._encode(x, emb, train)
        outputs.append(self._middle(outputs[-1], emb, train))
        # Only the spatial pools look at more than the last.
        return pools[self.pool]([h.astype(x.dtype) for h in outputs]).astype(x.dtype)

    def _adaptive(self, outputs: list[Array]) -> Array:
        h = nn.silu(norm(outputs[-1], self.groups, "out_0"))
        mean = h.mean(axis=tuple(range(1, h.ndim - 1)))
        return linear(mean, self.num_classes, None, "out_3", zero=True)

    def _attention_pool(self, outputs: list[Array]) -> Array:
        if self.num_head_channels is None:
            raise ValueError("num_head_channels is needed by the attention pool, got None")
        h = nn.silu(norm(outputs[-1], self.groups, "out_0"))
        heads = self._heads(h.shape[-1], self.num_heads)
        return AttentionPool(self.num_classes, heads, name="out_2")(h)

    def _means(self, outputs: list[Array]) -> Array:
        means = [h.mean(axis=tuple(range(1, h.ndim - 1))) for h in outputs]
        return linear(jnp.concatenate(means, axis=1), HIDDEN, None, "out_0")

    def _spatial(self, outputs: list[Array]) -> Array:
        return linear(nn.relu(self._means(outputs)), self.num_classes, None, "out_2")

    def _spatial_v2(self, outputs: list[Array]) -> Array:
        h = nn.silu(norm(self._means(outputs), self.groups, "out_1"))
        return linear(h, self.num_classes, None, "out_3")


class MLPClassifier(nn.Module):
    """A small classifier of noisy data of any rank: (x (b, *d), label (b,)) -> logits (b, num_classes).

    A residual MLP whose layers the label (t * 999), embedded by sines, shifts and scales. Raises
    ValueError for sizes below 1, or labels of another length than x.

    >>> net = MLPClassifier(num_classes=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    """

    num_classes: int = 10
    width: int = 128
    num_blocks: int = 2
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], label: Float[Array, " b"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Predict the logits of the classes from x and the label."""
        if min(self.num_classes, self.width, self.num_blocks) < 1:
            raise ValueError(
                "num_classes, width and num_blocks must be at least 1, got "
                f"{(self.num_classes, self.width, self.num_blocks)}"
            )
        check_labels(x, label, None, None)
        emb = nn.silu(nn.Dense(self.width)(positional_embedding(label, self.width)))
        h = nn.Dense(self.width)(x.reshape(x.shape[0], -1))
        for _ in range(self.num_blocks):
            scale, shift = jnp.split(nn.Dense(2 * self.width)(emb), 2, axis=1)
            z = nn.silu(nn.LayerNorm(use_bias=False, use_scale=False)(h) * (1 + scale) + shift)
            z = nn.Dropout(self.dropout, deterministic=not train)(z)
            h = h + nn.Dense(self.width)(z)
        return nn.Dense(self.num_classes)(nn.silu(h)).astype(x.dtype)
