"""Times against data of any rank, reductions over all but the batch, numbers of NumPy in JAX."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Elementwise = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def bcast(a: Float[Array, "..."], x: Float[Array, "b *d"]) -> Float[Array, "..."]:
    """Give `a` (scalar or (b,)) trailing axes so that it multiplies `x` of shape (b, *d).

    >>> bcast(jnp.ones(3), jnp.ones((3, 8, 8, 1))).shape
    (3, 1, 1, 1)
    """
    if a.ndim == 0:
        return a.astype(x.dtype)
    if a.ndim != 1 or a.shape[0] != x.shape[0]:
        raise ValueError(
            f"a coefficient must be a scalar or have one value per example, got shape {a.shape} "
            f"for data of shape {x.shape}"
        )
    return a.reshape(a.shape + (1,) * (x.ndim - 1)).astype(x.dtype)


def batch_sum(x: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """Sum over all axes but the first: (b, *d) -> (b,)."""
    return x.reshape(x.shape[0], -1).sum(axis=1)


def batch_mean(x: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """Mean over all axes but the first: (b, *d) -> (b,)."""
    return x.reshape(x.shape[0], -1).mean(axis=1)


def batch_norm(x: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """Euclidean norm of every example: (b, *d) -> (b,)."""
    return jnp.sqrt(batch_sum(jnp.square(x)))


def normal_logp(x: Float[Array, "b *d"], std: float | Float[Array, ""]) -> Float[Array, " b"]:
    """Log density of N(0, std^2 I) in nats: (b, *d) -> (b,)."""
    dim = math.prod(x.shape[1:])
    std = jnp.asarray(std, x.dtype)
    constant = 0.5 * dim * math.log(2 * math.pi) + dim * jnp.log(std)
    return -constant - 0.5 * batch_sum(jnp.square(x / std))


def as_time(t: float | Float[Array, "..."]) -> Float[Array, "..."]:
    """A time as a floating-point array, at the precision JAX is set to."""
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.zeros(0).dtype)


def placed(values: Any, dtype: Any = None) -> Array:
    """An array in JAX, of its own type or `dtype`, converted by NumPy: nothing is compiled.

    `jnp.asarray(values)` would compile a program for each shape.
    """
    dtype = jnp.result_type(values) if dtype is None else dtype
    return jnp.asarray(values if isinstance(values, jax.Array) else np.array(values, dtype), dtype)


def elementwise_grad(f: Elementwise) -> Elementwise:
    """d f(t) / dt of an elementwise function at every entry of t, by one jvp."""

    def df(t: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.jvp(f, (t,), (jnp.ones_like(t),))[1]

    return df
