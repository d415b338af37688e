r"""Distances between two sets of points, on feature arrays (n, k).

Frechet    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)            arXiv:1706.08500
KID        unbiased MMD^2 with the kernel (x.y / k + 1)^3                   arXiv:1801.01401
sliced     mean over directions of the 1-D Wasserstein-1 distance           arXiv:1902.00434
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from score_jax._check import check, check_count
from score_jax.metrics.statistics import Moments, check_points, merge, moments_of

BLOCK = 2048  # rows of the kernel matrix that are held at once


class Estimate(NamedTuple):
    """A mean over n repetitions and their standard deviation; `error` is that of the mean."""

    value: float
    std: float
    n: int

    @property
    def error(self) -> float:
        """The standard error of the mean, as if the repetitions were independent."""
        return self.std / self.n**0.5


def two_sets(a: ArrayLike, b: ArrayLike, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Features a (n, k) and b (m, k), checked and in float64."""
    a, b = (check_points(name, v, least).astype(np.float64) for name, v in (("a", a), ("b", b)))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have the same features, got shapes {a.shape} and {b.shape}")
    return a, b


def _root(covariance: np.ndarray) -> np.ndarray:
    """R with R R^T = covariance: by Cholesky, or by eigenvalues if that is singular."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.maximum(values, 0))


def frechet_distance(mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike) -> float:
    """Squared 2-Wasserstein distance of two Gaussians given by mean (k,) and covariance (k, k).

    The trace is the sum of the roots of the eigenvalues of R^T cov2 R, where cov1 = R R^T: symmetric,
    so that all numbers are real, and exact for singular covariances.
    """
    mean1, mean2 = np.asarray(mean1, np.float64), np.asarray(mean2, np.float64)
    cov1, cov2 = np.asarray(cov1, np.float64), np.asarray(cov2, np.float64)
    k = mean1.shape
    if mean2.shape != k or cov1.shape != k * 2 or cov2.shape != k * 2:
        raise ValueError(
            f"means must be (k,) and covariances (k, k), got {mean1.shape}, {cov1.shape}, "
            f"{mean2.shape}, {cov2.shape}"
        )
    half = _root(cov1)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(half.T @ cov2 @ half), 0)).sum()
    distance = np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross
    return float(max(distance, 0.0))


def frechet(a: ArrayLike | Moments, b: ArrayLike | Moments) -> float:
    """Frechet distance of the Gaussians fitted to a and b, features (n, k) or `Moments`.

    FID with "pool" of the Inception, sFID with "spatial", FD-DINOv2 with "class_token". Biased
    upwards for few points: compare equal n only. Fewer points than features give a singular
    covariance, and a number that is more biased still.

    Raises ValueError for fewer than two points and features of different lengths.
    """
    both: tuple[ArrayLike | Moments, ...] = (a, b)
    if not isinstance(a, Moments) and not isinstance(b, Moments):
        both = two_sets(a, b)
    first, second = (
        v if isinstance(v, Moments) else moments_of(check_points("features", v)) for v in both
    )
    for moments in (first, second):
        ok = moments.n is None or moments.n > 1
        check("moments", moments.n, ok, "of at least two points")
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def jackknife(parts: Sequence[Moments], statistic: Callable[[Moments], float]) -> Estimate:
    """A statistic of the union of parts, and its standard error by leaving out one part at a time.

    `std` is such that `error` is the jackknife's: sqrt((g - 1) / g sum (value_i - mean)^2).

    >>> jackknife(parts, lambda moments: frechet(moments, reference))
    """
    g = len(parts)
    check_count(2, parts=g)
    left = [statistic(merge(*parts[:i], *parts[i + 1 :])) for i in range(g)]
    error = np.sqrt((g - 1) * np.var(left))
    return Estimate(statistic(merge(*parts)), float(error * np.sqrt(g)), g)


def _cubic(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of rows of the kernel matrix."""
    for start in range(0, len(a), BLOCK):
        block = a[start : start + BLOCK] @ b.T / a.shape[1] + 1
        yield block * block * block  # ten times faster than a power


def _mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
    return sum(float(block.sum()) for block in _cubic(a, b)) / (len(a) * len(b))


def _mean_within(a: np.ndarray) -> float:
    total = sum(float(block.sum()) for block in _cubic(a, a))
    diagonal = ((np.square(a).sum(1) / a.shape[1] + 1) ** 3).sum()
    return float(total - diagonal) / (len(a) * (len(a) - 1))


def kid(a: ArrayLike, b: ArrayLike) -> float:
    """Kernel distance (squared MMD, cubic kernel) of features a (n, k) and b (m, k); unbiased.

    All pairs, in blocks; the published protocol is `kid_subsets`.
    """
    a, b = two_sets(a, b)
    return _mean_within(a) + _mean_within(b) - 2 * _mean_kernel(a, b)


def kid_subsets(
    a: ArrayLike, b: ArrayLike, *, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> Estimate:
    """KID as it is published: the mean over random subsets of a (n, k) and b (m, k).

    With the default seed the subsets, and so the value, are those of torch-fidelity. The subsets
    overlap if subsets * size > n: then `error` is somewhat too small.

    Raises ValueError for a size above n or m.
    """
    a, b = (check_points(name, v) for name, v in (("a", a), ("b", b)))
    check_count(subsets=subsets)
    check_count(2, size=size)
    most = min(len(a), len(b))
    check("size", size, size <= most, f"at most the number of points, {most}")
    rng = np.random.RandomState(seed)
    choose = lambda v: v[rng.choice(len(v), size, replace=False)]
    values = [kid(choose(a), choose(b)) for _ in range(subsets)]
    return Estimate(float(np.mean(values)), float(np.std(values)), subsets)


def mmd_rbf(a: ArrayLike, b: ArrayLike, *, bandwidth: float) -> float:
    """Unbiased squared MMD with the kernel exp(-|x - y|^2 / (2 bandwidth^2))."""
    a, b = two_sets(a, b)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be > 0, got {bandwidth}")

    def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        squares = np.square(u).sum(1)[:, None] + np.square(v).sum(1)[None] - 2 * u @ v.T
        return np.exp(-np.maximum(squares, 0) / (2 * bandwidth**2))

    within = lambda v: (kernel(v, v).sum() - len(v)) / (len(v) * (len(v) - 1))
    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def wasserstein_1d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Wasserstein-1 distance of every column of a (n, p) to that of b (m, p), any n and m: (p,)."""
    n, m = len(a), len(b)
    edges = np.union1d(np.arange(n + 1) / n, np.arange(m + 1) / m)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    quantile = lambda v: np.sort(v, axis=0)[np.minimum((middle * len(v)).astype(int), len(v) - 1)]
    return (np.abs(quantile(a) - quantile(b)) * width[:, None]).sum(axis=0)


def sliced_wasserstein(
    a: ArrayLike, b: ArrayLike, *, n_projections: int = 128, seed: int = 0
) -> float:
    """Sliced Wasserstein-1 distance of a (n, k) and b (m, k) over random directions."""
    a, b = two_sets(a, b, least=1)
    if n_projections < 1:
        raise ValueError(f"n_projections must be at least 1, got {n_projections}")
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0, keepdims=True)
    return float(wasserstein_1d(a @ directions, b @ directions).mean())
