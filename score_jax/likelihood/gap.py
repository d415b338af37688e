r"""The gap between time 0, the time of the data, and t0, where the flow starts.

A score is not learned below a small t0, so the flow gives log p_t0, the density of

    x(t0) = m x0 + s z,     m = m(t0), s = s(t0), z unit noise in D dimensions.

Three ways from there to the density of x0 itself, each a `Gap`:

IGNORE   log p_t0(x0), as reported in arXiv:2011.13456. Its error has either sign, and is of the order
         of D s^2 / l^2 for data that vary on the length l.
OFFSET   undoes the scaling exactly and the blur to first order in s^2: with y = m x0 the heat equation
         dp/d(s^2) = Laplace p / 2 and Laplace p / p = div score + |score|^2 give

    (1)  log p_0(x0) = log p_t0(y) + D log m - s^2/2 [div score + |score|^2](y) + O(s^4)

         Right where data are smooth on the scale s; not a bound.
TWEEDIE  a bound, with noise: the decoder p(x0 | x) = N(E[x0 | x], (s/m)^2 I), with Tweedie's formula as
         its mean, against q(x | x0) = N(m x0, s^2 I):

    (2)  log p_0(x0) >= E_q[log p_t0(x) + log p(x0 | x) - log q(x | x0)]
                      = E_z[log p_t0(m x0 + s z) + D log m + |z|^2/2 - |z + s score|^2/2]

         arXiv:2101.09258 (its last step of denoising) evaluates such a bound. Use several draws.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax._math import batch_sum, bcast
from score_jax.types import SDE


class Gap(NamedTuple):
    """The correction for the gap between 0 and t0.

    `start(key, sde, x0, t0)` -> (x, z): where the flow starts, and the noise in it;
    `correct(sde, x, z, score, along, t0)` -> (b,), added to log p_t0(x), for the score at x and the
    estimates `along` (b,) of its divergence; `nfe`: the evaluations that `correct` needs, 0 or 1.
    """

    start: Callable[..., Any]
    correct: Callable[..., Any]
    nfe: int


def _log_scale(sde: SDE, x: Any, t0: Any) -> Any:
    return math.prod(x.shape[1:]) * jnp.log(sde.mean_coeff(t0)).astype(x.dtype)


def _stay(key: Any, sde: SDE, x0: Any, t0: Any) -> Any:
    del key, sde, t0
    return x0, jnp.zeros_like(x0)


def _nothing(sde: SDE, x: Any, z: Any, score: Any, along: Any, t0: Any) -> Any:
    del sde, z, score, along, t0
    return jnp.zeros(x.shape[:1], x.dtype)


def _scaled(key: Any, sde: SDE, x0: Any, t0: Any) -> Any:
    del key
    return bcast(sde.mean_coeff(t0), x0) * x0, jnp.zeros_like(x0)


def _heat(sde: SDE, x: Any, z: Any, score: Any, along: Any, t0: Any) -> Any:
    del z
    half = (0.5 * jnp.square(sde.std(t0))).astype(x.dtype)
    return _log_scale(sde, x, t0) - half * (along + batch_sum(jnp.square(score)))


def _noised(key: Any, sde: SDE, x0: Any, t0: Any) -> Any:
    z = jax.random.normal(key, x0.shape, x0.dtype)
    mean, std = sde.marginal(x0, t0)
    return mean + bcast(std, x0) * z, z


def _decoded(sde: SDE, x: Any, z: Any, score: Any, along: Any, t0: Any) -> Any:
    del along
    error = z + bcast(sde.std(t0), x) * score
    return _log_scale(sde, x, t0) + 0.5 * batch_sum(jnp.square(z) - jnp.square(error))


IGNORE = Gap(_stay, _nothing, 0)
OFFSET = Gap(_scaled, _heat, 1)
TWEEDIE = Gap(_noised, _decoded, 1)
