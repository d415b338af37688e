"""Latents of the probability flow: encoding, decoding, paths between two of them, temperature.

The flow has no noise, so data and latents correspond one to one. For the true score the encoding
depends on the data alone, so two networks trained on the same data agree (arXiv:2011.13456 section 4.3,
"uniquely identifiable encoding").
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._math import batch_norm, batch_sum, bcast
from score_jax.samplers.ode import ODEOut, probability_flow
from score_jax.types import SDE, ScoreFn


def encode(
    sde: SDE, score: ScoreFn, x: Float[Array, "b *d"], *, t0: float = 1e-5, **options: Any
) -> ODEOut:
    """Carry data x (b, *d) from t0 to the latents at t1; options as for `probability_flow`.

    >>> z = encode(sde, score, x).x
    """
    return probability_flow(sde, score, x, t_from=t0, t_to=sde.t1, **options)


def decode(
    sde: SDE,
    score: ScoreFn,
    z: Float[Array, "b *d"],
    *,
    t0: float = 1e-5,
    temperature: float = 1.0,
    **options: Any,
) -> ODEOut:
    """Carry latents z (b, *d) from t1 to data at t0; the inverse of `encode` at temperature 1.

    `temperature` multiplies the latents: below 1 samples come from the denser middle of the prior.
    Raises ValueError unless temperature > 0.

    >>> x = decode(sde, score, z, temperature=0.9).x
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    return probability_flow(sde, score, z * temperature, t_from=sde.t1, t_to=t0, **options)


def linear(
    a: Float[Array, "b *d"], b: Float[Array, "b *d"], weight: float | Float[Array, "..."]
) -> Float[Array, "b *d"]:
    """The point between a and b on their line: (1 - weight) a + weight b; weight () or (b,).

    In many dimensions its norm is smaller than that of normal latents: prefer `spherical`.
    """
    w = bcast(jnp.asarray(weight, a.dtype), a)
    return (1 - w) * a + w * b


def spherical(
    a: Float[Array, "b *d"], b: Float[Array, "b *d"], weight: float | Float[Array, "..."]
) -> Float[Array, "b *d"]:
    """The point between a and b on their great circle (Shoemake 1985): norms are kept.

    With the angle w between them, sin((1 - u) w)/sin(w) a + sin(u w)/sin(w) b, u = weight () or
    (b,). Where a and b have the same direction it is the line; where they are opposite the circle is
    not unique, and the result is not finite.
    """
    cosine = batch_sum(a * b) / (batch_norm(a) * batch_norm(b))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    u = jnp.broadcast_to(jnp.asarray(weight, a.dtype), angle.shape)
    near = angle < 1e-3
    safe = jnp.where(near, 1.0, angle)
    of_a = jnp.where(near, 1 - u, jnp.sin((1 - u) * safe) / jnp.sin(safe))
    of_b = jnp.where(near, u, jnp.sin(u * safe) / jnp.sin(safe))
    return bcast(of_a, a) * a + bcast(of_b, b) * b
