r"""Data whose score, conditional or not, is known at every time: mixtures of Gaussians.

With x0 from sum_k w_k N(mu_k, C_k), x(t) = m x0 + s z is from sum_k w_k N(m mu_k, m^2 C_k + s^2 I), and
given a linear measurement y = A x0 + n, n from N(0, sigma^2 I), x0 is from a mixture again:

    S_k = A C_k A^T + sigma^2 I,  K_k = C_k A^T S_k^+
    (1)  mu_k' = mu_k + K_k (y - A mu_k),  C_k' = C_k - K_k A C_k,  w_k' ~ w_k N(y; A mu_k, S_k)

Every conditional of such data has an exact score: the reference of approximate methods.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from score_jax._math import as_time
from score_jax.types import SDE, Data, Number, PerExample, ScoreFn, Time

# Singular directions of a measurement below this share of the largest are ignored.
_RANK = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians: weights (k,), means (k, *d), covs (k, n, n) with n the entries of d.

    Held in float64; the functions compute in the precision of x. One Gaussian is `gaussian`.

    Raises ValueError for shapes that do not fit, weights that are not positive, or covariances that
    are not symmetric and positive semi-definite.

    >>> data = Mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [np.eye(2), np.eye(2)])
    >>> score = data.score(VP())
    """

    weights: Any
    means: Any
    covs: Any

    def __post_init__(self) -> None:
        for name in ("weights", "means", "covs"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        k, n = len(self.means), math.prod(self.means.shape[1:])
        if self.weights.shape != (k,) or self.covs.shape != (k, n, n) or self.means.ndim < 2:
            raise ValueError(
                f"weights, means, covs must be (k,), (k, *d), (k, n, n), got shapes "
                f"{self.weights.shape}, {self.means.shape}, {self.covs.shape}"
            )
        if not (self.weights > 0).all():
            raise ValueError(f"weights must be > 0, got {self.weights}")
        values, vectors = np.linalg.eigh(self.covs)
        symmetric = np.allclose(self.covs, np.swapaxes(self.covs, 1, 2), atol=1e-6)
        if not symmetric or values.min() < -1e-6 * max(1.0, values.max()):
            raise ValueError("covs must be symmetric and positive semi-definite")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())
        object.__setattr__(self, "_eigen", (np.maximum(values, 0), vectors))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.means.shape[1:])

    @property
    def mean(self) -> np.ndarray:
        """Mean of the data: (*d)."""
        return np.tensordot(self.weights, self.means, 1)

    @property
    def cov(self) -> np.ndarray:
        """Covariance of the data: (n, n)."""
        away = (self.means - self.mean[None]).reshape(len(self.means), -1)
        spread = np.einsum("k,ki,kj->ij", self.weights, away, away)
        return np.einsum("k,kij->ij", self.weights, self.covs) + spread

    def _parts(self, sde: SDE, x: Data, t: Number) -> tuple[Array, Array, Array]:
        """log(w_k N(x; ...)) (b, k), and x in the axes of each component with their variances."""
        t = as_time(jnp.asarray(t))
        # Times against components and their axes: (b or 1, 1, 1).
        m, s = (v.reshape(-1, 1, 1).astype(x.dtype) for v in (sde.mean_coeff(t), sde.std(t)))
        values, vectors = (jnp.asarray(v, x.dtype) for v in self._eigen)  # type: ignore[attr-defined]
        means = jnp.asarray(self.means, x.dtype).reshape(1, len(self.weights), -1)
        away = x.reshape(x.shape[0], 1, -1) - m * means
        along = jnp.einsum("bki,kij->bkj", away, vectors, precision=jax.lax.Precision.HIGHEST)
        variance = jnp.square(m) * values[None] + jnp.square(s)
        logs = -0.5 * (jnp.square(along) / variance + jnp.log(2 * math.pi * variance)).sum(axis=2)
        return logs + jnp.log(jnp.asarray(self.weights, x.dtype))[None], along, variance

    def logp(self, sde: SDE, x: Data, t: Number) -> PerExample:
        """log p_t(x) in nats: (b,), for x (b, *d) and t () or (b,)."""
        return jax.nn.logsumexp(self._parts(sde, x, t)[0], axis=1)

    def logits(self, sde: SDE) -> Callable[[Data, Time], Float[Array, "b k"]]:
        """The exact classifier of the components: (x, t) -> log(w_k p_t(x | k)), (b, k).

        >>> guided = classifier_guidance(sde, data.score(sde), data.logits(sde), 0)
        """
        return lambda x, t: self._parts(sde, x, t)[0]

    def score(self, sde: SDE) -> ScoreFn:
        """The exact score at every time."""

        def score(x: Data, t: Number) -> Data:
            logs, along, variance = self._parts(sde, x, t)
            vectors = jnp.asarray(self._eigen[1], x.dtype)  # type: ignore[attr-defined]
            pull = jax.nn.softmax(logs, axis=1)[:, :, None] * along / variance
            exact = jax.lax.Precision.HIGHEST
            return -jnp.einsum("bkj,kij->bi", pull, vectors, precision=exact).reshape(x.shape)

        return score

    def component(self, k: int) -> "Mixture":
        """Component k by itself."""
        return gaussian(self.means[k], self.covs[k])

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n *d"]:
        """Draw n examples: (n, *d)."""
        which_key, noise_key = jax.random.split(key)
        which = jax.random.choice(
            which_key, len(self.weights), (n,), p=jnp.asarray(self.weights, jnp.zeros(0).dtype)
        )
        z = jax.random.normal(noise_key, (n, math.prod(self.shape)))
        values, vectors = (jnp.asarray(v, z.dtype) for v in self._eigen)  # type: ignore[attr-defined]
        noise = jnp.einsum("nij,nj->ni", vectors[which], jnp.sqrt(values)[which] * z)
        means = jnp.asarray(self.means, z.dtype)[which]
        return means + noise.reshape(means.shape)

    def posterior(self, matrix: Any, y: Any, noise_std: float = 0.0) -> "Mixture":
        """The data given y = matrix x0 + noise, eq. (1): matrix (q, n) on the flat x0, y (q,).

        Raises ValueError for shapes that do not fit or a negative noise_std.

        >>> truth = data.posterior([[1.0, 0.0]], [0.3], 0.1)
        """
        a, y = np.asarray(matrix, np.float64), np.asarray(y, np.float64).reshape(-1)
        if a.ndim != 2 or a.shape != (len(y), self.covs.shape[1]):
            raise ValueError(
                f"matrix must have shape (len(y), n) = ({len(y)}, {self.covs.shape[1]}), got {a.shape}"
            )
        if not noise_std >= 0:
            raise ValueError(f"noise_std must be at least 0, got {noise_std!r}")
        logs, means, covs = [], [], []
        for w, mean, cov in zip(self.weights, self.means, self.covs, strict=True):
            values, vectors = np.linalg.eigh(a @ cov @ a.T + noise_std**2 * np.eye(len(y)))
            seen = values > _RANK * max(values.max(), 1e-30)
            inverse = np.where(seen, 1 / np.where(seen, values, 1), 0)
            residual = vectors.T @ (y - a @ mean.reshape(-1))
            gain = cov @ a.T @ vectors * inverse[None]
            means.append(mean + (gain @ residual).reshape(mean.shape))
            after = cov - gain @ vectors.T @ a @ cov
            covs.append(0.5 * (after + after.T))
            logs.append(
                np.log(w) - 0.5 * (residual**2 * inverse + seen * np.log(values + ~seen)).sum()
            )
        weights = np.exp(np.array(logs) - max(logs))
        return Mixture(np.maximum(weights, 1e-300), np.array(means), np.array(covs))


def gaussian(mean: Any, cov: Any) -> Mixture:
    """N(mean, cov) as a `Mixture` of one: mean (*d), cov (n, n).

    >>> data = gaussian(jnp.zeros((8, 8, 1)), 0.3 * np.eye(64))
    """
    return Mixture([1.0], np.asarray(mean, np.float64)[None], np.asarray(cov, np.float64)[None])
