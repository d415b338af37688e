"""Inverse problems beyond a pair of numbers: colours, sketches, other measurements, poor networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import inverse
from score_jax.analytic import Mixture, gaussian
from score_jax.guidance import guide, on_x0
from score_jax.inverse import (
    Mask,
    Measurement,
    Nonlinear,
    dense,
    dps,
    edit,
    exact_posterior,
    from_time,
    grayscale,
    measure,
    methods,
    pigdm,
    posterior_sample,
    replacement,
)
from score_jax.samplers import ancestral, as_it_is, log_snr_grid, stepwise, uniform_grid
from tests.inverse.test_inverse import FIRST, GRID, SCORE, SDE, given, run
from tests.inverse.test_inverse_sampling import COLOURS


@pytest.mark.slow
def test_colours_are_found_again_by_the_orthogonal_trick():
    """Replacement of the grey axis alone, with correctors, gives the posterior of the colours."""
    x0 = COLOURS.sample(jax.random.key(7), 1)
    y = measure(jax.random.key(0), grayscale(3), x0)
    truth = exact_posterior(COLOURS, y)
    out = posterior_sample(
        jax.random.key(1), SDE, COLOURS.score(SDE), y, replacement, grid=uniform_grid(SDE, 100),
        num=1000, chunk=1000, options={"corrections": 8, "snr": 0.5}, together=True, progress=False,
    )  # fmt: skip
    flat = out.x.reshape(1000, -1)
    spread = np.sqrt(np.diag(COLOURS.cov)).mean()
    assert abs(flat.mean(axis=0) - truth.mean.reshape(-1)).max() < 0.15 * spread
    assert abs(np.cov(flat.T) - truth.cov).max() < 0.08 * spread**2
    # Far from what the data are without the measurement.
    assert abs(COLOURS.mean - truth.mean).max() > 2 * spread


def test_editing_keeps_what_the_start_time_leaves():
    """Through N(0, tau^2) data: E[edited | x0] = m^2 tau^2 / (m^2 tau^2 + s^2) x0."""
    tau = 0.5
    score = lambda x, t: -x / (SDE.mean_coeff(t) ** 2 * tau**2 + SDE.std(t) ** 2)
    for t in (0.1, 0.3):
        grid = from_time(GRID, t)
        assert float(grid[0]) == pytest.approx(t) and float(grid[-1]) == float(GRID[-1])
        start = np.full((1, 2), 1.5, np.float32)
        out = edit(
            jax.random.key(0), SDE, score, start, grid=grid, num=4000, chunk=4000, progress=False,
            together=True,
        )  # fmt: skip
        m2, s2 = (float(v) ** 2 for v in (SDE.mean_coeff(t), SDE.std(t)))
        kept = m2 * tau**2 / (m2 * tau**2 + s2)
        np.testing.assert_allclose(out.x.mean(axis=0), 1.5 * kept, atol=0.03)


def test_a_measurement_of_any_function_guides_by_its_likelihood():
    """Of a nonlinear one DPS finds a point that was measured so; `guide` takes the likelihood."""
    data = gaussian([1.0, 1.0], np.eye(2))
    square = Nonlinear(lambda x: jnp.square(x).sum(axis=1, keepdims=True), (2,))
    y = Measurement(square, jnp.full((200, 1), 4.0))
    x = run(dps(SDE, data.score(SDE), y, scale=0.05), ancestral, GRID, num=200)
    miss = lambda x: np.median(abs((np.asarray(x) ** 2).sum(axis=1) - 4))
    assert miss(x) < 0.5 * miss(data.sample(jax.random.key(1), 4000))
    noisy = Measurement(FIRST, jnp.asarray([[1.0, 0.0]]), 0.5)
    logp = inverse.measurement_logp(noisy)
    got = guide(SDE, lambda x, t: -x, on_x0(logp))(jnp.ones((1, 2)), jnp.asarray(0.3))
    m = float(SDE.mean_coeff(0.3))
    np.testing.assert_allclose(got, [[-1 + m * (1 - m) / 0.25, -1]], rtol=1e-5)


def test_a_mixture_with_two_ends_keeps_both():
    """PiGDM does not choose between modes that the measurement allows."""
    data = Mixture([0.5, 0.5], [[0.0, -1.5], [0.0, 1.5]], [0.05 * np.eye(2)] * 2)
    x = run(pigdm(SDE, data.score(SDE), given(num=1000), data_std=1.0), ancestral, GRID, num=1000)
    assert (x[:, 1] > 0).mean() == pytest.approx(0.5, abs=0.06)
    assert abs(abs(x[:, 1]).mean() - 1.5) < 0.1


def test_the_end_may_keep_its_noise():
    out = posterior_sample(
        jax.random.key(0), SDE, SCORE, given(num=1), replacement, grid=from_time(GRID, 0.9)[:50],
        sampler=stepwise(ancestral, final_denoising=as_it_is), num=200, chunk=200, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(out.x[:, 0], 1.0)
    assert out.x[:, 1].std() > 0.3


def test_a_poor_network_is_not_made_much_of():
    """Where its noise is wrong by a little, x0 is by 1/m of it: without a limit that runs away."""
    n, tau = 16, 0.5
    data = gaussian(np.zeros(n), tau**2 * np.eye(n))
    exact = data.score(SDE)
    poor = lambda x, t: exact(x, t) + 0.05 * jnp.sin(20 * jnp.roll(x, 5, axis=1)) / SDE.std(t)
    y = Measurement(Mask(np.arange(n) < 8), jnp.full((1, n), 0.4))

    def draw(limit):
        return posterior_sample(
            jax.random.key(0), SDE, poor, y, grid=log_snr_grid(SDE, 40), sampler=ancestral, num=300,
            chunk=300, together=True, options={"data_std": tau, "limit": limit}, progress=False,
        ).x  # fmt: skip

    x = draw(3.0)
    np.testing.assert_array_equal(x[:, :8], np.float32(0.4))
    assert abs(x[:, 8:].mean(axis=0)).max() < 0.1
    assert x[:, 8:].std() == pytest.approx(tau, rel=0.1)
    assert draw(math.inf)[:, 8:].std() > 4 * tau


def test_how_far_data_vary_in_what_is_measured():
    """The square roots of the eigenvalues of the covariance of A^+ A x0."""
    data = gaussian(np.zeros(2), [[4.0, 0.0], [0.0, 0.25]])
    x0 = data.sample(jax.random.key(0), 20_000)
    np.testing.assert_allclose(methods.measured_stds(FIRST, x0), [2.0], rtol=0.02)
    both = methods.measured_stds(dense([[1.0, 1.0]]), x0)  # the variance of (x + y) / sqrt(2)
    np.testing.assert_allclose(both, [np.sqrt(4.25 / 2)], rtol=0.02)
    with pytest.raises(ValueError, match="must vary"):
        methods.measured_stds(FIRST, jnp.ones((10, 2)))


def test_the_variance_left_is_the_mean_over_directions():
    t = jnp.asarray([0.1, 0.5])
    each = [methods.spread(SDE, t, methods.check_stds(std)) for std in (0.3, 1.2)]
    both = methods.spread(SDE, t, methods.check_stds([0.3, 1.2, 0.0]))
    np.testing.assert_allclose(both, sum(each) / 3, rtol=1e-5)
    m2, s2 = jnp.square(SDE.mean_coeff(t)), jnp.square(SDE.std(t))
    np.testing.assert_allclose(each[1], 1 / (1 / 1.44 + m2 / s2), rtol=1e-5)
