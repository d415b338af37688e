"""Samplers on mixtures of Gaussians, in the plane and as 3x8x8 pictures, under every SDE.

Judged by moments and by the sliced Wasserstein distance to exact samples, beside what two exact sets have
between them; the deterministic ones also by their error against the flow, solved in NumPy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from score_jax import samplers as sm
from score_jax.metrics import sliced_wasserstein
from score_jax.sde import VE, VP, CosineVP, LinearVE, SubVP, from_betas

SDES = {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(0.01, 50.0),
    "cosine": CosineVP(),
    "linear_ve": LinearVE(),
    "table": from_betas(np.linspace(1e-4, 0.02, 1000)),
}
SHAPES = {"plane": (2,), "image": (3, 8, 8)}
NUM = {"plane": 1000, "image": 128}
STD = 0.4


@functools.cache
def means(data):
    """Four centres, of which the first has 40 % of the data and the others 20 % each."""
    return np.random.default_rng(3).normal(size=(4, int(np.prod(SHAPES[data]))))


WEIGHTS = np.array([0.4, 0.2, 0.2, 0.2])


def exact_samples(data, n, seed):
    """From the mixture itself: (n, d)."""
    rng = np.random.default_rng(seed)
    which = rng.choice(4, size=n, p=WEIGHTS)
    return means(data)[which] + STD * rng.normal(size=(n, means(data).shape[1]))


def posterior(xp, apart, total):
    """The shares of the centres (b, k) in x, of differences (b, k, d) and total variance."""
    logs = xp.log(WEIGHTS)[None] - xp.square(apart).sum(-1) / (2 * total)
    p = xp.exp(logs - logs.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def score_of(sde, data):
    """The exact score, by differences, which are exact where the noise is small."""
    centres = jnp.asarray(means(data), jnp.float32)

    def score(x, t):
        m, s = sde.mean_coeff(t), sde.std(t)
        apart = x.reshape(x.shape[0], 1, -1) - m * centres[None]
        total = m**2 * STD**2 + s**2
        shares = posterior(jnp, apart, total)
        return -((shares[:, :, None] * apart).sum(1) / total).reshape(x.shape)

    return score


def flow_ends(sde, data, z, t0):
    """Where the probability flow takes latents, in double precision by scipy in log(s/m)."""
    x = np.asarray(z, np.float64).reshape(len(z), -1)
    (m, s), (m0, s0) = (
        (float(sde.mean_coeff(t)), float(sde.std(t)))
        for t in (jnp.float32(sde.t1), jnp.float32(t0))
    )

    def rhs(u, y):
        apart = y.reshape(x.shape)[:, None] - means(data)[None]
        noise = np.exp(2 * u)
        shares = posterior(np, apart, STD**2 + noise)
        return (noise / (STD**2 + noise) * (shares[:, :, None] * apart).sum(1)).ravel()

    span = (np.log(s / m), np.log(s0 / m0))
    found = solve_ivp(rhs, span, (x / m).ravel(), method="DOP853", rtol=1e-6, atol=1e-6)
    return m0 * found.y[:, -1].reshape(x.shape)


def corrected(sde, score):
    return sm.chain(sm.langevin(sde, score, snr=0.1), sm.reverse_diffusion(sde, score))


def corrected_behind(sde, score):
    behind = sm.at_next(sm.annealed_langevin(sde, score, snr=0.1))
    return sm.chain(sm.ancestral(sde, score), behind)


def stepped(make, n, grid=sm.log_snr_grid, **options):
    """run(sde, score, key, z, t0) -> (x, nfe): n steps and Tweedie's formula."""

    def run(sde, score, key, z, t0):
        end = sm.tweedie(sde, score)
        step = make(sde, score, **options)
        out = sm.simulate(key, step, z, grid(sde, n, t0=t0), final_denoising=end)
        return out.x, out.nfe

    return run


def solved(solve, **options):
    """The same for an adaptive solver, which ends at t0."""

    def run(sde, score, key, z, t0):
        del key
        out = solve(sde, score, z, t_from=sde.t1, t_to=t0, **options)
        return out.x, out.nfe

    return run


# Stochastic: the first, with more steps; deterministic: those with the error that they may have.
STOCHASTIC = {
    "euler_maruyama": stepped(sm.euler_maruyama, 300, sm.quadratic_grid),
    "reverse_diffusion": stepped(sm.reverse_diffusion, 300, sm.quadratic_grid),
    "ancestral": stepped(sm.ancestral, 100),
    "corrector_first": stepped(corrected, 100),
    "corrector_behind": stepped(corrected_behind, 100),
    "ddim_eta_1": stepped(sm.ddim, 100, eta=1.0),
    "sde_dpmpp_2m": stepped(sm.sde_dpmpp_2m, 50),
    "edm": stepped(sm.edm, 40, sm.karras_grid, churn=10.0),
}
DETERMINISTIC = {
    "ddim": (stepped(sm.ddim, 100), 0.05),
    "heun": (stepped(sm.heun, 20, sm.karras_grid), 0.05),
    "dpmpp_2s": (stepped(sm.dpmpp_2s, 20), 0.02),
    "dpmpp_2m": (stepped(sm.dpmpp_2m, 30), 0.02),
    "dpmpp_3m": (stepped(sm.dpmpp_3m, 30), 0.02),
    "unipc_2": (stepped(sm.unipc, 30), 0.02),
    "unipc_3": (stepped(sm.unipc, 30, order=3), 0.02),
    "ode": (solved(sm.probability_flow, rtol=1e-4, atol=1e-4), 0.01),
    "adaptive": (solved(sm.adaptive_multistep, rtol=1e-3, atol=1e-3), 0.01),
}


@functools.cache
def latents(name, data):
    """The draws of the prior that all samplers begin with."""
    return SDES[name].prior_sample(jax.random.key(7), (NUM[data], *SHAPES[data]))


def drawn(run, name, data):
    """(samples (n, d), evaluations) from the prior on, to where s is 2 % of m."""
    sde, score = SDES[name], score_of(SDES[name], data)
    draw = jax.jit(functools.partial(run, sde, score, t0=end_of(name)))
    x, nfe = draw(jax.random.key(8), latents(name, data))
    return np.asarray(x, np.float64).reshape(len(x), -1), int(nfe)


@functools.cache
def end_of(name):
    """The time at which s is 2 % of m."""
    return float(jax.jit(lambda value: SDES[name].time_of_log_snr(value))(-2 * np.log(0.02)))


@functools.cache
def truth(data):
    """Exact samples, and twice the largest distance to them that five exact sets have."""
    x = exact_samples(data, 4000, 1)
    distances = [sliced_wasserstein(exact_samples(data, NUM[data], i), x) for i in range(2, 7)]
    return x, 2 * max(distances) + 0.02


def width(x, data):
    """Mean square distance to the nearest centre."""
    return np.square(x[:, None] - means(data)[None]).sum(-1).min(axis=1).mean()


def check_law(x, data):
    """Moments, distance to the nearest centre, and a distance that exact sets of the size could have."""
    exact, limit = truth(data)
    rms = lambda v: np.sqrt(np.mean(np.square(v)))
    spread = lambda v: np.square(v - v.mean(0)).sum(1).mean()
    assert rms(x.mean(0) - WEIGHTS @ means(data)) < 4 * rms(exact.std(0)) / np.sqrt(len(x))
    assert spread(x) == pytest.approx(spread(exact), rel=0.1)
    assert width(x, data) == pytest.approx(width(exact, data), rel=0.15)
    assert sliced_wasserstein(x, exact) < limit


@pytest.mark.parametrize("data", SHAPES)
def test_the_judge_knows_a_gaussian_from_the_mixture(data):
    """With the mean and the covariance of the mixture it passes by its moments alone."""
    exact, limit = truth(data)
    rng = np.random.default_rng(9)
    x = rng.multivariate_normal(exact.mean(0), np.cov(exact, rowvar=False), NUM[data])
    assert width(x, data) > 1.5 * width(exact, data)
    if data == "plane":  # of 192 dimensions all directions look Gaussian
        assert sliced_wasserstein(x, exact) > 1.5 * limit


@pytest.mark.slow
@pytest.mark.parametrize("name", STOCHASTIC)
def test_law_of_the_stochastic_ones(name):
    check_law(drawn(STOCHASTIC[name], "vp", "plane")[0], "plane")


@pytest.mark.slow
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_law_and_error_of_the_deterministic_ones(name):
    run, allowed = DETERMINISTIC[name]
    x, nfe = drawn(run, "vp", "plane")
    check_law(x, "plane")
    check_error(x, "vp", "plane", allowed)
    assert nfe < 130


def check_error(x, name, data, allowed):
    """Of the nearer 95 %: a latent on the border of two centres may end at the other one."""
    squares = np.square(x - ends(name, data)).mean(1)
    assert np.sqrt(np.sort(squares)[: int(0.95 * len(x))].mean()) < allowed


@functools.cache
def ends(name, data):
    """Where the flow takes the latents that all samplers share."""
    return flow_ends(SDES[name], data, latents(name, data), end_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("name", SDES)
def test_every_sde(name, data):
    """A stochastic sampler and one that follows the flow: the adaptive one, or one of few steps."""
    check_law(drawn(STOCHASTIC["corrector_first"], name, data)[0], data)
    run, allowed = DETERMINISTIC["adaptive" if data == "plane" else "unipc_2"]
    x, _ = drawn(run, name, data)
    check_law(x, data)
    check_error(x, name, data, allowed)
