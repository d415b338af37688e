"""Methods that noise a corrected estimate again: where they are exact, and their limits."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import gaussian, importance_posterior
from score_jax.inverse import (
    Laplace,
    Mask,
    Measurement,
    Nonlinear,
    daps,
    ddrm,
    dense,
    diffpir,
    dps,
    exact_posterior,
    measurement_logp,
)
from score_jax.samplers import ancestral, ddim, log_snr_grid, simulate
from tests.inverse.test_inverse import FIRST, PAIR, SCORE, SDE, errors, given, run

TAU = 0.7
WHITE = gaussian([0.5, 0.5], TAU**2 * np.eye(2))
ROW = [[1.0, 0.5]]
SHORT = log_snr_grid(SDE, 25)
WIDE = gaussian([0.0, 0.0], 4 * np.eye(2))
FIVE = dense([[1.0, 0.0]] * 5)  # one number, measured five times
OUTLIER = jnp.asarray([[0.9, 1.0, 1.0, 1.1, 6.0]])


@dataclasses.dataclass(frozen=True)
class Same:
    """The normal noise, as a noise with a likelihood of its own."""

    scale: float

    def draw(self, key, clean):
        return clean + self.scale * jax.random.normal(key, clean.shape, clean.dtype)

    def logp(self, y, clean):
        return -0.5 * jnp.square((y - clean) / self.scale)

    def std(self, clean):
        return self.scale


def seen(operator, noise_std=0.3, num=2000):
    return Measurement(operator, jnp.full((num, 1), 1.6), noise_std)


@pytest.mark.slow
def test_daps_is_exact_for_white_data():
    """With a linear operator by an exact draw; as a function of which nothing is known, by Langevin."""
    truth = exact_posterior(WHITE, seen(dense(ROW), num=1))
    score = WHITE.score(SDE)
    x = run(daps(SDE, score, seen(dense(ROW)), data_std=TAU), ancestral, SHORT, num=2000)
    mean, cov = errors(x, truth)
    assert mean < 0.05 and cov < 0.04
    blind = Nonlinear(lambda x: x[:, :1] + 0.5 * x[:, 1:], (2,))
    x = run(daps(SDE, score, seen(blind), data_std=TAU, moves=100), ancestral, SHORT, num=2000)
    mean, cov = errors(x, truth)
    assert mean < 0.1 and cov < 0.1


@pytest.mark.slow
def test_ddrm_reproduces_what_is_known_and_leaves_the_rest_to_the_data():
    """Independent data: the posterior of what is not measured is the prior, by DDIM with eta 0."""
    y = Measurement(FIRST, jnp.broadcast_to(jnp.asarray([[1.0, 0.0]]), (2000, 2)), 0.0)
    x = run(ddrm(SDE, WHITE.score(SDE), y, eta=0.0), ancestral, SHORT, num=2000)
    np.testing.assert_array_equal(x[:, 0], 1.0)
    assert x[:, 1].mean() == pytest.approx(0.5, abs=0.06)
    assert x[:, 1].std() == pytest.approx(TAU, abs=0.08)
    # Fresh noise in every step makes it narrower; the known part has a spread under noise.
    noisy = Measurement(FIRST, y.y, 0.3)
    x = run(ddrm(SDE, WHITE.score(SDE), noisy), ancestral, SHORT, num=2000)
    assert 0.4 * TAU < x[:, 1].std() < 0.9 * TAU
    assert 0.5 < x[:, 0].mean() < 1.0 and 0.05 < x[:, 0].std() < 0.35


def test_a_weight_without_bound_leaves_diffpir_with_the_flow():
    """Nothing is corrected, no noise is fresh: the steps of DDIM. Without noise y comes out."""
    y = given(0.3, 5)
    x = SDE.prior_sample(jax.random.key(0), (5, 2))
    free = diffpir(SDE, SCORE, y, weight=1e12, zeta=0.0).step(ancestral(SDE, SCORE))
    found = simulate(jax.random.key(1), free, x, SHORT).x
    want = simulate(jax.random.key(1), ddim(SDE, SCORE), x, SHORT).x
    np.testing.assert_allclose(found, want, atol=1e-4)
    x = run(diffpir(SDE, SCORE, given(num=50)), ancestral, SHORT, num=50)
    np.testing.assert_array_equal(x[:, 0], 1.0)
    assert x[:, 1].mean() > 0.5


@pytest.mark.slow
def test_no_scale_of_dps_makes_samples_diverge():
    """Twenty times too large: with the limit the first number is 1, without it the samples are lost."""
    y = Measurement(dense([[3.0, 0.0]]), jnp.full((200, 1), 3.0), 0.1)
    x = run(dps(SDE, SCORE, y, scale=20.0), ancestral, SHORT, num=200)
    assert abs(x[:, 0] - 1).max() < 0.2 and abs(x).max() < 5
    lost = run(dps(SDE, SCORE, y, scale=20.0, limit=math.inf), ancestral, SHORT, num=200)
    assert not np.isfinite(lost).all() or abs(lost[:, 0] - 1).max() > 3


LINE = Mask(np.array([True, False]))
Y = Measurement(LINE, np.zeros((1, 2)), 0.1)
SQUARE = Measurement(Nonlinear(jnp.square, (2,)), np.ones((1, 2)))


@pytest.mark.slow
def test_dps_and_daps_use_the_likelihood_of_the_noise():
    """Normal noise as its own kind: the same steps. Laplace noise: an outlier does not pull."""
    score, every = WIDE.score(SDE), jnp.tile(OUTLIER, (300, 1))
    plain = Measurement(FIVE, every, 0.3)
    same = Measurement(FIVE, every, 0.3, Same(0.3))
    draw = lambda made, y: run(made(SDE, score, y), ancestral, SHORT, num=300)[:, 0]
    free = functools.partial(dps, scale=0.1, limit=math.inf)
    x = draw(free, plain)
    np.testing.assert_allclose(draw(free, same), x, atol=2e-3)
    assert x.mean() == pytest.approx(2.0, abs=0.15)
    noise = Laplace(0.1)
    robust = Measurement(FIVE, every, noise.std(0), noise)
    assert draw(functools.partial(dps, scale=0.3), robust).mean() == pytest.approx(1.0, abs=0.15)
    logp = measurement_logp(Measurement(FIVE, OUTLIER, noise.std(0), noise))
    truth = importance_posterior(jax.random.key(0), WIDE, lambda x: logp(x, jnp.zeros(())), 20_000)
    x = draw(functools.partial(daps, data_std=2.0, moves=100, size=0.05), robust)
    assert x.mean() == pytest.approx(float(truth.mean[0]), abs=0.05)
    assert x.std() == pytest.approx(float(truth.std[0]), rel=0.4)


@pytest.mark.parametrize(
    ("method", "measurement", "options", "named"),
    [
        (ddrm, Y, {"eta": 1.5}, "eta must be in"),
        (ddrm, Y, {"eta_b": -0.1}, "eta_b must be in"),
        (ddrm, SQUARE, {}, "needs a linear operator"),
        (diffpir, Y, {"weight": 0.0}, "weight must be"),
        (diffpir, Y, {"zeta": 2.0}, "zeta must be in"),
        (daps, Y, {"data_std": 0.0}, "data_std must be"),
        (daps, Y, {"moves": 0}, "moves must be"),
        (daps, SQUARE, {}, "noise_std must be > 0"),
        (dps, Y, {"limit": 0.0}, "limit must be"),
    ],
    ids=["eta", "eta_b", "ddrm_square", "weight", "zeta", "std", "moves", "no_noise", "limit"],
)
def test_wrong_use_is_named(method, measurement, options, named):
    with pytest.raises(ValueError, match=named):
        method(SDE, PAIR.score(SDE), measurement, **options)
