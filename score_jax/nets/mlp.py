"""A residual MLP for vectors."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check_count
from score_jax.nets.layers import (
    Condition,
    Dense,
    Dropout,
    check_inputs,
    class_rows,
    kept,
    sinusoids,
)


class MLP(nn.Module):
    """Residual MLP: (x (b, *d), noise input (b,), y (b,)) -> shape of x; data of any rank is flattened.

    The noise input (t * 999) is embedded by sines and, with the embedding of y, shifts and scales the
    hidden layer of every block. y is class labels (b,) exactly when `num_classes` is given, and vectors
    (b, cond_size) exactly when `cond_size` is. Parameters are float32, and the output has the type of x.

    Raises ValueError for sizes below 1, noise inputs of another length than x, and missing or
    superfluous y.

    >>> net = MLP(width=128, num_blocks=3)
    >>> params = net.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    """

    width: int = 128  # of the hidden layers
    num_blocks: int = 3  # residual blocks
    dropout: float = 0.0  # probability, in the residual blocks
    num_classes: int | None = None  # number of classes, if conditioned on them
    dtype: Any = None  # of the computation; parameters and output stay float32
    remat: bool = False  # compute every block again in the backward pass: less memory, more time
    cond_size: int | None = None  # length of the vector, if conditioned on one

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *d"],
        noise_input: Float[Array, " b"],
        y: Condition = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b *d"]:
        """Predict from x, the noise input and the classes or vectors."""
        check_count(width=self.width, num_blocks=self.num_blocks)
        check_inputs(x, noise_input, y, self.num_classes, self.cond_size)
        dense = functools.partial(Dense, dtype=self.dtype)
        emb = nn.silu(dense(self.width)(sinusoids(noise_input, self.width)))
        if y is not None and self.num_classes is None:
            emb = emb + dense(self.width, name="vector")(y)
        elif y is not None:
            emb = emb + class_rows(nn.Embed(self.num_classes or 0, self.width), y).astype(emb.dtype)
        flat = x.reshape(x.shape[0], -1)
        h = dense(self.width)(flat)

        # A function and not a module, so that the parameters have the module's own names.
        def block(_: nn.Module, h: Array, emb: Array) -> Array:
            scale, shift = jnp.split(dense(2 * self.width)(emb), 2, axis=1)
            z = nn.LayerNorm(use_bias=False, use_scale=False, dtype=self.dtype)(h)
            z = nn.silu(dense(self.width)(z * (1 + scale) + shift))
            z = Dropout(self.dropout)(z, train=train)
            return kept(h + dense(self.width)(z))

        apply = nn.remat(block) if self.remat else block
        for _ in range(self.num_blocks):
            h = apply(self, h, emb)
        # The last map starts at zero: the first prediction is zero, whatever the input.
        out = Dense(flat.shape[1], kernel_init=nn.initializers.zeros, dtype=self.dtype)(nn.silu(h))
        return out.reshape(x.shape).astype(x.dtype)
