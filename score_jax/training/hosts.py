"""Several hosts: whether they are alike, saving on one for all, and noticing that one is lost.

Every host runs the same program; `connect` makes their devices one list, `jax.devices()`. The first
host writes everything (checkpoints, metrics, pictures). When a host dies, the others are left inside
a computation that waits for it. Where the transport notices, the wait ends with `LostHost`; where it
does not, the `Watchdog` ends the process.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax._check import check
from score_jax._hosts import first_rows, is_first, several_hosts, share, values_of_all
from score_jax.types import CheckpointStore, Restored

STALLED = 76  # exit code: no progress, most often because another host is gone; start again


class LostHost(ConnectionError):
    """Another host cannot be reached. Start all hosts again: they resume from the newest checkpoint."""


class HostsDiffer(ValueError):
    """The hosts of a run were not started alike: no host can go on, and no restart mends it."""

    CODE = 78  # exit code of the commands


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


def leave_soon(code: int, seconds: float = 10.0) -> None:
    """End the process after these seconds if it is still there.

    An orderly exit waits for all hosts, and those that go on wait for this one.
    """
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()


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


def check_same(facts: Mapping[str, Any], most: int = 8) -> None:
    """Raise HostsDiffer, on all hosts, unless they have the same JSON values under all names.

    >>> check_same({"version": score_jax.__version__, "optim.lr": 1e-4})
    """
    first, *others = values_of_all(dict(facts))
    lines = [
        f"{name} is {_shown(host, name)} on host {i} and {_shown(first, name)} on the first"
        for i, host in enumerate(others, start=1)
        for name in sorted({**first, **host})
        if first.get(name) != host.get(name)
    ]
    if lines:
        more = f"; and {len(lines) - most} more" if len(lines) > most else ""
        raise HostsDiffer(
            f"the hosts of a run must be started alike: {'; '.join(lines[:most])}{more}"
        )


def _shown(facts: Mapping[str, Any], name: str) -> str:
    return f"{facts[name]!r:.120}" if name in facts else "absent"


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
        _check_local(state)
        if self._store is None:
            return False
        return bool(self._store.save(step, jax.tree.map(_to_host, state), **kwargs))

    def restore_latest(self, template: Any, *, data_iterator: Any = None) -> Restored | None:
        """As `Checkpoints.restore_latest`, with the same answer, or error, on all hosts."""
        _check_local(template)
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


def divided_over_hosts(tree: Any) -> bool:
    """Whether there is an array, or its shape with a sharding, of which no host has all."""
    lies = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree)]
    return any(sharding is not None and not sharding.is_fully_addressable for sharding in lies)


def _check_local(tree: Any) -> None:
    """Raise ValueError for a state that is divided over hosts."""
    if divided_over_hosts(tree):
        raise ValueError(
            "a state divided over hosts is saved and read by all of them: give fit a store of "
            "open_checkpoints(folder, together=True) on every host, without SharedCheckpoints"
        )


def _to_host(leaf: Any) -> Any:
    """An array of this host as numpy, a key as it is."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.asarray(leaf)


def _send(state: Any, template: Any) -> Any:
    """The first host's state, on every host's first device."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    raw = lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    sent = first_rows(jax.tree.map(raw, template if state is None else state))
    device = jax.local_devices()[0]

    def back(like: Any, words: Any) -> Any:
        if is_key(like):
            return jax.random.wrap_key_data(jnp.asarray(words), impl=jax.random.key_impl(like))
        return jax.device_put(words, device)

    return jax.tree.map(back, template, sent)
