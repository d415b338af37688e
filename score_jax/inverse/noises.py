r"""Noise of measurements that is not normal: Poisson, Laplace, rounding, any with a known likelihood.

A `Noise` is a record with three methods; one of your own is any frozen dataclass with the same. It goes
into `Measurement(operator, y, noise_std, noise=...)`. What uses the likelihood itself respects it:
`twisted_smc`, `measurement_logp`, `daps`, `dps` and importance sampling. Methods made for normal noise
use `noise_std` in its place.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from score_jax._check import check_finite, check_positive


@runtime_checkable
class Noise(Protocol):
    """The distribution of y given A(x0), entry by entry."""

    def draw(self, key: Any, clean: Any) -> Any:
        """y for clean = A(x0) (b, *out): shape of clean."""
        ...

    def logp(self, y: Any, clean: Any) -> Any:
        """log p(y | clean) in nats of every entry: shape of clean; differentiable in clean."""
        ...

    def std(self, clean: Any) -> float:
        """The root mean square deviation of y from clean."""
        ...


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Counts: gain (y - zero) is Poisson of mean gain (A(x0) - zero), of at least `least` counts.

    `zero` is the value of no light, -1 for images between -1 and 1. Raises ValueError unless gain and
    least are positive and zero is finite.

    >>> measurement = measure(key, operator, images, noise=Poisson(gain=30.0, zero=-1.0))
    """

    gain: float
    least: float = 1e-3
    zero: float = 0.0

    def __post_init__(self) -> None:
        check_positive("Poisson", gain=self.gain, least=self.least)
        check_finite("zero", np.asarray(self.zero, np.float64))

    def _rate(self, clean: Any) -> Any:
        return jnp.maximum(self.gain * (clean - self.zero), self.least)

    def draw(self, key: Key[Array, ""], clean: Any) -> Any:
        """Counts divided by the gain, counted from `zero`."""
        counts = jax.random.poisson(key, self._rate(clean), clean.shape)
        return counts.astype(clean.dtype) / self.gain + self.zero

    def logp(self, y: Any, clean: Any) -> Any:
        """log p of the counts gain (y - zero)."""
        rate, counts = self._rate(clean), self.gain * (y - self.zero)
        return counts * jnp.log(rate) - rate - jax.lax.lgamma(counts + 1)

    def std(self, clean: Any) -> float:
        """The root of the mean rate, over the gain."""
        return float(jnp.sqrt(self._rate(clean).mean())) / self.gain


@dataclasses.dataclass(frozen=True)
class Laplace:
    """exp(-|y - A(x0)| / scale) / (2 scale): noise with outliers. ValueError unless scale > 0.

    >>> measurement = measure(key, operator, images, noise=Laplace(0.05))
    """

    scale: float

    def __post_init__(self) -> None:
        check_positive("Laplace", scale=self.scale)

    def draw(self, key: Key[Array, ""], clean: Any) -> Any:
        """clean and a draw of the noise."""
        return clean + self.scale * jax.random.laplace(key, clean.shape, clean.dtype)

    def logp(self, y: Any, clean: Any) -> Any:
        """-|y - clean| / scale - log(2 scale)."""
        return -jnp.abs(y - clean) / self.scale - jnp.log(2 * self.scale)

    def std(self, clean: Any) -> float:
        """sqrt(2) scale."""
        return 2**0.5 * self.scale


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Normal noise of deviation `normal`, then rounding to multiples of `step`: few grey levels.

    p(y | x0) is the probability of the cell of y, so that values anywhere in it are equally good, apart
    from its edges. Raises ValueError unless both are positive.

    >>> measurement = measure(key, operator, images, noise=Rounded(step=0.25, normal=0.02))
    """

    step: float
    normal: float

    def __post_init__(self) -> None:
        check_positive("Rounded", step=self.step, normal=self.normal)

    def draw(self, key: Key[Array, ""], clean: Any) -> Any:
        """The nearest multiple of the step to clean and noise."""
        noisy = clean + self.normal * jax.random.normal(key, clean.shape, clean.dtype)
        return self.step * jnp.round(noisy / self.step)

    def logp(self, y: Any, clean: Any) -> Any:
        """log(Phi((y - clean + step / 2) / normal) - Phi((y - clean - step / 2) / normal))."""
        away = -jnp.abs(y - clean)  # in the tail where both are small
        low = jax.scipy.special.log_ndtr((away - 0.5 * self.step) / self.normal)
        high = jax.scipy.special.log_ndtr((away + 0.5 * self.step) / self.normal)
        return high + jnp.log1p(-jnp.exp(jnp.minimum(low - high, -1e-6)))

    def std(self, clean: Any) -> float:
        """sqrt(normal^2 + step^2 / 12)."""
        return (self.normal**2 + self.step**2 / 12) ** 0.5
