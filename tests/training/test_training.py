"""The train step, its mappings, and the loop: closed forms, and the parameters to the last bit."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax.checkpoints import open_checkpoints
from score_jax.draws import draw_of
from score_jax.training import (
    Every,
    Hook,
    MetricsFile,
    NonFiniteLoss,
    Progress,
    Saving,
    ema_decay_at,
    fit,
    init_state,
    jit_step,
    make_optimizer,
    make_train_step,
    pmap_step,
    scan_steps,
    unreplicate,
    warmed_up,
)
from score_jax.training.loop import Signals
from tests.helpers import ROOT

SCRIPT = ROOT / "tests" / "helpers" / "resume_script.py"


class Batches:
    """Endless batches of a least-squares problem, each a function of its index alone."""

    def __init__(self, x, y, size=8, bad_at=None):
        self.x, self.y, self.size, self.bad_at, self.index = x, y, size, bad_at, 0

    def __iter__(self):
        return self

    def __next__(self):
        rows = np.random.default_rng(self.index).choice(len(self.x), self.size, replace=False)
        y = self.y[rows] * (np.nan if self.index == self.bad_at else 1)
        self.index += 1
        return {"x": self.x[rows], "y": y.astype(np.float32)}

    def get_state(self):
        return {"next_index": self.index}

    def set_state(self, state):
        self.index = state["next_index"]


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    y = (x @ np.array([[1.0], [-2.0], [0.5]]) + 0.3 * rng.normal(size=(64, 1))).astype(np.float32)
    return x, y


def squares(params, key, batch):
    return jnp.mean(jnp.square(batch["x"] @ params["w"] - batch["y"])), {}


def noisy(params, key, batch):
    y = batch["y"] + 0.1 * jax.random.normal(key, batch["y"].shape)
    return squares(params, key, {**batch, "y": y})


def start(optimizer, seed=0):
    return init_state(jax.random.key(seed), {"w": jnp.full((3, 1), 0.1)}, optimizer)


def words(state):
    """All leaves as numpy arrays."""
    raw = jax.tree.map(
        lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a,
        state,
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(raw)]


def assert_same(a, b):
    for left, right in zip(words(a), words(b), strict=True):
        np.testing.assert_array_equal(left, right)


def test_reaches_the_least_squares_solution(problem, tmp_path):
    x, y = problem
    optimizer = make_optimizer(learning_rate=0.05, warmup=10, grad_clip=None)
    step = make_train_step(squares, optimizer, ema_decay=0.9)
    losses = tmp_path / "metrics.jsonl"
    given = start(optimizer)
    result = fit(
        given,
        jit_step(scan_steps(step, 20)),
        Batches(x, y, size=64),
        steps=400,
        hooks=[MetricsFile(losses)],
    )
    solution, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
    np.testing.assert_allclose(result.state.params["w"], solution, atol=1e-4)
    np.testing.assert_allclose(result.state.ema_params["w"], solution, atol=1e-3)
    lines = [json.loads(line) for line in losses.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 401))
    assert lines[-1]["loss"] == pytest.approx(float(residual[0]) / 64, rel=1e-4)
    assert lines[0]["loss"] > 10 * lines[-1]["loss"]
    assert result.step == 400 and not result.interrupted and result.first_call_seconds > 0
    # The caller's state was not donated.
    np.testing.assert_array_equal(given.params["w"], np.full((3, 1), np.float32(0.1)))


def test_average_against_its_closed_form():
    # Gradient descent on w at rate 1 with gradient -1 makes w_n = n exactly; with decays
    # d_n = (1 + n) / (10 + n) below the cap, eq. (1) gives the average as a product of ratios.
    def loss(params, key, batch):
        return -params["w"], {}

    optimizer = optax.sgd(1.0)
    state = init_state(jax.random.key(0), {"w": jnp.zeros(())}, optimizer)
    step = jax.jit(scan_steps(make_train_step(loss, optimizer, ema_decay=0.5), 40).run)
    state, _ = step(state, {"x": jnp.zeros(40)})
    weights = []
    for n in range(1, 41):
        keep = [min(0.5, (1 + m) / (10 + m)) for m in range(n + 1, 41)]
        weights.append((1 - min(0.5, (1 + n) / (10 + n))) * math.prod(keep))
    average = sum(w * n for n, w in enumerate(weights, 1))
    assert float(state.params["w"]) == 40
    assert float(state.ema_params["w"]) == pytest.approx(average, rel=1e-6)
    assert float(state.ema_params["w"]) == pytest.approx(39, abs=1e-3)  # lag d / (1 - d) = 1
    assert state.ema_params["w"].dtype == jnp.float32
    assert float(ema_decay_at(10**6, 0.999)) == pytest.approx(0.999)


def test_clips_by_the_global_norm_and_warms_up_to_the_rate():
    # Adam's first update is -rate * sign(g) whatever the scale, so look at clipping through SGD-like
    # b1 = 0 and a huge eps: update = -rate g / eps.
    optimizer = make_optimizer(learning_rate=3.0, warmup=4, grad_clip=1.0, b1=0.0, b2=0.0, eps=1e6)
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    state = optimizer.init(grads)
    sizes = []
    for _ in range(6):
        updates, state = optimizer.update(grads, state, grads)
        sizes.append(math.hypot(*np.asarray(updates["a"]), *np.asarray(updates["b"])) * 1e6)
    ratio = np.asarray(updates["a"])[0] / np.asarray(updates["b"])[0]
    assert ratio == pytest.approx(0.75)  # the direction is kept: not elementwise
    np.testing.assert_allclose(sizes, [0.75, 1.5, 2.25, 3.0, 3.0, 3.0], rtol=1e-5)
    schedule = warmed_up(optax.constant_schedule(2e-4), 1000)
    assert float(schedule(10**5)) == pytest.approx(2e-4)


def test_weight_decay_spares_biases_and_norms():
    """A class-conditional norm has an embedding of two axes, as a kernel has."""
    optimizer = make_optimizer(learning_rate=0.1, weight_decay=0.5)
    norm = {"embedding": jnp.ones((3, 4)), "scale": jnp.ones(2)}
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "last_norm": norm}
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05 * np.ones((2, 2)), rtol=1e-6)
    assert not any(leaf.any() for leaf in jax.tree.leaves((updates["bias"], updates["last_norm"])))


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"warmup": -1},
        {"grad_clip": 0.0},
        {"b1": 1.0},
        {"b2": -0.1},
        {"eps": 0.0},
        {"weight_decay": -1.0},
    ],
)
def test_optimizer_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        make_optimizer(**bad)


@pytest.mark.slow
def test_scanned_steps_are_the_single_steps(problem):
    optimizer = make_optimizer(learning_rate=0.05)
    step = make_train_step(noisy, optimizer)
    kwargs = {"steps": 12}
    one = fit(start(optimizer), jit_step(step), Batches(*problem), **kwargs)
    four = fit(start(optimizer), jit_step(scan_steps(step, 4)), Batches(*problem), **kwargs)
    assert_same(one.state, four.state)
    assert one.metrics == four.metrics


def test_donates_the_state_and_not_the_batch(problem):
    x, y = problem
    optimizer = make_optimizer()
    batch = {"x": jnp.asarray(x[:4]), "y": jnp.asarray(y[:4])}
    mapped = jit_step(make_train_step(squares, optimizer))
    state = mapped.enter(start(optimizer))
    new, _ = mapped.call(state, batch)
    jax.block_until_ready(new)
    assert state.params["w"].is_deleted() and not batch["x"].is_deleted()


def test_randomness_is_a_function_of_the_step(problem):
    x, y = problem
    optimizer = make_optimizer()

    def loss(params, key, batch):
        value, _ = squares(params, key, batch)
        return value, {"drawn": jax.random.normal(key), "prepared": batch["drawn"]}

    def prepare(key, batch):
        return {**batch, "drawn": jax.random.normal(key)}

    step = make_train_step(loss, optimizer, prepare=prepare)
    run = jax.jit(scan_steps(step, 3).run)
    batch = {"x": np.stack([x] * 3), "y": np.stack([y] * 3)}
    _, first = run(start(optimizer), batch)
    _, again = run(start(optimizer), batch)
    _, other = run(start(optimizer, seed=1), batch)
    draws = np.concatenate([first["drawn"], first["prepared"], other["drawn"], other["prepared"]])
    assert len(np.unique(draws)) == 12
    np.testing.assert_array_equal(first["drawn"], again["drawn"])


@pytest.mark.parametrize("n_devices", [1, 2])
@pytest.mark.parametrize("scan", [False, True])
def test_pmap_averages_over_devices(problem, n_devices, scan):
    x, y = problem
    optimizer = optax.sgd(0.1)
    step = make_train_step(squares, optimizer, axis_name="devices")
    step = scan_steps(step, 2) if scan else step
    mapped = pmap_step(step, devices=jax.local_devices()[:n_devices])
    given = start(optimizer)
    state = mapped.enter(given)
    old = state.params["w"]
    for _ in range(1 if scan else 2):
        batch = mapped.place([{"x": x, "y": y}] * mapped.n_steps)
        state, metrics = mapped.call(state, batch)
    assert old.is_deleted() and not given.params["w"].is_deleted()
    # Two steps of gradient descent on the mean of squares, in double precision.
    w = np.full((3, 1), 0.1)
    for _ in range(2):
        residual = x.astype(float) @ w - y
        w = w - 0.1 * 2 / len(x) * x.T @ residual
    left = mapped.leave(state)
    np.testing.assert_allclose(left.params["w"], w, rtol=2e-6)
    read = mapped.read(metrics)
    assert read["loss"].shape == (mapped.n_steps,)
    assert read["loss"][-1] == pytest.approx(np.mean(residual**2), rel=1e-5)
    for leaf in jax.tree.leaves((state.params, state.ema_params)):
        rows = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(rows) == n_devices
        for row in rows:
            np.testing.assert_array_equal(row, rows[0])
    assert_same(unreplicate(mapped.enter(given)), given)


def test_devices_draw_different_noise(problem):
    x, y = problem

    def loss(params, key, batch):
        draw = draw_of(key, batch).each(jax.random.normal).mean()
        same = jax.random.normal(key)  # the plain key is that of the whole batch
        metrics = {"mean": draw, "square": draw**2, "same": same, "same_square": same**2}
        return squares(params, key, batch)[0], metrics

    mapped = pmap_step(make_train_step(loss, optax.sgd(0.1), axis_name="devices"))
    state = mapped.enter(start(optax.sgd(0.1)))
    _, metrics = mapped.call(state, mapped.place([{"x": x, "y": y}]))
    read = mapped.read(metrics)
    assert read["square"][0] > read["mean"][0] ** 2 + 1e-6  # a variance, so the draws differ
    assert read["same_square"][0] == pytest.approx(read["same"][0] ** 2, rel=1e-6)


def test_mappings_refuse_what_would_go_wrong_silently(problem):
    x, y = problem
    plain = make_train_step(squares, optax.sgd(0.1))
    mapped = make_train_step(squares, optax.sgd(0.1), axis_name="devices")
    with pytest.raises(ValueError, match="axis_name"):
        pmap_step(plain)
    with pytest.raises(ValueError, match="axis_name"):
        jit_step(mapped)
    with pytest.raises(ValueError, match="batch of 63 does not divide evenly over 2"):
        pmap_step(mapped).place([{"x": x[:63], "y": y[:63]}])
    with pytest.raises(ValueError, match="n must be"):
        scan_steps(plain, 0)
    with pytest.raises(ValueError, match="not a scan"):
        scan_steps(scan_steps(plain, 2), 2)
    with pytest.raises(ValueError, match="ema_decay"):
        make_train_step(squares, optax.sgd(0.1), ema_decay=1.0)


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def mapped_noisy():
    optimizer = make_optimizer(learning_rate=0.05, warmup=3)
    return optimizer, jit_step(scan_steps(make_train_step(noisy, optimizer), 2))


def test_resume_is_exact(problem, mapped_noisy, tmp_path):
    optimizer, mapped = mapped_noisy
    seen, path = [], tmp_path / "metrics.jsonl"
    kwargs = {
        "saving": Saving(4, extra={"lr": 0.05}),
        "hooks": [
            MetricsFile(path),
            Every(6, lambda step, state: seen.append((step, int(state.step)))),
        ],
    }
    whole = fit(start(optimizer), mapped, Batches(*problem), steps=20)
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        fit(
            start(optimizer),
            mapped,
            Batches(*problem),
            steps=10,
            checkpoints=checkpoints,
            **kwargs,
        )
        assert checkpoints.latest_step() == 10
    # What a kill leaves: lines past the checkpoint, the last one cut.
    with path.open("a") as file:
        file.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        second = fit(
            start(optimizer, seed=9),
            mapped,
            Batches(*problem),
            steps=20,
            checkpoints=checkpoints,
            **kwargs,
        )
        assert checkpoints.steps()[-3:] == [12, 16, 20] and len(checkpoints.steps()) <= 4
        assert checkpoints.restore_latest(second.state).extra == {"lr": 0.05}
        again = fit(
            second.state, mapped, Batches(*problem), steps=20, checkpoints=checkpoints, **kwargs
        )
    assert_same(whole.state, second.state)
    assert_same(whole.state, again.state)
    assert steps_of(path) == list(range(1, 21))
    assert seen == [(6, 6), (12, 12), (18, 18)]


def test_every_step_once_in_the_metrics(problem, mapped_noisy, tmp_path):
    optimizer, mapped = mapped_noisy
    path = tmp_path / "deep" / "metrics.jsonl"
    fit(
        start(optimizer), mapped, Batches(*problem), steps=8, hooks=[MetricsFile(path, log_every=3)],
    )  # fmt: skip
    assert steps_of(path) == [3, 6]
    line = json.loads(path.read_text().splitlines()[0])
    assert set(line) == {"step", "loss", "grad_norm", "seconds"}


def test_a_hook_is_one_small_class_and_a_metric_is_one_function(problem, mapped_noisy, tmp_path):
    optimizer, mapped = mapped_noisy
    path = tmp_path / "metrics.jsonl"

    class Seen(Hook):
        def start(self, run):
            self.rows, self.moments = [], [("start", run.step)]

        def log(self, run, first_step, metrics):
            for name, values in metrics.items():
                self.rows += [(first_step + i, name, float(v)) for i, v in enumerate(values)]

        def finish(self, run):
            self.moments.append(("finish", int(run.state.step)))

        def close(self):
            self.moments.append("closed")

    seen, score = Seen(), lambda step, state: {"score": float(state.params["w"].sum()) + step}
    hooks = [MetricsFile(path, log_every=4), Every(3, score), seen]
    result = fit(start(optimizer), mapped, Batches(*problem), steps=6, hooks=hooks)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # Three steps are over in the second call of two; a metric is logged whenever it is computed.
    assert [(row["step"], "score" in row) for row in rows] == [(4, False), (4, True), (6, True)]
    assert rows[-1]["score"] == pytest.approx(float(result.state.params["w"].sum()) + 6)
    assert [step for step, name, _ in seen.rows if name == "loss"] == [1, 2, 3, 4, 5, 6]
    assert [step for step, name, _ in seen.rows if name == "score"] == [4, 6]
    assert seen.moments == [("start", 0), ("finish", 6), "closed"]
    with pytest.raises(ValueError, match="every of Every"):
        fit(start(optimizer), mapped, Batches(*problem), steps=2, hooks=[Every(0, score)])


@pytest.mark.parametrize("bad_at", [6, 7])
def test_stops_when_not_finite_and_keeps_the_last_good(problem, mapped_noisy, tmp_path, bad_at):
    optimizer, mapped = mapped_noisy
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(NonFiniteLoss, match="last good checkpoint is step 6") as caught:
            fit(
                start(optimizer),
                mapped,
                Batches(*problem, bad_at=bad_at),
                steps=20,
                checkpoints=checkpoints,
                saving=Saving(2),
                hooks=[MetricsFile(tmp_path / "metrics.jsonl")],
            )
        assert caught.value.step == bad_at + 1
        good = checkpoints.restore_latest(start(optimizer))
    whole = fit(start(optimizer), mapped, Batches(*problem), steps=6)
    assert good.step == 6
    assert_same(good.state, whole.state)
    assert steps_of(tmp_path / "metrics.jsonl") == list(range(1, bad_at + 2))
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["loss"] is None


def test_a_bad_update_is_seen_though_the_loss_is_good(problem, tmp_path):
    optimizer = make_optimizer(learning_rate=lambda n: jnp.where(n == 2, jnp.nan, 0.1))
    mapped = jit_step(make_train_step(squares, optimizer))
    with open_checkpoints(tmp_path) as checkpoints:
        with pytest.raises(NonFiniteLoss, match="no checkpoint yet") as caught:
            fit(
                start(optimizer), mapped, Batches(*problem), steps=3, checkpoints=checkpoints,
            )  # fmt: skip
        assert caught.value.step == 3
        assert checkpoints.latest_step() is None


def test_a_signal_finishes_the_call_saves_and_returns(problem, mapped_noisy, tmp_path):
    optimizer, mapped = mapped_noisy

    def on_sample(step, state):
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with open_checkpoints(tmp_path) as checkpoints:
        result = fit(
            start(optimizer), mapped, Batches(*problem), steps=20, checkpoints=checkpoints,
            hooks=[Every(6, on_sample)],
        )  # fmt: skip
        assert result.interrupted and result.step == 6 and checkpoints.latest_step() == 6
    assert signal.getsignal(signal.SIGTERM) is before


def test_fit_refuses(problem, mapped_noisy):
    optimizer, mapped = mapped_noisy
    state, batches = start(optimizer), Batches(*problem)
    with pytest.raises(ValueError, match="steps must be >= 0"):
        fit(state, mapped, batches, steps=-1)
    with pytest.raises(ValueError, match="multiple of the 2 steps"):
        fit(state, mapped, batches, steps=3)
    with pytest.raises(ValueError, match="log_every"):
        fit(state, mapped, batches, steps=2, hooks=[MetricsFile(None, log_every=0)])
    with pytest.raises(ValueError, match="batches ended after step 2"):
        fit(state, mapped, [next(batches) for _ in range(3)], steps=4)
    assert fit(state, mapped, batches, steps=0).step == 0


def test_progress(problem, mapped_noisy, capfd, monkeypatch):
    optimizer, mapped = mapped_noisy

    def run(progress):
        fit(start(optimizer), mapped, Batches(*problem), steps=4, hooks=[Progress(progress)])
        return capfd.readouterr().err

    assert run(False) == ""
    bar = run(True)
    assert "4/4" in bar and "loss=" in bar and "step/s" in bar
    monkeypatch.setattr("score_jax.training.hooks._PLAIN_SECONDS", 0.0)
    lines = run(None).splitlines()
    assert lines.pop(0) == "compiling the first 2 steps ..."
    assert lines[0].startswith("first call (2 steps, with compilation)")
    assert lines[-1].startswith("step 4/4  loss ") and lines[-1].endswith("steps/s")


def launch(folder, steps, sleep):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(steps), str(sleep)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def run_to_the_end(folder):
    with launch(folder, 40, 0.0) as run:
        run.communicate(timeout=120)
    assert run.returncode == 0


def finals(folder):
    with np.load(folder / "final.npz") as file:
        return [file[name] for name in file.files]


@pytest.mark.slow
def test_killed_runs_end_in_the_same_parameters(tmp_path):
    """SIGKILL at random moments and SIGTERM, then resumed: nothing differs by a bit."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_the_end(whole)
    moments = random.Random(0)
    for kill in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        run = launch(killed, 40, 0.02)
        for _ in range(moments.randint(1, 5)):
            assert run.stdout.readline()
        time.sleep(moments.random() * 0.05)
        run.send_signal(kill)
        assert run.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 75}[kill]
        run.stdout.close()
    run_to_the_end(killed)
    for left, right in zip(finals(whole), finals(killed), strict=True):
        np.testing.assert_array_equal(left, right)
    assert steps_of(killed / "metrics.jsonl") == list(range(1, 41))


def test_an_interrupt_before_the_first_call_is_one():
    """There is nothing to complete yet; SIGTERM, and a later one, are caught once."""
    with Signals(working=False) as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signals.working = True
        signal.raise_signal(signal.SIGINT)
        assert signals.caught == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with Signals(working=False) as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.caught == signal.SIGTERM
