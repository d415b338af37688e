"""Several processes on loopback: equal to one, stopped together, and never left hanging."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.training import SharedCheckpoints, Watchdog, connect, share
from tests.helpers import ROOT

SCRIPT = ROOT / "tests" / "helpers" / "hosts_script.py"
PATIENCE = 240  # seconds: any wait beyond it is a hang


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(folder, mapping, devices, count, *, steps=12, sleep=0.0):
    """The processes of one run, their output in FOLDER/log.N."""
    folder.mkdir(exist_ok=True)
    port, hosts = free_port(), []
    for index in range(count):
        place = [port, count, index] if count > 1 else []
        with (folder / f"log.{index}").open("w") as log:
            args = [folder, mapping, steps, sleep, devices, *place]
            command = [sys.executable, SCRIPT, *map(str, args)]
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            hosts.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
    return hosts


def codes(hosts, patience=PATIENCE):
    """Exit codes, in bounded time: what hangs is killed, and the test fails."""
    try:
        return [host.wait(patience) for host in hosts]
    finally:
        for host in hosts:
            if host.poll() is None:
                host.kill()
                host.wait()


def logs(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("log.*")))


def finals(folder):
    with np.load(folder / "final.npz") as file:
        return [file[name] for name in file.files]


def run(folder, *args, **kwargs):
    found = codes(start(folder, *args, **kwargs))
    assert found == [0] * len(found), logs(folder)
    return finals(folder)


def assert_close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with four devices."""
    return run(tmp_path_factory.mktemp("alone") / "run", "pmap", 4, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("mapping", "devices", "count"), [("jit", 2, 2), ("pmap", 2, 3)])
def test_hosts_are_equal_to_one_process(alone, tmp_path, mapping, devices, count):
    """jit with the state divided over both hosts; pmap over one device of each of three: metrics and
    checkpoints once."""
    assert_close(run(tmp_path / "run", mapping, devices, count), alone)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 12


def wait_for(folder, text, hosts):
    until = time.monotonic() + PATIENCE
    while text not in (folder / "log.0").read_text():
        assert time.monotonic() < until and all(h.poll() is None for h in hosts), logs(folder)
        time.sleep(0.05)


@pytest.mark.slow
def test_one_killed_host_stops_the_other_and_the_pair_resumes(tmp_path):
    """SIGTERM to the second stops both at one step; then SIGKILL; then one process ends the run."""
    folder = tmp_path / "run"
    hosts = start(folder, "shard_map", 1, 2, steps=400, sleep=0.1)
    wait_for(folder, "\n8\n", hosts)
    hosts[1].send_signal(signal.SIGTERM)
    assert codes(hosts) == [75, 75], logs(folder)
    steps = [int(path.name[5:]) for path in (folder / "c").glob("step_*")]
    resumed = max(steps) // 4 * 4 + 4
    hosts = start(folder, "shard_map", 1, 2, steps=400, sleep=0.1)
    wait_for(folder, f"{resumed}\n", hosts)
    assert "\n4\n" not in "\n" + (folder / "log.0").read_text()  # it went on, not from the start
    hosts[1].kill()
    began = time.monotonic()
    assert codes(hosts, 60) == [76, -9], logs(folder)
    assert time.monotonic() - began < 60
    assert "start all hosts again" in logs(folder).lower()
    # Another number of hosts and of devices, and another mapping, from the same folder.
    last = resumed + 40
    ended = run(folder, "pmap", 2, 1, steps=last)
    assert_close(ended, run(tmp_path / "whole", "pmap", 1, 1, steps=last))


def test_addresses_are_checked():
    with pytest.raises(ValueError, match="go together"):
        connect(coordinator="127.0.0.1:1")
    with pytest.raises(ValueError, match=r"index must be in \[0, count=2\)"):
        connect(coordinator="127.0.0.1:1", count=2, index=2)
    with pytest.raises(ValueError, match="stall_seconds"):
        Watchdog(0.0)


@pytest.mark.slow
def test_a_stalled_process_ends_with_a_message():
    code = (
        "import time; from score_jax.training import Watchdog\n"
        "with Watchdog(0.3) as dog:\n dog.beat(); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert out.returncode == 76
    assert "no step was finished for 0.3 s" in out.stderr


def test_one_process_shares_with_itself(tmp_path):
    assert share({"a": [1, 2.5, None, "ö"]}) == {"a": [1, 2.5, None, "ö"]}
    with pytest.raises(ValueError, match="store must be given on the first host"):
        SharedCheckpoints(None)
    state = {"x": jnp.arange(3.0), "key": jax.random.key(3)}

    class Store:
        folder = tmp_path
        latest_step = save = wait = print

        def restore_latest(self, template, *, data_iterator):
            raise OSError("none of the 2 checkpoints is intact")

    with pytest.raises(OSError, match="none of the 2"):
        SharedCheckpoints(Store()).restore_latest(state)
