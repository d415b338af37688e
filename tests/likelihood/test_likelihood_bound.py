"""The variational bound, against Gaussians whose log density is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import likelihood as lk
from score_jax.losses import level_decoder
from score_jax.sde import VE, VP, SubVP
from tests.helpers.closed_form import random_gaussian


def each_time(score):
    """A score of scalar times as one of a time per example."""
    return lambda x, t: jax.vmap(lambda v, u: score(v[None], u)[0])(x, jnp.broadcast_to(t, len(x)))


SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 20.0)}


@pytest.fixture(scope="module")
def bounds():
    """Bounds of 400 points by the exact score, and their exact log densities, for every SDE."""
    data = random_gaussian(3)
    x = data.sample(400)
    out = {}
    for name, sde in SDES.items():
        run = jax.jit(
            lambda key, sde=sde: lk.variational_bound(
                key, sde, each_time(data.score_fn(sde)), x, t0=1e-4, draws=64
            )
        )
        out[name] = run(jax.random.key(0)), data.logp(sde, x, None)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_with_the_true_score_the_bound_is_nearly_tight(bounds, name):
    """The reverse SDE of the true score is the true process: the bound is an equality in the mean."""
    bound, exact = bounds[name]
    gap = np.asarray(bound.logp - exact)
    pulls = gap / np.sqrt(np.asarray(bound.stderr) ** 2 + 3 / 2)  # the last noise: var |z|^2/2
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap)) + 0.02
    assert 0.3 < pulls.std() < 1.7
    parts = bound.prior + bound.diffusion + bound.reconstruction
    np.testing.assert_allclose(-parts, bound.logp, rtol=1e-5, atol=1e-4)
    assert bound.nfe == 65 and float(bound.prior.min()) >= 0 and float(bound.diffusion.min()) >= 0


@pytest.mark.slow
def test_a_wrong_score_lowers_it_by_what_the_weights_say():
    """Adding c/s to the score adds |c|^2 per unit of lambda / 2, and to the last term |c|^2 / 2."""
    sde, data = VP(), random_gaussian(3)
    x, c = data.sample(600), 0.5
    true = each_time(data.score_fn(sde))
    wrong = lambda v, t: true(v, t) + c / jnp.broadcast_to(sde.std(t), (len(v),))[:, None]
    run = lambda score: jax.jit(
        lambda x: lk.variational_bound(jax.random.key(1), sde, score, x, t0=1e-3, draws=32)
    )(x)
    drop = float((run(true).logp - run(wrong).logp).mean())
    t0 = jnp.float32(1e-3)
    snr = lambda t: 2 * float(jnp.log(sde.mean_coeff(t) / sde.std(t)))
    want = 0.5 * 3 * c**2 * (snr(t0) - snr(jnp.float32(1.0)) + 1)
    assert drop == pytest.approx(want, rel=0.05)


def test_with_a_decoder_of_levels_its_mean_is_the_entropy():
    """Two levels, -1 and 1, of probability 0.7 and 0.3, by their exact score; nothing is dequantised."""
    sde, p = VP(), 0.3

    def score(x, t):
        m, s = (jnp.reshape(f(t), (-1, 1)) for f in (sde.mean_coeff, sde.std))
        clean = jnp.tanh(m * x / jnp.square(s) + 0.5 * np.log(p / (1 - p)))
        return (m * clean - x) / jnp.square(s)

    x0 = jnp.where(jnp.arange(8_000)[:, None] < 4_000, 1.0, jnp.asarray([[-1.0, -1.0]]))
    run = jax.jit(
        lambda key: lk.variational_bound(
            key, sde, score, x0, t0=1e-3, draws=32, decoder=level_decoder(2)
        )
    )
    bound = run(jax.random.key(0))
    nats = -bound.logp.reshape(2, 4_000).mean(axis=1) / 2
    # Of each level its own share, as the prior of the levels follows from the score alone.
    np.testing.assert_allclose(nats, -np.log([p, 1 - p]), atol=0.04)
    assert bound.nfe == 32 and float(jnp.abs(bound.reconstruction).max()) < 1e-6


def test_wrong_use_is_named():
    score, x = lambda x, t: -x, jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="t0 must be"):
        lk.variational_bound(jax.random.key(0), VP(), score, x, t0=1.5)
    with pytest.raises(ValueError, match="draws"):
        lk.variational_bound(jax.random.key(0), VP(), score, x, draws=0)
    single = lk.variational_bound(jax.random.key(0), VP(), score, x + 1, draws=1)
    assert np.isnan(np.asarray(single.stderr)).all()
