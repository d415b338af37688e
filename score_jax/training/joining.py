"""Joining the hosts of a run: who is there is found out before JAX waits, in bounded time.

JAX ends a process with the stack of its C++ code if hosts are missing or have one index. The hosts
therefore meet before, at the address of the first host: each sends its index and the number of hosts,
and the first answers all of them alike. JAX's own service takes over the address after that.
"""

import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax

from score_jax._check import check
from score_jax.training.hosts import STALLED, HostsDiffer, LostHost, leave_at_once

# Platforms on which a cached program may communicate in another order than one just compiled, so that
# hosts exchange wrong numbers or hang (XLA's CPU programs with gloo, jaxlib 0.10.2).
_CACHE_LESS = frozenset({"cpu"})
_ANSWER = 5.0  # seconds in which a host that is connected has to send its line
_AGAIN = 0.2  # seconds between two attempts to reach the first host


def connect(
    *,
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    local_devices: int | None = None,
    heartbeat_seconds: int = 100,
    join_seconds: float = 300,
) -> None:
    """Join the hosts of a run, before JAX computes anything.

    Without address, count and index, JAX asks the scheduler (SLURM, Open MPI, Cloud TPU, Kubernetes).
    Otherwise `coordinator` is the "host:port" of the first host, `count` the number of processes and
    `index` the place of this one. A process that sends no heartbeat for `heartbeat_seconds` counts as
    dead.

    Raises ValueError if only some of the three are given, HostsDiffer for an address that does not
    resolve, a port that is in use, two hosts with one index or with different counts, and LostHost if
    a host is missing after `join_seconds`. Where a scheduler gives the address, the process ends with
    exit code 76 in that case.

    >>> connect(coordinator="10.0.0.1:9876", count=2, index=0)
    """
    given = [coordinator is not None, count is not None, index is not None]
    if any(given) and not all(given):
        raise ValueError(
            "coordinator, count and index go together, got "
            f"{coordinator=}, {count=}, {index=}; give none of them where a scheduler is known to JAX"
        )
    check("join_seconds", join_seconds, join_seconds > 0, "> 0")
    if coordinator is not None and count is not None and index is not None:
        check("index", index, 0 <= index < count, f"in [0, {count=})")
        meet(coordinator, count, index, join_seconds)
    options: dict[str, Any] = {"heartbeat_timeout_seconds": heartbeat_seconds}
    if local_devices is not None:
        options["local_device_ids"] = list(range(local_devices))
    with suppress(AttributeError):
        # That service would catch SIGTERM and ignore it; `fit` has its own handler.
        jax.config.update("jax_enable_preemption_service", False)
    # JAX itself would end the process by an abort, after twice its own time.
    options["initialization_timeout"] = int(join_seconds) + 60
    with _ended_after(join_seconds + 30):
        jax.distributed.initialize(coordinator, count, index, **options)
        devices = jax.devices()
    if devices[0].platform in _CACHE_LESS:
        jax.config.update("jax_enable_compilation_cache", False)
    own = [sum(d.process_index == i for d in devices) for i in range(jax.process_count())]
    if len(set(own)) > 1:
        raise HostsDiffer(f"all hosts must have as many devices, but they have {own}")


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the process with a message and exit code 76 unless the body is done in time."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(seconds):
            leave_at_once(
                STALLED,
                f"error: JAX has not joined all hosts within {seconds:g} s (hosts.join-seconds): one of "
                "them is missing or cannot be reached. Start all hosts again.",
            )

    threading.Thread(target=watch, daemon=True, name="joining").start()
    try:
        yield
    finally:
        done.set()


def meet(coordinator: str, count: int, index: int, seconds: float) -> None:
    """Wait until all hosts have met at the address; raises as `connect`, on all hosts that are there."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"coordinator must be 'host:port', got {coordinator!r}")
    host = host.removeprefix("[").removesuffix("]")
    try:
        socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostsDiffer(f"the coordinator {coordinator!r} cannot be resolved: {error}") from None
    until = time.monotonic() + seconds
    if count > 1:
        hello = {"index": index, "count": count, "token": secrets.token_hex(8)}
        (_receive if index == 0 else _ask)((host, int(port)), hello, until)


def _ask(address: tuple[str, int], hello: dict[str, Any], until: float) -> None:
    """Tell the first host that this one is there, and wait for its answer."""
    answer = None
    while answer is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection(address, _ANSWER) as line:
            _send(line, hello)
            # A little longer than the first host waits, which then names who is missing.
            line.settimeout(max(until - time.monotonic(), 0) + _ANSWER)
            answer = _line(line)
        if answer is None:
            time.sleep(_AGAIN)
    if answer is None:
        raise LostHost(
            f"host {hello['index']} of {hello['count']}: the first host has not answered at "
            f"{address[0]}:{address[1]} in time (hosts.join-seconds): start all hosts again"
        )
    if answer.get("missing"):
        raise LostHost(answer["missing"])
    if answer.get("differ"):
        raise HostsDiffer(answer["differ"])


def _receive(address: tuple[str, int], hello: dict[str, Any], until: float) -> None:
    """Collect the other hosts on the first one, and give all of them one answer."""
    try:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        server = socket.create_server(("", address[1]), family=family, dualstack_ipv6=dual)
    except OSError as error:
        _greet(address, hello)  # who listens there hears of the second host with its index
        raise HostsDiffer(
            f"the first host cannot listen at port {address[1]}: {error}; another run, or another host "
            "with index 0, may be using it"
        ) from None
    # Whoever answers at the address is the first host: another process with index 0 hears of it.
    threading.Thread(target=_heed, args=(address, hello), daemon=True).start()
    lines: dict[int, socket.socket] = {}
    differ = None
    with server:
        while differ is None and len(lines) < hello["count"] - 1 and time.monotonic() < until:
            server.settimeout(min(1.0, max(until - time.monotonic(), 0.01)))
            with suppress(TimeoutError):
                line, _ = server.accept()
                line.settimeout(_ANSWER)
                differ = _seated(lines, line, hello)
    missing = [i for i in range(1, hello["count"]) if i not in lines]
    text = (
        f"of {hello['count']} hosts, these have not joined in time (hosts.join-seconds): "
        f"{', '.join(map(str, missing))}; start all hosts again"
    )
    answer = {"differ": differ, "missing": text if missing and differ is None else None}
    for line in lines.values():
        with suppress(OSError), line:
            _send(line, answer)
    if differ is not None:
        raise HostsDiffer(differ)
    if missing:
        raise LostHost(text)


def _seated(
    lines: dict[int, socket.socket], line: socket.socket, own: dict[str, Any]
) -> str | None:
    """Add a host that has connected to those that are there; why it does not fit, or None."""
    said = _line(line)
    if (
        said is None
        or not {"index", "count", "token"} <= set(said)
        or said["token"] == own["token"]
    ):
        line.close()
        return None
    index, count = said["index"], said["count"]
    twice = index == 0 or index in lines
    lines[-1 if twice else index] = line
    if count != own["count"]:
        return (
            f"host {index} was started with hosts.count {count}, and the first with {own['count']}"
        )
    return f"two hosts were started with hosts.index {index}" if twice else None


def _greet(address: tuple[str, int], hello: dict[str, Any]) -> dict[str, Any] | None:
    """What a host with index 0 is answered at the address of the first host, which may be itself."""
    with suppress(OSError), socket.create_connection(address, _ANSWER) as line:
        _send(line, hello)
        return _line(line)
    return None


def _heed(address: tuple[str, int], hello: dict[str, Any]) -> None:
    """End the process if another host answers at the address of the first one."""
    answer = _greet(address, hello)
    if answer is not None and answer.get("differ"):
        leave_at_once(HostsDiffer.CODE, f"error: {answer['differ']}")


def _send(line: socket.socket, value: dict[str, Any]) -> None:
    """Send a JSON object on one line, as `_line` reads it."""
    line.sendall(json.dumps(value).encode() + b"\n")


def _line(line: socket.socket) -> dict[str, Any] | None:
    """The JSON object that the other side sends on one line, or None."""
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < 4096:
            part = line.recv(4096)
            if not part:
                return None
            data += part
        found = json.loads(data)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
