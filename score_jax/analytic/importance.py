r"""Weighted draws, and the posterior of any likelihood in low dimensions by drawing from the prior.

With x_i from the prior and w_i = p(y | x_i):

    E[f | y] = sum w_i f(x_i) / sum w_i,    p(y) = mean w_i,    ESS = (sum w_i)^2 / sum w_i^2

The standard error of the mean of f is sqrt(sum w_i^2 (f_i - mean)^2) / sum w_i. The estimate of p(y) is
unbiased; its logarithm is low by about half its variance.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from score_jax._check import check_count
from score_jax.types import Data


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Draws x (n, *d) with the logarithms of their weights (n,), and the evidence.

    log_evidence: the logarithm of an unbiased estimate of p(y); error: the relative standard error of
    that estimate, which is about that of its logarithm; infinite where it is not known.
    """

    x: np.ndarray
    log_weights: np.ndarray
    log_evidence: float
    error: float

    @property
    def weights(self) -> np.ndarray:
        """The weights, of sum 1: (n,)."""
        w = np.exp(self.log_weights - self.log_weights.max())
        return w / w.sum()

    @property
    def ess(self) -> float:
        """The effective number of draws."""
        return float(1 / np.square(self.weights).sum())

    @property
    def mean(self) -> np.ndarray:
        """The weighted mean: (*d)."""
        return np.tensordot(self.weights, np.asarray(self.x, np.float64), 1)

    @property
    def std(self) -> np.ndarray:
        """The weighted standard deviations of the entries: (*d)."""
        away = np.square(np.asarray(self.x, np.float64) - self.mean[None])
        return np.sqrt(np.tensordot(self.weights, away, 1))

    @property
    def mean_error(self) -> np.ndarray:
        """The standard errors of the mean: (*d)."""
        away = np.square(np.asarray(self.x, np.float64) - self.mean[None])
        return np.sqrt(np.tensordot(np.square(self.weights), away, 1))

    def draw(self, n: int, seed: int = 0) -> np.ndarray:
        """n draws of about equal weight, by systematic resampling: (n, *d), in random order."""
        check_count(n=n)
        rng = np.random.default_rng(seed)
        at = (np.arange(n) + rng.random()) / n
        index = np.searchsorted(np.cumsum(self.weights), at)
        return self.x[rng.permutation(np.minimum(index, len(self.x) - 1))]


def weighted(x: Any, log_weights: Any) -> Weighted:
    """Draws of the prior with the logarithms of their likelihoods: `Weighted`.

    Raises ValueError if no draw has a likelihood above 0.
    """
    x, logs = np.asarray(x), np.asarray(log_weights, np.float64)
    if not np.isfinite(logs).any():
        raise ValueError(
            "no draw has a likelihood above 0, so the weights are all 0: use more draws, or a "
            "likelihood with more noise"
        )
    logs = np.where(np.isnan(logs), -np.inf, logs)
    w = np.exp(logs - logs.max())
    error = float(w.std() / w.mean() / np.sqrt(len(w)))
    return Weighted(x, logs, float(logs.max() + np.log(w.mean())), error)


def importance_posterior(
    key: Key[Array, ""], prior: Any, logp: Callable[[Data], Any], n: int = 100_000
) -> Weighted:
    """The posterior of any likelihood by n draws of the prior, with its own error: `Weighted`.

    `prior` has a method sample(key, n), as a `Mixture` has; `logp(x0) -> (n,)` is log p(y | x0). For few
    dimensions: see `ess`, which should be some hundreds. Owen, Monte Carlo theory, chapter 9.

    Raises ValueError if no draw has a likelihood above 0.

    >>> found = importance_posterior(key, data, lambda x: -abs(x[:, 0] - 0.3) / 0.1)
    >>> found.mean, found.mean_error, found.log_evidence, found.error
    """
    check_count(2, n=n)
    x = prior.sample(key, n)
    return weighted(x, jax.jit(logp)(x))
