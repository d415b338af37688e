"""Distances with known values."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from score_jax import metrics

RNG = np.random.default_rng(0)


def test_frechet_of_gaussians_is_the_closed_form():
    """Commuting covariances: |m|^2 + sum (s1 - s2)^2; the general one against scipy's sqrtm."""
    s1, s2, m = np.array([1.0, 2.0, 0.5]), np.array([0.3, 2.5, 0.0]), np.array([1.0, -2.0, 0.5])
    got = metrics.frechet_distance(m, np.diag(s1**2), 0 * m, np.diag(s2**2))
    assert got == pytest.approx((m**2).sum() + ((s1 - s2) ** 2).sum(), rel=1e-12)
    a, b = (v @ v.T for v in RNG.normal(size=(2, 4, 4)))
    want = np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert metrics.frechet_distance(np.zeros(4), a, np.zeros(4), b) == pytest.approx(want)


def test_frechet_of_a_set_with_itself_is_zero_and_of_a_shift_its_square():
    x = RNG.normal(size=(200, 5))
    assert metrics.frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet(x, x + 2.0) == pytest.approx(5 * 4.0, rel=1e-9)


@pytest.mark.parametrize("distance", [metrics.kid, lambda a, b: metrics.mmd_rbf(a, b, bandwidth=2)])
def test_kernel_distances_are_unbiased_and_see_a_shift(distance):
    """The mean over many draws of one law is zero within its error; a shift is positive."""
    same = [distance(*RNG.normal(size=(2, 20, 3))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    assert distance(RNG.normal(size=(200, 3)), 1 + RNG.normal(size=(200, 3))) > 0.05


def test_mmd_of_two_pairs_by_hand():
    a, b = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    k = lambda d: np.exp(-d * d / 2)
    want = k(1) + k(2) - 2 * (k(0) + k(2) + k(1) + k(1)) / 4
    assert metrics.mmd_rbf(a, b, bandwidth=1.0) == pytest.approx(want)


def test_wasserstein_of_columns_is_scipys():
    a, b = RNG.normal(size=(30, 4)), RNG.normal(size=(47, 4)) + 1
    want = [scipy.stats.wasserstein_distance(a[:, i], b[:, i]) for i in range(4)]
    np.testing.assert_allclose(metrics.wasserstein_1d(a, b), want)


def test_sliced_wasserstein_of_a_shift():
    """A shift by v costs E|v . direction|: for a unit v in the plane 2/pi."""
    x = RNG.normal(size=(500, 2))
    got = metrics.sliced_wasserstein(x, x + np.array([1.0, 0.0]), n_projections=4000)
    assert got == pytest.approx(2 / np.pi, rel=0.03)


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        (np.zeros((1, 2)), np.zeros((3, 2)), "n >= 2"),
        (np.zeros((3, 2)), np.zeros((3, 4)), "same features"),
        (np.zeros(3), np.zeros((3, 2)), r"\(n, k\)"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "finite"),
    ],
)
def test_wrong_use_is_named(a, b, named):
    for distance in (metrics.frechet, metrics.kid):
        with pytest.raises(ValueError, match=named):
            distance(a, b)
    with pytest.raises(ValueError, match="bandwidth"):
        metrics.mmd_rbf(np.zeros((3, 2)), np.zeros((3, 2)), bandwidth=0.0)
    with pytest.raises(ValueError, match="means must be"):
        metrics.frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
