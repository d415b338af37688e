"""The benchmark tells exact draws from others: in place, in spread, in weights, and in calibration."""

import json

import jax
import numpy as np
import pytest

from score_jax.analytic import Mixture
from score_jax.inverse import (
    Mask,
    Measurement,
    Nonlinear,
    dps,
    log_evidence,
    measured_stds,
    pigdm,
)
from score_jax.inverse.benchmark import (
    EXACT,
    Drawn,
    Problem,
    by_exact_score,
    by_particles,
    by_steps,
    compare,
    compare_draws,
    exact_draws,
    pose,
)
from score_jax.inverse.calibration import calibration_test, sbc_ranks, tarp_levels, uniformity
from tests.helpers import ROOT
from tests.inverse.test_inverse import SDE

DATA = Mixture([0.6, 0.4], [[0.0, -1.5], [0.5, 1.5]], [0.1 * np.eye(2), 0.1 * np.eye(2) + 0.05])


@pytest.fixture(scope="module")
def posed():
    return pose(jax.random.key(0), Problem(DATA, Mask([True, False]), 0.1), repeats=48, num=100)


def value(found, name):
    return found.figures[name].value


@pytest.mark.slow
def test_wrong_draws_are_seen(posed):
    """Moved, narrowed, and with the modes mixed up: each figure sees its own fault."""
    x = np.asarray(exact_draws(posed).x)
    exact = compare_draws(posed, Drawn(x, 0.0, 0.0))
    assert value(exact, "std_ratio") == pytest.approx(1, abs=0.05)
    assert value(exact, "residual") == pytest.approx(1, abs=0.2)
    assert value(exact, "sbc") < 0.2 and value(exact, "tarp") < 0.25
    assert value(exact, "calibration") > 0.05
    mean = x.mean(axis=1, keepdims=True)
    std = np.array([truth.std for truth in posed.references])[:, None]
    moved = compare_draws(posed, Drawn(x + 0.5 * std, 0.0, 0.0))
    assert value(moved, "mean_error") == pytest.approx(0.5, abs=0.1)
    assert value(moved, "sliced_wasserstein") > 2 * value(exact, "sliced_wasserstein")
    assert value(moved, "frechet") == pytest.approx(0.25, abs=0.05)
    narrow = compare_draws(posed, Drawn(mean + 0.3 * (x - mean), 0.0, 0.0))
    assert value(narrow, "std_ratio") == pytest.approx(0.3, abs=0.02)
    assert value(narrow, "sbc") > value(exact, "sbc") + 0.1
    assert value(narrow, "calibration") < 1e-3
    one = np.repeat(np.where(x[:, :1, 1:] > 0, 1.5, -1.5), 100, axis=1)
    single = compare_draws(posed, Drawn(np.concatenate([x[..., :1], one], axis=2), 0.0, 0.0))
    assert value(single, "weights_error") > value(exact, "weights_error") + 0.1
    broken = np.where(np.arange(48)[:, None, None] == 3, np.nan, x)
    found = compare_draws(posed, Drawn(broken, 0.0, 0.0))
    assert found.nonfinite == pytest.approx(1 / 48) and len(found.levels) == 47
    with pytest.raises(ValueError, match="shape of x must be"):
        compare_draws(posed, Drawn(x[:3], 0.0, 0.0))


@pytest.mark.slow
def test_methods_have_the_figures_of_the_docs(posed):
    """A part of the committed table: `two_modes` with 100 evaluations, within the errors of both."""
    rows = json.loads((ROOT / "docs" / "posterior-table.json").read_text())["rows"]
    shown = {
        row["method"]: row["figures"]
        for row in rows
        if row["problem"] == "two_modes" and row["noise_std"] == 0.1
    }
    std = measured_stds(Mask([True, False]), DATA.sample(jax.random.key(0), 500))
    drawers = {"exact": by_exact_score(DATA), "pigdm": by_steps(pigdm, data_std=std)}
    found = compare(jax.random.key(1), SDE, posed, drawers, num=100)
    assert list(found) == [EXACT, "exact", "pigdm"]
    far = {name: value(row, "sliced_wasserstein") for name, row in found.items()}
    assert far["exact"] < 1.4 * far[EXACT] < far["pigdm"]
    assert found["pigdm"].nfe == 100 and found["pigdm"].seconds > 0
    for name, row in found.items():
        for figure in (
            "sliced_wasserstein",
            "mean_error",
            "std_ratio",
            "weights_error",
            "residual",
        ):
            mine, there = row.figures[figure], shown[name][figure]
            error = np.hypot(mine.error, there["error"])
            assert abs(mine.value - there["value"]) < 4 * error + 0.01, (name, figure)


def test_the_evidence_of_a_drawer_is_compared_with_the_exact_one(posed):
    """Half of the exact p(y) for every y is a half in the mean, without an error."""
    x = np.asarray(exact_draws(posed).x)
    half = log_evidence(DATA, posed.measurement) - np.log(2)
    found = compare_draws(posed, Drawn(x, 0.0, 0.0, half)).figures["evidence"]
    assert found.value == pytest.approx(0.5, rel=1e-5) and found.error < 1e-5
    assert "evidence" not in compare_draws(posed, Drawn(x, 0.0, 0.0)).figures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:too few particles")
def test_the_draws_of_dead_particles_are_not_finite_and_the_others_are_there():
    y = Measurement(Mask([True, False]), np.asarray([[1e25, 0.0], [0.5, 0.0]], np.float32), 0.1)
    drawn = by_particles(nfe=4)(jax.random.key(0), SDE, DATA.score(SDE), y, 8)
    assert np.isnan(drawn.x[0]).all() and np.isfinite(drawn.x[1]).all()
    assert drawn.log_evidence[0] == -np.inf and np.isfinite(drawn.log_evidence[1])


@pytest.mark.slow
def test_a_nonlinear_problem_has_a_reference_with_an_error():
    square = Problem(DATA, Nonlinear(lambda x: x[:, :1] ** 2, (2,)), 0.2, draws=20_000)
    posed = pose(jax.random.key(0), square, repeats=2, num=50)
    assert all(0 < truth.error < 0.2 for truth in posed.references)
    with pytest.warns(UserWarning, match="left out: this method needs a linear"):
        drawers = {"pigdm": by_steps(pigdm), "dps": by_steps(dps, nfe=20)}
        found = compare(jax.random.key(1), SDE, posed, drawers, num=50)
    assert list(found) == [EXACT, "dps"]


@pytest.mark.parametrize(("scale", "least", "most"), [(1.0, 0, 5), (1.4, 37, 40), (0.7, 37, 40)])
def test_a_wrong_spread_is_found_with_a_power_of_nine_tenths(scale, least, most):
    """The test of the benchmark at 5 %, 64 posteriors of two numbers, 100 draws each: of 40 tries."""
    rejected = 0
    density = lambda v: -np.square(v).sum(axis=-1, keepdims=True)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth, draws = rng.normal(size=(64, 2)), scale * rng.normal(size=(64, 100, 2))
        along = rng.normal(size=(2, 8))
        levels = [
            sbc_ranks(truth @ along, draws @ along),
            sbc_ranks(density(truth), density(draws)),
            tarp_levels(truth, draws, rng.normal(size=(64, 2)))[:, None],
        ]
        rejected += calibration_test(np.concatenate(levels, axis=1)) < 0.05
    assert least <= rejected <= most


def test_levels_of_exact_draws_are_uniform_and_of_others_not():
    rng = np.random.default_rng(0)
    place = rng.normal(size=(400, 1, 2))
    truth, draws = place[:, 0] + rng.normal(size=(400, 2)), place + rng.normal(size=(400, 99, 2))
    points = 2 * rng.normal(size=(400, 2))
    assert uniformity(sbc_ranks(truth, draws)) < 0.07
    assert uniformity(tarp_levels(truth, draws, points)) < 0.07
    narrow = place + 0.5 * (draws - place)
    assert uniformity(sbc_ranks(truth, narrow)) > 0.12
    assert uniformity(tarp_levels(truth, narrow, points)) > 0.1
    assert uniformity(np.full(10, 0.3)) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="shapes of truth and draws"):
        sbc_ranks(truth, draws[:3])
    with pytest.raises(ValueError, match="levels must be"):
        calibration_test(np.ones(1))
    with pytest.raises(ValueError, match="points must be"):
        tarp_levels(truth, draws, points[:3])
