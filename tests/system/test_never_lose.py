"""Bad steps, full disks, two runs in one folder, the best checkpoint, other optimisers and parts."""

import json
import logging
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import cli, presets, runs
from score_jax import losses
from score_jax.checkpoints import CheckpointError, open_checkpoints
from score_jax.training import (
    FolderLocked,
    MetricsFile,
    NonFiniteLoss,
    Saving,
    fit,
    init_state,
    jit_step,
    locked,
    make_optimizer,
    make_train_step,
    scan_steps,
)
from tests.helpers import ROOT


class Batches:
    """Batches whose values are functions of their index; those at `bad` hold a NaN."""

    def __init__(self, bad=()):
        self.index, self.bad = 0, set(bad)

    def __iter__(self):
        return self

    def __next__(self):
        x = np.random.default_rng(self.index).normal(size=(4, 2)).astype(np.float32)
        if self.index in self.bad:
            x[1, 0] = np.nan
        self.index += 1
        return {"x": x}

    def get_state(self):
        return {"next": self.index}

    def set_state(self, state):
        self.index = state["next"]


def loss(params, key, batch):
    return jnp.mean(jnp.square(batch["x"] @ params["w"] - 1)), {}


@pytest.fixture(scope="module")
def mapped():
    optimizer = make_optimizer(learning_rate=0.05)
    return optimizer, jit_step(scan_steps(make_train_step(loss, optimizer), 2))


def start(optimizer):
    return init_state(jax.random.key(0), {"w": jnp.full((2,), 0.1)}, optimizer)


def run(mapped, folder, *, steps, bad=(), metric=None, stop_on_error=True, **kwargs):
    optimizer, step = mapped
    with open_checkpoints(folder / "c") as checkpoints:
        saving = Saving(2, metric=metric, stop_on_error=stop_on_error)
        options = {"saving": saving, "checkpoints": checkpoints, **kwargs}
        return fit(start(optimizer), step, Batches(bad), steps=steps, **options)


@pytest.mark.slow
def test_a_bad_step_changes_nothing_and_is_counted(mapped, tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    result = run(
        mapped, tmp_path, steps=8, bad=[3, 6], nonfinite_limit=3, hooks=[MetricsFile(path)]
    )
    assert result.skipped == 2 and int(result.state.step) == 8
    # The same updates as by the six good batches alone, by hand.
    optimizer, _ = mapped
    params = {"w": jnp.full((2,), 0.1)}
    state = optimizer.init(params)
    for i in (0, 1, 2, 4, 5, 7):
        batches = Batches()
        batches.index = i
        grads = jax.grad(lambda p, x: loss(p, None, {"x": x})[0])(params, next(batches)["x"])
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(result.state.params["w"], params["w"], rtol=1e-6)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows if row["loss"] is None] == [4, 7]
    assert "step 4 is not finite: skipped (1 so far)" in caplog.text


def test_bad_steps_in_a_row_stop_and_say_since_when(mapped, tmp_path):
    bad = range(5, 30)
    with pytest.raises(NonFiniteLoss, match="4 times in a row since step 6") as caught:
        run(mapped, tmp_path, steps=20, bad=bad, nonfinite_limit=4)
    assert caught.value.step == 6
    assert "last good checkpoint is step 4" in str(caught.value)  # step 6 was the first bad one


def test_a_streak_goes_on_over_a_restart(mapped, tmp_path):
    """The count of bad steps is in the checkpoint: two restarts are no way round the limit."""
    first = run(mapped, tmp_path, steps=8, bad=range(5, 30), nonfinite_limit=4)
    assert first.skipped == 3
    with pytest.raises(NonFiniteLoss, match="4 times in a row since step 6"):
        run(mapped, tmp_path, steps=20, bad=range(5, 30), nonfinite_limit=4)


class Full:
    """A folder that is full at some steps."""

    def __init__(self, store, at):
        self.store, self.at, self.folder = store, set(at), store.folder

    def save(self, step, state, **kwargs):
        if step in self.at:
            raise CheckpointError(f"cannot save step {step}: No space left on device")
        return self.store.save(step, state, **kwargs)

    def latest_step(self):
        return self.store.latest_step()

    def restore_latest(self, template, *, data_iterator=None):
        return self.store.restore_latest(template, data_iterator=data_iterator)

    def wait(self):
        self.store.wait()


def test_a_full_disk_stops_or_is_reported(mapped, tmp_path, caplog):
    with open_checkpoints(tmp_path / "a") as store:
        with pytest.raises(CheckpointError, match="No space left"):
            run(mapped, tmp_path, steps=8, checkpoints=Full(store, [4]))
        assert store.latest_step() == 2
    with open_checkpoints(tmp_path / "b") as store:
        options = {"checkpoints": Full(store, [4, 6]), "stop_on_error": False}
        with caplog.at_level(logging.WARNING):
            assert run(mapped, tmp_path, steps=8, **options).step == 8
        assert store.steps() == [2, 8]
    assert "No space left on device; training goes on" in caplog.text
    # What was trained last must be written, or the run fails.
    with (
        open_checkpoints(tmp_path / "c2") as store,
        pytest.raises(CheckpointError, match="No space left"),
    ):
        run(mapped, tmp_path, steps=8, checkpoints=Full(store, [8]), stop_on_error=False)


def test_the_newest_and_the_best_are_kept(mapped, tmp_path):
    scores = {2: 5.0, 4: 1.0, 6: 4.0, 8: 2.0, 10: 3.0, 12: 2.5}
    for last in (6, 12):  # the scores are known again after a restart
        with open_checkpoints(tmp_path, keep=2) as store:
            metric = lambda step, state: scores[step]
            run(mapped, tmp_path, steps=last, checkpoints=store, metric=metric)
            assert store.best_step() == 4
            assert store.steps() == [4, last - 2, last] if last > 6 else [4, 6]
    with open_checkpoints(tmp_path, read_only=True) as store:
        assert store.best_step() == 4 and store.latest_step() == 12


@pytest.mark.slow
def test_one_run_in_one_folder(tmp_path):
    with locked(tmp_path / "run"):
        held = f"in use by process {os.getpid()}"
        with pytest.raises(FolderLocked, match=held), locked(tmp_path / "run"):
            pass
        # Held against other processes, and freed by a kill.
        code = (
            "import os, signal, sys; from score_jax.training import locked, FolderLocked\n"
            "try:\n"
            " with locked(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)\n"
            "except FolderLocked: sys.exit(3)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        assert subprocess.run(command, env=env, timeout=300).returncode == 3
    assert subprocess.run(command, env=env, timeout=300).returncode == -9
    with locked(tmp_path / "run"):
        pass


def test_a_change_is_shown_and_can_be_allowed(tmp_path, capsys):
    runs.save_config(tmp_path, presets.get("digits_vp"))
    other = presets.get("digits_subvp")
    with pytest.raises(ValueError, match=r"sde.kind: 'VP' -> 'SubVP'.*--allow-changes"):
        runs.save_config(tmp_path, other)
    runs.save_config(tmp_path, other, allow_changes=True)
    assert "changed: sde.kind: 'VP' -> 'SubVP'" in capsys.readouterr().err
    assert runs.load_config(tmp_path) == other


@pytest.mark.parametrize(
    ("error", "code"),
    [(NonFiniteLoss("gone", 3), 77), (FolderLocked("taken"), 2), (KeyboardInterrupt(), 130)],
)
def test_exit_codes(error, code, monkeypatch, capsys):
    def command():
        raise error

    monkeypatch.delenv("SCORE_JAX_DEBUG", raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    assert caught.value.code == code
    assert str(error) in capsys.readouterr().err


def test_lion_moves_by_the_sign():
    optimizer = make_optimizer(
        learning_rate=0.1, grad_clip=None, weight_decay=0.5, rule=optax.scale_by_lion(0.9, 0.99)
    )
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = {"kernel": jnp.array([[1e-3, -5.0], [2.0, -1e-6]]), "bias": jnp.array([3.0, -7.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    signs = np.array([[1, -1], [1, -1]])
    np.testing.assert_allclose(updates["kernel"], -0.1 * (signs + 0.5), rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [-0.1, 0.1], rtol=1e-6)


def test_schedules_by_name_end_where_they_should():
    import dataclasses

    from experiments.parts.objectives import make_schedule

    base = presets.get("digits_vp")
    ends = {"cosine": 0.1, "linear": 0.1, "exponential": 0.1, "polynomial": 0.1}
    for name, end in ends.items():
        optim = dataclasses.replace(base.optim, schedule=name, final_lr=0.1)
        rate = make_schedule(dataclasses.replace(base, optim=optim))
        assert float(rate(0)) == pytest.approx(base.optim.lr), name
        assert float(rate(base.train.steps)) == pytest.approx(end * base.optim.lr), name
        middle = float(rate(base.train.steps // 2)) / base.optim.lr
        assert end < middle < 1, name
    with pytest.raises(ValueError, match="final_lr"):
        dataclasses.replace(base.optim, schedule="exponential")
    with pytest.raises(ValueError, match="weight_decay"):
        dataclasses.replace(base.optim, weight_decay=0.1)


def test_parts_of_a_batch_teach_the_sampler_of_indices_the_same():
    """Accumulation gives the sampler every loss with its own index, in the order of the rows."""
    sampler = losses.loss_second_moment(5, history=3)

    def told(params, key, batch):
        # A loss of the index alone: what the sampler records shows whether they belong together.
        per_example = params["w"] * (batch["index"] + 1.0)
        return jnp.mean(batch["weight"] * per_example), {"per_example": per_example}

    optimizer = optax.sgd(0.01)
    states = []
    for parts in (1, 4):
        state = init_state(jax.random.key(0), {"w": jnp.ones(())}, optimizer, index_sampler=sampler)
        step = make_train_step(told, optimizer, index_sampler=sampler, microbatches=parts)
        run = jax.jit(scan_steps(step, 6).run)
        state, metrics = run(state, {"x": jnp.zeros((6, 16))})
        assert math.isfinite(float(metrics["loss"][-1]))
        states.append(state)
    one, four = states
    np.testing.assert_array_equal(one.index_sampler.count, four.index_sampler.count)
    np.testing.assert_allclose(one.index_sampler.losses, four.index_sampler.losses, rtol=1e-5)
    np.testing.assert_allclose(one.params["w"], four.params["w"], rtol=1e-6)
