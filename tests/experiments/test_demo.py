"""The demo, in a small form: a picture before the training, and everything that it promises."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import cli, demo, presets, runs
from experiments.config import TrainConfig
from score_jax.convert import PUBLISHED_FILES
from tests.helpers.tiny_runs import small_release, tiny


def test_real_examples_have_the_classes_of_their_columns():
    run = runs.build(presets.get("mnist5k_vp"))
    shown = np.asarray(demo._real(run))
    assert shown.shape == (80, 28, 28, 1)
    test = run.source.test
    labels = {x.tobytes(): y for x, y in zip(test.x, test.y, strict=True)}
    found = [labels[x.tobytes()] for x in run.source.to_data(shown)]
    assert found == list(range(10)) * 8


def test_a_stage_does_not_count_what_is_inside_it(monkeypatch):
    times, clock = iter([0.0, 5.0]), demo.Clock()
    monkeypatch.setattr(demo.time, "perf_counter", lambda: next(times))
    with clock.stage("train"):
        clock.add("compile", 2.0)
    assert clock.seconds == {"compile": 2.0, "train": 3.0}


@pytest.mark.slow
def test_the_demo_from_the_first_picture_to_the_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_release(tmp_path / "pretrained", monkeypatch)
    monkeypatch.setattr(cli, "start", lambda *workdirs, **needs: None)
    loop = TrainConfig(
        steps=2, batch_size=8, steps_per_call=1, log_every=1, sample_every=1, checkpoint_every=2
    )
    config = dataclasses.replace(tiny("digits_vp_conditional"), train=loop)
    monkeypatch.setattr(presets, "get", lambda name: config)
    for name, value in {"NUM": 20, "EXAMPLES": 6, "CHUNK": 3, "STEPS": 3, "ROWS": 2}.items():
        monkeypatch.setattr(demo, name, value)
    demo.main(["--workdir", "run"])
    out, err = capsys.readouterr()
    run = tmp_path / "run"
    assert err.index("wrote run/clothes.png") < err.index("wrote run/pictures/samples_0000001.png")
    for name in ("clothes.png", "samples.png", "noise_to_digit.png", "loss.png", "summary.txt"):
        assert f"run/{name}\n" in out and (run / name).is_file()
    text = (run / "summary.txt").read_text()
    assert "step 2 of 2" in text and "test split, 6 examples" in text
    assert "classified as asked" in text and "ODE, guidance 2" in text
    seconds = json.loads((run / "seconds.json").read_text())
    assert list(seconds)[-1] == "evaluate" and min(seconds.values()) > 0
    known = PUBLISHED_FILES["fashion_vp"]._replace(place="nowhere/x.npz")
    monkeypatch.setitem(PUBLISHED_FILES, "fashion_vp", known)
    demo.draw_release(tmp_path / "other")
    assert not (tmp_path / "other").exists()
