"""Run folders: those of version 0.1 resume, and `load_pretrained` needs nothing but the folder."""

import json
import subprocess
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import score_jax as sj
from experiments import presets, runs
from experiments.parts.upgrade import upgraded
from experiments.run_config import from_json
from score_jax.convert.published import PUBLISHED
from score_jax.nets import UNet
from score_jax.parametrization import LARGE, LEARNED_RANGE, SCORE, IndexInput, LevelInput
from score_jax.sde import CosineBetas, LinearBetas
from tests.experiments.test_experiments import call
from tests.helpers import ROOT

OLD = ROOT / "tests" / "helpers" / "data" / "run_8e14a58.tar.xz"
# Loads a run and samples from it where the package `experiments` cannot be imported.
ALONE = """
import sys
sys.modules["experiments"] = None
import jax
import score_jax as sj
model, params = sj.load_pretrained(sys.argv[1])
grid = sj.uniform_grid(model.sde, 3)
out = sj.sample(jax.random.key(0), model.sde, model.score(params), (4, 2), sampler=sj.ddim, grid=grid)
print(out.x.shape, bool(abs(out.x).max() < 1e3))
"""


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    """A run of commit 8e14a58 that was continued by ten steps."""
    home = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD) as file:
        file.extractall(home, filter="data")
    with pytest.raises(ValueError, match=r"model.json is missing.*repeating its command"):
        sj.load_pretrained(home / "run")
    flags = """
        --config two_moons_vp --data.num-points 200 --net.width 8 --net.num-blocks 1
        --optim.power-averages 0.1 --train.steps 30 --train.batch-size 16 --train.steps-per-call 5
        --train.log-every 5 --train.keep 2 --train.sample-every 30 --train.checkpoint-every 10
    """
    out = call("train", *flags.split(), "--workdir", home / "run", check=0)
    assert "trained to step 30" in out.stdout
    return home / "run"


@pytest.mark.slow
def test_a_run_of_version_0_1_resumes(old_run):
    rows = [json.loads(line) for line in (old_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20, 25, 30]
    run, _, step = runs.load(old_run)
    assert step == 30 and run.config.net.width == 8


def test_a_run_folder_is_a_model_and_its_parameters(old_run):
    run, ema_params, _ = runs.load(old_run)
    model, params = sj.load_pretrained(old_run)
    raw = sj.load_pretrained(old_run, ema=False)[1]
    equal = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, a, b))
    assert equal(params, ema_params) and not equal(params, raw)
    assert (model.sde, model.noise_input) == (run.sde, run.config.noise_input)
    x, t = jnp.ones((3, 2)), 0.3
    np.testing.assert_array_equal(model.score(params)(x, t), run.score(ema_params)(x, t))
    with pytest.raises(ValueError, match="preset must be None for the folder"):
        sj.load_pretrained(old_run, "cifar10_ddpmpp")


@pytest.mark.slow
def test_it_samples_without_the_experiments(old_run):
    out = subprocess.run(
        [sys.executable, "-c", ALONE, str(old_run)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert out.stdout.strip() == "(4, 2) True", out.stderr


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_built_preset_is_the_published_network_and_process(name):
    """Number of classes, channels, range and noise levels follow from the data and the process."""
    assert runs.build(presets.get(name)).ingredients == PUBLISHED[name]


def old_config(sde, net, loss):
    """A config of version 0.1 with these parts; those it lacks are today's."""
    tree = {
        "data": {"name": "digits"},
        "train": {"accumulate": 2},
        "sample": {"sampler": "pc", "finish": "mean"},
    }
    base = {"dropout": 0.0, "conditional": False, "output": "noise", "label": "index", "width": 32}
    sizes = {"sigma_min": 0.01, "sigma_max": 9.0, "beta_min": 0.1, "beta_max": 20.0, "t0": 1e-3}
    return json.dumps(tree | {
        "sde": {"levels": None, "steps": 100, **sizes, **sde}, "net": base | net,
        "loss": {"label_dropout": 0.0, **loss},
    })  # fmt: skip


def test_configs_of_version_0_1_are_converted():
    dsm = {"kind": "dsm", "times": "stratified"}
    sde = {"kind": "ve", "levels": 10}
    config = from_json(upgraded(old_config(sde, {"kind": "ncsnpp", "output": "score"}, dsm)))
    assert config.sde.sigma_max == 9.0 and config.noise_input == LevelInput(10)
    assert config.parametrization is SCORE and config.net.scale_by_sigma
    assert config.net.channels == 32 and config.train.microbatches == 2 and config.loss.t0 == 1e-3
    config = from_json(upgraded(old_config({"kind": "vp", "levels": 50}, {"kind": "ddpm"}, dsm)))
    assert config.sde == LinearBetas(50) and config.noise_input == IndexInput(rounded=True)
    unet = {"kind": "unet", "legacy_attention": True, "attention": [2], "conditional": True}
    table = {"kind": "table", "objective": "vlb", "indices": "loss_second_moment"}
    sde = {"kind": "diffusion", "schedule": "cosine", "predicts": "noise", "rescale_labels": True}
    for variance, record in (("learned_range", LEARNED_RANGE), ("large", LARGE)):
        config = from_json(upgraded(old_config(sde | {"variance": variance}, unet, table)))
        assert (config.sde, config.variance) == (CosineBetas(100), record)
        assert config.noise_input == IndexInput(1000.0) and config.class_conditional
        assert isinstance(config.net, UNet) and config.net.attention_factors == (2,)
        assert config.loss.objective == "variational"
