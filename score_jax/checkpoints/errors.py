"""One kind of error with a one-line message for the many that Orbax raises and logs."""

import errno
import gc
import inspect
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class CheckpointError(OSError):
    """A checkpoint could not be written or read; earlier checkpoints are untouched."""


class DamagedCheckpoint(CheckpointError):
    """What a checkpoint holds is not what was saved as this step; another step may be intact."""


# Numbers of errors that say what is on the disk, and not that it cannot be reached.
_OF_CONTENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL})


class Quiet(logging.Filter):
    """Drops the log records of Orbax: each of its failures is raised, as one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep the record."""
        return "orbax" not in record.pathname


def _one_line(error: BaseException) -> str:
    """The kind and the text of an error on one line; of a long text the beginning and the end."""
    text = " ".join(str(error).split())
    number = _inner_number(error)
    if len(text) > 240 and number is not None:
        text = f"{text[:180]} ...: {os.strerror(number)}"
    elif len(text) > 240:
        text = f"{text[:100]} ... {text[-130:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _inner_number(error: BaseException) -> int | None:
    """The number of the system's error inside the text of one of TensorStore's, such as 28: disk full."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


def _is_damage(error: BaseException | None) -> bool:
    """Whether an error of a read comes from what is on the disk, and not from system or devices."""
    while error is not None:
        if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
            return False
        number = error.errno if isinstance(error, OSError) else None
        number = number if _inner_number(error) is None else _inner_number(error)
        if number is not None and number not in _OF_CONTENT:
            return False
        error = error.__cause__ or error.__context__
    return True


class _Abandoned(logging.Filter):
    """The one filter of what Orbax abandons, in place from its first user to its last."""

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._users = threading.Lock(), 0
        self._hook = self._old_hook = sys.unraisablehook

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep a record of asyncio."""
        return "never retrieved" not in record.getMessage()

    def begin(self) -> None:
        """Count one user more."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._old_hook = sys.unraisablehook
                self._hook = sys.unraisablehook = self._made(self._old_hook)
                logging.getLogger("asyncio").addFilter(self)

    def end(self) -> None:
        """Count one user less."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                logging.getLogger("asyncio").removeFilter(self)
                # One that was set later passes on to ours, which then leaves nothing out.
                if sys.unraisablehook is self._hook:
                    sys.unraisablehook = self._old_hook

    def _made(self, old_hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def hook(unraisable: Any) -> None:
            abandoned = inspect.iscoroutine(unraisable.object)
            closed = "Event loop is closed" in str(unraisable.exc_value)
            if not self._users or not (abandoned or closed):
                old_hook(unraisable)

        return hook


_abandoned = _Abandoned()


@contextmanager
def without_abandoned() -> Iterator[None]:
    """Leave out what Orbax abandons when one of many reads or writes fails: a page for each.

    A save in the background abandons it at any time, so that a store does this as long as it is open.
    """
    _abandoned.begin()
    try:
        yield
    finally:
        _abandoned.end()


def collect_abandoned() -> None:
    """Collect it now, under `without_abandoned`, with what its threads finish meanwhile."""
    gc.collect()
    time.sleep(0.1)
    gc.collect()


def _outcome(what: str, call: Callable[[], _T]) -> tuple[_T | None, str | None, bool]:
    """(value, None, False) of the call, or (None, one line, whether the error is damage)."""
    try:
        return call(), None, False
    except CheckpointError:
        raise
    except Exception as error:
        _log.debug("%s", what, exc_info=True)
        return None, f"{what}: {_one_line(error)}", _is_damage(error)


def guard(what: str, call: Callable[[], _T], *, reads: bool = False) -> _T:
    """Run `call`; whatever Orbax raises (its types vary) becomes a CheckpointError of one line.

    reads: an error that comes from what is on the disk is a DamagedCheckpoint. The cause is not
    chained, because its frames would keep what Orbax has abandoned.
    """
    with without_abandoned():
        value, message, damage = _outcome(what, call)
        if message is None:
            return value  # type: ignore[return-value]
        collect_abandoned()
        raise (DamagedCheckpoint if reads and damage else CheckpointError)(message)
