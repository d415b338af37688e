"""From the density at t0 to that of the data: three ways, against Gaussians whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import likelihood as lk
from score_jax.sde import VE, VP, SubVP
from tests.closed_form import random_gaussian

T0 = 0.02  # large, so that the gap is felt: the blur of t0 is 5 to 20 % of the data's spread
SDES = {"vp": VP(), "subvp": SubVP(beta_min=8.0), "ve": VE(0.05, 20.0)}
TIGHT = {"rtol": 1e-6, "atol": 1e-6, "divergence": lk.exact_divergence()}


def errors(name, gap, n=16, draws=1):
    """(error of log p_0 for each x (n,), bound slack): against the exact density of the data."""
    sde, data = SDES[name], random_gaussian(3)
    x = data.sample(n)
    score = data.score_fn(sde)

    @jax.jit
    def one(key):
        return lk.log_likelihood(key, sde, score, x, t0=T0, gap=gap, **TIGHT).logp

    keys = jax.random.split(jax.random.key(3), draws)
    logp = np.mean([one(k) for k in keys], axis=0)
    # What the prior's mismatch does is common to all: taken out by the flow from a tiny t0.
    mismatch = np.asarray(
        lk.log_likelihood(jax.random.key(0), sde, score, x, t0=1e-4, **TIGHT).logp
        - data.logp(sde, x, jnp.float32(1e-4))
    )
    return logp - np.asarray(data.logp(sde, x, None)) - mismatch


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_offset_is_right_to_first_order_in_the_variance(name):
    ignored, offset = errors(name, lk.IGNORE), errors(name, lk.OFFSET)
    assert np.abs(ignored).max() > 0.01  # the gap is felt
    assert np.abs(offset).max() < 0.35 * np.abs(ignored).max()


def test_offset_error_falls_with_the_square_of_the_variance():
    sde, data = VE(0.05, 20.0), random_gaussian(2)
    x = data.sample(8)

    def error(t0):
        out = lk.log_likelihood(
            jax.random.key(0), sde, data.score_fn(sde), x, t0=t0, gap=lk.OFFSET, **TIGHT
        )
        base = lk.log_likelihood(jax.random.key(0), sde, data.score_fn(sde), x, t0=t0, **TIGHT)
        # log p_t0 is known, so only the correction itself is looked at.
        got = data.logp(sde, x, jnp.float32(t0)) + (out.logp - base.logp)
        return float(jnp.abs(got - data.logp(sde, x, None)).max())

    # sigma doubles every log(2)/log(400) of t: its fourth power, the error, grows 16-fold.
    double = np.log(2) / np.log(400)
    assert 9 < error(0.05 + double) / error(0.05) < 17


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_tweedie_is_a_bound_and_close(name):
    slack = errors(name, lk.TWEEDIE, draws=200)
    assert slack.mean() < 1e-3  # below log p_0
    assert slack.mean() > -0.3  # nats, of three dimensions
    assert not np.allclose(errors(name, lk.TWEEDIE), slack, atol=1e-3)  # noise is drawn
    sde, data = SDES[name], random_gaussian(3)
    out = lk.log_likelihood(
        jax.random.key(0), sde, data.score_fn(sde), data.sample(2), t0=T0, gap=lk.TWEEDIE
    )
    plain = lk.log_likelihood(jax.random.key(0), sde, data.score_fn(sde), data.sample(2), t0=T0)
    assert abs(int(out.nfe) - int(plain.nfe) - 1) <= 12  # other start, perhaps other steps


def test_gradient_of_the_density_is_the_score():
    """d log p_t0 / dx through the adaptive solve equals the score at t0, but for the prior's part."""
    sde, data = VP(), random_gaussian(4)
    x = data.sample(6)
    score = data.score_fn(sde)
    logp = lambda v: lk.log_likelihood(
        jax.random.key(0), sde, score, v, t0=1e-2, rtol=1e-5, atol=1e-5
    ).logp.sum()
    got = jax.jit(jax.grad(logp))(x)
    want = score(x, jnp.float32(1e-2))
    np.testing.assert_allclose(got, want, atol=2e-2 * float(jnp.abs(want).max()))
