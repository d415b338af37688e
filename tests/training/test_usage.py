"""What a run logs of its machine, and the trace of some steps."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax.training import (
    MetricsFile,
    Progress,
    Trace,
    Usage,
    fit,
    init_state,
    jit_step,
    make_train_step,
    scan_steps,
    usage,
)


def train(steps, hooks):
    def loss(params, key, batch):
        return jnp.sum(params["w"] * batch["x"]), {}

    optimizer = optax.sgd(0.1)
    state = init_state(jax.random.key(0), {"w": jnp.ones(3)}, optimizer)
    step = jit_step(scan_steps(make_train_step(loss, optimizer), 2))
    batches = iter([{"x": np.ones(3, np.float32)}] * 20)
    return fit(state, step, batches, steps=steps, hooks=hooks)


def test_memory_waiting_and_utilisation_are_logged_and_steps_traced(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(usage, "peak_flops", lambda device: 1e6)
    monkeypatch.setattr("score_jax.training.hooks._PLAIN_SECONDS", 0.0)
    started, stopped = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: started.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: stopped.append(len(calls)))

    def flops():
        calls.append(1)
        return 600.0

    class Steps(Usage):
        def before(self, run):
            seen.append((run.step, len(started), len(stopped)))

    seen = []
    path = tmp_path / "m.jsonl"
    trace = Trace(tmp_path / "profile", 4, 7)
    train(12, [MetricsFile(path), trace, Steps(4, flops), Progress()])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if "data_wait" in row]
    assert [row["step"] for row in rows] == [4, 8, 12] and len(calls) == 1
    assert all(0 <= row["data_wait"] <= 1 and row["mfu"] > 0 for row in rows)
    assert all(0.05 < row["memory_peak_gb"] < 100 for row in rows)
    assert "memory_peak_gb" in capsys.readouterr().err
    # Calls of two steps: those with the steps 4 to 7 begin at the steps 2, 4 and 6.
    assert seen == [(0, 0, 0), (2, 1, 0), (4, 1, 0), (6, 1, 0), (8, 1, 1), (10, 1, 1)]
    assert started == [str(tmp_path / "profile")] and len(stopped) == 1


def test_without_a_known_peak_there_is_no_utilisation(tmp_path):
    path = tmp_path / "m.jsonl"
    train(4, [MetricsFile(path), Usage(2, lambda: pytest.fail("counted"))])
    assert usage.peak_flops(jax.devices()[0]) is None
    assert all("mfu" not in json.loads(line) for line in path.read_text().splitlines())


def test_traces_that_cannot_be():
    for first, last in ((0, 3), (5, 4)):
        with pytest.raises(ValueError, match="first must be in"):
            Trace("profile", first, last)


@pytest.mark.slow
def test_a_trace_is_written(tmp_path, caplog):
    with caplog.at_level(logging.ERROR):
        train(4, [Trace(tmp_path, 4, 100)])  # longer than the run
    assert list(tmp_path.rglob("*.xplane.pb"))
