"""Distances with known values."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from score_jax import metrics
from tests.golden.make_metrics import features
from tests.helpers import ROOT

GOLDEN = np.load(ROOT / "tests" / "golden" / "metrics.npz")
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
    with pytest.raises(ValueError, match="size must be at most the number of points, 3"):
        metrics.kid_subsets(np.zeros((3, 2)), np.zeros((5, 2)), size=4)
    with pytest.raises(ValueError, match="bandwidth"):
        metrics.mmd_rbf(np.zeros((3, 2)), np.zeros((3, 2)), bandwidth=0.0)
    with pytest.raises(ValueError, match="means must be"):
        metrics.frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


def test_published_programs_give_the_same_numbers():
    """FID and KID of torch-fidelity, FID of ADM's evaluator, to 1e-6 (features drawn by name)."""
    a, b = features("a", 400, 24), features("b", 300, 24)
    assert metrics.frechet(a, b) == pytest.approx(float(GOLDEN["distance/fid"]), rel=1e-6)
    assert metrics.frechet(a, b) == pytest.approx(float(GOLDEN["adm/fid"]), rel=1e-6)
    found = metrics.kid_subsets(a, b, subsets=20, size=100)
    np.testing.assert_allclose(found[:2], GOLDEN["distance/kid"], rtol=1e-6)
    assert found.error == pytest.approx(found.std / 20**0.5)


def test_frechet_of_streamed_moments_is_that_of_the_features():
    a, b = features("a", 50, 8), features("b", 40, 8)
    found = metrics.collect(({"f": v} for v in np.split(a, 5)), block=9)
    want = metrics.frechet(a, b)
    assert metrics.frechet(found["f"].moments, b) == pytest.approx(want, rel=1e-9)
    assert metrics.frechet(b, found["f"].moments) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("n", [2, 5])
def test_frechet_of_fewer_points_than_features_is_exact(n):
    """Singular covariances: rotating all points, or adding a constant feature, changes nothing."""
    a, b = RNG.normal(size=(n, 3)), RNG.normal(size=(n, 3))
    pad = lambda v: np.concatenate([v, np.ones((n, 5))], 1)
    turn = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    want = metrics.frechet(a, b)
    assert want > 0
    assert metrics.frechet(pad(a) @ turn, pad(b) @ turn) == pytest.approx(want, rel=1e-6)


def test_kernel_distance_in_blocks_is_that_of_all_pairs(monkeypatch):
    a, b = RNG.normal(size=(2, 30, 4))
    want = metrics.kid(a, b)
    monkeypatch.setattr("score_jax.metrics.distances.BLOCK", 7)
    assert metrics.kid(a, b) == pytest.approx(want, rel=1e-12)


def test_the_error_of_kid_is_that_of_repeated_draws():
    """Subsets of a large set behave as new draws: the error covers the distance from the truth, 0."""
    a, b = RNG.normal(size=(2, 3000, 2))
    found = metrics.kid_subsets(a, b, subsets=30, size=100)
    assert abs(found.value) < 4 * found.error
    values = [metrics.kid(*RNG.normal(size=(2, 100, 2))) for _ in range(200)]
    assert found.std == pytest.approx(np.std(values), rel=0.4)


def test_the_jackknife_is_the_usual_error_of_a_mean():
    """For a mean it is std / sqrt(n), and for parts of one point each exactly so."""
    x = RNG.normal(size=(40, 1))
    parts = [metrics.moments_of(v[None]) for v in x]
    found = metrics.jackknife(parts, lambda m: float(m.mean[0]))
    assert found.value == pytest.approx(x.mean())
    assert found.error == pytest.approx(x.std(ddof=1) / np.sqrt(40))
