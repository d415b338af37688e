"""Which derivative rule convolutions use on a CPU."""

# shim: remove at the end (the convolution's switch leaves with the networks)

import contextlib
import contextvars
from collections.abc import Iterator

import jax

from score_jax.runtime import cache_folder as cache_folder
from score_jax.runtime import enable_compilation_cache as enable_compilation_cache
from score_jax.runtime import tune_cpu as tune_cpu

_FORWARD = contextvars.ContextVar("_FORWARD", default=False)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Mark what is traced inside as differentiated in forward mode only."""
    token = _FORWARD.set(True)
    try:
        yield
    finally:
        _FORWARD.reset(token)


def wants_own_derivatives() -> bool:
    """Whether convolutions bring their own derivatives: on a CPU, except in forward mode."""
    return jax.default_backend() == "cpu" and not _FORWARD.get()
