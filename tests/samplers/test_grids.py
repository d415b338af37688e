"""Grids: their ends, their spacing, the authors' three clocks, and what is refused."""

import inspect
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from score_jax import samplers as sm
from score_jax.sde import VE, VP, CosineBetas, CosineVP, LinearVE, SubVP, from_betas, from_marginals
from tests.helpers.golden_files import golden

SDES = {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(0.01, 348.0),
    "cosine": CosineVP(),
    "linear_ve": LinearVE(),
    "table": from_betas(np.linspace(1e-4, 0.02, 1000)),
    "own": from_marginals(lambda t: jnp.cos(1.5 * t), lambda t: jnp.sin(1.5 * t)),
}
GRIDS = {
    "uniform": sm.uniform_grid,
    "quadratic": sm.quadratic_grid,
    "power": lambda sde, n, t0: sm.power_grid(sde, n, t0=t0, power=5.0),
    "log_snr": sm.log_snr_grid,
    "karras": sm.karras_grid,
}


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SDES)
def test_grids_begin_at_t1_and_end_at_t0(name, grid):
    sde = SDES[name]
    t0 = 2e-3 * sde.t1
    for n in (1, 2, 50):
        times = GRIDS[grid](sde, n, t0=t0)
        assert times.shape == (n + 1,)
        assert times[0] == np.float32(sde.t1) and times[-1] == np.float32(t0)
        sm.check_grid(times, sde.t1)


@pytest.mark.parametrize("name", SDES)
def test_spacing(name):
    """Equal steps in what the grid is named after: log-SNR, and the seventh root of s/m."""
    sde = SDES[name]
    t0 = 1e-2 * sde.t1
    value = np.asarray(sde.log_snr(sm.log_snr_grid(sde, 12, t0=t0)), np.float64)
    np.testing.assert_allclose(np.diff(value), (value[-1] - value[0]) / 12, rtol=2e-4)
    t = sm.karras_grid(sde, 12, t0=t0)
    root = np.asarray(sde.std(t) / sde.mean_coeff(t), np.float64) ** (1 / 7)
    np.testing.assert_allclose(np.diff(root), (root[-1] - root[0]) / 12, rtol=2e-4)


def test_karras_grid_is_edms():
    """The second of EDM's 18 noise levels is (80^(1/7) - (80^(1/7) - 0.002^(1/7)) / 17)^7 = 57.586."""
    grid = sm.karras_grid(LinearVE(), 17, t0=0.002)
    assert float(grid[1]) == pytest.approx(57.586, abs=1e-3)


def test_quadratic_grid_is_quadratic():
    root = np.sqrt(np.asarray(sm.quadratic_grid(VP(), 10, t0=1e-4), np.float64))
    np.testing.assert_allclose(np.diff(root), -0.099, rtol=1e-4)


def test_respaced_tables():
    assert sm.spaced_indices(300, 250) == tuple(golden("iddpm_process")["space_timesteps/300/250"])
    assert sm.spaced_indices(10, 10) == tuple(range(10))
    four = CosineBetas(4)
    np.testing.assert_array_equal(sm.schedule_grid(four), np.float32([1, 0.75, 0.5, 0.25]))
    np.testing.assert_array_equal(sm.schedule_grid(four, [0, 3]), np.float32([1, 0.25]))
    np.testing.assert_array_equal(sm.schedule_grid(four, (2, 0, 1)), np.float32([0.75, 0.5, 0.25]))


@pytest.mark.parametrize(("n", "t0"), [(1000, 1e-3), (1000, 1e-5), (2000, 1e-5)])
def test_song_grid_of_the_published_settings(n, t0):
    """Every entry of the table once, in order; the times from 1 to t0, both included."""
    grid = sm.song_grid(n, t0)
    np.testing.assert_array_equal(grid.index, np.arange(n)[::-1])
    assert grid.times.shape == (n + 1,) and grid.dt == 1 / n and grid.n == n
    assert grid.times[0] == 1 and grid.times[-2] == np.float32(t0)
    np.testing.assert_allclose(grid.times[:-1], np.linspace(1, t0, n), rtol=0, atol=1e-7)
    sm.check_grid(grid.times, 1.0)


def test_song_grid_keeps_the_wrong_entries_too():
    """At N = 2000 and t0 = 1e-3 half of the steps miss their entry, as in the authors' programs."""
    grid = sm.song_grid(2000, 1e-3)
    missed = (grid.index != np.arange(2000)[::-1]).sum()
    assert 999 <= missed <= 1000
    assert len(set(grid.index)) == 1999


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.floats(2**-10, 1.0, width=32), min_size=2, max_size=20, unique=True),
    at=st.integers(0, 18),
)
def test_any_decreasing_list_is_a_grid_and_no_other(times, at):
    times = sorted(times, reverse=True)
    np.testing.assert_array_equal(sm.check_grid(times, 1.0), np.float32(times))
    i = at % (len(times) - 1)
    times[i], times[i + 1] = times[i + 1], times[i]
    with pytest.raises(ValueError, match="decrease strictly"):
        sm.check_grid(times, 1.0)


BAD = [
    (lambda: sm.log_snr_grid(VP(), 0), "n, the number of steps"),
    (lambda: sm.log_snr_grid(VP(), 3, t0=0.0), "t0 must be in"),
    (lambda: sm.karras_grid(VP(), 3, rho=0.0), "rho must be finite and > 0, got 0.0"),
    (lambda: sm.karras_grid(VP(), 3, rho=math.nan), "rho"),
    (lambda: sm.karras_grid(VP(), 3, t0=1.0), "t0 must be in"),
    (lambda: sm.song_grid(1), "n, the number of steps"),
    (lambda: sm.song_grid(10, 2.0), "t0 must be in"),
    (lambda: sm.spaced_indices(10, 11), "cannot take 11 of a section of 10"),
    (lambda: sm.spaced_indices(10, 0), "cannot take 0"),
    (lambda: sm.schedule_grid(CosineBetas(10), [0, 10]), "indices must be different and in 0..9"),
    (lambda: sm.schedule_grid(CosineBetas(10), [-1, 3]), "indices must be different"),
    (lambda: sm.schedule_grid(CosineBetas(10), [3, 3]), "indices must be different"),
    (lambda: sm.schedule_grid(CosineBetas(10), [3]), "at least two integers"),
    (lambda: inspect.unwrap(sm.schedule_grid)(CosineBetas(10), [3, 0.5]), "at least two integers"),
]


@pytest.mark.parametrize(("make", "named"), BAD)
def test_bad_grids_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_grids_are_placed_without_compiling(caplog):
    """A program for each number of steps would take longer than a small network's sampler."""
    with jax.log_compiles():
        made = sm.uniform_grid(VP(), 37), sm.schedule_grid(CosineBetas(41))
        levels = np.linspace(1, 0.1, 43, dtype=np.float32)
        checked = sm.check_grid(levels)
        jnp.ones(47) + 1
    levels[:] = 0
    assert checked[0] == 1 and all(grid.dtype == jnp.float32 for grid in made)
    compiled = [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]
    assert compiled and all("[47]" in text or "[]" in text for text in compiled)
