"""Predictors on Gaussian data, where every step is affine and its moments need no sampling.

For data N(mean, std^2) the score is linear in x, so a step is x' = A x + B + C z: A, B and C are read
off the step itself (at x = 0 and 1, with z = 1), and carry mean and variance along a grid exactly.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.parametrization import LARGE
from score_jax.score import denoise
from score_jax.sde import VE, VP, CosineVP, LinearVE, SubVP, from_betas, from_marginals
from tests.helpers.closed_form import isotropic
from tests.helpers.every_step import move
from tests.helpers.golden_files import golden

SDES = {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(0.01, 10.0),
    "cosine": CosineVP(),
    "linear_ve": LinearVE(),
    "table": from_betas(np.linspace(0.002, 0.3, 17)),
    "own": from_marginals(lambda t: jnp.cos(1.5 * t), lambda t: jnp.sin(1.5 * t)),
}
PREDICTORS = {
    "euler_maruyama": sm.euler_maruyama,
    "reverse_diffusion": sm.reverse_diffusion,
    "ancestral": sm.ancestral,
    "ancestral_large": functools.partial(sm.ancestral, variance=LARGE),
    "euler_maruyama_ode": functools.partial(sm.euler_maruyama, ode=True),
    "reverse_diffusion_ode": functools.partial(sm.reverse_diffusion, ode=True),
    "ancestral_ode": functools.partial(sm.ancestral, ode=True),
}
MEAN, STD = 0.8, 0.5


@pytest.fixture
def unit_noise(monkeypatch):
    """All noise is 1."""
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.ones(shape, dtype))


def affine(make, sde, mean, std, t, t_next):
    """A, B, C of the step over each of the intervals (t, t_next): (n,) each."""
    step = make(sde, isotropic(sde, mean, std))

    @jax.jit
    @jax.vmap
    def read(t, t_next):
        out = move(step, jax.random.key(0), jnp.asarray([[0.0], [1.0]]), t, t_next)
        zero, one = out.x_mean[:, 0]
        return one - zero, zero, (out.x - out.x_mean)[0, 0]

    return [np.asarray(v) for v in read(jnp.asarray(t), jnp.asarray(t_next))]


def law(sde, mean, std, t):
    """Mean and variance of p_t."""
    t = jnp.asarray(t)
    m, s = np.asarray(sde.mean_coeff(t)), np.asarray(sde.std(t))
    return m * mean, m**2 * std**2 + s**2


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_order_one_of_the_moments(name, predictor, x64, unit_noise):
    """Mean and variance at t0, started at those of p_t1, err like 1/n: weak order 1."""
    sde, t0 = SDES[name], 0.05
    # Chosen so that no first order happens to vanish, as that of Euler-Maruyama on VE at 0.5 does.
    sde, std = (VE(0.1, 3.0), 2.0) if name == "ve" else (sde, STD)
    ns = np.array([128, 256, 512, 1024])
    grids = [np.linspace(1, t0, n + 1) for n in ns]
    starts, ends = (
        np.concatenate([g[part] for g in grids]) for part in (slice(-1), slice(1, None))
    )
    columns = affine(PREDICTORS[predictor], sde, MEAN, std, starts, ends)
    places = np.cumsum(ns)[:-1]
    want = law(sde, MEAN, std, t0)
    errors = []
    for a, b, c in zip(*(np.split(v, places) for v in columns), strict=True):
        mean, variance = law(sde, MEAN, std, 1.0)
        for i in range(a.size):
            mean, variance = a[i] * mean + b[i], a[i] ** 2 * variance + c[i] ** 2
        errors.append((abs(mean - want[0]), abs(variance - want[1])))
    if predictor.endswith("ode"):
        assert not any(np.concatenate(columns[2:]))
    slope = lambda e: np.polyfit(np.log(ns), np.log(e), 1)[0]
    worst = np.max(errors, axis=1)
    assert slope(worst) == pytest.approx(-1, abs=0.15), errors
    assert worst[-1] < 0.03


@pytest.mark.parametrize("name", SDES)
def test_ancestral_is_exact_for_certain_data(name, x64, unit_noise):
    """If x0 is one point the posterior is the reverse transition: exact however long the interval."""
    sde = SDES[name]
    t, t_next = np.array([1.0, 1.0, 0.9]) * sde.t1, np.array([0.02, 0.99, 0.3]) * sde.t1
    a, b, c = affine(sm.ancestral, sde, MEAN, 0.0, t, t_next)
    mean, variance = law(sde, MEAN, 0.0, t)
    want = law(sde, MEAN, 0.0, t_next)
    np.testing.assert_allclose(a * mean + b, want[0], rtol=1e-7)
    np.testing.assert_allclose(a**2 * variance + c**2, want[1], rtol=1e-7)


@pytest.mark.parametrize("name", ["vp", "cosine", "table"])
def test_large_variance_is_exact_for_unit_normal_data(name, x64, unit_noise):
    """DDPM's other variance: under VP data N(0, 1) stay N(0, 1) over any interval."""
    sde = SDES[name]
    make = functools.partial(sm.ancestral, variance=LARGE)
    a, b, c = affine(make, sde, 0.0, 1.0, np.array([1.0, 0.8]), np.array([0.1, 0.7]))
    np.testing.assert_allclose(b, 0, atol=1e-12)
    np.testing.assert_allclose(a**2 + c**2, 1, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["cosine50", "linear50"])
def test_ancestral_is_the_step_of_improved_ddpm(table, x64, unit_noise):
    """On `from_betas`: the mean, the posterior's variance and the large one of the authors' program."""
    a = {k[len(table) + 1 :]: v for k, v in golden("iddpm_process").items() if k.startswith(table)}
    betas = 1 - a["alphas_cumprod"] / a["alphas_cumprod_prev"]
    sde = from_betas(betas)
    index = a["t"].astype(int)
    keep = index > 0
    x, index = jnp.asarray(a["x_t"], jnp.float64)[keep], index[keep]
    noise = jnp.asarray(a["model_out"][keep][..., :3], jnp.float64)
    t, t_next = jnp.asarray((index + 1) / 50), jnp.asarray(index / 50)
    score = lambda x, t: -noise / sde.std(t)[:, None, None, None]
    out = move(sm.ancestral(sde, score), jax.random.key(0), x, t, t_next)
    want = a["p_mean_variance/clip=False/mean"][keep]
    np.testing.assert_allclose(out.x_mean, want, rtol=2e-5, atol=2e-5)
    got = (out.x - out.x_mean)[:, 0, 0, 0]
    np.testing.assert_allclose(jnp.square(got), a["posterior_variance"][index], rtol=1e-6)
    large = move(sm.ancestral(sde, score, variance=LARGE), jax.random.key(0), x, t, t_next)
    got = (large.x - large.x_mean)[:, 0, 0, 0]
    np.testing.assert_allclose(jnp.square(got), betas[index], rtol=1e-6)


@pytest.mark.parametrize("name", SDES)
def test_tweedie_at_the_end_is_the_posterior_mean(name, x64):
    """The final step is exact for every SDE: E[x0 | x] of two Gaussians, by their precisions."""
    sde = SDES[name]
    t = jnp.asarray(0.37 * sde.t1)
    x = jnp.asarray([[-1.0, 0.4], [2.0, 5.0]])
    m, s = sde.mean_coeff(t), sde.std(t)
    data, seen = 1 / STD**2, (m / s) ** 2
    want = (data * MEAN + seen * x / m) / (data + seen)
    score = isotropic(sde, MEAN, STD)
    np.testing.assert_allclose(denoise(sde, score, x, t), want, rtol=1e-9)
    # As `simulate` does it, after a step that changes nothing.
    finish = sm.tweedie(sde, score)
    out = sm.simulate(
        jax.random.key(0), sm.identity(), x, [sde.t1, float(t)], final_denoising=finish
    )
    np.testing.assert_allclose(out.x, want, rtol=1e-9)
    assert out.nfe == 1


def test_reverse_diffusion_of_vp_and_ve_in_the_papers_words(x64, unit_noise):
    """sqrt(1 - beta) for VP, the difference of sigma^2 for VE, written with the paper's symbols."""
    x, score = jnp.asarray([[0.3, -2.0]]), lambda x, t: jnp.asarray([[1.5, 0.5]])
    betas = np.linspace(0.01, 0.2, 10)
    step = sm.reverse_diffusion(from_betas(betas), score)
    out = move(step, jax.random.key(0), x, jnp.asarray(0.7), jnp.asarray(0.6))
    beta = betas[6]
    want = (2 - np.sqrt(1 - beta)) * np.asarray(x) + beta * np.array([1.5, 0.5])
    np.testing.assert_allclose(out.x_mean, want, rtol=1e-9)
    np.testing.assert_allclose(out.x - out.x_mean, np.sqrt(beta), rtol=1e-9)
    step = sm.reverse_diffusion(LinearVE(), score)
    out = move(step, jax.random.key(0), x, jnp.asarray(5.0), jnp.asarray(3.0))
    np.testing.assert_allclose(out.x_mean, np.asarray(x) + 16 * np.array([1.5, 0.5]), rtol=1e-12)
    np.testing.assert_allclose(out.x - out.x_mean, 4.0, rtol=1e-12)
