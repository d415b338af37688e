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

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check, check_count
from score_jax.nets.blocks import Style
from score_jax.nets.layers import Dense, Dropout, attend, check_inputs, sinusoids, split_heads
from score_jax.nets.unet import UNetHalf

HIDDEN = 2048  # width of the spatial pools


class AttentionPool(nn.Module):
    """Attend from the mean to all places: (b, ..., c) -> (b, features), with `heads` heads.

    The positions are parameters, so the number of places is fixed by `init`.
    """

    style: Style
    features: int
    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "b o"]:
        """Pool x."""
        dense = self.style.dense
        b, c = x.shape[0], x.shape[-1]
        x = x.reshape(b, -1, c)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        start = nn.initializers.normal(c**-0.5)
        positions = self.param("positional_embedding", start, (x.shape[1], c))
        qkv = dense(x + positions[None].astype(x.dtype), 3 * c, "qkv_proj")
        q, k, v = split_heads(qkv, self.heads, heads_first=False)
        # Only the mean is pooled, so only its query is used.
        y = attend(q[:, :1], k, v).reshape(b, c)
        return dense(y, self.features, "c_proj")


class EncoderUNet(UNetHalf):
    """Classifier of noisy data: (x (b, *size, c), noise input (b,)) -> logits (b, num_classes).

    The noise input is that of the network to be guided. The attention pool, which the published
    classifiers use, needs `num_head_channels` and fixes the size of x. The logits are float32, and
    their gradient guides:

    >>> net = EncoderUNet(channels=32, channel_mult=(1, 2), num_head_channels=16, num_classes=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
    >>> logp = lambda x: jax.nn.log_softmax(net.apply(params, x, t))[jnp.arange(len(y)), y].sum()
    >>> score_of_class = jax.grad(logp)

    Raises ValueError as `UNet`, and for an unknown pool or an attention pool without
    `num_head_channels`.
    """

    num_classes: int = 1000  # number of classes
    pool: Literal["adaptive", "attention", "spatial", "spatial_v2"] = "attention"  # see above

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], noise_input: Float[Array, " b"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Predict the logits of the classes from x and the noise input."""
        self._check(x)
        check_inputs(x, noise_input)
        pools = {
            "adaptive": self._adaptive,
            "attention": self._attention_pool,
            "spatial": self._spatial,
            "spatial_v2": self._spatial_v2,
        }
        check("pool", self.pool, self.pool in pools, f"one of {list(pools)}")
        emb = self._embed(noise_input, None, None)
        outputs = self._encode(x, emb, train)
        outputs.append(self._middle(outputs[-1], emb, train))
        # Only the spatial pools look at more than the last.
        return pools[self.pool]([h.astype(x.dtype) for h in outputs]).astype(x.dtype)

    def _adaptive(self, outputs: list[Array]) -> Array:
        h = nn.silu(self.style.norm("out_0")(outputs[-1]))
        mean = h.mean(axis=tuple(range(1, h.ndim - 1)))
        return self.style.dense(mean, self.num_classes, "out_3", init_scale=0.0)

    def _attention_pool(self, outputs: list[Array]) -> Array:
        if self.num_head_channels is None:
            raise ValueError("num_head_channels is needed by the attention pool, got None")
        h = nn.silu(self.style.norm("out_0")(outputs[-1]))
        heads = self._heads(h.shape[-1], self.num_heads)
        return AttentionPool(self.style, self.num_classes, heads, name="out_2")(h)

    def _means(self, outputs: list[Array]) -> Array:
        means = [h.mean(axis=tuple(range(1, h.ndim - 1))) for h in outputs]
        return self.style.dense(jnp.concatenate(means, axis=1), HIDDEN, "out_0")

    def _spatial(self, outputs: list[Array]) -> Array:
        return self.style.dense(nn.relu(self._means(outputs)), self.num_classes, "out_2")

    def _spatial_v2(self, outputs: list[Array]) -> Array:
        h = nn.silu(self.style.norm("out_1")(self._means(outputs)))
        return self.style.dense(h, self.num_classes, "out_3")


class MLPClassifier(nn.Module):
    """A small classifier of noisy data of any rank: (x (b, *d), noise input (b,)) -> (b, num_classes).

    A residual MLP. The noise input (t * 999), embedded by sines, shifts and scales its layers. Raises
    ValueError for sizes below 1, or noise inputs of another length than x.

    >>> net = MLPClassifier(num_classes=10)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    """

    num_classes: int = 10  # number of classes
    width: int = 128  # of the hidden layers
    num_blocks: int = 2  # residual blocks
    dropout: float = 0.0  # probability, in the residual blocks

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], noise_input: Float[Array, " b"], *, train: bool = False
    ) -> Float[Array, "b k"]:
        """Predict the logits of the classes from x and the noise input."""
        check_count(num_classes=self.num_classes, width=self.width, num_blocks=self.num_blocks)
        check_inputs(x, noise_input)
        emb = nn.silu(Dense(self.width)(sinusoids(noise_input, self.width)))
        h = Dense(self.width)(x.reshape(x.shape[0], -1))
        for _ in range(self.num_blocks):
            scale, shift = jnp.split(Dense(2 * self.width)(emb), 2, axis=1)
            z = nn.silu(nn.LayerNorm(use_bias=False, use_scale=False)(h) * (1 + scale) + shift)
            z = Dropout(self.dropout)(z, train=train)
            h = h + Dense(self.width)(z)
        return Dense(self.num_classes)(nn.silu(h)).astype(x.dtype)
