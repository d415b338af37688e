"""`experiments.average`: a run folder of any length of average, whole or not at all."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import average, cli, presets, runs
from score_jax import checkpoints, training

WIDTHS = {"power_0.05": 0.05, "power_0.1": 0.1}


def small():
    """A config of a tiny network that keeps snapshots."""
    config = presets.get("two_moons_vp")
    return dataclasses.replace(
        config,
        net=config.net.clone(width=8, num_blocks=1),
        optim=dataclasses.replace(config.optim, power_averages=tuple(WIDTHS.values())),
        train=dataclasses.replace(config.train, snapshot_every=50),
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """What a run leaves: its config and snapshots, here of drawn numbers, at steps 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("average") / "run"
    runs.save_config(folder, small())
    params = runs.build(small()).init_params(jax.random.key(0))
    drawn = np.random.default_rng(0)
    with checkpoints.open_checkpoints(folder / runs.SNAPSHOTS, keep=None) as store:
        for step in (4, 8, 12):
            noisy = lambda p: np.asarray(p + drawn.normal(size=p.shape), np.float32)
            averages = {name: jax.tree.map(noisy, params) for name in WIDTHS}
            store.save(step, {"averages": averages})
    return folder


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow
def test_any_length_becomes_a_run_folder(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        cli, "start", lambda *workdirs, **needs: None
    )  # the compiler's options stay as they are
    out = tmp_path / "deep" / "average"
    average.main(["--workdir", str(workdir), "--std", "0.1", "--step", "8", "--out", str(out)])
    assert str(out) in capsys.readouterr().out
    exp, params, step = runs.load(out)
    assert step == 8 and exp.config == small()
    # A width and a step that are stored: the weighted sum is that snapshot.
    with checkpoints.open_checkpoints(workdir / runs.SNAPSHOTS, read_only=True) as store:
        stored = store.read(8, "averages")["power_0.1"]
        seven = training.post_hoc(store, WIDTHS, training.Profile(12, 0.07))
    for a, b in zip(leaves(params), leaves(stored), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    note = json.loads((out / average.NOTE_FILE).read_text())
    assert note == {"from": str(workdir), "std": 0.1, "step": 8, "widths": [0.05, 0.1]}
    # By default the last step, in a folder of the run; both kinds of weights are the average.
    found = average.average(average.Args(str(workdir), std=0.07))
    assert found == workdir / "std_0.07"
    for field in ("ema_params", "params"):
        made = checkpoints.restore_params(found / runs.CHECKPOINTS, field=field)
        for a, b in zip(leaves(made), leaves(seven), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"out '.*std_0.07' exists already"):
        average.average(average.Args(str(workdir), std=0.07))


def test_nothing_is_left_of_a_folder_that_could_not_be_written(workdir, tmp_path, monkeypatch):
    def full(self, step, state, **kwargs):
        raise checkpoints.CheckpointError("cannot save: No space left on device")

    monkeypatch.setattr(checkpoints.Checkpoints, "save", full)
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space left"):
        average.average(average.Args(str(workdir), out=str(out)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"step": 3}, r"step must be in \[4, 12\], the snapshots, got 3"),
        ({"step": 13}, r"step must be in \[4, 12\], the snapshots, got 13"),
        ({"std": 0.3}, r"std must be in \(0, 0.28\), got 0.3"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(workdir, tmp_path, args, named):
    with pytest.raises(ValueError, match=named):
        average.average(average.Args(str(workdir), out=str(tmp_path / "out"), **args))
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_snapshots_is_told_what_it_lacks(tmp_path):
    runs.save_config(tmp_path, presets.get("two_moons_vp"))
    with pytest.raises(ValueError, match=r"no snapshots: train with --optim\.power-averages"):
        average.average(average.Args(str(tmp_path)))
