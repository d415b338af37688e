"""Several hosts: joining them, saving on one for all, and noticing that one is lost.

Every host runs the same program; `connect` makes their devices one list, `jax.devices()`. The first
host writes everything (checkpoints, metrics, pictures). When a host dies, the others are left inside
a computation that waits for it. Where the transport notices, the wait ends with `LostHost`; where it
does not, the `Watchdog` ends the process.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax._check import check
from score_jax.types import CheckpointStore, Restored

# Platforms on which a cached program may communicate in another order than one just compiled, so that
# hosts exchange wrong numbers or hang (XLA's CPU programs with gloo, jaxlib 0.10.2).
_CACHE_LESS = frozenset({"cpu"})
STALLED = 76  # exit code: no progress, most often because another host is gone; start again


class LostHost(ConnectionError):
    """Another host cannot be reached. Start all hosts again: they resume from the newest checkpoint."""


def connect(
    *,
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    local_devices: int | None = None,
    heartbeat_seconds: int = 100,
) -> None:
    """Join the hosts of a run, before JAX computes anything.

    Without address, count and index, JAX asks the scheduler (SLURM, Open MPI, Cloud TPU, Kubernetes).
    Otherwise `coordinator` is the "host:port" of the first host, `count` the number of processes and
    `index` the place of this one. A process that sends no heartbeat for `heartbeat_seconds` counts as
    dead.

    Raises ValueError if only some of the three are given.

    >>> connect(coordinator="10.0.0.1:9876", count=2, index=0)
    """
    given = [coordinator is not None, count is not None, index is not None]
    if any(given) and not all(given):
        raise ValueError(
            "coordinator, count and index go together, got "
            f"{coordinator=}, {count=}, {index=}; give none of them where a scheduler is known to JAX"
        )
    if count is not None and index is not None:
        check("index", index, 0 <= index < count, f"in [0, {count=})")
    options: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat_seconds}
    if local_devices is not None:
        options["local_device_ids"] = list(range(local_devices))
    with suppress(AttributeError):
        # That service would catch SIGTERM and ignore it; `fit` has its own handler.
        jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(coordinator, count, index, **options)
    if jax.devices()[0].platform in _CACHE_LESS:
        jax.config.update("jax_enable_compilation_cache", False)


def several_hosts() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the first host, which writes and reports."""
    return jax.process_index() == 0


@contextmanager
def when_a_host_is_lost() -> Iterator[None]:
    """Turn the error that JAX raises when another host does not answer into `LostHost`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not several_hosts():
            raise
        reason = " ".join(str(error).split())[:300]
        raise LostHost(
            f"lost contact with another host ({reason}): start all hosts again, and they go on from "
            "the newest checkpoint"
        ) from error


def leave_at_once(code: int, message: str) -> None:
    """Print the reason and end the process now, because an orderly exit would wait for the lost hosts."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


class Watchdog:
    """Ends the process with a message and exit code 76 if `beat` is not called in time (None: never).

    The first beat may take ten times as long, because of compilation. This is a thread, because
    nothing interrupts a call that waits for a lost host, not even SIGTERM.
    """

    def __init__(self, seconds: float | None) -> None:
        check("stall_seconds", seconds, seconds is None or seconds > 0, "> 0 or None")
        self._seconds = seconds
        self._until = np.inf
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._until = time.monotonic() + 10 * self._seconds
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()

    def beat(self) -> None:
        """Report progress."""
        if self._seconds is not None:
            self._until = time.monotonic() + self._seconds

    def _watch(self) -> None:
        assert self._seconds is not None
        while not self._done.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() > self._until:
                faulthandler.dump_traceback()
                leave_at_once(
                    STALLED,
                    f"host {jax.process_index()} of {jax.process_count()}: no step was finished for "
                    f"{self._seconds:g} s: another host is gone or hangs, or a step takes longer "
                    "than that (hosts.stall-seconds). Start all hosts again, and they go on from the "
                    "newest checkpoint.",
                )


def _broadcast(tree: Any) -> Any:
    """The first host's numpy arrays, on every host. All hosts pass the same shapes."""
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def share(value: Any) -> Any:
    """The first host's JSON value, on every host.

    >>> plan = share({"step": 100} if is_first() else None)
    """
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(_broadcast(np.asarray(len(text), np.int32)))
    padded = text if is_first() else np.zeros(size, np.uint8)
    return json.loads(bytes(_broadcast(padded)).decode())


class SharedCheckpoints:
    """The `CheckpointStore` of several hosts: the first writes, reads and sends the state to the others.

    store: the first host's checkpoints, None on the others, which need no folder.
    """

    def __init__(self, store: CheckpointStore | None) -> None:
        if is_first() != (store is not None):
            raise ValueError("store must be given on the first host, and only there")
        self._store = store

    @property
    def folder(self) -> Any:
        """The folder of the first host."""
        return self._store.folder if self._store is not None else "the first host's folder"

    def latest_step(self) -> int | None:
        """The newest step, on the first host; None on the others."""
        return self._store.latest_step() if self._store is not None else None

    def save(self, step: int, state: Any, **kwargs: Any) -> bool:
        """Save on the first host, from host memory, so that no other process takes part."""
        if self._store is None:
            return False
        return bool(self._store.save(step, jax.tree.map(_to_host, state), **kwargs))

    def restore_latest(self, template: Any, *, data_iterator: Any = None) -> Restored | None:
        """As `Checkpoints.restore_latest`, with the same answer, or error, on all hosts."""
        found, error = None, None
        if self._store is not None:
            try:
                found = self._store.restore_latest(template, data_iterator=data_iterator)
            except (OSError, ValueError) as raised:
                error = raised
        note = share(
            {
                "error": None if error is None else str(error),
                "found": None if found is None else {**found._asdict(), "state": None},
            }
        )
        if note["error"] is not None:
            raise error or OSError(f"the first host cannot restore: {note['error']}")
        if note["found"] is None:
            return None
        shared = Restored(**note["found"])
        if self._store is None and shared.data is not None:
            data_iterator.set_state(shared.data)
        return shared._replace(state=_send(None if found is None else found.state, template))

    def wait(self) -> None:
        """Wait for the save in the background, on the first host."""
        if self._store is not None:
            self._store.wait()


def _to_host(leaf: Any) -> Any:
    """An array of this host as numpy, a key as it is."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.asarray(leaf)


def _send(state: Any, template: Any) -> Any:
    """The first host's state, on every host's first device."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    raw = lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    sent = _broadcast(jax.tree.map(raw, template if state is None else state))
    device = jax.local_devices()[0]

    def back(like: Any, words: Any) -> Any:
        if is_key(like):
            return jax.random.wrap_key_data(jnp.asarray(words), impl=jax.random.key_impl(like))
        return jax.device_put(words, device)

    return jax.tree.map(back, template, sent)
