r"""Noise of measurements that is not normal: Poisson, Laplace, or any with a known likelihood.

A `Noise` is a record with three methods; one of your own is any frozen dataclass with the same. It goes
into `Measurement(operator, y, noise_std, noise=...)`. What uses the likelihood itself respects it:
`twisted_smc`, `measurement_logp`, `daps`, `dps` and importance sampling. Methods made for normal noise
use `noise_std` in its place.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from score_jax._check import check_positive


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
    """Counts: gain y is Poisson of mean gain A(x0). The smallest mean is `least` counts, also below 0.

    Raises ValueError unless gain and least are positive.

    >>> measurement = measure(key, operator, images, noise=Poisson(gain=30.0))
    """

    gain: float
    least: float = 1e-3

    def __post_init__(self) -> None:
        check_positive("Poisson", gain=self.gain, least=self.least)

    def _rate(self, clean: Any) -> Any:
        return jnp.maximum(self.gain * clean, self.least)

    def draw(self, key: Key[Array, ""], clean: Any) -> Any:
        """Counts divided by the gain."""
        counts = jax.random.poisson(key, self._rate(clean), clean.shape)
        return counts.astype(clean.dtype) / self.gain

    def logp(self, y: Any, clean: Any) -> Any:
        """log p of the counts gain y."""
        rate, counts = self._rate(clean), self.gain * y
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
