"""The reference: exact posteriors, evidences and noise levels of mixtures under linear operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from score_jax.analytic import random_field
from score_jax.inverse import (
    BlockAverage,
    Mask,
    Measurement,
    Nonlinear,
    exact,
    exact_posterior,
    exact_posteriors,
    log_evidence,
    measure,
    most_likely_noise,
)
from tests.inverse.test_inverse import FIRST, PAIR, SDE, given

FIELD = random_field((4, 4, 1), std=0.7)


@pytest.mark.slow
def test_the_method_is_the_score_of_each_posterior():
    ys = measure(
        jax.random.key(0), BlockAverage(2), FIELD.sample(jax.random.key(1), 3), noise_std=0.1
    )
    x = jax.random.normal(jax.random.key(2), (3, 4, 4, 1))
    t = jnp.asarray(0.3)
    found = np.asarray(jax.jit(exact(FIELD, ys)(SDE, FIELD.score(SDE), ys))(x, t))
    for i, truth in enumerate(exact_posteriors(FIELD, ys)):
        one = Measurement(ys.operator, ys.y[i : i + 1], 0.1)
        np.testing.assert_allclose(truth.mean, exact_posterior(FIELD, one).mean)
        want = jax.jit(truth.score(SDE))(x[i : i + 1], t)
        np.testing.assert_allclose(found[i : i + 1], want, atol=1e-3)


def test_the_evidence_is_the_density_of_what_was_measured():
    """Unmeasured entries carry none; one number of unit variance, measured with noise 0.3."""
    found = log_evidence(PAIR, given(0.3, 2))
    np.testing.assert_allclose(found, multivariate_normal(0, 1.09).logpdf(1.0))


@pytest.mark.slow
def test_the_noise_is_found_by_the_evidence():
    x0 = FIELD.sample(jax.random.key(1), 20)
    ys = measure(jax.random.key(0), Mask(np.ones((4, 4, 1), bool)), x0, noise_std=0.2)
    best, logs = most_likely_noise(FIELD, ys, np.geomspace(0.05, 0.8, 9))
    assert best == pytest.approx(0.2, rel=0.2) and logs.argmax() not in (0, 8)
    again, same = most_likely_noise(lambda y: log_evidence(FIELD, y), ys, [best, 0.4])
    assert again == best and same[0] == pytest.approx(logs.max())
    with pytest.raises(ValueError, match="noise_stds must be"):
        most_likely_noise(FIELD, ys, [])


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="must be linear"):
        exact(PAIR, Measurement(Nonlinear(jnp.square, (2,)), np.ones((1, 2))))
    with pytest.raises(ValueError, match="prior must be a Mixture"):
        exact(None, Measurement(FIRST, np.ones((1, 2))))
