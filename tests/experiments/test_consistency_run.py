"""Runs of consistency models from their configs: trained, distilled, read, sampled, and refused."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import compare, encode, presets, runs
from experiments.config import LossConfig, SampleConfig
from experiments.parts import samplers, sampling, unused
from experiments.run_config import differences, from_json, to_json
from score_jax.nets import MLP
from score_jax.parametrization import consistency
from tests.helpers.tiny_runs import tiny, write_run


def small(name="digits_consistency", **loss):
    config = presets.get(name)
    return dataclasses.replace(
        config, net=MLP(width=16, num_blocks=1), loss=dataclasses.replace(config.loss, **loss)
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    config = dataclasses.replace(small("digits_edm"), class_conditional=True)
    return write_run(tmp_path_factory.mktemp("teacher") / "run", config)


@pytest.mark.slow
def test_a_run_is_distilled_saved_read_and_sampled_in_one_and_two_evaluations(teacher, tmp_path):
    config = dataclasses.replace(small(teacher=str(teacher)), class_conditional=True)
    assert from_json(to_json(config)) == config
    run = runs.build(config)
    batches = run.source.batches(8, seed=0)
    state, metrics = jax.jit(runs.make_step(run).run)(runs.initial_state(run), next(batches))
    batches.close()
    assert metrics["finite"] and float(metrics["grad_norm"]) > 0
    runs.write(tmp_path / "run", run, state.ema_params, 1, {})
    # Samples need no teacher.
    gone = dataclasses.replace(config, loss=dataclasses.replace(config.loss, teacher="gone"))
    runs.write(tmp_path / "gone", runs.build(gone), state.ema_params, 1, {})
    again, params, _ = runs.load(tmp_path / "gone")
    for steps in (1, 2):
        c = dataclasses.replace(config.sample, steps=steps)
        assert samplers.evaluations(c, run.sde) == (1, 0)
        out = sampling.draw(again, params, jax.random.key(0), 4, c, y=[1, 2, 3, 9], progress=False)
        assert np.isfinite(out.x).all() and out.nfe == steps
    score = sampling.draw(again, params, jax.random.key(0), 4, c, y=[1, 2, 3, 8], progress=False)
    assert np.abs(score.x - out.x)[3].max() > 0 == np.abs(score.x - out.x)[:3].max()


def refused(words, call):
    with pytest.raises(ValueError, match=words):
        call()


def test_what_does_not_belong_together_is_refused(teacher, tmp_path):
    run = runs.build(small())
    model, c = run.model, run.config.sample
    draw = lambda run, c: sampling.check_sample(run, c)
    other = SampleConfig(sampler="heun", t0=0.002)
    refused("--sampler heun needs the score of a diffusion model", lambda: draw(run, other))
    plain = runs.build(tiny("digits_edm", loss=LossConfig(t0=1e-3)))
    refused("--sampler consistency needs a consistency model", lambda: draw(plain, c))
    refused("belong together", lambda: small(objective="dsm", reduction="mean"))
    refused(
        "belong together",
        lambda: dataclasses.replace(small("digits_edm"), parametrization=consistency()),
    )
    refused("loss.t0 must be at least 0.002", lambda: small(t0=1e-3))
    refused("loss.reduction must be mean", lambda: LossConfig(reduction="pseudo_huber"))
    refused("loss.intervals must be two numbers", lambda: LossConfig(intervals=(9, 3)))
    refused("loss.teacher_preset must be for a teacher", lambda: LossConfig(teacher_preset="x"))
    made = lambda path, **more: runs.build(small(teacher=str(path), **more)).loss
    refused("must have the classes of the run, None, got 10", lambda: made(teacher))
    vp = write_run(tmp_path / "vp", tiny())
    refused("must have the process of the run, LinearVE", lambda: made(vp))
    own = write_run(tmp_path / "own", run.config)
    refused("must be a diffusion model, not a consistency model", lambda: made(own))
    likelihood = ["--workdir", str(own), "--test", "1", "--out", str(tmp_path / "x")]
    refused("a latent needs the score of a diffusion model", lambda: encode.main(likelihood))
    others = ["--workdir", str(own), "--samplers", "heun", "--out", str(tmp_path / "y")]
    refused("--sampler heun needs the score of a diffusion model", lambda: compare.main(others))
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()
    assert model.parametrization.t0 == 0.002


def test_options_of_the_objective():
    used = unused.of_loss(small().loss)
    assert "weighting" in used and not {"reduction", "intervals", "teacher"} & set(used)
    assert {"intervals", "teacher"} <= set(unused.of_loss(LossConfig()))
    config = small()
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=5_000))
    assert differences(config, longer) == ["train.steps: 2500 -> 5000"]
