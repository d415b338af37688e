"""Batches of a data set: endless and shuffled with an exact state, or all examples once in order."""

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np

from score_jax._check import check, check_count
from score_jax.data.arrays import Dataset


def _rows(data: Dataset, rows: Any) -> dict[str, np.ndarray]:
    batch = {"x": data.x[rows]}
    return batch if data.y is None else batch | {"y": data.y[rows]}


class _BatchSource:
    """Grain source whose item i is the whole batch i of an endless run of shuffled epochs."""

    def __init__(self, data: Dataset, size: int, seed: int, index: int, count: int) -> None:
        self._data, self._size, self._seed = data, size, seed
        self._index, self._count = index, count
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, i: SupportsIndex) -> dict[str, np.ndarray]:
        n = len(self._data.x)
        place = int(i) * self._size + np.arange(self._size)
        epoch, within = place // n, place % n
        rows = np.empty(self._size, np.int64)
        for e in np.unique(epoch):
            rows[epoch == e] = self._order(int(e))[within[epoch == e]]
        share = self._size // self._count
        return _rows(self._data, rows[self._index * share : (self._index + 1) * share])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            rng = np.random.default_rng((self._seed, epoch))
            self._orders[epoch] = rng.permutation(len(self._data.x))
        return self._orders[epoch]


def batches(
    data: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Any:
    """Endless shuffled batches {"x": (b, *d), "y": (b,)} as a Grain iterator with exact state.

    Every epoch is a new permutation. No example is dropped: a batch may span two epochs. The whole
    batch is shuffled first and then divided into `process_count` equal shares, so the examples and
    their places in the batch do not depend on the number of hosts. `get_state()` and `set_state()`
    resume exactly.

    Raises ValueError unless 1 <= batch_size, divisible by process_count, and seed >= 0.

    >>> batch = next(batches(load_digits(), 128, seed=0))
    """
    import grain

    ok = batch_size >= 1 and batch_size % process_count == 0
    check("batch_size", batch_size, ok, f"at least 1 and divisible by {process_count} processes")
    check_count(0, seed=seed)
    source = _BatchSource(data, batch_size, seed, process_index, process_count)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def eval_batches(data: Dataset, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """All examples in order, once; the last batch may be shorter. ValueError if batch_size < 1."""
    check_count(batch_size=batch_size)
    for i in range(0, len(data.x), batch_size):
        yield _rows(data, slice(i, i + batch_size))
