"""Priors with exact posteriors: structured covariances are their matrices, posteriors their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from score_jax.analytic import (
    LowRank,
    Mixture,
    Separable,
    cosine_basis,
    fit_mixture,
    fourier_basis,
    gaussian,
    importance_posterior,
    random_field,
    random_mixture,
)
from score_jax.sde import VP

SDE = VP()
RNG = np.random.default_rng(0)
FIELD = random_field((3, 4, 2), exponent=2.0, std=0.8)
SAME = gaussian(np.zeros((3, 4, 2)), FIELD.cov)
THREE = Separable(np.ones((1, 3)), (np.eye(3),))
PAIR = Mixture(
    [0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [np.diag([0.2, 0.1]), [[0.3, 0.1], [0.1, 0.2]]]
)


def scores_and_logps(*mixtures):
    """(x, t) -> the score and log density of each mixture."""
    return jax.jit(
        lambda x, t: [(data.score(SDE)(x, t), data.logp(SDE, x, t)) for data in mixtures]
    )


@pytest.mark.slow
def test_a_field_is_the_gaussian_of_its_matrix():
    """Score, density, posterior, evidence and draws agree with those of the dense covariance."""
    x = jnp.asarray(RNG.normal(size=(5, 3, 4, 2)), jnp.float32)
    t = jnp.asarray([0.01, 0.2, 0.4, 0.7, 1.0])
    (score, logp), (want_score, want_logp) = scores_and_logps(FIELD, SAME)(x, t)
    np.testing.assert_allclose(score, want_score, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(logp, want_logp, rtol=1e-4)
    np.testing.assert_allclose(FIELD.std.reshape(-1) ** 2, np.diag(FIELD.cov), rtol=1e-6)
    assert np.mean(FIELD.std**2) == pytest.approx(0.64)
    matrix, y = RNG.normal(size=(6, 24)), RNG.normal(size=6)
    found, want = FIELD.posterior(matrix, y, 0.2), SAME.posterior(matrix, y, 0.2)
    np.testing.assert_allclose(found.mean, want.mean, atol=1e-9)
    np.testing.assert_allclose(found.cov, want.cov, atol=1e-9)
    np.testing.assert_allclose(found.std, want.std, atol=1e-9)
    evidence = multivariate_normal(cov=matrix @ FIELD.cov @ matrix.T + 0.04 * np.eye(6)).logpdf(y)
    assert FIELD.log_evidence(matrix, y, 0.2) == pytest.approx(evidence)
    x = np.asarray(FIELD.sample(jax.random.key(0), 20_000)).reshape(20_000, -1)
    np.testing.assert_allclose(np.cov(x.T), FIELD.cov, atol=0.04)


def test_neighbours_of_a_field_are_alike_and_a_periodic_one_has_no_edges():
    cov = random_field((16, 1), exponent=3.0, periodic=True).cov
    np.testing.assert_allclose(np.roll(cov, (1, 1), (0, 1)), cov, atol=1e-9)
    assert cov[0, 1] > 0.8 * cov[0, 0] > 0.7 * cov[0, 8]
    for basis in (cosine_basis(7), fourier_basis(6), fourier_basis(7)):
        np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-12)


@pytest.mark.slow
def test_a_large_field_has_an_exact_posterior():
    """32 x 33 entries of which every third is measured: draws against the mean and the deviations."""
    field = random_field((32, 33), exponent=3.0)  # 33 channels would be independent
    field = Mixture([1.0], np.zeros((1, 32, 33)), Separable(
        field.covariance.variances, (cosine_basis(32), cosine_basis(33))
    ))  # fmt: skip
    matrix = np.eye(32 * 33)[::9]
    y = np.asarray(field.sample(jax.random.key(0), 1), np.float64).reshape(-1)[::9]
    truth = field.posterior(matrix, y, 0.1)
    x = np.asarray(truth.sample(jax.random.key(1), 600))
    z = (x.mean(axis=0) - truth.mean) / truth.std * np.sqrt(600)
    assert 0.8 < z.std() < 1.2 and abs(z).max() < 5
    np.testing.assert_allclose(x.std(axis=0), truth.std, rtol=0.2)
    assert truth.std.reshape(-1)[::9].max() < 0.1
    with pytest.raises(ValueError, match="no known axes"):
        truth.score(SDE)(jnp.zeros((1, 32, 33)), 0.5)


def test_evidence_and_memberships_are_bayes():
    """Against the mixture of two densities; the mean membership of posterior draws is the weight."""
    matrix, y = np.array([[1.0, 0.4]]), [0.1]
    variances = [float((matrix @ c @ matrix.T)[0, 0]) + 0.25 for c in PAIR.covs]
    each = [w * multivariate_normal(m @ matrix[0], v).pdf(y[0])
            for w, m, v in zip(PAIR.weights, PAIR.means, variances, strict=True)]  # fmt: skip
    assert PAIR.log_evidence(matrix, y, 0.5) == pytest.approx(np.log(sum(each)))
    truth = PAIR.posterior(matrix, y, 0.5)
    np.testing.assert_allclose(truth.weights, np.array(each) / sum(each))
    x = truth.sample(jax.random.key(0), 20_000)
    np.testing.assert_allclose(PAIR.memberships(x).mean(axis=0), truth.weights, atol=0.01)


def test_the_score_given_y_of_a_large_field_is_that_of_its_posterior():
    """By the moments of p(x0 | x), which need no axes of the posterior, at one time and at several."""
    field = random_field((4, 4, 1)).covariance
    spread = np.concatenate([field.variances, 2 * field.variances[:, ::-1]])
    means = np.stack([np.zeros((4, 4, 1)), 0.5 * np.ones((4, 4, 1))])
    pair = Mixture([0.6, 0.4], means, Separable(spread, field.bases))
    matrix = RNG.normal(size=(5, 16))
    matrix[4] = matrix[0] - matrix[1]  # of rank 4
    given = pair.conditioner(matrix, 0.2)
    y, x = (jnp.asarray(RNG.normal(size=(3, n)), jnp.float32) for n in (5, 16))
    for t in (jnp.asarray(0.3), jnp.asarray([0.1, 0.3, 0.9])):
        both = lambda x, t: (given._score_by_moments(SDE, y)(x, t), given.score(SDE, y)(x, t))
        got, want = jax.device_get(jax.jit(both)(x.reshape(3, 4, 4, 1), t))
        np.testing.assert_allclose(got, want, atol=1e-4 * abs(want).max())


def test_few_axes_are_the_same_as_dense_covariances():
    """Score, density, evidence, posterior, variances and draws; a fit of many entries has few axes."""
    axes = np.linalg.qr(RNG.normal(size=(2, 6, 2)))[0]
    few = LowRank(axes, [[2.0, 1.0], [0.7, 0.4]], [0.1, 0.2])
    means = RNG.normal(size=(2, 6))
    a, b = Mixture([0.6, 0.4], means, few), Mixture([0.6, 0.4], means, few.dense())
    x = jnp.asarray(RNG.normal(size=(3, 6)), jnp.float32)
    for t in (0.1, jnp.asarray([0.2, 0.5, 0.9])):
        (score, logp), (want_score, want_logp) = scores_and_logps(a, b)(x, t)
        np.testing.assert_allclose(score, want_score, atol=2e-4)
        np.testing.assert_allclose(logp, want_logp, rtol=1e-5)
    np.testing.assert_allclose(few.diagonal(), b.covariance.diagonal())
    matrix = RNG.normal(size=(2, 6))
    assert a.log_evidence(matrix, [0.1, 0.2], 0.3) == pytest.approx(
        b.log_evidence(matrix, [0.1, 0.2], 0.3)
    )
    given, y = a.conditioner(matrix, 0.3), jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    t = jnp.asarray(0.3)
    both = jax.jit(lambda x: (given._score_by_moments(SDE, y)(x, t), given.score(SDE, y)(x, t)))
    np.testing.assert_allclose(*both(x), atol=1e-3)
    drawn = np.asarray(a.component(1).sample(jax.random.key(0), 20_000), np.float64)
    np.testing.assert_allclose(np.cov(drawn.T), few.dense()[1], atol=0.03)
    images = few.noise(jax.random.key(1), jnp.zeros(60, int)) @ RNG.normal(size=(6, 150))
    fitted = fit_mixture(np.asarray(images), 2, rank=6)
    assert isinstance(fitted.covariance, LowRank)
    np.testing.assert_allclose(fitted.std, np.asarray(images).std(axis=0), rtol=0.15)


@pytest.mark.slow
def test_one_conditioner_has_the_score_of_every_measurement():
    matrix, ys = np.array([[1.0, 0.4]]), np.array([[-1.0], [0.0], [1.5]])
    given = PAIR.conditioner(matrix, 0.3)
    x = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    for t in (0.05, 0.6):
        scores = given.score(SDE, jnp.asarray(ys, jnp.float32))
        alone = [PAIR.posterior(matrix, y, 0.3).score(SDE) for y in ys]

        @jax.jit
        def both(x, t, scores=scores, alone=alone):
            each = [score(x[i : i + 1], t)[0] for i, score in enumerate(alone)]
            return scores(x, t), jnp.stack(each)

        np.testing.assert_allclose(*both(x, jnp.asarray(t)), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_importance_sampling_knows_its_own_error():
    """The posterior of a Gaussian likelihood, whose answer is known: within its stated errors."""
    matrix, y = np.array([[1.0, 0.4]]), [0.6]
    truth = PAIR.posterior(matrix, y, 0.3)
    logp = lambda x: (
        -0.5 * ((x[:, 0] + 0.4 * x[:, 1] - 0.6) / 0.3) ** 2 - np.log(0.3 * np.sqrt(2 * np.pi))
    )
    misses = []
    for seed in range(8):
        found = importance_posterior(jax.random.key(seed), PAIR, logp, 4_000)
        misses += [*((found.mean - truth.mean) / found.mean_error)]
        misses += [(found.log_evidence - PAIR.log_evidence(matrix, y, 0.3)) / found.error]
    assert 0.5 < np.std(misses) < 1.6 and found.error < 0.05 and 300 < found.ess < 3_000
    np.testing.assert_allclose(found.std, truth.std, rtol=0.1)
    drawn = found.draw(5_000)
    np.testing.assert_allclose(drawn.mean(axis=0), found.mean, atol=0.02)
    with pytest.raises(ValueError, match="no draw has a likelihood"):
        importance_posterior(jax.random.key(0), PAIR, lambda x: jnp.log(0 * x[:, 0]), 100)


@pytest.mark.slow
def test_a_fitted_mixture_has_the_moments_of_its_data():
    data = random_mixture((4, 2), 2, distance=3.0, std=0.5)
    x = np.asarray(data.sample(jax.random.key(0), 3_000))
    found = fit_mixture(x, 2, rank=7)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.cov, np.cov(x.reshape(3_000, -1).T), atol=0.02)
    order = np.argsort(found.means[:, 0, 0])
    np.testing.assert_allclose(
        found.means[order], data.means[np.argsort(data.means[:, 0, 0])], atol=0.1
    )
    low = fit_mixture(x, 1, rank=2)
    values = np.linalg.eigvalsh(low.cov)
    np.testing.assert_allclose(values[:6], values[0], rtol=1e-6)
    assert np.trace(low.cov) == pytest.approx(np.trace(np.cov(x.reshape(3_000, -1).T)), rel=1e-3)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Separable(np.ones((1, 3)), (np.ones((3, 3)),)), "bases must be orthonormal"),
        (lambda: Separable(np.ones((1, 3)), (np.eye(4),)), "shapes of bases must be"),
        (lambda: Separable(-np.ones((1, 3)), (np.eye(3),)), "variances must be finite and >= 0"),
        (lambda: Mixture([1.0], np.zeros((1, 4)), THREE), "weights, means"),
        (lambda: PAIR.conditioner(np.eye(3)), "matrix must have shape"),
        (lambda: PAIR.conditioner(np.eye(2), 0.1)([1.0]), "y must have 2 entries"),
        (lambda: fit_mixture(np.zeros((3, 2)), 2), "at least 4 examples"),
        (lambda: random_field((0, 1)), "n must be"),
        (lambda: random_mixture((2,), std=0.0), "std must be"),
    ],
    ids=[
        "skew_basis", "other_basis", "negative", "other_size", "matrix", "y", "few", "empty", "no_std",
    ],
)  # fmt: skip
def test_wrong_use_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
