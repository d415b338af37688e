"""Samplers side by side, on a Gaussian whose flow is known in closed form."""

import functools

import jax
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.metrics import sliced_wasserstein
from score_jax.samplers.compare import Candidate, compare_samplers
from score_jax.sde import VP
from tests.helpers.closed_form import isotropic

SDE, MEAN, STD, T0 = VP(), 0.8, 0.5, 1e-2
SCORE = isotropic(SDE, MEAN, STD)
SHAPE = (128, 2)


def flow_of(z):
    """Where the probability flow takes latents of the Gaussian: an affine map."""
    m = lambda t: float(SDE.mean_coeff(t))
    width = lambda t: np.sqrt(m(t) ** 2 * STD**2 + float(SDE.std(t)) ** 2)
    return m(T0) * MEAN + (z - m(1.0) * MEAN) * width(T0) / width(1.0)


@pytest.fixture(scope="module")
def rows():
    """Euler with few and many steps, an adaptive solver, and noise."""
    key = jax.random.key(1)
    latents = sm.sample(
        key, SDE, SCORE, SHAPE,
        sampler=sm.stepwise(lambda sde, score: sm.chain(), final_denoising=sm.as_it_is),
        grid=[1.0, T0], progress=False,
    ).x  # fmt: skip
    euler = sm.stepwise(sm.euler_maruyama, ode=True, final_denoising=sm.as_it_is)
    grid = functools.partial(sm.uniform_grid, SDE, t0=T0)
    data = MEAN + STD * np.random.default_rng(0).normal(size=(4000, 2))
    found = compare_samplers(
        key, SDE, SCORE, SHAPE,
        {
            "euler 10": Candidate(euler, grid(10), True),
            "euler 40": Candidate(euler, grid(40), True),
            "ode": Candidate(sm.flow(rtol=1e-5, atol=1e-5, final_denoising=sm.as_it_is), grid(1), True),
            "em": Candidate(sm.euler_maruyama, grid(100)),
            "nothing": Candidate(
                sm.stepwise(sm.euler_maruyama, final_denoising=sm.as_it_is), [1.0, 0.999]
            ),
        },
        exact=flow_of(latents), repeats=3, progress=False,
        distances={"sliced": functools.partial(sliced_wasserstein, data), "one": lambda x: 1.0},
    )  # fmt: skip
    return {row.name: row for row in found}


@pytest.mark.slow
def test_errors_are_those_of_the_same_latent(rows):
    """Euler's falls with the step; the solver's is its tolerance, against a formula."""
    assert rows["ode"].error < 1e-4
    assert rows["euler 10"].error / rows["euler 40"].error == pytest.approx(4, rel=0.3)
    assert rows["euler 40"].error > 1e-3
    assert rows["em"].error is None


def test_distances_tell_samples_from_noise(rows):
    """128 draws of the law itself are about 0.05 away; noise is further, by more than the spread."""
    good, bad = rows["em"].distances["sliced"], rows["nothing"].distances["sliced"]
    assert good.mean < 0.12 and bad.mean > good.mean + 5 * (good.std + bad.std)
    assert 0 < good.std < 0.1
    assert rows["em"].distances["one"] == (1.0, 0.0)


def test_costs(rows):
    assert [rows[k].nfe for k in ("euler 10", "euler 40", "em", "nothing")] == [10, 40, 101, 1]
    assert 20 < rows["ode"].nfe < 200
    assert all(row.seconds > 0 and row.compile_seconds > 0 for row in rows.values())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "exact or distances must be given"),
        ({"distances": {"a": np.mean}, "repeats": 0}, "repeats must be at least 1, got 0"),
        ({"exact": np.zeros((3, 2))}, r"exact must have shape \(128, 2\), got \(3, 2\)"),
    ],
)
def test_bad_input_is_named(given, named):
    with pytest.raises(ValueError, match=named):
        compare_samplers(jax.random.key(0), SDE, SCORE, SHAPE, {}, **given)
