"""Samplers by name: every name means something, and costs what is said."""

import dataclasses
import os
import typing

import jax
import numpy as np
import pytest

from experiments import compare, presets, runs
from experiments import sample as command
from experiments.config import SampleConfig
from experiments.parts import fitted, samplers
from score_jax.samplers import ModelStatistics, StepCosts, sample, threshold
from score_jax.sde import VP
from tests.helpers.closed_form import isotropic

SDE = VP()
SCORE = isotropic(SDE, 0.3, 0.2)
# Of N(0.3, 0.2^2) in each of two entries: l is the share of the noise in the variance of x/m.
LEVELS = np.linspace(-4.0, 4.0, 33)
SHARE = np.repeat(1 / (1 + np.exp(2 * LEVELS) * 0.2**2), 2).reshape(33, 2)
STATISTICS = ModelStatistics(LEVELS, SHARE, 0 * SHARE, -0.3 * np.gradient(SHARE, LEVELS, axis=0))
TABLES = {
    "sampler": samplers.SAMPLERS,
    "predictor": samplers.PREDICTORS,
    "corrector": samplers.CORRECTORS,
    "grid": samplers.GRIDS | {"usual": None},
    "final_denoising": samplers.FINAL_DENOISING,
    "threshold": samplers.THRESHOLDS,
}


@pytest.mark.parametrize("field", TABLES)
def test_every_name_of_the_config_is_known_and_the_other_way(field):
    allowed = typing.get_args(typing.get_type_hints(SampleConfig)[field])
    assert set(allowed) == set(TABLES[field])
    assert set(samplers.SONG_PREDICTORS) == set(samplers.PREDICTORS)
    assert set(samplers.SONG_CORRECTORS) == set(samplers.CORRECTORS)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown sampler 'dpm3'.*; known: pc, song, em,.*unipc"):
        samplers.check_names(["pc", "dpm3"])


@pytest.mark.slow
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_named_sampler_draws_and_costs_what_is_said(name, tmp_path):
    """On its usual grid it finds the Gaussian, at the number of evaluations stated in advance."""
    if samplers.SAMPLERS[name].statistics:
        fitted.save_statistics(tmp_path, STATISTICS)
    steps = {"song": 30, "langevin": 20}.get(name, 12)
    c = SampleConfig(sampler=name, steps=steps, epsilon=1e-3, t0=1e-2)
    made = samplers.make(c, of_run=fitted.found_in(tmp_path))
    out = sample(
        jax.random.key(0), SDE, SCORE, (64, 2), sampler=made, grid=samplers.make_grid(c, SDE),
        progress=False, chunk=64, devices=jax.devices()[:1],
    )  # fmt: skip
    assert out.x.mean() == pytest.approx(0.3, abs=0.2)
    # A step or two short of its purpose, but neither noise (1) nor a point (0).
    assert 0.05 < out.x.std() < 0.5
    if samplers.SAMPLERS[name].adaptive:
        assert out.nfe.min() > 5
    else:
        each, extra = samplers.evaluations(c, SDE)
        assert set(out.nfe) == {each * steps + extra}
        assert samplers.steps_within(c, SDE, each * steps + extra) == steps


def test_a_fitted_grid_is_that_of_its_file(tmp_path):
    """Costs written to a file give grids of any number of steps; what does not fit is named."""
    times = np.linspace(1.0, 0.01, 7).astype(np.float32)
    gap = np.abs(np.subtract.outer(np.arange(7.0), np.arange(7.0))) ** 2
    first = np.where(np.triu(gap, 1) > 0, gap, np.inf)
    second = (
        np.broadcast_to(first[None], (7, 7, 7)) + np.where(first < np.inf, 0, first)[:, :, None]
    )
    fitted.save_costs(tmp_path, StepCosts(times, first, second))
    of_run = fitted.found_in(tmp_path)
    assert of_run.statistics is None
    c = SampleConfig(sampler="dpmpp_2m", grid="fitted", steps=3, t0=0.01)
    for sampler in ("dpmpp_2m", "ddim"):
        found = samplers.make_grid(dataclasses.replace(c, sampler=sampler), SDE, of_run)
        np.testing.assert_array_equal(found, times[::2])  # equal steps, whose squares sum to least
    with pytest.raises(ValueError, match="needs a run with a fitted grid"):
        samplers.make_grid(c, SDE)
    with pytest.raises(ValueError, match=r"was fitted to t0=0\.01, got t0=0\.001"):
        samplers.make_grid(dataclasses.replace(c, t0=1e-3), SDE, of_run)
    np.savez(of_run.grid, times=times)
    with pytest.raises(ValueError, match=r"fitted_grid\.npz cannot be read as a fitted grid"):
        samplers.make_grid(c, SDE, of_run)


def test_statistics_are_those_of_their_file(tmp_path):
    """The same object for the same file, as programs are kept by it; a new one for a new file."""
    c = SampleConfig(sampler="dpm_solver_v3", order=3, t0=0.01)
    with pytest.raises(ValueError, match=r"needs a run with model statistics: .*--fit-statistics"):
        samplers.make(c)
    assert samplers.evaluations(c, SDE) == (1, 1)  # known before there are any
    fitted.save_statistics(tmp_path, STATISTICS)
    of_run = fitted.found_in(tmp_path)
    assert samplers.make(c, of_run=of_run) == samplers.make(c, of_run=of_run)
    options = dict(samplers.make(c, of_run=of_run).options)
    assert options["order"] == 3
    for name in fitted.STATISTICS:
        np.testing.assert_allclose(
            getattr(options["statistics"], name), getattr(STATISTICS, name), rtol=1e-6
        )
    np.savez(of_run.statistics, levels=STATISTICS.levels[::-1], linear=[1], growth=[0], shift=[0])
    os.utime(of_run.statistics, ns=(0, 0))
    with pytest.raises(ValueError, match=r"cannot be read as model statistics: levels must be"):
        samplers.make(c, of_run=of_run)
    of_run.statistics.write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=r"model_statistics\.npz cannot be read as model"):
        samplers.make(c, of_run=of_run)


def test_thresholds_keep_what_is_said_of_the_data_in_its_range():
    """Far outside, where the score would have the sample leave."""
    c = SampleConfig(threshold="static", sampler="ddim", steps=4)
    score = threshold(SDE, isotropic(SDE, 3.0, 0.1), samplers.threshold_rule(c, -1.0, 1.0))
    out = sample(
        jax.random.key(0), SDE, score, (2, 2), sampler=samplers.make(c), grid=samplers.make_grid(c, SDE),
        progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(out.x, np.ones((2, 2)), atol=1e-5)


def test_both_spellings_of_a_flag(tmp_path):
    args = command.parse(["--workdir", str(tmp_path), "--sample.sampler", "heun", "--steps=7"])
    assert (args.sample.sampler, args.sample.steps) == ("heun", 7)
    # What is not given is that of the run.

    config = presets.get("digits_vp")
    kept = dataclasses.replace(config.sample, snr=0.3, sampler="unipc")
    runs.save_config(tmp_path, dataclasses.replace(config, sample=kept))
    args = command.parse(["--workdir", str(tmp_path), "--sample.steps", "7"])
    assert args.sample == dataclasses.replace(kept, steps=7)


ROW = {
    "sampler": "a", "how": "9 steps", "nfe": 10.0, "error": 0.0123, "seconds": 1.0,
    "distances": {"frechet": {"mean": 1.25, "std": 0.031}},
}  # fmt: skip


def test_a_card_shows_means_with_their_spread():
    result = {"step": 5, "num": 9, "repeats": 2, "space": "x", "train_split": {"frechet": 0.5}}
    rows = [ROW, ROW | {"sampler": "b", "error": None, "nfe": 20.0}]
    text = compare.report(result | {"rows": rows})
    assert "| a | 9 steps | 10 | 0.012 | 1.25 ± 0.03 | 1.0 |" in text
    assert "| b | 9 steps | 20 |  | 1.25 ± 0.03 | 1.0 |" in text
    assert "| train split |" in text
    picture = np.asarray(compare.card(result | {"rows": rows}).convert("RGB"))
    assert picture.std() > 5
