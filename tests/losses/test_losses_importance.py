"""Importance-sampled times: the same loss in the mean, with less noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import losses
from score_jax.draws import draw_of
from score_jax.losses.times import unit_numbers
from score_jax.parametrization import SCORE, TimeInput
from score_jax.sde import VE, VP, SubVP
from tests.helpers.closed_form import isotropic

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 20.0)}


@pytest.mark.parametrize("name", SDES)
def test_the_log_snr_of_the_times_is_uniform(name):
    sde, t0 = SDES[name], 1e-4
    key = jax.random.key(0)
    u = unit_numbers(key, draw_of(key, {"x": jnp.zeros(4_096)}))
    t = np.asarray(losses.log_snr_times(sde)(u, t0, sde.t1), np.float64)
    assert t.min() >= np.float32(t0) and t.max() <= sde.t1
    # By the closed forms in the module's text, in float64.
    integral = lambda u: u * (0.1 + 0.5 * u * 19.9)
    falls = {
        "vp": lambda u: np.log(np.expm1(integral(u))),
        "subvp": lambda u: 2 * np.log(np.sinh(integral(u) / 2)),
        "ve": lambda u: 2 * np.log(20.0 / 0.01) * u,
    }[name]
    rank = (falls(t) - falls(t0)) / (falls(1.0) - falls(t0))
    np.testing.assert_allclose(np.sort(rank), (np.arange(4_096) + 0.5) / 4_096, atol=2e-3)


@pytest.mark.parametrize("name", SDES)
def test_same_mean_and_less_variance_than_uniform_times(name):
    """A network in error by a fixed share of the noise: the loss of a batch of 64, 2,000 times."""
    sde, t0 = SDES[name], 1e-3
    true = isotropic(sde, 0.3, 0.5)

    def apply(params, x, t):
        error = 0.3 / sde.std(t)
        return jax.vmap(true)(x, t) + error[:, None]

    common = {"noise_input": TimeInput(1.0), "parametrization": SCORE, "t0": t0, "train": False}
    x = {"x": 0.3 + 0.5 * jax.random.normal(jax.random.key(9), (64, 2))}

    def spread(**options):
        loss = losses.dsm_loss(sde, apply, **common, **options)
        run = jax.jit(jax.vmap(lambda key: loss(None, key, x)[0]))
        return np.asarray(run(jax.random.split(jax.random.key(1), 2_000)), np.float64)

    plain = spread(weighting=losses.likelihood_weighting, stratified=False)
    better = spread(weighting=losses.importance_weighting(sde, t0), times=losses.log_snr_times(sde))
    error = np.hypot(plain.std(), better.std()) / np.sqrt(len(plain))
    assert abs(plain.mean() - better.mean()) < 4 * error
    # VE's log SNR is linear in t: there is nothing to gain but the strata.
    assert better.var() < (1.1 if name == "ve" else 0.3) * plain.var()


def test_wrong_t0_is_named():
    with pytest.raises(ValueError, match="t0 must be in"):
        losses.importance_weighting(VP(), 2.0)
    assert jnp.isfinite(losses.importance_weighting(VP(), 1e-5)(VP(), jnp.ones(3))).all()


@pytest.mark.parametrize("name", SDES)
def test_weights_are_the_same_inside_a_compiled_mean(name):
    """jaxlib 0.10.2 once halved sub-VP's here: what is fused with a reduction is compiled apart."""
    sde = SDES[name]
    t = jax.random.uniform(jax.random.key(0), (200, 64), minval=1e-3)
    mean = jax.jit(lambda t: losses.likelihood_weighting(sde, t).mean(axis=1))
    one_by_one = np.asarray(losses.likelihood_weighting(sde, t), np.float64)
    np.testing.assert_allclose(mean(t), one_by_one.mean(axis=1), rtol=1e-5)
