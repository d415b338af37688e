"""Mixtures to compare posterior samplers on: random fields, random mixtures, mixtures of images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_jax._check import check, check_count, check_positive
from score_jax.analytic.covariance import LowRank, Separable, cosine_basis, fourier_basis
from score_jax.analytic.mixture import Mixture

# Mixtures that are fitted to more entries have few axes a component.
_DENSE = 128


def random_field(
    shape: Sequence[int], *, exponent: float = 3.0, std: float = 1.0, periodic: bool = False
) -> Mixture:
    """A Gaussian field whose power falls as (1 + |k|^2)^(-exponent / 2), as one of a `Mixture`.

    `shape` is that of space with a channel axis of any size last, whose channels are independent; |k|
    counts half waves over an axis, whole ones if `periodic`. `std` is the root mean square deviation
    of an entry. The score is exact for any size, that of a posterior too (`Conditioner.score`).

    Raises ValueError for sizes below 1, or std that is not positive.

    >>> data = random_field((64, 64, 1))
    >>> truth = data.posterior(matrix, y, 0.1)
    """
    check_positive(std=std)
    for n in shape:
        check_count(n=n)
    *space, channels = shape
    counts = [np.arange(n) if not periodic else (np.arange(n) + 1) // 2 for n in space]
    squares = sum(np.square(k, dtype=float) for k in np.meshgrid(*counts, indexing="ij"))
    power = (1 + np.asarray(squares)) ** (-exponent / 2)
    power *= std**2 / power.mean()
    bases = [(fourier_basis if periodic else cosine_basis)(n) for n in space]
    variances = np.repeat(power[..., None], channels, axis=-1)[None]
    return Mixture([1.0], np.zeros((1, *shape)), Separable(variances, (*bases, np.eye(channels))))


def random_mixture(
    shape: Sequence[int],
    components: int = 5,
    *,
    distance: float = 1.0,
    std: float = 0.3,
    seed: int = 0,
) -> Mixture:
    """A mixture of Gaussians at random places with random axes, of examples of this shape.

    The means are `distance` times unit normal numbers; the standard deviations along the axes of a
    component lie between std / 3 and std; the weights are between 1 and 3 before they are normalised.

    Raises ValueError for counts below 1, or distance and std that are not positive.

    >>> data = random_mixture((2,), 3)
    """
    check_count(components=components)
    check_positive(distance=distance, std=std)
    rng, n = np.random.default_rng(seed), math.prod(shape)
    covs = []
    for _ in range(components):
        axes, _ = np.linalg.qr(rng.normal(size=(n, n)))
        covs.append(axes * np.square(std * rng.uniform(1 / 3, 1, n))[None] @ axes.T)
    means = distance * rng.normal(size=(components, *shape))
    return Mixture(rng.uniform(1, 3, components), means, np.array(covs))


def fit_mixture(
    x: Any, components: int = 10, *, rank: int = 16, seed: int = 0, iterations: int = 20
) -> Mixture:
    """A mixture of probabilistic PCAs of data x (n, *d): a known prior that looks like the data.

    Groups are found by k-means and each is one component: its mean, its first `rank` principal
    variances, and the mean of the others in all other directions, the maximum-likelihood fit of
    Tipping and Bishop (1999). With more than 128 entries the covariances are `LowRank`, so that an
    example of 28x28 costs as much as one of 6x6 with dense ones. For up to some thousand entries.

    Raises ValueError for fewer than 2 examples a component, or counts below 1.

    >>> data = fit_mixture(digits.x, 10)
    """
    from sklearn.cluster import KMeans

    x = np.asarray(x, np.float64)
    check_count(components=components, rank=rank, iterations=iterations)
    if len(x) < 2 * components:
        raise ValueError(f"x must have at least {2 * components} examples, got {len(x)}")
    flat = x.reshape(len(x), -1)
    found = KMeans(components, n_init=1, max_iter=iterations, random_state=seed).fit(flat)
    weights, means, covs, axes = [], [], [], []
    for k in range(components):
        mine = flat[found.labels_ == k]
        values, vectors = np.linalg.eigh(np.cov(mine.T, bias=True).reshape(flat.shape[1], -1))
        kept = min(rank, len(mine) - 1, len(values) - 1)
        rest = np.maximum(values[: len(values) - kept].mean(), 1e-4 * flat.var())
        values = np.maximum(values, rest)
        weights.append(len(mine))
        means.append(mine.mean(axis=0).reshape(x.shape[1:]))
        if len(values) > _DENSE:
            axes.append((vectors[:, len(values) - kept :], values[len(values) - kept :], rest))
            continue
        values[: len(values) - kept] = rest
        covs.append(vectors * values[None] @ vectors.T)
    if axes:
        check("rank", rank, len({len(v) for _, v, _ in axes}) == 1, "below the size of every group")
        return Mixture(weights, np.array(means), LowRank(*map(np.array, zip(*axes, strict=True))))
    return Mixture(weights, np.array(means), np.array(covs))
