"""Run folders that were damaged or lost a part: the step that is named is the one that was read."""

import dataclasses
import json
import shutil

import jax
import pytest

from experiments import cli, runs, train
from score_jax import training
from score_jax.checkpoints import open_checkpoints
from tests.helpers.tiny_runs import tiny, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run on points with checkpoints of steps 10 and 20, the newer one damaged."""
    folder = write_run(tmp_path_factory.mktemp("faulty") / "run", tiny("two_moons_vp"))
    with open_checkpoints(folder / "checkpoints") as store:
        state = runs.initial_state(runs.build(runs.load_config(folder)))
        store.save(20, state, extra=store.extra(10))
    meta = folder / "checkpoints" / "step_00000020" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace("package_version", "package_versiom"))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def test_the_step_that_was_read_is_named(folder):
    assert runs.load(folder)[2] == 10
    tree = json.loads((folder / "config.json").read_text())
    tree["optim"]["lr"] = 0.5
    (folder / "config.json").write_text(json.dumps(tree))
    # The config of the newest checkpoint that can be read is compared.
    assert "of its newest checkpoint, of step 10 (optim.lr:" in runs.edited(
        folder, runs.load_config(folder)
    )


def test_what_has_lost_its_config_is_not_gone_on_with(folder):
    config = runs.load_config(folder)
    other = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.5))
    (folder / "config.json").unlink()
    with pytest.raises(
        ValueError, match=r"no config.json, but the checkpoint of step 10 .*optim.lr"
    ):
        runs.save_config(folder, other)
    runs.save_config(folder, config)
    (folder / "config.json").unlink()
    shutil.move(folder / "checkpoints", folder / "averages")
    with pytest.raises(ValueError, match=r"snapshots \(averages\) of a run whose config"):
        runs.save_config(folder, config)
    assert not (folder / "config.json").exists()


def test_a_folder_that_was_removed_ends_its_run(folder):
    run = runs.build(runs.load_config(folder))
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="was removed while the run in it was training"):
        train._draw_pictures(run, folder, 5, None)
    assert not folder.exists()


def test_hosts_that_differ_end_with_a_code_of_their_own(monkeypatch, capsys):
    def command():
        raise training.HostsDiffer("two hosts were started with hosts.index 1")

    monkeypatch.delenv("SCORE_JAX_DEBUG", raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main(command)
    assert caught.value.code == 78 == training.HostsDiffer.CODE
    assert capsys.readouterr().err == "error: two hosts were started with hosts.index 1\n"


def test_the_config_is_compared_over_hosts(monkeypatch):
    """Fields that a host may have of its own are left out, and the data are part of it."""
    facts = {}
    monkeypatch.setattr(training, "several_hosts", lambda: True)
    monkeypatch.setattr(training, "check_same", facts.update)
    runs.check_alike(runs.build(tiny("two_moons_vp")))
    assert {"optim.lr", "seed", "jax", "score_jax", "the data's.x"} <= set(facts)
    assert not {"data.path", "data.workers"} & set(facts) and facts["jax"] == jax.__version__
