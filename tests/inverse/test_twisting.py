"""The chain of the grid of twisted SMC: for normal data its evidence is known, and so is its error."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import gaussian
from score_jax.inverse import Measurement, dense, log_evidence, twisted_smc
from score_jax.inverse.twisting import isotropic, move
from score_jax.samplers import log_snr_grid
from score_jax.sde import VP

SDE = VP()
DATA = gaussian([0.4, -0.3], [[1.0, 0.5], [0.5, 0.4]])  # of no single variance
SEEN = Measurement(dense([[1.0, -1.0]]), jnp.asarray([[0.7]]), 0.2)
STEPS = (10, 20, 40, 80, 160)


def moves_of_the_chain(t, t_next):
    """The move x -> a x + b + s z without y of each interval (k,): a (k, 2, 2), b (k, 2), s (k,)."""
    points = jnp.concatenate([jnp.zeros((1, 2)), jnp.eye(2)])
    every = dataclasses.replace(SEEN, y=jnp.zeros((3, 1)))

    def one(t, t_next):
        guess = isotropic(SDE, DATA.score(SDE), every, None, jnp.ones(1), np.inf, points, t)
        guess = guess._replace(wanted=guess.x0)
        still = move(SDE, guess, points, t, t_next, jnp.zeros((3, 2)))[0]
        return still, move(SDE, guess, points, t, t_next, jnp.ones((3, 2)))[0] - still

    still, noise = (np.asarray(v, np.float64) for v in jax.jit(jax.vmap(one))(t, t_next))
    b = still[:, 0]
    return np.swapaxes(still[:, 1:] - b[:, None], 1, 2), b, noise[:, 0, 0]


@pytest.fixture(scope="module")
def evidences():
    """log p(y) of the chain by its number of steps: the mean of every estimate Z, with nothing drawn."""
    grids = [np.append(np.asarray(log_snr_grid(SDE, n)), np.float32(0)) for n in STEPS]
    times = [np.concatenate([grid[part] for grid in grids]) for part in (np.s_[:-1], np.s_[1:])]
    moves = zip(*moves_of_the_chain(*map(jnp.asarray, times)), strict=True)
    operator, y = np.asarray([1.0, -1.0]), float(SEEN.y[0, 0])
    found = {}
    for n, grid in zip(STEPS, grids, strict=True):
        mean, cov = np.zeros(2), np.eye(2)
        for _ in grid[1:]:
            a, b, s = next(moves)
            mean, cov = a @ mean + b, a @ cov @ a.T + s**2 * np.eye(2)
        variance = operator @ cov @ operator + SEEN.noise_std**2
        away = (y - operator @ mean) ** 2 / variance
        found[n] = float(-0.5 * (away + np.log(2 * np.pi * variance)))
    return found


def test_the_error_of_the_grid_falls_as_one_over_the_number_of_steps(evidences):
    exact = float(log_evidence(DATA, SEEN)[0])
    errors = np.array([evidences[n] - exact for n in STEPS])
    order = -np.polyfit(np.log(STEPS), np.log(abs(errors)), 1)[0]
    assert 0.95 < order < 1.1 and abs(errors[0]) > 0.15 and abs(errors[-1]) < 0.02
    np.testing.assert_allclose(errors[-2] / errors[-1], 2, rtol=0.1)


@pytest.mark.slow
def test_particles_estimate_the_evidence_of_the_chain(evidences):
    """Ten steps: Z agrees with the chain's within its error, and not with the exact one."""
    out = twisted_smc(
        jax.random.key(0), SDE, DATA.score(SDE), SEEN, grid=log_snr_grid(SDE, STEPS[0]),
        particles=500, islands=16, progress=False,
    ).found[0]  # fmt: skip
    assert abs(out.log_evidence - evidences[STEPS[0]]) < 3 * out.error
    assert abs(out.log_evidence - log_evidence(DATA, SEEN)[0]) > 5 * out.error
