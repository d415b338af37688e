"""Runs that start from given weights: what is taken, what is refused, and what resumes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import info, push, runs, train
from experiments.config import OptimConfig
from experiments.parts import origins
from tests.experiments.test_daily_commands import call
from tests.helpers.tiny_runs import tiny, write_run

FLAGS = """
    --config digits_vp --net.kind MLP --net.width 16 --net.num-blocks 1 --train.batch-size 8
    --train.steps-per-call 1 --train.log-every 1 --train.sample-every 1000 --train.checkpoint-every 1000
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, and one of other classes and another parametrization that starts from it in part.

    It makes one step of no length.
    """
    home = tmp_path_factory.mktemp("origins")
    write_run(home / "old", tiny())
    flags = [*FLAGS.split(), "--train.steps", 1, "--optim.lr", 1e-30, "--init", home / "old"]
    flags += ["--class-conditional", "--parametrization", "v", "--workdir", home / "classes"]
    wrong = call(train, *flags, code=2)[1]
    assert "12 of 13 leaves fit; 1 missing there (Embed_0/embedding)" in wrong
    assert "--init-anew" in wrong and not (home / "classes").exists()
    said = call(train, *flags, "--init-anew")[0]
    assert f"started from {home / 'old'} (averaged weights, step 10)" in said
    return home


def newest(folder, field="ema_params"):
    with runs.checkpoints.open_checkpoints(folder / "checkpoints", read_only=True) as store:
        return store.read(store.latest_step(), field)


def same(a, b):
    """Up to the rounding of an average."""
    near = lambda x, y: x.shape == y.shape and np.allclose(x, y, rtol=1e-6, atol=1e-7)
    return jax.tree.all(jax.tree.map(near, a, b))


def test_parameters_and_averages_start_from_the_weights(home):
    old = newest(home / "old")
    run = runs.build(tiny(optim=OptimConfig(averages=(0.9,))))
    state, record = origins.state_of(run, origins.Start(str(home / "old")))
    assert same(state.params, old) and same(state.ema_params, old)
    assert same(state.averages["0.9"], old) and state.step == 0
    assert record["anew"] == record["changed"] == {}
    for field in ("params", "ema_params"):
        changed = newest(home / "classes", field)["params"]
        drawn = changed.pop("Embed_0")
        assert same(changed, old["params"])
        assert drawn["embedding"].shape == (10, 16) and np.std(drawn["embedding"]) > 0


def test_the_origin_is_recorded_and_shown(home, tmp_path):
    record = json.loads((home / "classes" / "origin.json").read_text())
    assert record["start"]["path"] == str(home / "old") and record["step"] == 10
    assert record["changed"] == {"parametrization": ["noise", "v"]}
    shown = call(info, home / "classes")[0]
    assert "1 leaf missing there: Embed_0/embedding" in shown
    assert "parametrization: v here, noise there" in shown
    call(push, "--workdir", home / "classes", "--to", tmp_path / "card")
    assert f"| origin | started from {home / 'old'}" in (tmp_path / "card/README.md").read_text()
    assert json.loads((tmp_path / "card" / "origin.json").read_text()) == record
    assert "started from" not in call(info, home / "old")[0]


def test_a_run_that_has_trained_resumes(home):
    start = origins.Start(str(home / "old"), anew=True)
    assert origins.due(home / "new", start) == start
    trained = home / "classes"
    assert origins.due(trained, start) is None is origins.due(trained, None)
    for folder, other, how in (
        ("old", start, "from scratch"),
        ("classes", origins.Start(str(home / "old")), f"from {home / 'old'}"),
    ):
        with pytest.raises(ValueError, match=f"started {how}.*leave out --init"):
            origins.due(home / folder, other)


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_from_them_again(home, tmp_path):
    for name in ("config.json", "data.json", "origin.json"):
        (tmp_path / name).write_text((home / "classes" / name).read_text())
    assert origins.due(tmp_path, None) == origins.Start(str(home / "old"), anew=True)
    (tmp_path / "origin.json").write_text('{"start": 3}')
    with pytest.raises(ValueError, match="not the origin"):
        origins.due(tmp_path, None)


def test_what_cannot_be_started_from(home, tmp_path):
    run = runs.build(dataclasses.replace(tiny("two_moons_vp"), optim=OptimConfig()))
    with pytest.raises(
        ValueError, match=r"of another shape \(Dense_1/kernel \(64,16\) for \(2,16\)"
    ):
        origins.state_of(run, origins.Start(str(home / "old")))
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        origins.state_of(run, origins.Start(str(tmp_path / "none")))
    other = {"params": {"first": {"kernel": np.ones((1, 1), np.float32)}}}
    with pytest.raises(ValueError, match="no leaf fits"):
        origins.fitted(other, newest(home / "old"), origins.Start("x", anew=True))
    assert "--init-raw is for --init" in call(train, "--init-raw", code=2)[1]
