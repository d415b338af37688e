"""A run of rectified flow from its config: trained, written, read and sampled, from pure noise."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import runs
from experiments.config import DataConfig, LossConfig, SampleConfig
from experiments.parts import samplers, sampling, unused
from score_jax.sde import RectifiedFlow
from tests.helpers.tiny_runs import tiny

LOSS = LossConfig(weighting="velocity", uncertainty=True, times="logit_normal", shift=2.0, t0=1e-3)


@pytest.mark.slow
def test_a_run_with_every_option_of_flows(tmp_path):
    """The weights of the learned uncertainty are in the checkpoint, and sampling does not need them."""
    config = tiny("digits_flow", loss=LOSS)
    config = dataclasses.replace(config, data=DataConfig(pair_noise=True))
    run = runs.build(config)
    state = runs.initial_state(run)
    batches = run.source.batches(8, seed=0)
    batch = next(batches)
    assert batch["z"].shape == batch["x"].shape == (8, 8, 8, 1)
    state, metrics = jax.jit(runs.make_step(run).run)(state, batch)
    batches.close()
    assert metrics["finite"] and float(metrics["unweighted"]) > 0
    assert float(abs(state.params["uncertainty"]["bias"])) > 0
    runs.write(tmp_path / "run", run, state.ema_params, 1, {})
    again, params, step = runs.load(tmp_path / "run")
    assert step == 1 and again.config == config
    jax.tree.map(np.testing.assert_array_equal, params, state.ema_params)
    for name in ("ddim", "em"):
        c = SampleConfig(sampler=name, steps=3)
        out = sampling.draw(again, params, jax.random.key(0), 2, c, progress=False)
        assert np.isfinite(out.x).all()


def test_samplers_that_need_a_finite_drift_start_before_pure_noise():
    flow = RectifiedFlow()
    first = lambda **fields: float(samplers.make_grid(SampleConfig(**fields), flow)[0])
    for name in samplers.SAMPLERS:
        if name != "song":
            assert first(sampler=name) == pytest.approx(0.999 if name == "em" else 1.0, abs=1e-7)
    assert first(sampler="pc", predictor="euler_maruyama") == pytest.approx(0.999)
    with pytest.raises(ValueError, match=r"needs sde.t1 < 1"):
        tiny("digits_flow", loss=LossConfig(weighting="likelihood"))


def test_options_that_a_weighting_does_not_use():
    found = unused.of_loss(LossConfig(weighting="p2", times="logit_normal"))
    assert {"bias", "log_sigma_mean"} <= set(found)
    assert not {"gamma", "logit_std"} & set(found)
