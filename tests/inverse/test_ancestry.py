"""The error of an evidence: from ancestors, exactly where it is known, and from few skewed repeats."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.inverse.ancestry import evidence_error, first_families, relative_variance, resampled

FULL = np.full(4, 50.0)  # all of 50 ancestors in each of four systems


def test_without_resampling_the_variance_is_that_of_the_weights():
    logs = np.random.default_rng(0).normal(size=50).astype(np.float32)
    variance, ancestors = relative_variance(first_families(50, jnp.float32), jnp.asarray(logs))
    w = np.exp(logs)
    assert variance == pytest.approx(w.var(ddof=1) / w.mean() ** 2 / 50, rel=1e-4)
    assert ancestors == pytest.approx(w.sum() ** 2 / np.square(w).sum(), rel=1e-4)


def test_resampling_does_not_hide_the_weights_before_it_and_adds_no_noise_of_its_own():
    """Drawn once and then of equal weight, particles have the variance from before; twins have none."""
    logs = jnp.log(jnp.asarray([3.0, 1.0, 2.0, 2.0]))
    start = first_families(4, jnp.float32)
    index = jnp.asarray([0, 0, 2, 3])
    after = resampled(start, logs, index, jnp.asarray(True))
    variance, ancestors = relative_variance(after, jnp.zeros(4))
    assert variance == pytest.approx(float(relative_variance(start, logs)[0]), rel=1e-5)
    assert variance == pytest.approx(2 / 3 / 4 / 4, rel=1e-5)
    assert ancestors == pytest.approx(1 / (0.25 + 2 / 16), rel=1e-5)
    same = resampled(start, jnp.zeros(4), jnp.arange(4), jnp.asarray(True))
    assert relative_variance(same, jnp.zeros(4))[0] == pytest.approx(0, abs=1e-6)
    kept = resampled(start, logs, jnp.arange(4), jnp.asarray(False))
    np.testing.assert_array_equal(kept.excess, 0)


@pytest.mark.parametrize("s", [0.1, 1.0, 1.5])
def test_the_error_of_a_few_skewed_repeats_covers_the_truth(s):
    """log Z ~ N(-s^2 / 2, s^2), whose mean is 1: two errors of 4 repeats hold it more often."""
    rng = np.random.default_rng(1)
    held = plainly = 0
    for logs in rng.normal(-0.5 * s**2, s, size=(400, 4)):
        z = np.exp(logs)
        held += abs(z.mean() - 1) < 2 * evidence_error(logs, np.zeros(4), FULL, 50) * z.mean()
        plainly += abs(z.mean() - 1) < z.std(ddof=1)
    assert held > 0.68 * 400 and held >= plainly + (s >= 1) * 15


def test_systems_without_weight_count_as_nothing():
    error = lambda logs, variances: evidence_error(logs, variances, FULL[: len(logs)], 50)
    assert error([-1.0], [0.04]) == pytest.approx((0.04 / 0.96) ** 0.5)
    assert error([-1.0, -1.0], [0.04, 0.04]) == pytest.approx((0.02 / 0.98) ** 0.5)
    assert error([-1.0], [1.01]) == np.inf
    assert error([-1.0, -np.inf], [0.0, np.nan]) == pytest.approx(1.0)


def test_lost_ancestors_widen_the_error_and_few_that_are_left_refuse_it():
    error = lambda *left: evidence_error([-1.0] * len(left), [0.0] * len(left), left, 50)
    assert error(50, 50) == 0 and error(10) == pytest.approx(np.sqrt(1 / 10 - 1 / 50))
    assert error(10, 10) == pytest.approx(error(10) / 2**0.5)
    assert error(5.9) == np.inf and error(2, 11) > error(10, 10)
