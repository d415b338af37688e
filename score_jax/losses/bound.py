"""The variational bound of a table over all its steps, with the curves that show where it comes from.

Nichol & Dhariwal 2021 (arXiv:2102.09672), equations (1) to (3) of `score_jax.losses.discrete`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_jax._math import batch_mean
from score_jax.discrete import Diffusion, ReverseFn, q_mean_var, q_sample, x0_to_noise
from score_jax.losses.discrete import Decoder, bound_term, discretized_gaussian, gaussian_kl


class TableBound(NamedTuple):
    """A bound on the bits per dimension of every example and what it is made of.

    total: (b,), prior + the sum of terms; prior: (b,), eq. (1); terms: (b, n), eq. (2) and (3), by
    index; x0_mse, noise_mse: (b, n), mean squared errors of the predicted data and noise.
    """

    total: Any
    prior: Any
    terms: Any
    x0_mse: Any
    noise_mse: Any


def prior_bits(diffusion: Diffusion, x0: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """KL(q(x_N | x0) || N(0, I)) in bits per dimension: (b,), what no network can lower."""
    mean, log_variance = q_mean_var(diffusion, x0, jnp.asarray(diffusion.n - 1))
    zero = jnp.zeros((), x0.dtype)
    return batch_mean(gaussian_kl(mean, log_variance, zero, zero)) / math.log(2.0)


def _normal(key: Any, i: Any, x0: Any) -> Any:
    return jax.random.normal(jax.random.fold_in(key, i), x0.shape, x0.dtype)


def table_bound(
    diffusion: Diffusion,
    reverse: ReverseFn,
    key: Key[Array, ""],
    x0: Float[Array, "b *d"],
    *,
    decoder: Decoder | None = None,
    noise: Callable[[Any, Any, Any], Any] = _normal,
) -> TableBound:
    """The bound over all steps of a table, full or respaced: n evaluations, one `lax.map`.

    `reverse` is the network on the same table (`reverse_fn(diffusion, ...)`); x0 (b, *d) lies on
    the levels of `decoder` (256 from -1 to 1 by default). `noise(key, i, x0)` draws the unit noise
    of index i. Jit it, and call it on one batch of data after the other.

    >>> reverse = reverse_fn(respace(diffusion, "100"), net.apply, params, clean=static())
    >>> out = table_bound(respace(diffusion, "100"), reverse, key, x0)
    >>> mean, error = mean_and_error(out.total)
    """
    decode = discretized_gaussian() if decoder is None else decoder

    def at(i: Any) -> tuple[Any, Any, Any]:
        z = noise(key, i, x0)
        x = q_sample(diffusion, x0, i, z)
        out = reverse(x, i)
        found = x0_to_noise(diffusion, out.x0, x, i)
        return (
            bound_term(diffusion, out, x0, x, i, decoder=decode),
            batch_mean(jnp.square(out.x0 - x0)),
            batch_mean(jnp.square(found - z)),
        )

    terms, x0_mse, noise_mse = jax.lax.map(at, jnp.arange(diffusion.n))
    prior = prior_bits(diffusion, x0)
    return TableBound(prior + terms.sum(axis=0), prior, terms.T, x0_mse.T, noise_mse.T)


def mean_and_error(values: Float[Array, " b"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean over examples and its standard error (NaN for a single one)."""
    n = values.shape[0]
    spread = values.std(ddof=1) if n > 1 else jnp.full((), jnp.nan, values.dtype)
    return values.mean(), spread / math.sqrt(n)
