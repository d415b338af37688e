r"""Data whose score, conditional or not, is known at every time: mixtures of Gaussians.

With x0 from sum_k w_k N(mu_k, C_k), x(t) = m x0 + s z is from sum_k w_k N(m mu_k, m^2 C_k + s^2 I), and
given a linear measurement x0 is from a mixture again (`score_jax.analytic.conditioning`). Every
conditional of such data has an exact score: the reference of approximate methods.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from score_jax._check import check
from score_jax._math import as_time
from score_jax.analytic.conditioning import Conditioner
from score_jax.analytic.covariance import Covariance, Dense
from score_jax.analytic.density import Parts, end_of_path, mean_of, parts, score_of
from score_jax.types import (
    SDE,
    Clean,
    Data,
    Number,
    PerExample,
    ScoreFn,
    ScoreOut,
    Time,
    ends_in_noise,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians: weights (k,), means (k, *d), covs (k, n, n) with n the entries of d.

    `covs` may also be a structured `Covariance`, such as `Separable` for large fields. Held in float64;
    the functions compute in the precision of x. One Gaussian is `gaussian`.

    Raises ValueError for shapes that do not fit, weights that are not positive, or covariances that
    are not symmetric and positive semi-definite.

    >>> data = Mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [np.eye(2), np.eye(2)])
    >>> score = data.score(VP())
    """

    weights: Any
    means: Any
    covs: Any

    def __post_init__(self) -> None:
        structured = isinstance(self.covs, Covariance)
        for name in ("weights", "means") if structured else ("weights", "means", "covs"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        k, n = len(self.means), math.prod(self.means.shape[1:])
        shape = (*self.covs.size, n) if structured else self.covs.shape
        if self.weights.shape != (k,) or shape != (k, n, n) or self.means.ndim < 2:
            raise ValueError(
                f"weights, means, covs must be (k,), (k, *d), (k, n, n), got shapes "
                f"{self.weights.shape}, {self.means.shape}, {shape}"
            )
        if not (self.weights > 0).all():
            raise ValueError(f"weights must be > 0, got {self.weights}")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())
        object.__setattr__(self, "_covariance", self.covs if structured else Dense(self.covs))

    @property
    def covariance(self) -> Covariance:
        """The covariances of the components, whatever their form."""
        return self._covariance  # type: ignore[attr-defined]

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
        return np.einsum("k,kij->ij", self.weights, self.covariance.dense()) + spread

    @property
    def std(self) -> np.ndarray:
        """Standard deviations of the entries: (*d)."""
        away = np.square(self.means - self.mean[None])
        within = self.covariance.diagonal().reshape(away.shape)
        return np.sqrt(np.tensordot(self.weights, within + away, 1))

    def _parts(self, sde: SDE, x: Data, t: Number) -> Parts:
        t = as_time(jnp.asarray(t))
        weights = jnp.log(jnp.asarray(self.weights, x.dtype))[None]
        means = self._flat_means(x)
        return parts(self.covariance, weights, means, x, sde.mean_coeff(t), sde.std(t))

    def logp(self, sde: SDE, x: Data, t: Number) -> PerExample:
        """log p_t(x) in nats: (b,), for x (b, *d) and t () or (b,)."""
        return jax.nn.logsumexp(self._parts(sde, x, t).logs, axis=1)

    def logits(self, sde: SDE) -> Callable[[Data, Time], Float[Array, "b k"]]:
        """The exact classifier of the components: (x, t) -> log(w_k p_t(x | k)), (b, k).

        >>> guided = classifier_guidance(sde, data.score(sde), data.logits(sde), 0)
        """
        return lambda x, t: self._parts(sde, x, t).logs

    def memberships(self, x0: Data, std: float = 1e-3) -> Float[Array, "b k"]:
        """The probabilities of the components given clean data x0 (b, *d): (b, k), rows of sum 1.

        Their mean over draws of a posterior is the posterior's weight of each component, because x0
        alone says which component it is from. `std`, a small noise added to the model, makes them
        defined for singular covariances.
        """
        return jax.nn.softmax(self.clean_logs(x0, std), axis=1)

    def clean_logs(self, x0: Data, std: float = 1e-3) -> Float[Array, "b k"]:
        """log(w_k p(x0 | k)) in nats of clean data x0 (b, *d), with a small noise `std`: (b, k).

        Their log-sum-exp is log p(x0).
        """
        weights = jnp.log(jnp.asarray(self.weights, x0.dtype))[None]
        means = self._flat_means(x0)
        one = jnp.ones((), x0.dtype)
        return parts(self.covariance, weights, means, x0, one, std * one).logs

    def score(self, sde: SDE) -> ScoreFn:
        """The exact score at every time; with the mean of x0 if the SDE ends in pure noise."""
        if not ends_in_noise(sde):
            return lambda x, t: score_of(self.covariance, self._parts(sde, x, t), x)

        def score(x: Data, t: Time) -> ScoreOut:
            found = self._parts(sde, x, t)
            value = score_of(self.covariance, found, x)
            m = sde.mean_coeff(as_time(jnp.asarray(t)))
            return ScoreOut(value, None, Clean(self._mean(found, x, m), value))

        return score

    def consistency(self, sde: SDE, t0: float) -> Callable[[Data, Time], Data]:
        """The exact consistency function of one Gaussian from t0: (x: (b, *d), t) -> (b, *d).

        It maps x to the end x(t0)/m(t0) of its path of the probability flow. Raises ValueError for a
        mixture of several, whose paths have no closed form, and unless 0 < t0 < t1.

        >>> f = gaussian([0.5, 0.0], np.eye(2)).consistency(LinearVE(), t0=0.002)
        """
        check("the number of components", len(self.weights), len(self.weights) == 1, "1")
        check("t0", t0, 0 < t0 < sde.t1, f"in (0, t1={sde.t1})")

        def f(x: Data, t: Time) -> Data:
            found, first = self._parts(sde, x, t), jnp.asarray(t0, x.dtype)
            sigma0 = sde.std(first) / sde.mean_coeff(first)
            return end_of_path(self.covariance, found, self._flat_means(x), x, sigma0)

        return f

    def _mean(self, found: Parts, x: Data, m: Time) -> Data:
        return mean_of(self.covariance, found, self._flat_means(x), x, m)

    def _flat_means(self, x: Data) -> Float[Array, "1 k n"]:
        return jnp.asarray(self.means, x.dtype).reshape(1, len(self.weights), -1)

    def component(self, k: int) -> "Mixture":
        """Component k by itself."""
        return Mixture([1.0], self.means[k : k + 1], self.covariance.component(k))

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n *d"]:
        """Draw n examples: (n, *d)."""
        which_key, noise_key = jax.random.split(key)
        which = jax.random.choice(
            which_key, len(self.weights), (n,), p=jnp.asarray(self.weights, jnp.zeros(0).dtype)
        )
        noise = self.covariance.noise(noise_key, which)
        means = jnp.asarray(self.means, noise.dtype)[which]
        return means + noise.reshape(means.shape)

    def conditioner(self, matrix: Any, noise_std: float = 0.0) -> Conditioner:
        """All posteriors of one kind of measurement: `Conditioner`, a function of y.

        As `posterior`, for many y at the cost of one.

        >>> given = data.conditioner([[1.0, 0.0]], 0.1)
        >>> given([0.3]).mean, given.log_evidence([0.3])
        """
        return Conditioner(self, matrix, noise_std)

    def posterior(self, matrix: Any, y: Any, noise_std: float = 0.0) -> "Mixture":
        """The data given y = matrix x0 + noise: matrix (q, n) on the flat x0, y (q,).

        Raises ValueError for shapes that do not fit or a negative noise_std.

        >>> truth = data.posterior([[1.0, 0.0]], [0.3], 0.1)
        """
        return self.conditioner(matrix, noise_std)(y)

    def log_evidence(self, matrix: Any, y: Any, noise_std: float = 0.0) -> float:
        """log p(y) in nats of y = matrix x0 + noise: matrix (q, n) on the flat x0, y (q,).

        Without noise it is the density on the range of the matrix. Raises ValueError as `posterior`.

        >>> data.log_evidence([[1.0, 0.0]], [0.3], 0.1)
        """
        return self.conditioner(matrix, noise_std).log_evidence(y)


def gaussian(mean: Any, cov: Any) -> Mixture:
    """N(mean, cov) as a `Mixture` of one: mean (*d), cov (n, n).

    >>> data = gaussian(jnp.zeros((8, 8, 1)), 0.3 * np.eye(64))
    """
    return Mixture([1.0], np.asarray(mean, np.float64)[None], np.asarray(cov, np.float64)[None])
