"""Hosts that meet before JAX joins them, as threads: who is there, and what each is told otherwise."""

import socket
import threading
import time

import pytest

from score_jax import _hosts
from score_jax.checkpoints import CheckpointError, DamagedCheckpoint
from score_jax.training import HostsDiffer, LostHost, check_same, connect, hosts
from score_jax.training.joining import meet
from tests.training.test_hosts import free_port


def told(*places, seconds=0.6):
    """What each host (index, count) is told at one address: None, or the error."""
    address, found = f"127.0.0.1:{free_port()}", {}

    def host(number, index, count):
        time.sleep(0.05 * number)  # so that the order is known
        try:
            found[number] = meet(address, count, index, seconds)
        except (ValueError, OSError) as error:
            found[number] = error

    threads = [threading.Thread(target=host, args=(n, *p)) for n, p in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return [found[number] for number in range(len(places))]


def test_all_hosts_meet():
    assert told((2, 3), (0, 3), (1, 3), seconds=20) == [None, None, None]
    assert told((0, 1)) == [None]


@pytest.mark.parametrize(
    ("places", "kind", "text"),
    [
        ([(0, 2)], LostHost, "of 2 hosts, these have not joined in time .*: 1; start all hosts"),
        ([(0, 3), (2, 3)], LostHost, "of 3 hosts, these have not joined in time .*: 1; start all"),
        ([(1, 2)], LostHost, "the first host has not answered at 127.0.0.1"),
        ([(0, 3), (1, 3), (1, 3)], HostsDiffer, "two hosts were started with hosts.index 1"),
        ([(0, 2), (1, 4)], HostsDiffer, "host 1 was started with hosts.count 4, and the first with 2"),
    ],
    ids=["first_alone", "one_missing", "first_missing", "index_twice", "other_count"],
)  # fmt: skip
def test_hosts_that_do_not_fit_are_told_in_bounded_time(places, kind, text, monkeypatch):
    monkeypatch.setattr("score_jax.training.joining._ANSWER", 1.0)
    began = time.monotonic()
    for error in told(*places):
        assert type(error) is kind
        with pytest.raises(kind, match=text):
            raise error
    assert time.monotonic() - began < 10


def test_two_first_hosts_are_told_both(monkeypatch):
    """The second cannot listen at the port of the first; the first hears of it."""
    first, second = told((0, 2), (0, 2), seconds=5)
    assert isinstance(second, HostsDiffer) and "cannot listen at port" in str(second)
    assert isinstance(first, HostsDiffer) and "two hosts were started with" in str(first)


def test_addresses_that_cannot_be(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(HostsDiffer, match=r"'nowhere:9876' cannot be resolved: .*not known"):
        connect(coordinator="nowhere:9876", count=2, index=1)
    with pytest.raises(ValueError, match="coordinator must be 'host:port', got 'nowhere'"):
        connect(coordinator="nowhere", count=2, index=1)
    with pytest.raises(ValueError, match="join_seconds must be > 0"):
        connect(join_seconds=0)


def test_hosts_with_other_configs_are_named(monkeypatch):
    check_same({"optim.lr": 1e-4})
    first, other = {"optim.lr": 1e-4, "seed": 0}, {"optim.lr": 1e-3, "jax": "0.11"}
    monkeypatch.setattr(hosts, "values_of_all", lambda value: [value, value, other])
    with pytest.raises(HostsDiffer) as caught:
        check_same(first)
    assert str(caught.value) == (
        "the hosts of a run must be started alike: jax is '0.11' on host 2 and absent on the first; "
        "optim.lr is 0.001 on host 2 and 0.0001 on the first; seed is absent on host 2 and 0 on the "
        "first"
    )


def fails(error):
    def call():
        raise error

    return call


def test_an_error_of_one_host_is_that_of_all(monkeypatch):
    """As the second of two hosts: `told` is what both have sent."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.process_index", lambda: 1)
    sent = []

    def of_both(value):
        sent.append(value)
        return [other, value]

    monkeypatch.setattr(_hosts, "values_of_all", of_both)
    other = [None, "None", None]
    assert _hosts.agreed(lambda: 3) == 3 and sent == [[None, "None", None]]
    with pytest.raises(ValueError, match=r"^no data$"):
        _hosts.agreed(fails(ValueError("no data")))
    other = [2, "disk full", None]
    with pytest.raises(OSError, match=r"^host 0: disk full"):
        _hosts.agreed(lambda: 3)
    # The kind of an error is kept, and what is no damage to one host is none to any.
    kinds = (DamagedCheckpoint, CheckpointError, *_hosts.FAULTS)
    other = [0, "a bit", None]
    with pytest.raises(DamagedCheckpoint, match=r"^host 0: a bit"):
        _hosts.agreed(lambda: 3, faults=kinds)
    with pytest.raises(CheckpointError, match=r"^denied") as caught:
        _hosts.agreed(fails(CheckpointError("denied")), faults=kinds)
    assert not isinstance(caught.value, DamagedCheckpoint)
    with pytest.raises(DamagedCheckpoint, match=r"^host 0: a bit"):
        _hosts.agreed(fails(DamagedCheckpoint("here too")), faults=kinds)
    assert sent[-1] == [0, "here too", None]
    other = [None, "None", {"plan": 1}]
    assert _hosts.agreed(lambda: 1 / 0, only_first=True) == {"plan": 1}
