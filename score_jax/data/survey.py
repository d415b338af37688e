"""What the values and labels of a source are: means and spreads by channel, extremes, classes.

Sums are of centred values, in float64, and two batches are joined by (Chan, Golub and LeVeque, 1979)

    mean = (n1 m1 + n2 m2) / n,    S = S1 + S2 + (n1 n2 / n) (m1 - m2)^2

so that any source is surveyed in the memory of one batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from score_jax._check import check, check_count
from score_jax.data.cropped import Cropped
from score_jax.data.paired import Paired
from score_jax.data.pipeline import eval_batches
from score_jax.data.sources import Described, Description, Examples, Subset

NEAR = 1.5  # data whose spread is within this factor of 1 need no standardisation
_BATCH = 256
_MASKS = {"x": "mask"}  # the leaf that says which entries of another are there


@dataclass(frozen=True)
class Survey:
    """What was found in a source.

    examples: how many were looked at, of `total`; mean, std (c,): by channel, of the entries that are
    there; low, high: the extremes; missing: the fraction of entries that are not; classes (k,): how many
    examples each class has, or None without labels; all_labels: whether that is of all the examples,
    not only of those that were looked at.
    """

    examples: int
    total: int
    mean: np.ndarray
    std: np.ndarray
    low: float
    high: float
    missing: float
    classes: np.ndarray | None
    all_labels: bool

    @property
    def standard(self) -> bool:
        """Whether mean and spread are so near 0 and 1 that standardisation changes little."""
        mean, std = self.spread
        return abs(mean) < 1 and 1 / NEAR < std < NEAR

    @property
    def spread(self) -> tuple[float, float]:
        """(mean, standard deviation) of all entries together."""
        mean = float(self.mean.mean())
        within, between = np.square(self.std).mean(), np.square(self.mean - mean).mean()
        return mean, float(np.sqrt(within + between))


class _Moments:
    """Count, mean and sum of squares about it of each channel, (c,)."""

    def __init__(self, channels: int) -> None:
        self.n, self.mean, self.squares = (np.zeros(channels) for _ in range(3))

    def add(self, x: np.ndarray, seen: np.ndarray) -> None:
        """Join the entries x (m, c) where `seen`."""
        n = seen.sum(axis=0).astype(np.float64)
        x = np.where(seen, x, 0.0)
        mean = x.sum(axis=0) / np.maximum(n, 1)
        squares = np.where(seen, np.square(x - mean), 0.0).sum(axis=0)
        total = np.maximum(self.n + n, 1)
        step = mean - self.mean
        self.squares += squares + np.square(step) * self.n * n / total
        self.mean = self.mean + step * n / total
        self.n = self.n + n


def survey(source: Any, *, most: int | None = None, leaf: str = "x") -> Survey:
    """Look at the examples of a source, or at `most` of them, evenly spaced: a `Survey`.

    Entries that are NaN or whose mask is False are left out. leaf: what is surveyed, "x" or "cond".

    Raises ValueError for infinite values and labels that are not whole numbers >= 0.

    >>> found = survey(source, most=10_000)
    >>> source_for_the_network = source.description.with_moments(found.mean, found.std)
    """
    total = len(source)
    check("source", total, total > 0, "of at least one example")
    known = labels_of(source)
    if most is not None:
        check_count(most=most)
        if most < total:
            source = Subset(source, np.unique(np.linspace(0, total - 1, most).astype(np.int64)))
    moments: _Moments | None = None
    low, high, there, entries = np.inf, -np.inf, 0, 0
    labels: list[np.ndarray] = []
    for batch in eval_batches(source, _BATCH):
        x, seen = _entries(batch, leaf)
        moments = moments or _Moments(x.shape[-1])
        moments.add(x, seen)
        if seen.any():
            low, high = min(low, float(x[seen].min())), max(high, float(x[seen].max()))
        there, entries = there + int(seen.sum()), entries + seen.size
        labels += [np.asarray(batch["y"])] if "y" in batch else []
    assert moments is not None
    std = np.sqrt(moments.squares / np.maximum(moments.n, 1))
    seen_labels = known if known is not None else np.concatenate(labels) if labels else None
    classes = None if seen_labels is None else _counted(seen_labels)
    whole = known is not None or len(source) == total
    missing = 1 - there / entries
    return Survey(len(source), total, moments.mean, std, low, high, missing, classes, whole)


def labels_of(source: Any) -> np.ndarray | None:
    """The labels (n,) of a source that has them without reading its examples, or None."""
    if isinstance(source, Subset):
        found = labels_of(source.source)
        return None if found is None else found[source.indices]
    if isinstance(source, Described | Paired | Cropped):
        return labels_of(source.source)
    labels = getattr(source, "y", None)
    labels = getattr(source, "labels", None) if labels is None else labels
    return labels if isinstance(labels, np.ndarray) and labels.shape == (len(source),) else None


def _entries(batch: Examples, leaf: str) -> tuple[np.ndarray, np.ndarray]:
    """(entries, whether each is there), both (m, c)."""
    x = np.asarray(batch[leaf], np.float64)
    seen = ~np.isnan(x)
    mask = batch.get(_MASKS.get(leaf, ""))
    if mask is not None:
        seen &= np.broadcast_to(np.asarray(mask, bool), x.shape)
    check(leaf, "infinity", not np.isinf(x[seen]).any(), "finite")
    return x.reshape(-1, x.shape[-1]), seen.reshape(-1, x.shape[-1])


def _counted(labels: np.ndarray) -> np.ndarray:
    ok = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) and labels.min() >= 0
    check("labels", labels.dtype, ok, "whole numbers >= 0, one an example")
    return np.bincount(labels)


def standardised(
    description: Description, found: Survey, *, by_channel: bool = True
) -> Description:
    """The description with the affine map that gives the continuous data mean 0 and spread 1.

    By channel, or by all entries together. A channel without any spread is only centred.

    >>> description = standardised(source.description, survey(source))
    """
    mean, std = (found.mean, found.std) if by_channel else map(np.asarray, found.spread)
    return description.with_moments(mean, np.where(std > 0, std, 1.0))
