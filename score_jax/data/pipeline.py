"""Batches of any source: endless and shuffled with an exact state, or all examples once in order.

All functions here take any source (`score_jax.data.sources`), in memory or read from files.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsIndex, cast

import numpy as np

from score_jax._check import check, check_count
from score_jax.data.pairing import paired_noise
from score_jax.data.sources import Examples, Subset, as_source, take

_MOST_THREADS = 8
_NEXT = "next_index"  # the state of Grain's own iterators, so that old checkpoints resume


def split(source: Any, fraction: float, *, seed: int = 0) -> tuple[Any, Any]:
    """Divide a source into (train, test) at random, the same for the same length and seed.

    Raises ValueError unless 0 < fraction < 1 and both parts have an example.

    >>> train, test = split(source, 0.1)
    """
    n = len(source)
    check("fraction", fraction, 0 < fraction < 1, "in (0, 1)")
    count = math.floor(n * fraction + 1e-9)
    ok = 1 <= count < n
    check("fraction", fraction, ok, f"such that both parts of {n} examples have one")
    order, source = np.random.default_rng(seed).permutation(n), as_source(source)
    return Subset(source, order[count:]), Subset(source, order[:count])


class _Slices:
    """Grain source whose item i is the batch of the i-th `size` examples, in order."""

    def __init__(self, source: Any, size: int) -> None:
        self._source, self._size = source, size

    def __len__(self) -> int:
        return -(-len(self._source) // self._size)

    def __getitem__(self, i: SupportsIndex) -> Examples:
        first = int(i) * self._size
        return take(self._source, np.arange(first, min(first + self._size, len(self._source))))


class _Shuffled:
    """Grain source whose item i is the whole batch i of an endless run of shuffled epochs."""

    def __init__(
        self, source: Any, size: int, seed: int, index: int, count: int, pair_noise: bool
    ) -> None:
        self._source, self._size, self._seed, self._pair = source, size, seed, pair_noise
        self._index, self._count, self._n = index, count, len(source)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, i: SupportsIndex) -> Examples:
        place = int(i) * self._size + np.arange(self._size)
        epoch, within = place // self._n, place % self._n
        rows = np.empty(self._size, np.int64)
        for e in np.unique(epoch):
            rows[epoch == e] = self._order(int(e))[within[epoch == e]]
        share = self._size // self._count
        batch = take(self._source, rows[self._index * share : (self._index + 1) * share])
        if not self._pair:
            return batch
        return {**batch, "z": paired_noise(batch["x"], (self._seed, int(i), self._index))}

    def _order(self, epoch: int) -> np.ndarray:
        # Read by several threads: the order is looked up once, and the dict is replaced whole.
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._n)
            kept = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders = {**kept, epoch: order}
        return order


class Batches:
    """An iterator over the batches of a Grain source, whose state is the number of the next batch.

    The state says nothing of the workers, so that their number may change between two runs.
    """

    def __init__(self, open_at: Callable[[int], Iterator[Any]]) -> None:
        self._open_at, self._next = open_at, 0
        self._running: Any = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Examples:
        if self._running is None:
            self._running = self._open_at(self._next)
        batch: Examples = next(self._running)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The state: {"next_index": number of the next batch}."""
        return {_NEXT: self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go on at the batch that a state names. Raises ValueError for another kind of state."""
        if not isinstance(state, Mapping) or _NEXT not in state:
            raise ValueError(f"state must be {{{_NEXT!r}: number}}, got {state!r:.80}")
        self.close()
        self._next = int(state[_NEXT])

    def close(self) -> None:
        """End the workers. Batches that are asked for afterwards start them again."""
        running, self._running = self._running, None
        if running is not None:
            running.close()


def _opener(source: Any, workers: int, processes: bool) -> Callable[[int], Iterator[Any]]:
    """start -> an iterator of Grain over the items of a source from that number on."""
    import grain

    def open_at(start: int) -> Iterator[Any]:
        items = grain.MapDataset.source(source)
        if not processes:
            options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 + 2 * workers)
            running = iter(items.to_iter_dataset(options))
            running.set_state({_NEXT: start})
            return cast(Iterator[Any], running)
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain 0.2.17 and 0.2.18 read a flag of absl's here
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        options = options, grain.MultiprocessingOptions(num_workers=workers)
        return iter(items[start:].to_iter_dataset(options[0]).mp_prefetch(options[1]))

    return open_at


def _threads(source: Any, workers: int | None) -> int:
    """The number of workers; by default one for data in memory, else as many as processors."""
    if workers is not None:
        check_count(workers=workers)
        return workers
    in_memory = isinstance(getattr(source, "x", None), np.ndarray)
    return 1 if in_memory else min(_MOST_THREADS, os.cpu_count() or 1)


def batches(
    source: Any,
    batch_size: int,
    *,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    processes: bool = False,
    pair_noise: bool = False,
) -> Batches:
    """Endless shuffled batches {"x": (b, *d), "y": (b,), ...} of a source, with exact state.

    Every epoch is a new permutation of all examples. No example is dropped: a batch may span two
    epochs. The whole batch is shuffled first and then divided into `process_count` equal shares, so
    the examples and their places in the batch depend neither on the number of hosts nor on that of
    the workers. `get_state()` and `set_state()` resume exactly.

    Batches are read ahead by `workers` of Grain: threads, which suffice where decoding releases
    Python's lock, as that of images does, or `processes`. The default is one thread for data in memory
    and one for each processor otherwise.

    With `pair_noise` a batch also has "z" (b, *d), its noise in the order of optimal transport
    (`score_jax.data.pairing`), which the training loss takes in place of noise of its own. Each host
    pairs its own share, so that the noise depends on their number, and is resumed exactly too.

    Raises ValueError unless 1 <= batch_size, divisible by process_count, seed >= 0, workers >= 1, and
    the source has an example.

    >>> batch = next(batches(load_digits(), 128, seed=0))
    """
    ok = batch_size >= 1 and batch_size % process_count == 0
    check("batch_size", batch_size, ok, f"at least 1 and divisible by {process_count} processes")
    check_count(0, seed=seed)
    check("source", len(source), len(source) > 0, "of at least one example")
    source = as_source(source)
    items = _Shuffled(source, batch_size, seed, process_index, process_count, pair_noise)
    return Batches(_opener(items, _threads(source, workers), processes))


def eval_batches(source: Any, batch_size: int, *, workers: int | None = None) -> Iterator[Examples]:
    """All examples in order, once; the last batch may be shorter. ValueError if batch_size < 1."""
    check_count(batch_size=batch_size)
    source = as_source(source)
    items = _Slices(source, batch_size)
    yield from _opener(items, _threads(source, workers), False)(0)
