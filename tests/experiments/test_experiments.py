"""The commands: the whole way from training to evaluation, and one clear line for bad input."""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest

from experiments import cli, compare, presets, runs
from experiments.run_config import differences, from_json, to_json
from tests.helpers import ROOT

LOOP = [
    "--train.steps", "20", "--train.steps-per-call", "5", "--train.log-every", "5",
    "--train.sample-every", "20", "--train.checkpoint-every", "10", "--train.batch-size", "32",
    "--sample.steps", "5", "--sample.sampler", "ddim",
]  # fmt: skip
UNET = ["--net.channels", "8", "--net.num-blocks", "1", "--net.channel-mult", "1", *LOOP]
MLP = ["--net.kind", "MLP", "--net.width", "16", "--net.num-blocks", "1", *LOOP]


def run(command, *args, check=None, env=None):
    """Run `python -m experiments.COMMAND` in its own process."""
    out = subprocess.run(
        [sys.executable, "-m", f"experiments.{command}", *map(str, args)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check is not None:
        assert out.returncode == check, out.stdout + out.stderr
    return out


def call(command, *args, check):
    """The same in this process, whose imports serve all of them."""
    module, code = importlib.import_module(f"experiments.{command}"), 0
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(cli, "start"),  # the compiler's options stay as they are
        mock.patch.dict(os.environ, {"SCORE_JAX_DEBUG": ""}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main(lambda: module.main([str(arg) for arg in args]))
        except SystemExit as exit:
            code = exit.code
    assert code == check, out.getvalue() + err.getvalue()
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("name", presets.CONFIGS)
def test_presets_survive_json(name):
    config = presets.get(name)
    assert from_json(to_json(config)) == config


def test_differences_name_what_changed_and_let_a_run_be_longer():
    old = presets.get("digits_vp")
    longer = dataclasses.replace(old, train=dataclasses.replace(old.train, steps=10_000))
    assert differences(old, longer) == []
    other = dataclasses.replace(old, optim=dataclasses.replace(old.optim, lr=0.5))
    assert differences(old, other) == [f"optim.lr: {old.optim.lr} -> 0.5"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ('{"sde": {"kind": "VPP"}}', "config.sde.kind must be one of"),
        ('{"optim": {"lrr": 1}}', "unknown fields"),
        ('{"train": {"steps": "many"}}', "config.train.steps must be int"),
        ('{"train": {"steps": -10}}', "train.steps must be at least 1"),
        ('{"optim": {"lr": NaN}}', "optim.lr must be finite"),
        ("[]", "must be an object"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, text, named):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=named):
        runs.load_config(tmp_path)


def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path):
    config = presets.get("digits_vp")
    runs.save_config(tmp_path, config)
    before = (tmp_path / "config.json").read_text()
    other = dataclasses.replace(config, seed=7)
    with pytest.raises(ValueError, match="seed: 0 -> 7"):
        runs.save_config(tmp_path, other)
    assert (tmp_path / "config.json").read_text() == before


CONDITIONAL = ["--config", "digits_vp_conditional"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A tiny conditional U-Net trained by the command itself."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    out = call("train", *CONDITIONAL, "--workdir", folder, *UNET, check=0)
    assert "trained to step 20" in out.stdout
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A run that costs little to sample: its network is no U-Net, all else is as it is."""
    folder = tmp_path_factory.mktemp("run") / "quick"
    call("train", *CONDITIONAL, "--workdir", folder, *MLP, check=0)
    return folder


@pytest.mark.slow
def test_the_run_folder_holds_everything(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == [5, 10, 15, 20]
    assert all(np.isfinite(row["loss"]) for row in trained)
    for name in ("config.json", "loss.png", "pictures/samples_0000020.png"):
        assert (workdir / name).stat().st_size > 0


@pytest.mark.slow
def test_sample_and_evaluate_need_only_the_folder(quick):
    options = ["--sample.sampler", "pc", "--num", 6, "--label", 3]
    out = call("sample", "--workdir", quick, *options, check=0)
    assert "11 evaluations each" in out.stdout  # 5 steps, each corrected once, and the denoising
    with np.load(quick / "samples" / "pc.npz") as file:
        x = file["x"]
    assert x.shape == (6, 8, 8, 1) and x.dtype == np.uint8 and x.max() <= 16
    facts = json.loads((quick / "samples" / "pc.json").read_text())
    assert facts["nfe"] == 11 and facts["label"] == 3 and facts["sample"]["steps"] == 5
    out = call("evaluate", "--workdir", quick, "--num", 40, "--tol", "1e-2", check=0)
    assert "bits per dim" in out.stdout
    result = json.loads((quick / "evaluation.json").read_text())
    # Exact facts: a plain Gaussian codes the digits with fewer bits than log2(17) a pixel.
    assert 0 < result["bits_per_dim"]["gaussian"]["mean"] < np.log2(17)
    assert result["bits_per_dim"]["model"]["stderr"] > 0
    assert result["distance"]["train_split"]["frechet"] < result["distance"]["gaussian"]["frechet"]
    assert result["distance"]["classifier_accuracy"] > 0.95


@pytest.mark.slow
def test_the_sampler_card(quick):
    some = ["--samplers", "dpmpp_2m", "pc", "dpm_solver_v3", "--nfe", 4, 6]
    fit = ["--fit-grid", "--fit-statistics", 16]
    out = call("compare", "--workdir", quick, "--num", 12, *some, *fit, check=0)
    assert "| dpmpp_2m | 5 steps | 6 |" in out.stdout
    result = json.loads((quick / "compare.json").read_text())
    rows, fitted = result["rows"][:6], result["rows"][6:]
    assert [row["nfe"] for row in rows] == [row["nfe"] for row in fitted] == [4, 6, 3, 5, 4, 6]
    assert [row["sampler"] for row in fitted[1:3]] == ["dpmpp_2m, fitted", "pc, fitted"]
    call("sample", "--workdir", quick, "--sampler", "dpm_solver_v3", "--num", 4, check=0)
    assert fitted[0]["error"] not in (None, rows[0]["error"])
    assert (quick / "fitted_grid.npz").is_file()
    errors = [row["error"] for row in rows]
    assert errors[1] < errors[0] and errors[2:4] == [None, None] and None not in errors[4:]
    assert (quick / "compare.png").stat().st_size > 1_000
    assert "| pc | 2 steps | 5 |" in (quick / "compare.md").read_text()


def test_a_grid_can_be_fitted_for_all_evaluations_of_the_card():
    """No sampler takes more steps than evaluations; 100 are compared by default."""
    assert compare.fine_steps(compare.Args("x").nfe) >= max(compare.Args("x").nfe) == 100
    assert compare.fine_steps((4, 200, 10)) == 200 and compare.fine_steps((4,)) == 64


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(quick):
    before = (quick / "metrics.jsonl").read_bytes()
    out = call("train", *CONDITIONAL, "--workdir", quick, *MLP, check=0)
    assert "trained to step 20" in out.stdout
    assert (quick / "metrics.jsonl").read_bytes() == before


BAD = [
    (["train", "--config", "digits_vq"], "unknown config 'digits_vq' (did you mean"),
    (["train", "--config", "digits_vp", "--optim.lrr", "1"], "--optim.lr"),
    (["train", "--config", "digits_vp", "--sde.kind", "VPP"], "SubVP"),
    (["train", "--config", "digits_vp", "--train.steps", "-10"], "train.steps must be at least 1"),
    (["train", "--data.name", "array", "--data.path", "missing.npy"], "missing.npy"),
    (
        ["train", *MLP, "--sde.kind", "LinearBetas", "--loss.objective", "hybrid"],
        "needs a learned variance",
    ),
    (["sample", "--workdir", "no_such_run"], "holds no run"),
    (["sample", "--workdir", "no_such_run", "--num", "-4"], "--num must be at least 1"),
    (["sample", "--workdir", "no_such_run", "--sampler", "dpm"], "dpmpp_2m"),
    (["compare", "--workdir", "no_such_run", "--samplers", "dpm"], "known: pc, song, em"),
    (["compare", "--workdir", "no_such_run", "--nfe", "0"], "--nfe must be numbers of at least 1"),
    (["evaluate", "--workdir", "no_such_run", "--num", "1"], "--num must be 0 or at least 2"),
    (["evaluate", "--workdir", "no_such_run", "--sampler", "dpm"], "known: pc, song, em"),
    (["evaluate", "--workdir", "no_such_run", "--bpd"], "holds no run"),
    (["evaluate", "--workdir", "no_such_run", "--bpd", "--split", "dev"], "test"),
    (["evaluate", "--workdir", "no_such_run", "--bpd", "--gap", "none"], "tweedie"),
]


@pytest.mark.parametrize(("args", "named"), BAD, ids=[" ".join(a[-2:]) for a, _ in BAD])
def test_bad_input_gets_exit_code_2_and_one_clear_line(tmp_path, args, named):
    if args[0] == "train":
        args = [*args, "--workdir", str(tmp_path / "run")]
    out = call(*args, check=2)
    assert named in out.stderr and "Traceback" not in out.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bad_input_ends_a_process_so(tmp_path):
    out = run("sample", "--workdir", tmp_path, check=2)
    assert out.stderr.startswith("error: workdir") and out.stderr.count("\n") == 1


@pytest.mark.slow
def test_array_files_train_and_bad_ones_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((30, 8, 8, 1), np.int64))
    common = ["--data.name", "array", "--data.path", path, "--workdir", tmp_path / "r"]
    out = call("train", *common, *UNET, check=2)
    assert "int64" in out.stderr and not (tmp_path / "r").exists()
    np.save(path, np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32))
    call("train", *common, *MLP, check=0)
    out = call("train", *common, *MLP, "--optim.lr", "0.5", check=2)
    assert "another config" in out.stderr and "optim.lr: 0.002 -> 0.5" in out.stderr


def checksums(folder):
    """CRC-32 of every leaf of the newest checkpoint."""
    newest = max((folder / "checkpoints").glob("step_*"))
    text = (newest / "meta" / "metadata").read_text()
    return {k: v["sum64"] for k, v in json.loads(text)["content"]["leaves"].items()}


@pytest.mark.slow
def test_killed_training_ends_with_the_same_bits(quick, tmp_path):
    """SIGKILL as soon as a checkpoint is there, then the same command again."""
    command = [
        sys.executable, "-m", "experiments.train", *CONDITIONAL,
        "--workdir", str(tmp_path / "killed"), *MLP,
    ]  # fmt: skip
    env = dict(os.environ)
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed" / "checkpoints").glob("step_00000010")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    run("train", *command[3:], check=0)
    assert checksums(tmp_path / "killed") == checksums(quick)
    rows = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    trained = [row for row in map(json.loads, rows) if "loss" in row]
    assert [row["step"] for row in trained] == [5, 10, 15, 20]


def test_sampling_cannot_end_before_training_does():
    config = presets.get("digits_subvp_likelihood")
    assert config.sample.t0 == config.loss.t0
    early = dataclasses.replace(config.sample, t0=1e-3)
    with pytest.raises(ValueError, match=r"sample\.t0 must be at least loss\.t0=0\.025"):
        dataclasses.replace(config, sample=early)
