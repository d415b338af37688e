"""Errors that compiled programs raise, by the names of this library."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax

# The last line of what a check inside a program raises, wherever the runtime has put it.
_CHECK = re.compile(r"EquinoxRuntimeError: ([^\n]+)")


class SolverError(ArithmeticError):
    """An adaptive solver did not reach the end: by its tolerance, or a score that is not finite."""


class _Quiet(logging.Filter):
    """Leaves out JAX's own report of an error that is raised besides."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "pure_callback failed" not in record.getMessage()


@contextmanager
def named_failures() -> Iterator[None]:
    """Raise what a check inside a compiled program says as a SolverError of one line.

    >>> with named_failures():
    ...     out = np.asarray(program(x))  # SolverError: probability_flow: max_steps=4096 reached ...
    """
    quiet, log = _Quiet(), logging.getLogger("jax._src.callback")
    log.addFilter(quiet)
    try:
        yield
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        found = _CHECK.search(str(error))
        if found is None:
            raise
        raise SolverError(found[1]) from None
    finally:
        log.removeFilter(quiet)
