"""DPM-Solver-v3: known methods as special cases, its order, its statistics, exact on a Gaussian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.samplers import exponential as ex
from score_jax.samplers.dpm_v3 import ModelStatistics
from score_jax.sde import VP
from tests.helpers.closed_form import isotropic
from tests.samplers.test_fewstep import rms, runner, snr_grid

SDE, T0 = VP(), 0.01
LEVELS = np.array([-6.0, 5.0])
NOISE_PREDICTION = ModelStatistics(LEVELS, np.zeros(2), -np.ones(2), np.zeros(2))
MEANS, STDS = jnp.array([0.7, -0.2, 0.0]), jnp.array([0.3, 1.0, 0.05])


def two_modes(x, t):
    """Of an equal mixture of N(1, 0.4^2) and N(-1, 0.4^2) in every entry."""
    m, v = SDE.mean_coeff(t), jnp.square(SDE.mean_coeff(t) * 0.4) + jnp.square(SDE.std(t))
    return (m * jnp.tanh(m * x / v) - x) / v


def separate(x, t):
    """Of a normal distribution with independent entries."""
    m, s = SDE.mean_coeff(t), SDE.std(t)
    means, stds = (jnp.broadcast_to(v, x.shape) for v in (MEANS, STDS))
    return -(x - m * means) / (m**2 * stds**2 + s**2)


def exact_weight(h):
    """B(h) of UniPC with which a single difference has its exact weight."""
    return 2 * ex.moments(h, 1)[1]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_trivial_statistics_are_known_methods(order):
    """Prediction of x0 is UniPC, that of the noise DEIS in log(s/m)."""
    x = jax.random.normal(jax.random.key(0), (5, 3))
    grid = snr_grid(SDE, 6, T0)
    v3 = functools.partial(sm.dpm_solver_v3, SDE, two_modes, order=order)
    for step, other in (
        (v3(), sm.unipc(SDE, two_modes, order=order, b=exact_weight)),
        (
            v3(statistics=NOISE_PREDICTION, corrector=False),
            sm.deis(SDE, two_modes, order=order, log=True),
        ),
    ):
        np.testing.assert_allclose(
            runner(step)(x, grid), runner(other)(x, grid), rtol=2e-4, atol=2e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize(("order", "corrector"), [(1, False), (2, False), (3, False), (2, True)])
def test_the_order_of_convergence_with_any_statistics(order, corrector):
    with jax.enable_x64(True):
        statistics = ModelStatistics(
            np.array([-10.0, 10.0]),
            np.array([1.1, 0.2]),
            np.array([-0.1, 0.4]),
            np.array([0.3, 0.1]),
        )
        score = isotropic(SDE, 0.7, 0.4)
        step = sm.dpm_solver_v3(SDE, score, statistics=statistics, order=order, corrector=corrector)
        z = jax.random.normal(jax.random.key(0), (4, 2), jnp.float64)
        exact, run = flow_of(z), runner(step)
        errors = [rms(run(z, snr_grid(SDE, n, T0)), exact) for n in (40, 80)]
        assert np.log2(errors[0] / errors[1]) > order + corrector - 0.35, errors


@jax.jit
def flow_of(z, mean=0.7, std=0.4):
    """The end of the flow of a normal distribution with independent entries."""
    m, s, m0, s0 = (f(jnp.asarray(t)) for t in (1.0, T0) for f in (SDE.mean_coeff, SDE.std))
    std = jnp.broadcast_to(std, z.shape)
    scale = jnp.sqrt((m0**2 * std**2 + s0**2) / (m**2 * std**2 + s**2))
    mean = jnp.broadcast_to(mean, z.shape)
    return m0 * mean + scale * (z - m * mean)


@pytest.fixture(scope="module")
def fitted():
    """Statistics by the number of intervals of their grid."""

    def fit(n):
        options = {"grid": sm.log_snr_grid(SDE, n, t0=T0), "chunk": 64, "progress": False}
        return sm.model_statistics(jax.random.key(1), SDE, separate, (64, 3), **options)

    return {n: fit(n) for n in (32, 64)}


def test_statistics_of_a_normal_distribution(fitted):
    """l is the share of the noise in the variance of y; f = -l mean whatever the state is."""
    fitted = fitted[64]
    noise = np.exp(-2 * fitted.levels)[:, None]
    share = noise / (noise + np.square(STDS)[None])
    np.testing.assert_allclose(fitted.linear, share, atol=2e-4)
    means = np.broadcast_to(MEANS, share.shape)
    slope = np.gradient(-share * means, fitted.levels, axis=0, edge_order=2)
    np.testing.assert_allclose(fitted.shift + fitted.growth * -share * means, slope, atol=3e-3)


def test_few_steps_are_exact_on_a_normal_distribution(fitted):
    """What is left is of second order in the grid of the statistics."""
    z = jax.random.normal(jax.random.key(2), (16, 3))
    exact, grid = flow_of(z, MEANS, STDS), snr_grid(SDE, 3, T0)
    run = lambda step: rms(runner(step)(z, grid), exact)
    plain = run(sm.dpm_solver_v3(SDE, separate))
    coarse, fine = (run(sm.dpm_solver_v3(SDE, separate, statistics=fitted[n])) for n in (32, 64))
    assert fine < 0.05 * plain
    assert coarse / fine > 3


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sm.dpm_solver_v3(SDE, two_modes, order=4), "order must be 1, 2 or 3, got 4"),
        (
            lambda: ModelStatistics(LEVELS[::-1], np.ones(2), np.ones(2), np.ones(2)),
            "levels must be two or more increasing numbers",
        ),
        (
            lambda: ModelStatistics(LEVELS, np.ones(2), np.ones(3), np.ones(2)),
            "the shapes of linear, growth and shift must be",
        ),
        (
            lambda: sm.model_statistics(jax.random.key(0), SDE, two_modes, (1, 2)),
            "num must be at least 2, got 1",
        ),
        (
            lambda: sm.dpm_solver_v3(
                SDE, two_modes, statistics=ModelStatistics(LEVELS, *[np.ones((2, 5))] * 3)
            ).init(jnp.zeros((1, 3)), jnp.ones(2)),
            "the shape of statistics must be",
        ),
    ],
    ids=["order", "levels", "shapes", "num", "entries"],
)  # fmt: skip
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
