"""One kind of error with a one-line message for the many that Orbax raises and logs."""

import gc
import inspect
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class CheckpointError(OSError):
    """A checkpoint could not be written or read; earlier checkpoints are untouched."""


class Quiet(logging.Filter):
    """Drops the log records of Orbax: each of its failures is raised, as one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep the record."""
        return "orbax" not in record.pathname


def _one_line(error: BaseException) -> str:
    """The kind and the text of an error on one line; of a long text the beginning and the end."""
    text = " ".join(str(error).split())
    if len(text) > 240:
        # The reason that the system gives ("No space left on device") comes last.
        text = f"{text[:100]} ... {text[-130:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def guard(what: str, call: Callable[[], _T]) -> _T:
    """Run `call`; whatever Orbax raises (its types vary) becomes a CheckpointError of one line."""
    try:
        return call()
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {_one_line(error)}") from error


def guard_read(what: str, call: Callable[[], _T]) -> _T:
    """As `guard`, for a restore of many leaves.

    When one of them fails, Orbax abandons the reads of the others, and Python would print a page for
    each as it is collected. They are collected here, silently, and the cause is not chained.
    """
    old_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        abandoned = inspect.iscoroutine(unraisable.object)
        if not abandoned and "Event loop is closed" not in str(unraisable.exc_value):
            old_hook(unraisable)

    sys.unraisablehook = hook
    try:
        try:
            return call()
        except Exception as error:
            message = f"{what}: {_one_line(error)}"
            _log.debug("%s", what, exc_info=True)
        gc.collect()
        time.sleep(0.1)
    finally:
        sys.unraisablehook = old_hook
    raise CheckpointError(message)
