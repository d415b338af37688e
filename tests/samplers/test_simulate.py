"""The protocol of steps with and without a state, and the scan and the chain that run them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VP
from score_jax.types import Step, StepOut, stateless
from tests.helpers.closed_form import isotropic

GRID = np.array([1.0, 0.7, 0.5, 0.2, 0.1], np.float32)


def adder(key, x, t, t_next):
    """x + (t - t_next): without a state, so a run adds 1 - 0.1 in all."""
    del key
    return StepOut(x + (t - t_next), x)


def fibonacci():
    """x_{n+1} = x_n + x_{n-1}: cannot be done without a state, which starts at 1."""

    def init(x, grid):
        del grid
        return jnp.ones_like(x)

    def update(key, x, t, t_next, before):
        del key, t, t_next
        return StepOut(x + before, x), x

    return Step(init, update, 3)


def countdown():
    """x becomes the number of steps left after this one: known from the grid of `init`."""

    def init(x, grid):
        del x
        return jnp.asarray(grid.shape[0] - 1, jnp.int32)

    def update(key, x, t, t_next, left):
        del key, t, t_next
        return StepOut(jnp.full_like(x, left - 1), x), left - 1

    return Step(init, update, 1, nfe_extra=-1)


def halved(step):
    """A wrapper: what the step does, halved."""

    def update(key, x, t, t_next, state):
        out, state = step.update(key, x, t, t_next, state)
        return StepOut(out.x / 2, out.x_mean / 2), state

    return step._replace(update=update)


def run(step, x=None, **kwargs):
    x = jnp.ones((2, 1)) if x is None else x
    return sm.simulate(jax.random.key(0), step, x, GRID, **kwargs)


def test_the_state_and_the_trajectory_are_carried():
    """1, 1 -> 2, 3, 5, 8: the states of every step, the last and its mean."""
    out = run(fibonacci(), save_every=1)
    np.testing.assert_array_equal(out.trajectory[:, 0, 0], [2, 3, 5, 8])
    np.testing.assert_array_equal(out.x, np.full((2, 1), 8))
    np.testing.assert_array_equal(out.x_mean, np.full((2, 1), 5))
    assert out.nfe == 3 * 4


def test_a_step_knows_the_grid_and_tells_what_a_run_costs_beyond_its_steps():
    out = run(countdown(), save_every=1)
    np.testing.assert_array_equal(out.trajectory[:, 0, 0], [3, 2, 1, 0])
    assert out.nfe == 4 - 1
    both = run(sm.chain(countdown(), fibonacci()))
    assert both.nfe == 4 * (1 + 3) - 1


def test_a_chain_keeps_every_state_apart():
    """fibonacci, then + interval: f' = f + g where g is what fibonacci last saw."""
    x, before, want = 1.0, 1.0, []
    for t, t_next in itertools.pairwise(GRID):
        x, before = x + before, x
        x += t - t_next
        want.append(x)
    for step in (
        sm.chain(fibonacci(), stateless(adder, 0)),
        sm.chain(sm.chain(fibonacci(), sm.chain()), stateless(adder, 0)),
    ):
        out = run(step, save_every=1)
        np.testing.assert_allclose(out.trajectory[:, 0, 0], want, rtol=1e-6)
        assert out.nfe == 12
    # Without a state there is nothing to carry.
    assert (
        jax.tree.leaves(sm.chain(stateless(adder, 0)).init(jnp.ones((2, 1)), jnp.asarray(GRID)))
        == []
    )


def test_a_chain_of_several_moves_draws_its_noise_apart():
    def noise(key, x, t, t_next):
        del t, t_next
        return StepOut(x + jax.random.normal(key, x.shape), x)

    out = run(
        sm.chain(stateless(noise, 0), stateless(noise, 0)), jnp.zeros((4096, 1)), save_every=2
    )
    assert float(out.x.var()) == pytest.approx(8.0, rel=0.1)  # twice the same noise would give 16


def test_wrappers_pass_the_state_on():
    """(1 + 1)/2 = 1 for ever; without a state x -> (x + interval)/2."""
    out = run(halved(fibonacci()))
    np.testing.assert_array_equal(out.x, np.ones((2, 1)))
    assert out.nfe == 12
    x = 1.0
    for t, t_next in itertools.pairwise(GRID):
        x = (x + t - t_next) / 2
    np.testing.assert_allclose(run(halved(stateless(adder, 2))).x, np.full((2, 1), x), rtol=1e-6)
    assert halved(halved(countdown())).nfe_extra == -1


def test_save_every_keeps_the_last_and_the_denoised():
    sde = VP()
    score = isotropic(sde, 0.5, 1e-3)
    out = run(stateless(adder, 0), save_every=3, final_denoising=sm.tweedie(sde, score))
    assert out.trajectory.shape == (2, 2, 1)
    np.testing.assert_allclose(out.trajectory[0], np.full((2, 1), 1.8), rtol=1e-6)
    np.testing.assert_array_equal(out.trajectory[1], out.x)
    np.testing.assert_allclose(out.x, np.full((2, 1), 0.5), atol=0.01)
    assert out.nfe == 1


def test_every_run_under_vmap_has_its_own_state():
    x = jnp.arange(3.0)[:, None, None]
    keys = jax.random.split(jax.random.key(0), 3)
    out = jax.vmap(lambda k, x: sm.simulate(k, fibonacci(), x, GRID).x)(keys, x)
    np.testing.assert_array_equal(out[:, 0, 0], 5 * np.arange(3) + 3)


def test_what_is_wrong_is_named():
    x = jnp.ones((2, 1))
    with pytest.raises(ValueError, match="x must be floating point, got dtype int32"):
        sm.simulate(jax.random.key(0), fibonacci(), x.astype(jnp.int32), GRID)
    with pytest.raises(ValueError, match="save_every must be at least 1, got 0"):
        run(fibonacci(), save_every=0)
    with pytest.raises(ValueError, match="decrease strictly"):
        sm.simulate(jax.random.key(0), fibonacci(), x, GRID[::-1].copy())
