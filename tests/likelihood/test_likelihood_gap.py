"""From the density at t0 to that of the data: three ways, against Gaussians whose answer is known."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import likelihood as lk
from score_jax.sde import VE, VP, SubVP
from tests.helpers.closed_form import random_normal

T0 = 0.02  # large, so that the gap is felt: the blur of t0 is 5 to 20 % of the data's spread
SDES = {"vp": VP(), "subvp": SubVP(beta_min=8.0), "ve": VE(0.05, 20.0)}
TIGHT = {"rtol": 1e-6, "atol": 1e-6, "divergence": lk.exact_divergence()}
DATA = random_normal(3)


def errors(name, gap, n=16, draws=1):
    """Mean error of log p_0 of n points over the draws, without the prior's mismatch: (n,)."""
    sde = SDES[name]
    x = DATA.sample(n)
    score = DATA.score_fn(sde)
    run = jax.jit(
        lambda x: lk.log_likelihood(jax.random.key(3), sde, score, x, t0=T0, gap=gap, **TIGHT).logp
    )
    logp = run(jnp.tile(x, (draws, 1))).reshape(draws, n).mean(axis=0)
    t0 = jnp.float32(T0)
    mismatch = DATA.model_logp(sde, x, t0) - DATA.logp(sde, x, t0)
    return np.asarray(logp - DATA.logp(sde, x, None) - mismatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_offset_is_right_to_first_order_in_the_variance(name):
    ignored, offset = errors(name, lk.IGNORE), errors(name, lk.OFFSET)
    assert np.abs(ignored).max() > 0.01  # the gap is felt
    assert np.abs(offset).max() < 0.35 * np.abs(ignored).max()


@pytest.mark.slow
def test_offset_error_falls_with_the_square_of_the_variance():
    """The correction alone, by its own two functions and the exact score, in place of a solve."""
    sde = VE(0.05, 20.0)
    x, score = DATA.sample(8), DATA.score_fn(sde)

    @jax.jit
    def error(t0):
        at, noise = lk.OFFSET.start(jax.random.key(0), sde, x, t0)
        trace = jax.vmap(lambda v: jnp.trace(jax.jacfwd(lambda u: score(u[None], t0)[0])(v)))(at)
        added = lk.OFFSET.correct(sde, at, noise, score(at, t0), trace, t0)
        got = DATA.logp(sde, at, t0) + added
        return jnp.abs(got - DATA.logp(sde, x, None)).max()

    # sigma doubles every log(2)/log(400) of t: its fourth power, the error, grows 16-fold.
    double = np.log(2) / np.log(400)
    assert 9 < float(error(0.05 + double)) / float(error(0.05)) < 17


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_tweedie_is_a_bound_and_close(name):
    slack = errors(name, lk.TWEEDIE, draws=400)
    assert slack.mean() < 1e-2  # below log p_0, by the mean of 6,400 draws
    assert slack.mean() > -0.3  # nats, of three dimensions
    # Each draw has its own noise: its spread is that of |z|^2 / 2, which the mean does not have.
    assert np.abs(slack - slack.mean()).max() < 0.4


@pytest.mark.slow
def test_the_correction_is_counted_and_draws_its_noise():
    sde, x = SDES["vp"], DATA.sample(4)
    score = DATA.score_fn(sde)
    fixed = {"controller": diffrax.ConstantStepSize(), "dt0": 0.05, "t0": T0}
    run = lambda gap: jax.jit(
        lambda key: lk.log_likelihood(key, sde, score, x, gap=gap, **fixed)[::3]
    )
    (_, plain), noisy = run(lk.IGNORE)(jax.random.key(0)), run(lk.TWEEDIE)
    (a, nfe), (b, _) = noisy(jax.random.key(0)), noisy(jax.random.key(1))
    assert int(nfe) == int(plain) + 1
    assert float(jnp.abs(a - b).min()) > 1e-3
