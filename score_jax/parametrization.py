r"""What a network is given and what it returns: noise inputs, parametrizations, learned variances.

With x = m x0 + s z (m = mean_coeff(t), s = std(t), z unit noise) a network may return

    NOISE         z                   score = -z / s
    SCORE         -z / s
    SCALED_SCORE  s * score = -z
    DENOISED      x0 = (x - s z) / m
    V             m z - s x0          (Salimans & Ho 2022, arXiv:2202.00512)
    PREVIOUS      the mean of q(x_prev | x, x0), for a noise schedule (arXiv:2006.11239 section 3.2)

Each is a linear function of z given x and t, so a `Parametrization` holds the map to z and back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from score_jax._math import as_time, bcast
from score_jax.types import SDE


class Parametrization(NamedTuple):
    """A kind of network output: `to_noise(sde, value, x, t)` and `from_noise(sde, z, x, t)`.

    value, z and x are (b, *d), t is () or (b,).
    """

    name: str
    to_noise: Callable[[SDE, Any, Any, Any], Any]
    from_noise: Callable[[SDE, Any, Any, Any], Any]


def _of_coefficients(
    name: str, to_noise: Callable[..., Any], from_noise: Callable[..., Any]
) -> Parametrization:
    """A parametrization of functions of (value or z, x, m, s)."""

    def with_coefficients(function: Callable[..., Any]) -> Callable[..., Any]:
        def mapped(sde: SDE, value: Any, x: Any, t: Any) -> Any:
            t = as_time(t)
            return function(value, x, bcast(sde.mean_coeff(t), x), bcast(sde.std(t), x))

        return mapped

    return Parametrization(name, with_coefficients(to_noise), with_coefficients(from_noise))


NOISE = Parametrization("noise", lambda sde, value, x, t: value, lambda sde, z, x, t: z)
SCORE = _of_coefficients("score", lambda value, x, m, s: -s * value, lambda z, x, m, s: -z / s)
SCALED_SCORE = Parametrization(
    "scaled_score", lambda sde, value, x, t: -value, lambda sde, z, x, t: -z
)
DENOISED = _of_coefficients(
    "denoised", lambda value, x, m, s: (x - m * value) / s, lambda z, x, m, s: (x - s * z) / m
)
# From x = m x0 + s z and v = m z - s x0: m v + s x = (m^2 + s^2) z.
V = _of_coefficients(
    "v",
    lambda value, x, m, s: (m * value + s * x) / (m * m + s * s),
    lambda z, x, m, s: ((m * m + s * s) * z - s * x) / m,
)


class Variance(NamedTuple):
    """A kind of variance of the reverse step: `log_variance(values, small, large)` -> log Sigma.

    learned: whether `values` is a second output of the network (None otherwise); small and large: the
    logarithms of the posterior's variance and of the transition's, the two bounds of
    arXiv:2006.11239 section 3.2.
    """

    name: str
    learned: bool
    log_variance: Callable[[Any, Any, Any], Any]


SMALL = Variance("small", False, lambda values, small, large: small)
LARGE = Variance("large", False, lambda values, small, large: large)
LEARNED = Variance("learned", True, lambda values, small, large: values)
# arXiv:2102.09672 eq. 15.
LEARNED_RANGE = Variance(
    "learned_range", True, lambda values, small, large: small + (values + 1) / 2 * (large - small)
)
VARIANCES = (SMALL, LARGE, LEARNED, LEARNED_RANGE)
