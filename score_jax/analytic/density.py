r"""The density and the score of a mixture of Gaussians at a noise level.

For x = m x0 + s z, in the axes of component k with variances v_k and coordinates c_k of x - m mu_k:

    log(w_k N(x; m mu_k, m^2 C_k + s^2 I)) = log w_k - 1/2 sum (c_k^2 / u_k + a log(2 pi u_k))
    score = -sum_k p(k | x) V_k c_k / u_k,     u_k = m^2 v_k + s^2
    E[x0 | x] = sum_k p(k | x) (mu_k + m V_k (v_k / u_k) c_k)

The probability flow of one Gaussian scales each coordinate with sqrt(u), so that its consistency function
from t0, the end of the path over m0, is mu + V sqrt(v + (s0/m0)^2) c / sqrt(u).

with a the number of directions that a coordinate stands for, mostly 1.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax.analytic.covariance import Covariance


class Parts(NamedTuple):
    """logs (b, k) and along (b, k, a), c, of the formulas above; variance, u, (1 or b, k, a)."""

    logs: Any
    along: Any
    variance: Any


def parts(covariance: Covariance, log_weights: Any, means: Any, x: Any, m: Any, s: Any) -> Parts:
    """The parts of a mixture at x (b, *d), the levels m and s () or (b,).

    log_weights are (1 or b, k) and means (1 or b, k, n): the same for all examples, or of each.
    """
    # Levels against components and their axes: (b or 1, 1, 1).
    m, s = (jnp.asarray(v).reshape(-1, 1, 1).astype(x.dtype) for v in (m, s))
    away = x.reshape(x.shape[0], 1, -1) - m * means
    along = covariance.along(away)
    variance = jnp.square(m) * jnp.asarray(covariance.values, x.dtype)[None] + jnp.square(s)
    counts = jnp.asarray(covariance.counts, x.dtype)[None, None]
    each = jnp.square(along) / variance + counts * jnp.log(2 * math.pi * variance)
    logs = -0.5 * each.sum(axis=2)
    return Parts(logs + log_weights, along, variance)


def score_of(covariance: Covariance, found: Parts, x: Any) -> Any:
    """The score of the mixture with these parts: shape of x."""
    pull = jax.nn.softmax(found.logs, axis=1)[:, :, None] * found.along / found.variance
    return -covariance.together(pull).reshape(x.shape)


def mean_of(covariance: Covariance, found: Parts, means: Any, x: Any, m: Any) -> Any:
    """The mean of x0 given x of the mixture with these parts, means (1, k, n), level m: shape of x."""
    share = jax.nn.softmax(found.logs, axis=1)[:, :, None]
    m = jnp.asarray(m).reshape(-1, 1, 1).astype(x.dtype)
    shrunk = m * jnp.asarray(covariance.values, x.dtype)[None] / found.variance * found.along
    centre = (share * means).sum(axis=1)
    return centre.reshape(x.shape) + covariance.together(share * shrunk).reshape(x.shape)


def end_of_path(covariance: Covariance, found: Parts, means: Any, x: Any, sigma0: Any) -> Any:
    """x(t0)/m0 of the flow of one Gaussian, means (1, 1, n), sigma0 = s0/m0: shape of x."""
    variance = jnp.asarray(covariance.values, x.dtype)[None] + jnp.square(sigma0).astype(x.dtype)
    moved = covariance.together(found.along * jnp.sqrt(variance / found.variance))
    return means[:, 0].reshape(1, *x.shape[1:]) + moved.reshape(x.shape)
