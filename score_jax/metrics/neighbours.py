"""Metrics of nearest neighbours in feature space, in blocks, so that memory is that of the features.

precision, recall    shares that lie in a ball of the other set (arXiv:1904.06991)
density, coverage    the same balls, counted; shares of balls that are hit (arXiv:2002.09797)
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from score_jax._check import check, check_count
from score_jax.metrics.statistics import check_points

CELLS = 1 << 24  # distances that are held at once


class PrecisionRecall(NamedTuple):
    """Share of the samples among the reference, share of the reference among the samples."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Mean number of reference balls around a sample over k, share of reference balls with a sample."""

    density: float
    coverage: float


class Memorization(NamedTuple):
    """Median distance of samples to the training set over that of held-out data to it, and the former.

    A ratio well below 1 means that samples lie closer to the training data than new data do.
    `distance` (n,) and `where` (n,) are those of the nearest training point of each sample.
    """

    ratio: float
    distance: np.ndarray
    where: np.ndarray


def _prepared(*sets: tuple[str, Any, int]) -> list[np.ndarray]:
    """Sets checked, centered by the mean of the first, of one type."""
    arrays = [check_points(name, x, least) for name, x, least in sets]
    for (name, _, _), x in zip(sets, arrays, strict=True):
        ok = x.shape[1] == arrays[0].shape[1]
        check(name, x.shape, ok, f"of the same features as {sets[0][0]}, {arrays[0].shape}")
    center, dtype = arrays[0].mean(0, dtype=np.float64), np.result_type(*arrays)
    return [(x - center).astype(dtype) for x in arrays]


def _squares(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the matrix of squared distances of a (n, k) to b (m, k), as (rows, block)."""
    norm_a, norm_b = np.square(a).sum(1), np.square(b).sum(1)
    step = max(CELLS // len(b), 1)
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        block = a[rows] @ b.T
        block *= -2
        block += norm_a[rows, None]
        block += norm_b[None]
        yield rows, np.maximum(block, 0, out=block)


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each x (n, d) to its k-th neighbour, itself not counted: (n,)."""
    found = np.empty(len(x), x.dtype)
    for rows, block in _squares(x, x):
        own = np.arange(len(x))[rows]
        block[own - own[0], own] = 0  # exactly, so that a copy is not nearer than the point itself
        found[rows] = np.partition(block, k, axis=1)[:, k]
    return found


def precision_recall(reference: ArrayLike, samples: ArrayLike, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall of samples (m, d) against a reference (n, d), k neighbours.

    A point on the surface of a ball counts (as in ADM and torch-fidelity). ADM's protocol: 10,000
    reference features against 50,000 samples. Both depend on n and m: compare only equal numbers.

    Raises ValueError unless both sets have more than k points.
    """
    check_count(k=k)
    reference, samples = _prepared(("reference", reference, k + 1), ("samples", samples, k + 1))
    radii, sample_radii = _radii(reference, k), _radii(samples, k)
    inside, recalled = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
    for rows, block in _squares(samples, reference):
        inside[rows] = (block <= radii).any(1)
        recalled |= (block <= sample_radii[rows, None]).any(0)
    return PrecisionRecall(float(inside.mean()), float(recalled.mean()))


def density_coverage(reference: ArrayLike, samples: ArrayLike, *, k: int = 5) -> DensityCoverage:
    """Density and coverage of samples (m, d) against a reference (n, d), k neighbours (as prdc).

    Raises ValueError unless the reference has more than k points.
    """
    check_count(k=k)
    reference, samples = _prepared(("reference", reference, k + 1), ("samples", samples, 1))
    radii = _radii(reference, k)
    hits, covered = 0, np.zeros(len(reference), bool)
    for _, block in _squares(samples, reference):
        inside = block < radii
        hits += int(inside.sum())
        covered |= inside.any(0)
    return DensityCoverage(hits / (k * len(samples)), float(covered.mean()))


def nearest(points: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each point (m, d) to the nearest of a reference (n, d), and its index: (m,), (m,)."""
    reference, points = _prepared(("reference", reference, 1), ("points", points, 1))
    index = np.empty(len(points), int)
    for rows, block in _squares(points, reference):
        index[rows] = block.argmin(1)
    return np.linalg.norm((points - reference[index]).astype(np.float64), axis=1), index


def memorization(samples: ArrayLike, train: ArrayLike, held_out: ArrayLike) -> Memorization:
    """Compare the distances of samples and of held-out data to the training data, all features (., d).

    Raises ValueError if the held-out data lie in the training data (median distance zero).
    """
    distance, index = nearest(samples, train)
    usual = float(np.median(nearest(held_out, train)[0]))
    check("held_out", usual, usual > 0, "of a median distance above 0 to train")
    return Memorization(float(np.median(distance)) / usual, distance, index)
