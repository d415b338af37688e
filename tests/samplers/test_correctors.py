"""Langevin correctors and dynamics: their laws, the sizes of their moves, where they stand in a chain."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VE, VP, SubVP
from tests.helpers.closed_form import isotropic
from tests.helpers.every_step import move

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 10.0)}
T = jnp.float32(0.4)
FIELD = np.float32([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])  # norms 5, 1, 10


def constant(x, t):
    """A score that is the same everywhere, given by hand."""
    del x, t
    return jnp.asarray(FIELD)


def size(out, x):
    """The step size e of each sample: what the drift moved, over the score."""
    return np.asarray((out.x_mean - x)[:, 1] / FIELD[:, 1])


@pytest.fixture
def noise(monkeypatch):
    """All noise has the norms 2, 4 and 6."""
    z = np.float32([[2.0, 0.0], [0.0, 4.0], [6.0, 0.0]])
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.asarray(z, dtype))
    return z


def test_step_sizes_by_hand(noise):
    """Norms 5, 1, 10 of the score (mean 16/3) and 2, 4, 6 of the noise (mean 4), snr 0.5."""
    x = jnp.zeros((3, 2))
    wanted = {
        sm.per_batch: np.full(3, 2 * (0.5 * 4 / (16 / 3)) ** 2),
        sm.per_sample: 2 * (0.5 * np.array([2 / 5, 4 / 1, 6 / 10])) ** 2,
        sm.root_dim: np.full(3, 2 * (0.5 * math.sqrt(2) / (16 / 3)) ** 2),
    }
    for ratio, want in wanted.items():
        step = sm.langevin(VP(), constant, snr=0.5, ratio=ratio)
        out = move(step, jax.random.key(0), x, T, T)
        np.testing.assert_allclose(size(out, x), want, rtol=1e-6)
        moved = np.sqrt(2 * want)[:, None] * noise
        np.testing.assert_allclose(out.x - out.x_mean, moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SDES)
def test_annealed_step_size_is_that_of_the_level(name, noise):
    """e = 2 (snr s)^2: with snr 0.5 the noise of a move is s itself."""
    sde, x = SDES[name], jnp.zeros((3, 2))
    step = sm.annealed_langevin(sde, constant, snr=0.5)
    out = move(step, jax.random.key(0), x, T, T)
    np.testing.assert_allclose(out.x - out.x_mean, float(sde.std(T)) * noise, rtol=1e-5)
    np.testing.assert_allclose(size(out, x), 0.5 * float(sde.std(T)) ** 2, rtol=1e-5)


def test_a_ratio_of_ones_own(noise):
    x = jnp.zeros((3, 2))
    step = sm.langevin(VP(), constant, snr=0.5, ratio=lambda z, g: jnp.float32(2.0))
    np.testing.assert_allclose(size(move(step, jax.random.key(0), x, T, T), x), 2.0)


@pytest.mark.parametrize("ratio", [sm.per_batch, sm.per_sample, sm.root_dim])
def test_a_score_of_zero_moves_nothing(ratio):
    """No direction, no move; and finite derivatives, for whoever differentiates through it."""
    step = sm.langevin(VP(), lambda x, t: 0.0 * x, ratio=ratio)
    x = jnp.asarray([[1.0, -2.0], [0.5, 3.0]])
    out = move(step, jax.random.key(0), x, T, T)
    np.testing.assert_array_equal(out.x, x)
    np.testing.assert_array_equal(out.x_mean, x)


def test_one_zero_score_does_not_touch_its_neighbours():
    field = jnp.asarray([[0.0, 0.0], [0.0, 1.0]])
    x = jnp.ones((2, 2))
    step = sm.langevin(VP(), lambda x, t: field, ratio=sm.per_sample)
    out = move(step, jax.random.key(0), x, T, T)
    np.testing.assert_array_equal(out.x[0], x[0])
    assert np.isfinite(out.x).all() and float(jnp.abs(out.x[1] - x[1]).max()) > 0


def test_per_sample_does_not_see_the_neighbours():
    score = isotropic(VP(), 0.8, 0.5)
    x = jax.random.normal(jax.random.key(0), (4, 2))
    wild = x.at[0].multiply(50.0)
    for ratio, same in ((sm.per_sample, True), (sm.per_batch, False)):
        step = sm.langevin(VP(), score, ratio=ratio)
        a, b = (move(step, jax.random.key(1), v, T, T).x[1:] for v in (x, wild))
        assert bool(jnp.array_equal(a, b)) == same


@pytest.mark.parametrize("name", SDES)
def test_annealed_langevin_reaches_its_stationary_law(name):
    """N(m mean, v) with the bias of the step: variance v / (1 - e / (2 v)) of the linear chain."""
    sde = SDES[name]
    m, s = float(sde.mean_coeff(T)), float(sde.std(T))
    v = m**2 * 0.5**2 + s**2
    snr = 0.3 * math.sqrt(v) / s
    step = sm.annealed_langevin(sde, isotropic(sde, 0.8, 0.5), snr=snr, n_steps=60)
    out = jax.jit(functools.partial(move, step))(jax.random.key(0), jnp.zeros((8192, 2)), T, T).x
    e = 2 * (snr * s) ** 2
    error = math.sqrt(v / 16384)
    assert float(out.mean()) == pytest.approx(m * 0.8, abs=5 * error)
    assert float(out.var()) == pytest.approx(v / (1 - e / (2 * v)), rel=0.05)


def test_before_and_behind_the_predictor():
    """In front the corrector sees t, behind it, by `at_next`, t_next."""
    sde, seen = VP(), []

    def score(x, t):
        seen.append(float(t))
        return -x

    x = jnp.ones((2, 2))
    first = sm.chain(sm.langevin(sde, score), sm.reverse_diffusion(sde, score))
    behind = sm.chain(sm.reverse_diffusion(sde, score), sm.at_next(sm.langevin(sde, score)))
    none = sm.chain(sm.identity(sde, score), sm.ancestral(sde, score), sm.identity(sde, score))
    for step, want in ((first, [0.5, 0.5]), (behind, [0.5, 0.25]), (none, [0.5])):
        move(step, jax.random.key(0), x, jnp.float32(0.5), jnp.float32(0.25))
        assert seen == want and step.nfe == len(want)
        seen.clear()


def test_langevin_dynamics_visits_every_level(noise):
    """Moves of alpha_i / 2 = epsilon s_i^2 / (2 s_L^2), n at each time of the grid, the last too."""
    sde, x = VE(0.01, 1.0), jnp.zeros((3, 2))
    grid = [1.0, 0.5, 1e-6]  # s = 1, 0.1, 0.01
    for anneal, want in ((True, 2 * (1e4 + 1e2 + 1)), (False, 2 * 3)):
        step = sm.langevin_dynamics(sde, constant, epsilon=1e-4, n_steps=2, anneal=anneal)
        out = sm.simulate(jax.random.key(0), step, x, grid)
        total = want * 0.5e-4 * FIELD + want_noise(want, anneal) * noise
        np.testing.assert_allclose(out.x, total, rtol=2e-4)
        assert out.nfe == 6
        inner = sm.at_next(step)
        assert inner.nfe == step.nfe


def want_noise(want, anneal):
    """The sum of sqrt(alpha_i) over the moves of that test, by hand: s is 100, 10 and 1 times s_L."""
    del want
    return 1e-2 * 2 * (111 if anneal else 3)


@pytest.mark.slow
def test_langevin_dynamics_samples_the_ncsn_way():
    """From the prior of a VE to Gaussian data through 10 levels, with epsilon as NCSN scales it."""
    sde = VE(0.05, 5.0)
    step = sm.langevin_dynamics(sde, isotropic(sde, 0.8, 0.5), epsilon=5e-4, n_steps=100)
    grid = np.linspace(1.0, 1e-3, 10)
    draw = jax.jit(lambda key, x: sm.simulate(key, step, x, grid))
    x = 5 * jax.random.normal(jax.random.key(1), (4096, 2))
    out = draw(jax.random.key(0), x)
    assert out.nfe == 1000
    assert float(out.x.mean()) == pytest.approx(0.8, abs=0.05)
    assert float(out.x.std()) == pytest.approx(0.5, abs=0.06)


BAD = [
    (lambda f, **k: sm.langevin(VP(), f, **k), {"snr": 0.0}, "snr must be > 0 and finite, got 0.0"),
    (lambda f, **k: sm.langevin(VP(), f, **k), {"snr": math.nan}, "snr"),
    (lambda f, **k: sm.langevin(VP(), f, **k), {"n_steps": 0}, "n_steps must be at least 1, got 0"),
    (lambda f, **k: sm.annealed_langevin(VP(), f, **k), {"snr": -1.0}, "snr"),
    (lambda f, **k: sm.annealed_langevin(VP(), f, **k), {"n_steps": 0}, "n_steps"),
    (
        lambda f, **k: sm.langevin_dynamics(VE(), f, n_steps=1, **k),
        {"epsilon": 0.0},
        "epsilon must be > 0 and finite, got 0.0",
    ),
    (lambda f, **k: sm.langevin_dynamics(VE(), f, epsilon=1.0, **k), {"n_steps": 0}, "n_steps"),
]


@pytest.mark.parametrize(("make", "options", "named"), BAD)
def test_bad_options_are_named(make, options, named):
    with pytest.raises(ValueError, match=named):
        make(constant, **options)
