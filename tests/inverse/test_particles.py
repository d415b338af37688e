"""Twisted SMC: unbiased evidence, convergence with particles and with steps, any proposal, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import Mixture, gaussian, importance_posterior
from score_jax.inverse import (
    Measurement,
    Nonlinear,
    ParticlesDied,
    dense,
    exact_posterior,
    log_evidence,
    measurement_logp,
    mmps,
    replacement,
    twisted_smc,
)
from score_jax.inverse.twisting import covariances, eliminated, move
from score_jax.samplers import log_snr_grid
from tests.inverse.test_inverse import FIRST, SDE

TAU = 0.7
WHITE = gaussian([0.5, 0.5], TAU**2 * np.eye(2))
Y = Measurement(dense([[1.0, 0.5]]), jnp.asarray([[1.6], [-1.0]]), 0.3)
GRID = log_snr_grid(SDE, 12)
TWO = Mixture([0.7, 0.3], [[0.0, -1.2], [0.4, 1.2]], [0.1 * np.eye(2)] * 2)
SEEN = Measurement(FIRST, jnp.asarray([[0.6, 0.0]]), 0.4)


def smc(score, measurement, method=None, **kwargs):
    kwargs = {"grid": GRID, "particles": 200, "islands": 8, "progress": False} | kwargs
    return twisted_smc(jax.random.key(0), SDE, score, measurement, method, **kwargs)


@pytest.mark.slow
def test_the_evidence_of_white_data_is_exact_on_a_short_grid():
    """Where the chain of the grid is the data's: Z within its own error, and draws of the posterior."""
    out = smc(WHITE.score(SDE), Y, data_std=TAU)
    assert out.resamplings.shape == (2, 8)
    for i, found in enumerate(out.found):
        one = Measurement(Y.operator, Y.y[i : i + 1], 0.3)
        want, truth = log_evidence(WHITE, one)[0], exact_posterior(WHITE, one)
        assert abs(found.log_evidence - want) < 3.5 * found.error + 0.01
        assert found.error < 0.1 and found.x.shape == (1600, 2)
        np.testing.assert_allclose(found.mean, truth.mean, atol=0.05)
        np.testing.assert_allclose(found.std, truth.std, atol=0.04)


@pytest.mark.slow
def test_the_evidence_itself_is_unbiased_and_its_error_right_from_one_run():
    """96 single systems of 24 particles: the mean of Z, the spread that each estimates, log Z too low."""
    many = dataclasses.replace(Y, y=jnp.broadcast_to(Y.y[:1], (96, 1)))
    out = smc(
        WHITE.score(SDE), many, particles=24, islands=1, data_std=TAU, chunk=96, threshold=0.9
    )
    logs = np.array([found.log_evidence for found in out.found])
    z = np.exp(logs - log_evidence(WHITE, dataclasses.replace(Y, y=Y.y[:1]))[0])
    assert abs(z.mean() - 1) < 3 * z.std(ddof=1) / 96**0.5
    estimated = np.sqrt(np.mean([np.square(found.error) for found in out.found]))
    assert 0.6 < estimated / (z.std(ddof=1) / z.mean()) < 1.6
    assert np.log(z).mean() == pytest.approx(np.log(z.mean()) - 0.5 * np.log(z).var(), abs=0.02)
    assert (out.ancestors >= 0.999).all() and (out.ancestors < 24).all() and out.resamplings.any()


@pytest.mark.slow
def test_too_few_particles_are_warned_of():
    """The message has what a reader can act on: error, effective sample size, ancestors."""
    y = dataclasses.replace(Y, noise_std=0.02)
    with pytest.warns(UserWarning, match=r"too few particles.*sample size of.*ancestors a system"):
        found = smc(WHITE.score(SDE), y, particles=4, islands=2, data_std=5.0).found
    assert max(one.error for one in found) > 0.5


@pytest.mark.slow
def test_more_particles_come_closer_and_more_steps_take_the_bias_away():
    """Two modes: the error of Z falls as one over the root of their number, the bias by the steps."""
    want, truth = log_evidence(TWO, SEEN)[0], exact_posterior(TWO, SEEN)
    draw = lambda steps, particles: smc(
        TWO.score(SDE), SEEN, grid=log_snr_grid(SDE, steps), particles=particles, islands=16
    ).found[0]
    few, many, found = draw(10, 25), draw(10, 400), draw(40, 400)
    assert 2 < few.error / many.error < 8  # 4 in the limit
    bias = [abs(v.log_evidence - want) for v in (many, found)]
    assert bias[1] < 0.5 * bias[0] and bias[1] < 0.08
    weights = found.weights @ np.asarray(TWO.memberships(jnp.asarray(found.x)))
    np.testing.assert_allclose(weights, truth.weights, atol=0.05)


TILTED = gaussian([0.3, -0.2, 0.5], [[1.0, 0.9, 0.2], [0.9, 1.2, 0.3], [0.2, 0.3, 0.5]])
PAIR = Measurement(dense([[1.0, 0.3, -0.5], [0.0, 1.0, 1.0]]), jnp.asarray([[1.0, -0.5]]), 0.2)


@pytest.mark.slow
def test_covariances_make_all_weights_the_evidence_of_any_normal_data():
    """Six steps: with dx0/dx every particle has the weight p(y), and the draws are the posterior's."""
    grid = log_snr_grid(SDE, 6)
    found = smc(TILTED.score(SDE), PAIR, data_std=None, grid=grid, islands=2).found[0]
    truth = exact_posterior(TILTED, PAIR)
    assert abs(found.log_evidence - log_evidence(TILTED, PAIR)[0]) < 0.01
    assert found.error < 0.01 and found.ess > 399
    np.testing.assert_allclose(found.mean, truth.mean, atol=4 * truth.std.max() / 20)
    np.testing.assert_allclose(found.std, truth.std, rtol=0.2)


@pytest.mark.slow
def test_covariances_of_two_modes_need_fewer_particles_and_steps():
    """The other choice, of one variance, is 0.08 off with 40 steps and 400 particles."""
    want, truth = log_evidence(TWO, SEEN)[0], exact_posterior(TWO, SEEN)
    found = smc(TWO.score(SDE), SEEN, data_std=None, grid=log_snr_grid(SDE, 20)).found[0]
    assert abs(found.log_evidence - want) < 3 * found.error + 0.02 and found.error < 0.05
    weights = found.weights @ np.asarray(TWO.memberships(jnp.asarray(found.x)))
    np.testing.assert_allclose(weights, truth.weights, atol=0.05)
    bent = Measurement(Nonlinear(lambda x: x[:, :1] ** 2 + x[:, 1:], (2,)), jnp.ones((1, 1)), 0.4)
    logp = measurement_logp(bent)
    constant = -0.5 * np.log(2 * np.pi) - np.log(0.4)
    sampled = importance_posterior(
        jax.random.key(1), TWO, lambda x: logp(x, jnp.zeros(())) + constant, 50_000
    )
    found = smc(TWO.score(SDE), bent, data_std=None, grid=log_snr_grid(SDE, 40)).found[0]
    assert abs(found.log_evidence - sampled.log_evidence) < 4 * found.error + 0.04


def test_elimination_is_that_of_cholesky():
    a = np.random.default_rng(0).normal(size=(3, 5, 5))
    a, b = a @ np.swapaxes(a, 1, 2), np.random.default_rng(1).normal(size=(3, 5, 2))
    root, found = eliminated(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    lower = np.linalg.cholesky(a)
    np.testing.assert_allclose(root, np.swapaxes(lower, 1, 2), atol=1e-3)
    np.testing.assert_allclose(found, np.linalg.solve(lower, b), rtol=1e-2, atol=1e-2)
    assert np.isnan(eliminated(-jnp.eye(2)[None], jnp.zeros((1, 2, 0)))[0]).any()


def test_a_derivative_that_is_no_covariance_is_replaced_by_its_mean():
    """A score whose derivative is not symmetric and positive gives finite moves."""
    wrong = lambda x, t: -x @ jnp.asarray([[1.0, 3.0], [0.0, -2.0]])
    y = dataclasses.replace(SEEN, y=jnp.broadcast_to(SEEN.y, (4, 2)))
    x, t = jax.random.normal(jax.random.key(0), (4, 2)), jnp.asarray(0.5)

    @jax.jit
    def moved(x, t, t_next):
        guess = covariances(SDE, wrong, y, x, t)
        return *move(SDE, guess, x, t, t_next, x), guess.logs

    assert all(np.isfinite(value).all() for value in moved(x, t, jnp.asarray(0.4)))


@pytest.mark.slow
def test_the_particles_move_by_any_score_and_with_or_without_resampling():
    want = log_evidence(WHITE, Y)[0]
    for method, threshold in ((mmps, 0.5), (None, 0.0), (None, 1.0)):
        out = smc(WHITE.score(SDE), Y, method, data_std=TAU, threshold=threshold)
        assert abs(out.found[0].log_evidence - want) < 4 * out.found[0].error + 0.01
        assert (out.resamplings == 0).all() or threshold > 0
    assert (out.resamplings > len(GRID) - 4).all()


@pytest.mark.slow
def test_a_nonlinear_measurement_agrees_with_importance_sampling():
    square = Nonlinear(lambda x: x[:, :1] ** 2 + x[:, 1:], (2,))
    y = Measurement(square, jnp.asarray([[1.0]]), 0.4)
    logp = measurement_logp(y)
    constant = -0.5 * np.log(2 * np.pi) - np.log(0.4)
    truth = importance_posterior(
        jax.random.key(1), WHITE, lambda x: logp(x, jnp.zeros(())) + constant, 50_000
    )
    found = smc(WHITE.score(SDE), y, data_std=TAU, particles=500).found[0]
    assert abs(found.log_evidence - truth.log_evidence) < 4 * found.error + 0.02
    np.testing.assert_allclose(found.mean, truth.mean, atol=0.06)
    np.testing.assert_allclose(found.std, truth.std, atol=0.06)


@pytest.mark.slow
def test_particles_divided_over_devices_are_the_same():
    """Of two measurements, with chunks that do not divide the systems; resampling gathers the pieces."""
    short = {"grid": log_snr_grid(SDE, 6), "particles": 20, "islands": 3, "threshold": 0.98}
    one = smc(WHITE.score(SDE), Y, devices=jax.devices()[:1], **short)
    two = smc(WHITE.score(SDE), Y, devices=jax.devices()[:2], divided=True, chunk=4, **short)
    assert one.resamplings.sum() > 0
    np.testing.assert_array_equal(two.resamplings, one.resamplings)
    for a, b in zip(one.found, two.found, strict=True):
        np.testing.assert_allclose(b.x, a.x, atol=1e-4)
        np.testing.assert_allclose(b.log_weights, a.log_weights, atol=1e-3)
        assert b.log_evidence == pytest.approx(a.log_evidence, abs=1e-4)


def like_a_network(x, t):
    """The score of WHITE with the faults of a network: it has ripples and does not extrapolate."""
    m, s = SDE.mean_coeff(t), SDE.std(t)
    noise = s * (x - 0.5 * m) / (jnp.square(m * TAU) + jnp.square(s))
    return -(jnp.clip(noise, -4, 4) + 0.004 * jnp.sin(400 * x)) / s


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:too few particles")
def test_the_derivative_of_a_network_does_not_drive_particles_away():
    """At high noise 1 / m magnifies it: without the limit no particle is finite at the end."""
    fine = {"particles": 400, "islands": 2, "data_std": TAU, "grid": log_snr_grid(SDE, 25)}
    with pytest.raises(ParticlesDied, match="died of 2 of 2 measurements"):
        smc(like_a_network, Y, limit=np.inf, **fine)
    for i, found in enumerate(smc(like_a_network, Y, **fine).found):
        truth = exact_posterior(WHITE, dataclasses.replace(Y, y=Y.y[i : i + 1]))
        np.testing.assert_allclose(found.mean, truth.mean, atol=0.4)
        assert abs(found.x).max() < 6


@pytest.mark.slow
def test_particles_that_all_die_leave_the_other_measurements_their_results():
    far = dataclasses.replace(Y, y=jnp.asarray([[1.6], [1e25]]))
    with pytest.raises(
        ParticlesDied, match=r"1 of 2 measurements \(1\).*Use more particles"
    ) as caught:
        smc(WHITE.score(SDE), far, particles=50, islands=2, data_std=TAU)
    assert isinstance(caught.value, FloatingPointError) and caught.value.dead == (1,)
    systems = caught.value.systems
    assert systems.ancestors.shape == systems.variances.shape == (1, 2)
    assert abs(systems.found[0].log_evidence - log_evidence(WHITE, Y)[0]) < 0.3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"particles": 1}, "particles must be"),
        ({"islands": 0}, "islands must be"),
        ({"particles": 7, "divided": True}, "particles must be a multiple of"),
        ({"threshold": 1.5}, "threshold must be"),
        ({"limit": 0.0}, "limit must be > 0"),
        ({"data_std": 0.0}, "data_std must be"),
        ({"method": mmps, "data_std": None}, "data_std must be given with a method"),
        ({"grid": [0.1, 0.5]}, "grid must decrease"),
        ({"method": replacement}, "method must be a score alone"),
        ({"measurement": Measurement(FIRST, np.ones((1, 2)))}, "noise_std must be > 0"),
    ],
    ids=[
        "particles",
        "islands",
        "divided",
        "threshold",
        "limit",
        "data_std",
        "both",
        "grid",
        "method",
        "no_noise",
    ],
)
def test_wrong_use_is_named(change, named):
    with pytest.raises(ValueError, match=named):
        smc(**({"score": WHITE.score(SDE), "measurement": SEEN} | change))
