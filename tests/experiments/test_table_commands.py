"""The commands on noise schedules: train, resume, sample, evaluate and compare the three presets."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import presets
from tests.experiments.test_experiments import call as run
from tests.experiments.test_experiments import checksums
from tests.helpers.tiny_runs import write_run

pytestmark = pytest.mark.slow

TINY = [
    "--net.channels", "8", "--net.groups", "4", "--net.channel-mult", "1",
    "--net.attention-factors",
    "--sde.n", "40", "--train.steps-per-call", "5", "--train.log-every", "5",
    "--train.sample-every", "1000", "--train.checkpoint-every", "5", "--train.batch-size", "16",
    "--sample.steps", "5",
]  # fmt: skip
EXACT_ENTROPY_CEILING = np.log2(17)


def train(folder, config, steps):
    out = run(
        "train", "--config", config, "--workdir", folder, "--train.steps", steps, *TINY, check=0
    )
    assert f"to step {steps}" in out.stdout
    return folder


def untrained(folder, name):
    """A run of a preset with the same small network, as it is initialised."""
    config = presets.get(name)
    net = config.net.clone(channels=8, groups=4, channel_mult=(1.0,), attention_factors=())
    sde, sample = dataclasses.replace(config.sde, n=40), dataclasses.replace(config.sample, steps=5)
    return write_run(folder, dataclasses.replace(config, net=net, sde=sde, sample=sample))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of the presets; that of the importance-sampled bound is trained, in two halves."""
    home = tmp_path_factory.mktemp("runs")
    made = {n: untrained(home / n, n) for n in ("digits_iddpm", "digits_iddpm_linear")}
    train(home / "digits_iddpm_vlb", "digits_iddpm_vlb", 5)
    made["digits_iddpm_vlb"] = train(home / "digits_iddpm_vlb", "digits_iddpm_vlb", 10)
    return made


def test_resumed_runs_keep_the_history_of_their_losses(runs, tmp_path):
    whole = checksums(train(tmp_path / "whole", "digits_iddpm_vlb", 10))
    assert checksums(runs["digits_iddpm_vlb"]) == whole
    assert any("index_sampler" in name for name in whole)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp_2m"])
def test_they_sample(runs, sampler):
    folder = runs["digits_iddpm_vlb"]
    run("sample", "--workdir", folder, "--sampler", sampler, "--num", 4, check=0)
    with np.load(folder / "samples" / f"{sampler}.npz") as file:
        assert file["x"].shape == (4, 8, 8, 1) and file["x"].max() <= 16
    assert json.loads((folder / "samples" / f"{sampler}.json").read_text())["nfe"] in (5, 6)


def test_they_are_evaluated(runs):
    folder = runs["digits_iddpm"]
    out = run("evaluate", "--workdir", folder, "--bpd", "--bound-steps", 10, check=0)
    assert "10 evaluations each" in out.stdout
    result = json.loads((folder / "bits_per_dim.json").read_text())["bits_per_dim"]
    total = result["prior"]["mean"] + result["terms"]["mean"]
    assert result["model"]["mean"] == pytest.approx(total, rel=1e-5)
    # Without training nothing is learned, but the last term still codes every pixel.
    assert 0 < result["reconstruction"]["mean"] < EXACT_ENTROPY_CEILING
    for name in ("bound_terms", "bound_x0_mse", "bound_noise_mse", "learned_variance"):
        assert (folder / f"{name}.png").stat().st_size > 1_000
    with np.load(folder / "bound.npz") as file:
        assert file["terms"].shape == (297, 10)
        np.testing.assert_array_equal(file["index"], np.linspace(0, 39, 10).round())


def test_they_are_compared(runs, tmp_path):
    names = ["digits_iddpm", "digits_iddpm_linear"]
    out = run(
        "bounds", "--workdirs", *(runs[n] for n in names), "--out", tmp_path / "b",
        "--bound-steps", 4, "--gradient", 4, check=0,
    )  # fmt: skip
    rows = json.loads((tmp_path / "b" / "bounds.json").read_text())
    assert [row["name"] for row in rows] == names and all(row["seeds"] == 1 for row in rows)
    assert (tmp_path / "b" / "bounds.md").read_text() in out.stdout
    assert (tmp_path / "b" / "terms.png").stat().st_size > 1_000


def test_a_continuous_run_has_no_noise_schedule(tmp_path):
    from experiments import presets, runs

    runs.save_config(tmp_path / "vp", presets.get("digits_vp"))
    out = run("bounds", "--workdirs", tmp_path / "vp", "--out", tmp_path / "b", check=2)
    assert "error:" in out.stderr and not (tmp_path / "b").exists()
