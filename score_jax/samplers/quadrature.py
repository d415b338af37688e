"""Quadrature and Lagrange polynomials for multistep methods whose weights have no closed form."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_jax.types import SDE, Scalar, Time

# A Gauss-Legendre rule on [0, 1]: exact to rounding for exp(h u) times low powers with |h| <= 8.
PLACES, MASSES = (
    (np.polynomial.legendre.leggauss(24)[0] + 1) / 2,
    np.polynomial.legendre.leggauss(24)[1] / 2,
)


_HIGHEST = 1e6  # the level s/m that stands for that of pure noise


def log_level(sde: SDE, t: Time) -> Time:
    """log(s/m) at t, shape of t: of pure noise, and of more noise than 1e6 times the data, log(1e6)."""
    return jnp.minimum(-0.5 * sde.log_snr(t), math.log(_HIGHEST))


def lagrange(
    at: Float[Array, " q"], start: Scalar, nodes: Sequence[Scalar], now: Int[Array, ""]
) -> list[Float[Array, " q"]]:
    """The Lagrange polynomials of the first now - 1 `nodes` beside `start`, at the places `at`.

    One (q,) a node, zero for nodes that are not in use. The others and `start` must be distinct.
    """
    found = []
    for j, node in enumerate(nodes):
        value = (at - start) / _safe(node - start)
        for i, other in enumerate(nodes):
            if i != j:
                factor = (at - other) / _safe(node - other)
                value = value * jnp.where(i < now - 1, factor, 1)
        found.append(jnp.where(j < now - 1, value, 0))
    return found


def _safe(difference: Scalar) -> Scalar:
    return jnp.where(difference == 0, 1, difference)


def node_integrals(
    density: Callable[[Float[Array, " q"]], Float[Array, " q"]],
    place: Callable[[Float[Array, " q"]], Float[Array, " q"]],
    ends: tuple[Scalar, Scalar],
    start: Scalar,
    nodes: Sequence[Scalar],
    now: Int[Array, ""],
) -> list[Scalar]:
    """The integrals over u of density(u) l_j(place(u)) between two ends, one a node j.

    l_j are the polynomials of `lagrange`, whose places are place(u).
    """
    first, last = ends
    u = first + (last - first) * jnp.asarray(PLACES, first.dtype)
    mass = (last - first) * jnp.asarray(MASSES, first.dtype) * density(u)
    return [(mass * value).sum() for value in lagrange(place(u), start, nodes, now)]
