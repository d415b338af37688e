"""The commands that tell: presets, info, completion; what training logs beside the loss."""

import json
import os
import shutil
import subprocess
import time
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from experiments import completion, info, presets, runs
from experiments.parts import loggers, mapping, objectives
from experiments.reports import terminal
from score_jax.training.run import Run
from tests.experiments.test_experiments import call

TINY = [
    "--config", "two_moons_vp", "--net.width", "8", "--net.num-blocks", "1", "--data.num-points", "200",
    "--train.steps", "20", "--train.steps-per-call", "5", "--train.log-every", "10",
    "--train.sample-every", "20", "--train.checkpoint-every", "10", "--train.batch-size", "16",
    "--sample.steps", "5", "--sample.sampler", "ddim",
]  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A tiny run that was logged everywhere."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    with mock.patch.dict(os.environ, {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}):
        out = call("train", *TINY, "--workdir", folder, "--log", "tensorboard", check=0)
    assert "trained to step 20" in out.stdout
    return folder


def test_presets_are_listed_by_word():
    out = call("presets.__main__", check=0).stdout
    assert [name for name in presets.CONFIGS if f"\n{name} " not in out] == []
    out = call("presets.__main__", "CosineBetas", check=0).stdout
    assert "\niddpm_cifar10 " in out and "digits_vp " not in out
    assert "no preset has 'nothing'" in call("presets.__main__", "nothing", check=2).stderr


@pytest.mark.slow
def test_a_run_is_told_and_damage_is_seen(workdir):
    out = call("info", workdir, check=0).stdout
    assert "config two_moons_vp, but" in out and "net.width=8" in out
    assert "step 20: loss" in out and "⠁" in out
    assert "checkpoint of step 10: " in out and out.count(", intact") == 2
    assert "sample --workdir" in out and "bounds" not in out
    config = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(config.replace('"beta_max": 20.0', '"beta_max": 9.0'))
    out = call("info", workdir, check=0).stdout
    assert "is not the config of its newest checkpoint" in out and "20.0 -> 9.0" in out
    err = call("train", *TINY, "--workdir", workdir, check=2).stderr
    assert "sde.beta_max: 20.0 -> 9.0" in err and "--allow-changes" in err
    (workdir / "config.json").write_text(config)
    largest = max((workdir / "checkpoints" / "step_00000010").rglob("d/*"), key=os.path.getsize)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 255
    largest.write_bytes(data)
    assert "DAMAGED" in call("info", workdir, check=0).stdout
    assert "holds no run" in call("info", workdir / "nothing", check=2).stderr


@pytest.mark.slow
def test_the_loss_by_noise_level_is_logged_and_drawn(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == [10, 20]
    for row in trained:
        known = [v for v in row["loss_by_level"] if v is not None]
        assert len(row["loss_by_level"]) == objectives.LEVELS and len(known) > 4
        assert min(known) > 0
    (held_out,) = [row for row in rows if "test_loss" in row]
    known = [v for v in held_out["test_loss_by_level"] if v is not None]
    assert min(known) < held_out["test_loss"] < max(known)
    with Image.open(workdir / "loss_by_level.png") as image:
        assert image.size[0] > 500 and np.asarray(image.convert("L")).std() > 5
    (events,) = (workdir / "tensorboard").iterdir()
    assert b"loss_by_level/3" in events.read_bytes() and b"test_loss" in events.read_bytes()


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path):
    """Its process is not started: what it is given is looked at."""
    wandb = pytest.importorskip("wandb")
    given = {}
    with mock.patch.object(wandb, "init") as init:
        for _ in range(2):
            report = loggers.LOGGERS["wandb"](tmp_path, {"seed": 0}, 1)
            report.log(
                mock.Mock(spec=Run),
                5,
                {"loss": np.array([1.0, 2.0]), "finite": np.array([True, True])},
            )
            report.close()
            given[init.call_args.kwargs["id"]] = init.call_args.kwargs
    ((_, options),) = given.items()  # a resumed run has the same identity
    assert options["resume"] == "allow" and options["config"] == {"seed": 0}
    assert init.return_value.log.call_args.args == ({"loss": 2.0},)
    assert init.return_value.log.call_args.kwargs == {"step": 6}
    assert init.return_value.finish.call_count == 2


@pytest.mark.slow
def test_a_run_that_cannot_start_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    with mock.patch.object(mapping, "mapped_step", side_effect=ValueError("it does not build")):
        call("train", *TINY, "--workdir", folder, check=2)
    assert not folder.exists()

    def fit(*args, **kwargs):
        time.sleep(0.2)  # Orbax makes its folder in the background
        raise ValueError("it does not run")

    with mock.patch("score_jax.training.fit", fit):
        call("train", *TINY, "--workdir", folder, check=2)
    assert not folder.exists() or [p.name for p in folder.iterdir()] in ([], [".lock"])
    config = runs.load_config
    call("train", *TINY, "--seed", "7", "--workdir", folder, check=0)
    assert config(folder).seed == 7


def test_a_curve_of_characters():
    lines = terminal.curve([0, 50, 100], [4.0, 2.0, 1.0], width=20, height=4)
    assert len(lines) == 6 and all(len(line) <= 24 for line in lines)
    assert lines[0].startswith("4 ┤") and lines[3].startswith("1 ┤")
    assert lines[0][3] != "\u2800" and lines[0][-1] == "\u2800" and lines[3][-1] != "\u2800"
    assert terminal.curve([1], [float("nan")]) == []


@pytest.mark.slow
def test_bash_completes_commands_options_and_values(tmp_path):
    (tmp_path / "score-jax").write_text(completion.script("bash"))
    (tmp_path / "own.yaml").touch()
    ask = """
source score-jax
for words in "score-jax sam" "score-jax sample --sampl" "score-jax sample --sampler he" \
  "score-jax train --config two_m" "score-jax train --config ow" "score-jax info ow"; do
  COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE=$words; COMP_POINT=${#words}
  COMPREPLY=(); _tyro_score_jax 2> /dev/null; echo "${COMPREPLY[@]}"
done
"""
    out = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert out.stdout.split("\n")[0].split() == ["sample"]
    assert "--sampler" in out.stdout.split("\n")[1] and out.stdout.split("\n")[2].strip() == "heun"
    assert out.stdout.split("\n")[3:6] == ["two_moons_vp", "own.yaml", "own.yaml"]
    assert completion.script("zsh").startswith("#compdef score-jax")


# What the tab key makes of a line, in a zsh behind a pseudo-terminal.
ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "fpath=($PWD \\$fpath); autoload -Uz compinit; compinit -u -d $PWD/.dump; echo REA''DY"
while zpty -r z line '*READY*'; do break; done
for words in "score-jax sampl" "score-jax sample --sampler he" "score-jax train --config two_m" \
  "score-jax info ow"; do
  zpty -n -w z "$words"$'\\t'
  sleep 1.5
  zpty -n -w z $'\\x15'
done
sleep 0.5
while zpty -r -t z line; do print -r -- $line; done
zpty -d z
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes_commands_options_and_values(tmp_path):
    (tmp_path / "_score-jax").write_text(completion.script("zsh"))
    (tmp_path / "own.yaml").touch()
    out = subprocess.run(
        ["zsh", "-f", "-c", ZSH], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    for found in ("sample", "heun", "two_moons_vp", "own.yaml"):
        assert found in out.stdout, out.stdout


def test_the_nearest_preset_is_found():
    tree = json.loads(json.dumps(info.flags.preset("digits_ve")))
    assert info.of_config(tree)[1] == "config digits_ve"
    tree["optim"]["lr"] = 0.5
    assert info.of_config(tree)[1] == "config digits_ve, but optim.lr=0.5"
