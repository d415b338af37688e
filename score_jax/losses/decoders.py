"""The likelihood of data given a Gaussian reverse step: decoders, and the KL divergence of Gaussians."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check_count
from score_jax.types import Decoder

Values = Float[Array, "..."]
LogMass = Callable[
    [Values, Values], Values
]  # (lower, upper) -> log of a unit Gaussian's mass in between

_FAR = 1e3  # standard deviations: the edge of an open cell


def gaussian_kl(
    mean1: Values, log_variance1: Values, mean2: Values, log_variance2: Values
) -> Values:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))) of every entry, in nats."""
    gap = log_variance1 - log_variance2
    # expm1(gap) - gap keeps its digits where the variances nearly agree.
    spread = jnp.expm1(gap) - gap
    return 0.5 * (spread + jnp.square(mean1 - mean2) * jnp.exp(-log_variance2))


def _tanh(u: Values) -> Values:
    """tanh exact to the last digit near 1, where the mass of a far cell is a difference of such values.

    XLA's own is less exact; published bounds then differ in their fifth digit.
    """
    size = jnp.minimum(jnp.where(u < 0, -u, u), 20)
    small = jnp.expm1(2 * jnp.minimum(size, 0.5))
    value = jnp.where(size > 0.5, 1 - 2 / (jnp.exp(2 * size) + 1), small / (small + 2))
    return jnp.where(u < 0, -value, value)


def tanh_log_mass(lower: Values, upper: Values) -> Values:
    """log of the mass in [lower, upper] of the distribution used for published bounds.

    Its cumulative function is (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, within 3e-4 of the
    normal one, and the mass is at least 1e-12 (Ho et al. 2020, authors' program).
    """

    def cdf(z: Values) -> Values:
        return 0.5 * (1 + _tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    return jnp.log(jnp.maximum(cdf(upper) - cdf(lower), 1e-12))


def normal_log_mass(lower: Values, upper: Values) -> Values:
    """log of the normal mass in [lower, upper], exact far into both tails."""
    # By symmetry both ends move to the left, where the cumulative function keeps its digits.
    right = lower + upper > 0
    lower, upper = jnp.where(right, -upper, lower), jnp.where(right, -lower, upper)
    a, b = jax.scipy.special.log_ndtr(lower), jax.scipy.special.log_ndtr(upper)
    return b + jnp.log(-jnp.expm1(jnp.minimum(a - b, -1e-7)))


def discretized_gaussian(
    levels: int = 256, *, low: float = -1.0, high: float = 1.0, log_mass: LogMass = tanh_log_mass
) -> Decoder:
    """A decoder for data on `levels` equal levels from low to high: a Gaussian's mass in their cells.

    The first and the last cell extend to infinity, so the masses sum to one. arXiv:2006.11239
    eq. 13.

    Raises ValueError unless levels >= 2 and low < high.

    >>> decoder = discretized_gaussian(17)
    """
    check_count(2, levels=levels)
    if not low < high:
        raise ValueError(f"low must be below high, got {low=}, {high=}")
    half = 0.5 * (high - low) / (levels - 1)

    def logp(x0: Values, mean: Values, log_variance: Values) -> Values:
        scale = jnp.exp(-0.5 * log_variance)
        lower, upper = scale * (x0 - mean - half), scale * (x0 - mean + half)
        # A level may be off by rounding, not by an eighth of a cell.
        first, last = x0 < low + half / 4, x0 > high - half / 4
        return log_mass(
            jnp.where(first, jnp.minimum(upper, 0) - _FAR, lower),
            jnp.where(last, jnp.maximum(lower, 0) + _FAR, upper),
        )

    return logp


def level_decoder(levels: int = 256, *, low: float = -1.0, high: float = 1.0) -> Decoder:
    """A decoder for data on `levels` equal levels from low to high: a Gaussian's density, summing to one.

    log p(k) = -(k - mean)^2 / (2 variance) less its log-sum over the levels k. With the mean x/m and the
    variance (s/m)^2 at t0 it is the decoder of VDM (arXiv:2107.00630), whose 256 levels are the centres
    of the cells: low = -255/256, high = 255/256.

    Raises ValueError unless levels >= 2 and low < high.

    >>> bound = variational_bound(key, sde, score, x0, decoder=level_decoder(17))
    """
    check_count(2, levels=levels)
    if not low < high:
        raise ValueError(f"low must be below high, got {low=}, {high=}")

    def logp(x0: Values, mean: Values, log_variance: Values) -> Values:
        density = lambda level: -0.5 * jnp.square(level - mean) * jnp.exp(-log_variance)
        # One level after the other: all at once would need `levels` times the memory.
        add = lambda total, level: (jnp.logaddexp(total, density(level)), None)
        grid = jnp.linspace(low, high, levels, dtype=x0.dtype)
        total, _ = jax.lax.scan(add, density(grid[0]), grid[1:])
        return density(x0) - total

    return logp


def density_decoder(x0: Values, mean: Values, log_variance: Values) -> Values:
    """A decoder for continuous data: the log density of every entry, in nats."""
    square = jnp.square(x0 - mean) * jnp.exp(-log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + square)
