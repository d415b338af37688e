r"""The logarithm of the signal-to-noise ratio, log_snr(t) = 2 log(m(t) / s(t)), and its inverse.

It decreases in t for every SDE of the library, so it is a clock that does not depend on how an SDE
is parametrised in t; half of it is the lambda of DPM-Solver (arXiv:2206.00927). Samplers call these
two functions for any SDE: a record that has methods of the same names answers by itself, for the
others the first is computed from m and s, the second found by bisection.
"""

from typing import Any

import jax
import jax.numpy as jnp

from score_jax._math import as_time, elementwise_grad
from score_jax.types import SDE


def log_snr(sde: SDE, t: Any) -> Any:
    """2 log(m(t) / s(t)), shape of t: infinite where s is 0 (t = 0 of VP and sub-VP).

    In closed form, exact near both ends in float32, for the SDEs of the library; for others as exact
    as their own m and s.

    >>> log_snr(VE(), VE().t1)  # -2 log(sigma_max)
    Array(-7.824046, dtype=float32, weak_type=True)
    """
    method = getattr(sde, "log_snr", None)
    if method is not None:
        return method(t)
    t = as_time(t)
    return 2 * (jnp.log(sde.mean_coeff(t)) - jnp.log(sde.std(t)))


def time_of_log_snr(sde: SDE, value: Any) -> Any:
    """The time t at which log_snr(t) is `value`, shape of value.

    In closed form for the SDEs of the library. For others found by bisection in [0, t1] (values
    beyond its ends give the ends) with one Newton step, so that it may be differentiated.

    >>> time_of_log_snr(VP(), log_snr(VP(), 0.25))
    Array(0.25, dtype=float32, weak_type=True)
    """
    method = getattr(sde, "time_of_log_snr", None)
    if method is not None:
        return method(value)
    value = as_time(value)
    low, high = jnp.zeros_like(value), jnp.full_like(value, sde.t1)

    def halve(_: Any, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        middle = 0.5 * (low + high)
        # Written so that a ratio that is not a number at t = 0 moves away from there.
        later = ~(log_snr(sde, middle) <= value)
        return jnp.where(later, middle, low), jnp.where(later, high, middle)

    # Thirty halvings more than the digits of t: small times are found to the same relative error.
    digits = jnp.finfo(value.dtype).nmant + 30
    low, high = jax.lax.fori_loop(0, digits, halve, (low, high))
    t = jax.lax.stop_gradient(jnp.clip(0.5 * (low + high), jnp.finfo(value.dtype).tiny, sde.t1))
    slope = elementwise_grad(lambda u: log_snr(sde, u))(t)
    move = (value - log_snr(sde, t)) / slope
    return jnp.clip(t + jnp.where(jnp.isfinite(move), move, 0), 0, sde.t1)
