"""Rectified flow: VP after a change of time and scale, exact at both ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.analytic import gaussian
from score_jax.model import Model
from score_jax.parametrization import (
    DENOISED,
    NOISE,
    SCORE,
    VELOCITY,
    LogSigmaInput,
    TimeInput,
    V,
    edm,
)
from score_jax.samplers import simulate
from score_jax.score import denoise
from score_jax.sde import VE, VP, RectifiedFlow, reverse_drift
from score_jax.types import ends_in_noise, score_out

FLOW = RectifiedFlow()
DATA = gaussian([0.8, -0.3], [[0.3, 0.1], [0.1, 0.2]])


def in_vp(t):
    """(the time of VP with the log-SNR of t, the scale c of x_VP = x / c)."""
    return VP().time_of_log_snr(FLOW.log_snr(t)), jnp.hypot(1 - t, t)


def test_the_marginals_are_those_of_vp(x64):
    t = jnp.linspace(0.02, 0.99, 9)
    u, c = in_vp(t)
    np.testing.assert_allclose(FLOW.mean_coeff(t) / c, VP().mean_coeff(u), rtol=1e-9)
    np.testing.assert_allclose(FLOW.std(t) / c, VP().std(u), rtol=1e-9)


@pytest.mark.parametrize("make", [sm.ddim, sm.dpmpp_2m, sm.heun], ids=["ddim", "dpmpp_2m", "heun"])
def test_a_trajectory_is_that_of_vp(make, x64):
    """Not only the ends: every state of a sampler corresponds."""
    t = jnp.linspace(0.99, 0.02, 8)
    u, c = in_vp(t)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    run = lambda sde, x, grid: (
        simulate(jax.random.key(0), make(sde, DATA.score(sde)), x, grid, save_every=1).trajectory
    )
    on_flow, on_vp = run(FLOW, x, t), run(VP(), x / c[0], u)
    np.testing.assert_allclose(on_flow / c[1:, None, None], on_vp, rtol=1e-7, atol=1e-8)


def test_the_velocity_is_finite_at_both_ends():
    """A perfect network for a single datum: v = z - x0 gives x0, z and the flow at t = 0 and 1."""
    x0, z = jnp.full((2, 3), 0.5), jnp.asarray([[1.0, -2.0, 0.3], [0.1, 0.7, -1.0]])
    net = lambda params, x, given: z - x0
    score = Model(FLOW, net, TimeInput(), VELOCITY).score(None)
    for t in (0.0, 0.3, 1.0):
        x = (1 - t) * x0 + t * z
        np.testing.assert_allclose(denoise(FLOW, score, x, t), x0, atol=1e-6)
        np.testing.assert_allclose(VELOCITY.to_noise(FLOW, z - x0, x, t), z, atol=1e-6)
        if t:
            np.testing.assert_allclose(
                reverse_drift(FLOW, score, x, t, ode=True), z - x0, atol=1e-6
            )
    assert score_out(score, z, 1.0).clean is not None


@pytest.mark.parametrize("kind", [VELOCITY, V, DENOISED, edm(0.7)], ids=lambda kind: kind.name)
def test_every_finite_prediction_starts_at_pure_noise(kind):
    """The mean of the data at t = 1, from the best network of each kind for N(0.8, ...)."""

    def net(params, x, given):
        t = jnp.asarray(1.0)
        x = x / kind.to_input(FLOW, jnp.ones_like(x), t)
        return kind.target(FLOW, jnp.full_like(x, 0.8), x, x, t)

    score = Model(FLOW, net, LogSigmaInput(), kind).score(None)
    x = jnp.asarray([[1.0, -2.0], [0.3, 0.1]])
    np.testing.assert_allclose(denoise(FLOW, score, x, 1.0), jnp.full_like(x, 0.8), atol=1e-6)


def test_what_says_nothing_of_x0_at_pure_noise_is_refused():
    assert ends_in_noise(FLOW)
    assert not any(map(ends_in_noise, (RectifiedFlow(0.999), VP(), VE())))
    net = lambda params, x, given: x
    for kind in (NOISE, SCORE):
        with pytest.raises(ValueError, match=r"parametrization must be VELOCITY.*t1 < 1"):
            Model(FLOW, net, TimeInput(), kind)
        Model(RectifiedFlow(0.999), net, TimeInput(), kind)
    with pytest.raises(ValueError, match="mean_coeff > 0"):
        sm.probability_flow(
            FLOW, DATA.score(FLOW), jnp.ones((2, 2)), t_from=1.0, t_to=0.1,
            coordinate=sm.IN_LOG_NOISE,
        )  # fmt: skip


def test_the_priors_error_at_a_time_before_the_end():
    """KL(p_t1 || N(0, t1^2)) of data N(a, b^2), against the bound of the docstring."""
    for t1 in (0.99, 0.999):
        sde, a, b = RectifiedFlow(t1), 0.6, 0.8
        mean, variance = (1 - t1) * a, ((1 - t1) * b) ** 2 + t1**2
        prior = sde.prior_std**2
        kl = 0.5 * ((variance + mean**2) / prior - 1 - np.log(variance / prior))
        assert 0 < kl <= (1 - t1) ** 2 * (a**2 + b**2) / (2 * t1**2)
    assert float(FLOW.log_snr(1.0)) == pytest.approx(2 * np.log(2.0**-24))


def test_the_grids_of_a_process_that_ends_in_noise():
    """The first step is from pure noise, all others have equal lengths in their clock."""
    grid = sm.log_snr_grid(FLOW, 5, t0=1e-3)
    assert float(grid[0]) == 1 and float(grid[-1]) == pytest.approx(1e-3)
    np.testing.assert_allclose(
        np.diff(FLOW.log_snr(grid[1:])), 2 * (np.log(1e3) + np.log(999)) / 5, rtol=1e-4
    )
    assert float(sm.karras_grid(FLOW, 3)[0]) == 1
