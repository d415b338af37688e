r"""Distances between two sets of points, on feature arrays (n, k), in double precision.

Frechet    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)            arXiv:1706.08500
KID        unbiased MMD^2 with the kernel (x.y / k + 1)^3                   arXiv:1801.01401
sliced     mean over directions of the 1-D Wasserstein-1 distance           arXiv:1902.00434
"""

import numpy as np
from numpy.typing import ArrayLike

from score_jax._check import check, check_count


def _points(a: ArrayLike, b: ArrayLike, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    arrays = [np.asarray(v, np.float64) for v in (a, b)]
    for name, v in zip("ab", arrays, strict=True):
        if v.ndim != 2 or len(v) < least:
            raise ValueError(f"{name} must be (n, k) with n >= {least}, got shape {v.shape}")
        if not np.isfinite(v).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise ValueError(
            f"a and b must have the same features, got shapes {arrays[0].shape} and {arrays[1].shape}"
        )
    return arrays[0], arrays[1]


def _sqrt_psd(s: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(s)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet_distance(mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike) -> float:
    """Squared 2-Wasserstein distance of two Gaussians given by mean (k,) and covariance (k, k).

    Computed from eigenvalues of symmetric matrices: all numbers are real, also for singular
    covariances.
    """
    mean1, mean2 = np.asarray(mean1, np.float64), np.asarray(mean2, np.float64)
    cov1, cov2 = np.asarray(cov1, np.float64), np.asarray(cov2, np.float64)
    k = mean1.shape
    if mean2.shape != k or cov1.shape != k * 2 or cov2.shape != k * 2:
        raise ValueError(
            f"means must be (k,) and covariances (k, k), got {mean1.shape}, {cov1.shape}, "
            f"{mean2.shape}, {cov2.shape}"
        )
    root = _sqrt_psd(cov1)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov2 @ root), 0)).sum()
    distance = np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross
    return float(max(distance, 0.0))


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Frechet distance of the Gaussians fitted to features a (n, k) and b (m, k).

    With Inception features this is the FID. It is biased upwards for few points: compare equal n.
    """
    a, b = _points(a, b)
    cov = lambda v: np.atleast_2d(np.cov(v, rowvar=False))
    return frechet_distance(a.mean(0), cov(a), b.mean(0), cov(b))


def kid(a: ArrayLike, b: ArrayLike) -> float:
    """Kernel distance (squared MMD, cubic kernel) of features a (n, k) and b (m, k); unbiased."""
    a, b = _points(a, b)
    kernel = lambda u, v: (u @ v.T / a.shape[1] + 1) ** 3
    within = lambda v: (kernel(v, v).sum() - np.trace(kernel(v, v))) / (len(v) * (len(v) - 1))
    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def mmd_rbf(a: ArrayLike, b: ArrayLike, *, bandwidth: float) -> float:
    """Unbiased squared MMD with the kernel exp(-|x - y|^2 / (2 bandwidth^2))."""
    a, b = _points(a, b)
    check("bandwidth", bandwidth, bandwidth > 0, "> 0")

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
    a, b = _points(a, b, least=1)
    check_count(n_projections=n_projections)
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0, keepdims=True)
    return float(wasserstein_1d(a @ directions, b @ directions).mean())
