"""Guidance by differences of scores against closed forms on Gaussians, where x0 is linear in x."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.guidance import (
    autoguidance,
    classifier_free,
    projected,
    rescaled,
    reverse_momentum,
)
from score_jax.samplers import (
    as_it_is,
    ddim,
    heun,
    langevin,
    log_snr_grid,
    simulate,
    stepwise,
    unipc,
)
from score_jax.score import denoise
from score_jax.sde import VP, LinearVE
from score_jax.types import ScoreOut
from tests.helpers.closed_form import isotropic

SDES = {"vp": VP(), "edm": LinearVE()}
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
MIDDLE = {"vp": 0.4, "edm": 0.8}  # where noise and data are of one size
OWN, OTHER = (0.5, 0.4), (-0.2, 1.0)  # mean and std of what guides, and of what it guides away from


def scores(sde):
    return isotropic(sde, *OWN), isotropic(sde, *OTHER)


@pytest.mark.parametrize("name", SDES)
def test_the_guided_score_is_that_of_the_tilted_density(name):
    """At each level p_c^w / p_u^(w - 1) of two Gaussians is a Gaussian, of known precision and mean."""
    sde = SDES[name]
    for t in (0.2 * sde.t1, 0.9 * sde.t1):
        m, s = float(sde.mean_coeff(t)), float(sde.std(t))
        (mean_c, var_c), (mean_u, var_u) = ((m * a, (m * b) ** 2 + s**2) for a, b in (OWN, OTHER))
        for w in (0.0, 1.0, 2.5):
            precision = w / var_c + (1 - w) / var_u
            mean = (w * mean_c / var_c + (1 - w) * mean_u / var_u) / precision
            want = -precision * (np.asarray(X, np.float64) - mean)
            for guided in (
                autoguidance(*scores(sde), scale=w),
                classifier_free(*scores(sde), scale=w),
                projected(sde, *scores(sde), scale=w, parallel=1.0),
                rescaled(sde, *scores(sde), scale=w, share=0.0),
            ):
                got = guided(X, jnp.float32(t))
                np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4 * abs(want).max())


def test_the_flow_of_an_autoguided_gaussian_ends_where_it_must():
    """dx/dsigma = sigma x (w / v_c - (w - 1) / v_u): narrower than the tilt of the data itself."""
    sde, w, t0 = LinearVE(), 2.0, 0.01
    own, worse = isotropic(sde, 0.0, OWN[1]), isotropic(sde, 0.0, OTHER[1])
    z = sde.prior_sample(jax.random.key(0), (8, 2))
    sampler = stepwise(unipc, order=3, final_denoising=as_it_is)
    run = jax.jit(
        lambda z, score: (
            sampler.run(jax.random.key(0), sde, score, z, log_snr_grid(sde, 60, t0=t0)).x
        ),
        static_argnums=1,
    )
    ratio = lambda std: (std**2 + t0**2) / (std**2 + sde.t1**2)
    want = ratio(OWN[1]) ** (w / 2) * ratio(OTHER[1]) ** ((1 - w) / 2)
    got = run(z, autoguidance(own, worse, scale=w)) / z
    np.testing.assert_allclose(got, np.full(z.shape, want), rtol=2e-3)
    assert want * sde.t1 < 0.95 * (w / OWN[1] ** 2 - (w - 1) / OTHER[1] ** 2) ** -0.5


@pytest.mark.parametrize("name", SDES)
def test_rescaling_makes_the_deviations_what_it_says(name):
    """Of x0 of each sample: those of the conditional, or between the two, around a scaled mean."""
    sde = SDES[name]
    t = jnp.float32(MIDDLE[name])
    own, other = scores(sde)
    x0 = lambda score: np.asarray(denoise(sde, score, X, t), np.float64)
    plain, wanted = x0(classifier_free(own, other, scale=6.0)), x0(own).std(axis=1)
    assert (plain.std(axis=1) > 1.05 * wanted).all() or (plain.std(axis=1) < wanted / 1.05).all()
    for share in (1.0, 0.3):
        got = x0(rescaled(sde, own, other, scale=6.0, share=share))
        between = share * wanted + (1 - share) * plain.std(axis=1)
        np.testing.assert_allclose(got.std(axis=1), between, rtol=1e-3)
        np.testing.assert_allclose(
            got, plain * (between / plain.std(axis=1))[:, None], rtol=1e-3, atol=1e-4
        )
    np.testing.assert_array_equal(rescaled(sde, own, other, scale=1.0)(X, t), own(X, t))


@pytest.mark.parametrize("name", SDES)
def test_projection_keeps_what_is_across_x0_and_a_share_of_what_is_along_it(name):
    sde = SDES[name]
    t = jnp.float32(MIDDLE[name])
    own, other = scores(sde)
    x0 = lambda score: np.asarray(denoise(sde, score, X, t), np.float64)
    clean, apart = x0(own), x0(own) - x0(other)
    unit = clean / np.linalg.norm(clean, axis=1, keepdims=True)
    along = (apart * unit).sum(axis=1)
    for parallel, limit in ((0.0, None), (0.25, None), (0.25, 0.3), (1.0, 1e3)):
        size = np.linalg.norm(apart, axis=1)
        short = np.ones(5) if limit is None else np.minimum(1, limit / size)
        moved = (
            x0(projected(sde, own, other, scale=3.0, parallel=parallel, limit=limit)) - clean
        ) / 2
        got = (moved * unit).sum(axis=1)
        np.testing.assert_allclose(got, parallel * short * along, rtol=2e-3, atol=2e-4)
        across = apart - along[:, None] * unit
        rest = moved - got[:, None] * unit
        np.testing.assert_allclose(rest, short[:, None] * across, rtol=2e-3, atol=5e-4)
    np.testing.assert_array_equal(projected(sde, own, other, scale=1.0)(X, t), own(X, t))


def test_reverse_momentum_is_a_geometric_sum():
    """Points as data: x0 does not depend on x, and evaluation k has (a - b) (1 - q^k) / (1 - q)."""
    sde, a, b, q, w = VP(), 0.5, -0.3, -0.5, 3.0
    own, other = isotropic(sde, a, 0.0), isotropic(sde, b, 0.0)
    x = sde.prior_sample(jax.random.key(1), (3, 2))
    grid = jnp.asarray([1.0, 0.7, 0.4, 0.2])
    ratio = np.asarray(sde.std(grid) / sde.mean_coeff(grid), np.float64)
    for make, each in ((ddim, 1), (heun, 2)):
        score = projected(sde, own, other, scale=w, parallel=1.0)
        step = reverse_momentum(make, momentum=q)(sde, score)
        out = simulate(jax.random.key(0), step, x, grid)
        assert out.nfe == each * 3
        y, k = np.asarray(x, np.float64) / float(sde.mean_coeff(1.0)), 0
        for now, then in itertools.pairwise(ratio):
            clean = [
                a + (w - 1) * (a - b) * (1 - q ** (k + i)) / (1 - q) for i in range(1, each + 1)
            ]
            slope = (y - clean[0]) / now
            if each == 2:  # the mean of both ends' slopes
                there = y + (then - now) * slope
                slope = (slope + (there - clean[1]) / then) / 2
            y, k = y + (then - now) * slope, k + each
        np.testing.assert_allclose(out.x, y * float(sde.mean_coeff(0.2)), rtol=1e-4, atol=1e-4)


def test_outside_the_interval_neither_score_nor_momentum_changes():
    """Momentum counts the evaluations with guidance alone: here those of the last two steps."""
    sde, q = VP(), -0.5
    own, other = isotropic(sde, 0.5, 0.0), isotropic(sde, -0.3, 0.0)
    score = projected(sde, own, other, scale=3.0, parallel=1.0, interval=(0.15, 0.5))
    step = reverse_momentum(ddim, momentum=q)(sde, score)
    x, grid = jnp.ones((2, 2)), jnp.asarray([1.0, 0.8, 0.5, 0.3, 0.1])
    state, sums = step.init(x, grid), []
    for t, t_next in itertools.pairwise(grid):
        out, state = step.update(jax.random.key(0), x, t, t_next, state)
        x = out.x
        sums.append(float(state[0][0, 0]))
    np.testing.assert_allclose(sums, [0, 0, 0.8, 0.8 * (1 + q)], atol=1e-5)


def test_the_corrections_take_doubled_batches_and_learned_variances():
    sde = VP()
    maker = lambda y: lambda x, t: ScoreOut(-x * (1 + y[:, None]), x + y[:, None])
    y, none, t = jnp.arange(5), jnp.full(5, 9), jnp.asarray(0.3)
    both = maker(jnp.concatenate([y, none]))
    for make in (rescaled, projected):
        two = make(sde, maker(y), maker(none))(X, t)
        one = make(sde, maker(y), maker(none), both=both)(X, t)
        np.testing.assert_allclose(one.score, two.score, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(one.variance, maker(y)(X, t).variance)
    wide = lambda score: np.linalg.norm(denoise(sde, score, X, t), axis=1).max()
    own, other = isotropic(sde, *OWN), isotropic(sde, *OTHER)
    large = wide(classifier_free(own, other, scale=20.0))
    assert wide(rescaled(sde, own, other, scale=20.0, share=1.0)) < large
    assert wide(projected(sde, own, other, scale=20.0, limit=0.1)) < large


SDE = VP()
PAIR = scores(SDE)
GRID = np.asarray([1.0, 0.5], np.float32)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: rescaled(SDE, *PAIR, share=1.5), r"share must be a number in \[0, 1\], got 1.5"),
        (lambda: projected(SDE, *PAIR, parallel=float("nan")), "parallel must be a finite number"),
        (lambda: projected(SDE, *PAIR, limit=0.0), "limit must be > 0 and finite, or None, got 0.0"),
        (lambda: projected(SDE, *PAIR, scale=None), "scale must be"),
        (lambda: autoguidance(*PAIR, interval=(0.5, 0.1)), "interval must be"),
        (lambda: reverse_momentum(ddim, momentum=1.0), r"momentum must be a number in \(-1, 1\)"),
        (lambda: reverse_momentum(ddim)(SDE, PAIR[0]), "score must be made by projected"),
        (lambda: reverse_momentum(ddim)(SDE, rescaled(SDE, *PAIR)), "score must be made by projected"),
        (
            lambda: simulate(
                jax.random.key(0),
                reverse_momentum(langevin)(SDE, projected(SDE, *PAIR), n_steps=2),
                X,
                GRID,
            ),
            "make must evaluate the score outside of loops",
        ),
    ],
)  # fmt: skip
def test_wrong_use_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
