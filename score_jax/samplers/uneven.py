r"""Weights of an exponential multistep method on an uneven grid, for any nodes and either direction.

A prediction D known at nodes lambda_j is continued by the polynomial through its values in the angle
phi = arctan(exp(lambda)) = arctan(m/s), and integrated over a step of length h that starts at lambda:

    (1)  w_j = int_0^h exp(-(h - v)) l_j(phi(lambda + v)) dv

l_j is the Lagrange polynomial of node j among the nodes in use. The angle (arXiv:2202.00512, appendix
D, where it parametrises time) stays between 0 and pi/2 however far lambda goes, and D is smoother in it:
for a Gaussian it is a sine. A Gauss-Legendre rule of 24 nodes integrates (1) to rounding for every
|h| <= 4, of either sign and however small, with no series and no division by h.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_jax.samplers.quadrature import MASSES, PLACES
from score_jax.types import Scalar


def angle_between(middle: Float[Array, "..."], apart: Float[Array, "..."]) -> Float[Array, "..."]:
    """phi(a) - phi(b) for middle = (a + b)/2 and apart = a - b, exact however close they are.

    >>> angle_between(jnp.float32(0.0), jnp.float32(2e-6))
    Array(1.e-06, dtype=float32)
    """
    return jnp.arctan(jnp.sinh(apart / 2) / jnp.cosh(middle))


def uneven_weights(
    start: float | Scalar, h: float | Scalar, nodes: Float[Array, " k"], used: Bool[Array, " k"]
) -> Float[Array, " k"]:
    """w_j of eq. (1) for a step of length h from `start`: (k,) for nodes (k,) and used (k,) of bool.

    `nodes` are values of lambda, distinct where `used` is true; the others get the weight 0. The order
    of the method is the number of nodes in use.

    The weights add up to 1 - exp(-h), the exact step for a constant D:

    >>> uneven_weights(0.0, 0.5, jnp.array([0.0, -0.3]), jnp.array([True, True])).sum()
    Array(0.39346933, dtype=float32)
    """
    dtype = nodes.dtype
    start, h = jnp.asarray(start, dtype), jnp.asarray(h, dtype)
    v = h * jnp.asarray(PLACES, dtype)
    mass = h * jnp.asarray(MASSES, dtype) * jnp.exp(v - h)
    # Relative to the start, so that the digits of a short step are not lost in lambda.
    offsets = nodes - start
    ahead = angle_between(
        start + (v[:, None] + offsets[None, :]) / 2, v[:, None] - offsets[None, :]
    )
    apart = angle_between(
        start + (offsets[:, None] + offsets[None, :]) / 2, offsets[:, None] - offsets[None, :]
    )
    # Axes: place, node j whose polynomial it is, node i of a factor.
    skipped = (jnp.eye(nodes.shape[0], dtype=bool) | ~used[None, :])[None]
    ratios = ahead[:, None, :] / jnp.where(apart == 0, 1, apart)[None]
    values = jnp.where(skipped, 1, ratios).prod(axis=-1)
    return jnp.where(used, (mass[:, None] * values).sum(axis=0), 0)
