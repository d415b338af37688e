"""EDM's preconditioning (arXiv:2206.00364): closed forms for Gaussian data, on every kind of SDE."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import losses
from score_jax.model import Model
from score_jax.parametrization import DENOISED, LogSigmaInput, edm
from score_jax.samplers import heun, karras_grid, simulate, tweedie
from score_jax.sde import VE, VP, LinearBetas, LinearVE, SubVP
from tests.helpers.closed_form import isotropic

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 20.0), "linear": LinearVE(),
        "schedule": LinearBetas(100)}  # fmt: skip
D = 0.7  # standard deviation of the data


def zero(params, x, noise_input, **kwargs):
    return jnp.zeros_like(x)


@pytest.mark.parametrize("name", SDES)
def test_a_network_that_returns_zero_has_the_score_of_gaussian_data(name):
    sde = SDES[name]
    score = Model(sde, zero, LogSigmaInput(), edm(D)).score({})
    exact = isotropic(sde, 0.0, D)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    both = jax.jit(lambda x, t: (score(x, t), exact(x, t)))
    for t in np.float32([1e-3, 0.1, 0.5, 1.0]) * np.float32(sde.t1):
        np.testing.assert_allclose(*both(x, t), rtol=2e-5)


@pytest.mark.parametrize("name", SDES)
def test_inputs_and_targets_have_unit_variance_at_every_level(name):
    """So the loss of a network that returns zero is 1 at every time, by the weight of EDM."""
    sde, form = SDES[name], edm(D)
    a, b = jax.random.split(jax.random.key(1))
    x0 = D * jax.random.normal(a, (4_000, 2))
    z = jax.random.normal(b, x0.shape)

    @jax.jit
    def figures(x0, z, times):
        mean, std = sde.marginal(x0, times)
        x = mean + std[:, None] * z
        loss = losses.dsm_per_example(
            sde, zero, {}, x0, times, z, noise_input=LogSigmaInput(), parametrization=form,
            weighting=losses.edm_weighting(D),
        )  # fmt: skip
        values = form.to_input(sde, x, times), form.target(sde, x0, z, x, times)
        return *map(jnp.std, values), loss.mean()

    for t in np.array([0.02, 0.3, 1.0], np.float32) * sde.t1:
        given, target, loss = figures(x0, z, np.full(len(x0), t, np.float32))
        assert abs(float(given) - 1) < 0.03 and abs(float(target) - 1) < 0.03
        assert abs(float(loss) - 1) < 0.06


@pytest.mark.parametrize("name", SDES)
def test_the_forms_are_those_of_the_paper(name):
    """D = c_skip u + c_out F of table 1, with u = x/m and sigma = s/m; and back."""
    sde, form = SDES[name], edm(D)
    keys = jax.random.split(jax.random.key(2), 2)
    x, value = (jax.random.normal(key, (4, 2)) for key in keys)
    t = jnp.linspace(0.1, 0.9, 4) * sde.t1

    @jax.jit
    def all_of(x, value, t):
        z = form.to_noise(sde, value, x, t)
        back, given = form.from_noise(sde, z, x, t), form.to_input(sde, x, t)
        return (sde.mean_coeff(t), sde.std(t)), z, back, given, LogSigmaInput(0.25, 0.5)(sde, t)

    marginals, z, back, given, label = all_of(x, value, t)
    m, s = (np.asarray(v, np.float64)[:, None] for v in marginals)
    sigma, u = s / m, np.asarray(x, np.float64) / m
    skip, out = D**2 / (sigma**2 + D**2), sigma * D / np.sqrt(sigma**2 + D**2)
    denoised = skip * u + out * np.asarray(value, np.float64)
    np.testing.assert_allclose(z, (u - denoised) / sigma, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(back, value, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(given, u / np.sqrt(sigma**2 + D**2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(label, np.log(0.5 * sigma[:, 0]) / 4, rtol=1e-4, atol=1e-5)
    assert DENOISED.to_input(sde, x, t) is x


def test_log_sigma_of_the_times_is_normal():
    u = (jnp.arange(20_001) + 0.5) / 20_001
    for name in ("linear", "vp", "ve"):
        sde = SDES[name]
        times = losses.log_normal_times(sde, -1.2, 1.2)(u, 1e-5, sde.t1)
        log_sigma = np.sort(np.asarray(-0.5 * sde.log_snr(times)))
        # Quartiles of the normal distribution.
        for share, z in ((0.25, -0.67449), (0.5, 0.0), (0.75, 0.67449)):
            assert abs(np.quantile(log_sigma, share) - (-1.2 + 1.2 * z)) < 3e-3
    ends = losses.log_normal_times(LinearVE())(jnp.array([0.0, 1.0]), 0.002, 80.0)
    assert bool(jnp.isfinite(ends).all()) and float(ends.min()) >= 0.002 * (1 - 1e-6)
    with pytest.raises(ValueError, match="std must be"):
        losses.log_normal_times(LinearVE(), std=0.0)
    with pytest.raises(ValueError, match="sigma_data must be"):
        edm(0.0)


def test_the_papers_sampler_on_gaussian_data():
    """Heun's steps of dx/dsigma = x sigma / (sigma^2 + D^2), by the paper's recurrence in float64."""
    sde = LinearVE()
    score = Model(sde, zero, LogSigmaInput(), edm(D)).score({})
    sigma = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 18) ** 7
    x, slope = 80.0, lambda x, s: x * s / (s**2 + D**2)
    for s, after in itertools.pairwise(sigma):
        first = slope(x, s)
        x += (after - s) * (first + slope(x + (after - s) * first, after)) / 2
    out = simulate(
        jax.random.key(4), heun(sde, score), jnp.full((2, 2), 80.0), karras_grid(sde, 17, t0=0.002),
        final_denoising=tweedie(sde, score),
    )  # fmt: skip
    assert out.nfe == 35
    np.testing.assert_allclose(out.x, x * D**2 / (D**2 + 0.002**2), rtol=1e-3)
