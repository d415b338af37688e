"""The plain baseline of a run: a normal distribution fitted to its training data."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from sklearn.covariance import ledoit_wolf

from score_jax import data
from score_jax.metrics.statistics import merge, moments_of

from ..runs import Run

# Of larger examples the covariance alone would take gigabytes.
MOST_DIMENSIONS = 4_096
MOST_EXAMPLES = 50_000  # to which it is fitted
_CHUNK = 2_048
_SINGULAR = 1e-6  # ratio of the smallest to the largest spread that is only rounding
_SHRUNK_CHUNKS = 5  # chunks of many examples to which a shrunk covariance is fitted


class Gaussian:
    """A normal distribution with a mean (d,) and a covariance (d, d), in the network's units."""

    def __init__(self, mean: np.ndarray, covariance: np.ndarray) -> None:
        self.mean, self.chol = mean, np.linalg.cholesky(covariance)

    def logp(self, x: np.ndarray) -> np.ndarray:
        """Log density in nats: (n, *d) -> (n,)."""
        z = np.linalg.solve(self.chol, (x.reshape(len(x), -1) - self.mean).T)
        constant = 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -constant - np.log(np.diag(self.chol)).sum() - 0.5 * (z**2).sum(axis=0)

    def sample(self, seed: int, n: int, shape: tuple[int, ...]) -> np.ndarray:
        """Draw n samples."""
        z = np.random.default_rng(seed).normal(size=(n, len(self.mean)))
        return (self.mean + z @ self.chol.T).reshape(n, *shape).astype(np.float32)


def densities(run: Run, key: Any, source: Any) -> Iterator[np.ndarray]:
    """The examples of a source as data with a density, in chunks (n, d), float64."""
    for i, first in enumerate(range(0, len(source), _CHUNK)):
        batch = data.take(source, np.arange(first, min(first + _CHUNK, len(source))))
        drawn = key if i == 0 else jax.random.fold_in(key, i)
        x = np.asarray(run.source.from_data(drawn, batch["x"]), np.float64)
        yield x.reshape(len(x), -1)


def gaussian(run: Run, key: Any) -> Gaussian | None:
    """The Gaussian with the moments of the training data; None for examples that are too large for one.

    The covariance is shrunk towards a multiple of the identity (Ledoit & Wolf 2004) where that of the
    data has no inverse: with fewer examples than dimensions, or with constant entries. Of many examples
    some are taken, evenly spaced, and of data with missing entries there is none.
    """
    dimensions = math.prod(run.shape)
    if dimensions > MOST_DIMENSIONS or run.config.data.missing == "mask":
        return None
    source = run.source.split("train")
    if len(source) > MOST_EXAMPLES:
        places = np.linspace(0, len(source) - 1, MOST_EXAMPLES).astype(np.int64)
        source = data.Subset(source, places)
    chunks = densities(run, key, source)
    if len(source) > dimensions:
        moments = merge(*map(moments_of, chunks))
        with contextlib.suppress(np.linalg.LinAlgError):
            found = Gaussian(moments.mean, moments.covariance)
            spread = np.diag(found.chol)
            if spread.min() > _SINGULAR * spread.max():
                return found
        chunks = itertools.islice(densities(run, key, source), _SHRUNK_CHUNKS)
    x = np.concatenate(list(chunks))
    return Gaussian(x.mean(axis=0), ledoit_wolf(x)[0])
