"""Mean and covariance of streamed features, in float64 on the host, and samples of them.

JAX computes in float32 by default, so these use NumPy. Sums are of centered values, because those of
raw values cancel. Two sets are joined by (Chan, Golub and LeVeque, 1979)

    mean = (n1 m1 + n2 m2) / n,    S = S1 + S2 + (n1 n2 / n) (m1 - m2)(m1 - m2)^T
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from score_jax._check import check, check_count
from score_jax._hosts import of_all


@dataclass(frozen=True)
class Moments:
    """Mean (k,) and covariance (k, k, with n - 1) of n vectors; n is None if a file does not state it."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int | None = None


@dataclass(frozen=True)
class Reservoir:
    """A random choice of `size` vectors: their numbers (m,) and values (m, k).

    The choice depends on `seed` and the numbers alone, not on batches or hosts: the vectors whose
    numbers have the smallest hashes are kept.
    """

    size: int
    seed: int
    index: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Summary:
    """The summary of streamed features."""

    moments: Moments
    reservoir: Reservoir


def check_points(name: str, x: ArrayLike, least: int = 2) -> np.ndarray:
    """Features as a finite floating-point array (n, k), n >= least; ValueError otherwise."""
    x = np.asarray(x)
    x = x if np.issubdtype(x.dtype, np.floating) and x.dtype.itemsize > 2 else x.astype(np.float64)
    if x.ndim != 2 or len(x) < least:
        raise ValueError(f"{name} must be (n, k) with n >= {least}, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return x


def moments_of(x: ArrayLike) -> Moments:
    """Mean and covariance of features x (n, k), n >= 1; the covariance of one vector is zero."""
    points = check_points("features", x, 1).astype(np.float64)
    mean = points.mean(0)
    points = points - mean
    return Moments(mean, points.T @ points / max(len(points) - 1, 1), len(points))


def merge(*parts: Moments) -> Moments:
    """Moments of the union of disjoint sets.

    Raises ValueError for none, for sets of unknown size, and for features of different lengths.
    """
    check("parts", len(parts), parts, "at least one set")
    out = parts[0]
    for part in parts[1:]:
        check("features", part.mean.shape, part.mean.shape == out.mean.shape,
              f"of one length, here {out.mean.shape}")  # fmt: skip
        n1, n2 = out.n, part.n
        if n1 is None or n2 is None:
            raise ValueError("parts must have known sizes to be joined, got n None")
        n, between = n1 + n2, part.mean - out.mean
        scatter = out.covariance * (n1 - 1) + part.covariance * (n2 - 1)
        scatter += np.outer(between * (n1 * n2 / n), between)
        out = Moments(out.mean + between * (n2 / n), scatter / (n - 1), n)
    return out


def _hashes(index: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 of numbers: uint64."""
    with np.errstate(over="ignore"):
        z = index.astype(np.uint64) + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def merge_reservoirs(*parts: Reservoir) -> Reservoir:
    """The reservoir of the union of disjoint sets; its vectors are sorted by their numbers."""
    first = parts[0]
    same = all((p.size, p.seed) == (first.size, first.seed) for p in parts)
    check("parts", [(p.size, p.seed) for p in parts], same, "of one size and seed")
    index = np.concatenate([p.index for p in parts])
    keep = np.sort(np.argsort(_hashes(index, first.seed), kind="stable")[: first.size])
    keep = keep[np.argsort(index[keep], kind="stable")]
    return Reservoir(
        first.size, first.seed, index[keep], np.concatenate([p.rows for p in parts])[keep]
    )


def _summary(x: np.ndarray, first: int, keep: int, seed: int) -> Summary:
    reservoir = Reservoir(keep, seed, np.arange(first, first + len(x)), x)
    return Summary(moments_of(x), merge_reservoirs(reservoir))


def merge_summaries(*parts: Summary) -> Summary:
    """The summary of the union of disjoint sets."""
    return Summary(
        merge(*(p.moments for p in parts)), merge_reservoirs(*(p.reservoir for p in parts))
    )


def collect(
    batches: Iterable[Mapping[str, Any]],
    *,
    first: int = 0,
    keep: int = 0,
    seed: int = 0,
    block: int = 2048,
) -> dict[str, Summary]:
    """Summarize streamed features in the memory of `block + keep` vectors and one covariance.

    `batches` are dicts of features (b, k), as of `extract`; `first` is the number of the first vector
    (of this host's part), `keep` the size of the reservoir.

    Raises ValueError without any batch, and for features that change their length.
    """
    check_count(0, first=first, keep=keep, seed=seed)
    check_count(block=block)
    waiting: dict[str, list[np.ndarray]] = {}
    found: dict[str, Summary] = {}
    done = 0

    def flush() -> int:
        for name, parts in waiting.items():
            new = _summary(np.concatenate(parts), first + done, keep, seed)
            found[name] = merge_summaries(found[name], new) if name in found else new
        count = sum(map(len, next(iter(waiting.values()), [])))
        waiting.clear()
        return count

    for batch in batches:
        for name, x in batch.items():
            parts = waiting.setdefault(name, [])
            x = check_points(name, x, 1)
            check(name, x.shape[1], not parts or parts[0].shape[1] == x.shape[1],
                  f"of one length, here {parts[0].shape[1] if parts else 0}")  # fmt: skip
            parts.append(x)
        if sum(map(len, next(iter(waiting.values()), []))) >= block:
            done += flush()
    done += flush()
    check("batches", done, done > 0, "at least one")
    return found


def merge_hosts(summaries: Mapping[str, Summary]) -> dict[str, Summary]:
    """Join the summaries of all processes, the same on each; on one process the argument.

    Their arrays are sent as bytes, because JAX would round float64 to float32.
    """
    if jax.process_count() == 1:
        return dict(summaries)
    return {
        name: merge_summaries(*(_gathered(summary))) for name, summary in sorted(summaries.items())
    }


def _gathered(summary: Summary) -> list[Summary]:
    m, r = summary.moments, summary.reservoir
    check("summary", m.n, m.n is not None, "of a known size")
    means, covariances, counts = (of_all(v) for v in (m.mean, m.covariance, np.array([m.n])))
    sizes = of_all(np.array([len(r.index)]))
    most = max(int(s[0]) for s in sizes)
    fill = lambda v: np.concatenate([v, np.zeros((most - len(v), *v.shape[1:]), v.dtype)])
    indices, rows = of_all(fill(r.index)), of_all(fill(r.rows))
    return [
        Summary(
            Moments(means[i], covariances[i], int(counts[i][0])),
            Reservoir(r.size, r.seed, indices[i][: sizes[i][0]], rows[i][: sizes[i][0]]),
        )
        for i in range(len(means))
    ]
