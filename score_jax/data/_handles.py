"""Files that stay open and blocks that were read of them, both of one process; optional packages."""

import importlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

BUDGET = 512 * 2**20  # bytes of blocks that are kept
_log = logging.getLogger(__name__)


def needed(module: str) -> Any:
    """An optional package; ValueError naming the extra to install where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ValueError(
            f"{package} is needed for this format: pip install 'score_jax[data]'"
        ) from None


def warn_of_slow_reading(where: str, blocks: str, size: int, count: int) -> None:
    """Log that blocks read at random do not fit into a cache."""
    if count > 1 and size > BUDGET:
        _log.warning(
            "%s: reading it at random is slow, because its %d %s of %d MB are read whole and %d MB of "
            "them are kept; write_records (the command prepare) makes a copy that is fast",
            where, count, blocks, size // 10**6, BUDGET // 10**6,
        )  # fmt: skip


@dataclass(eq=False)
class Handle:
    """An opened file: opened when it is first used, again in each process, and not pickled.

    `lock` is for readers that one thread at a time may use.
    """

    open: Callable[[], Any]
    lock: Any = field(default_factory=threading.RLock, init=False)
    _opened: tuple[int, Any] | None = field(default=None, init=False)

    def get(self) -> Any:
        """The opened file."""
        with self.lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self.open())
            return self._opened[1]

    def __reduce__(self) -> Any:
        return Handle, (self.open,)


@dataclass(eq=False)
class Cache:
    """The blocks (row groups, chunks) that were read last, of `budget` bytes together or one block."""

    budget: int = BUDGET
    lock: Any = field(default_factory=threading.RLock, init=False)
    _blocks: "OrderedDict[Hashable, tuple[Any, int]]" = field(
        default_factory=OrderedDict, init=False
    )
    _bytes: int = field(default=0, init=False)

    def get(self, key: Hashable, read: Callable[[], tuple[Any, int]]) -> Any:
        """The block of a key; where it is not kept, `read` gives it and its number of bytes."""
        with self.lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key][0]
            block, size = read()
            self._blocks[key] = (block, size)
            self._bytes += size
            while self._bytes > self.budget and len(self._blocks) > 1:
                _, (_, gone) = self._blocks.popitem(last=False)
                self._bytes -= gone
            return block

    def __reduce__(self) -> Any:
        return Cache, (self.budget,)
