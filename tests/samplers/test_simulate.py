"""The protocol of steps with and without a memory, and the scan and the chain that run them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.score import denoise
from score_jax.sde import VP
from score_jax.types import Step, StepOut, with_memory
from tests.helpers.closed_form import isotropic

GRID = np.array([1.0, 0.7, 0.5, 0.2, 0.1], np.float32)


def adder(key, x, t, t_next):
    """x + (t - t_next): memory-free, so a run adds 1 - 0.1 in all."""
    del key
    return StepOut(x + (t - t_next), x)


def fibonacci():
    """x_{n+1} = x_n + x_{n-1}: cannot be done without a memory. The memory starts at 1."""

    def init(x, grid):
        del grid
        return jnp.ones_like(x)

    def update(key, x, t, t_next, before):
        del key, t, t_next
        return StepOut(x + before, x), x

    return Step(update, 3, init)


def countdown():
    """x becomes the number of steps left after this one: known from the grid of `init`."""

    def init(x, grid):
        del x
        return jnp.asarray(grid.shape[0] - 1, jnp.int32)

    def update(key, x, t, t_next, left):
        del key, t, t_next
        return StepOut(jnp.full_like(x, left - 1), x), left - 1

    return Step(update, 1, init, nfe_extra=-1)


def halved(step):
    """A wrapper: what the step does, halved."""
    inner = with_memory(step)

    def update(key, x, t, t_next, memory):
        out, memory = inner.update(key, x, t, t_next, memory)
        return StepOut(out.x / 2, out.x_mean / 2), memory

    return inner._replace(update=update)


def run(step, x=None, **kwargs):
    x = jnp.ones((2, 1)) if x is None else x
    return sm.simulate(step, jax.random.key(0), x, GRID, **kwargs)


def test_the_memory_travels_and_the_way_is_kept():
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


def test_a_chain_keeps_every_memory_apart():
    """fibonacci, then + interval: f' = f + g where g is what fibonacci last saw."""
    x, before, want = 1.0, 1.0, []
    for t, t_next in itertools.pairwise(GRID):
        x, before = x + before, x
        x += t - t_next
        want.append(x)
    for step in (
        sm.chain(fibonacci(), Step(adder, 0)),
        sm.chain(sm.chain(fibonacci(), sm.chain()), with_memory(Step(adder, 0))),
    ):
        out = run(step, save_every=1)
        np.testing.assert_allclose(out.trajectory[:, 0, 0], want, rtol=1e-6)
        assert out.nfe == 12
    assert sm.chain(Step(adder, 0)).init is None  # without a memory nothing changes for anyone


def test_a_chain_of_several_moves_draws_its_noise_apart():
    def noise(key, x, t, t_next):
        del t, t_next
        return StepOut(x + jax.random.normal(key, x.shape), x)

    out = run(sm.chain(Step(noise, 0), Step(noise, 0)), jnp.zeros((4096, 1)), save_every=2)
    assert float(out.x.var()) == pytest.approx(8.0, rel=0.1)  # twice the same noise would give 16


def test_wrappers_do_not_look_into_the_memory():
    """(1 + 1)/2 = 1 for ever; without a memory x -> (x + interval)/2."""
    out = run(halved(fibonacci()))
    np.testing.assert_array_equal(out.x, np.ones((2, 1)))
    assert out.nfe == 12
    x = 1.0
    for t, t_next in itertools.pairwise(GRID):
        x = (x + t - t_next) / 2
    np.testing.assert_allclose(run(halved(Step(adder, 2))).x, np.full((2, 1), x), rtol=1e-6)
    assert halved(halved(countdown())).nfe_extra == -1


def test_save_every_keeps_the_last_and_the_denoised():
    sde = VP()
    score = isotropic(sde, 0.5, 1e-3)
    out = run(Step(adder, 0), save_every=3, denoise=functools.partial(denoise, sde, score))
    assert out.trajectory.shape == (2, 2, 1)
    np.testing.assert_allclose(out.trajectory[0], np.full((2, 1), 1.8), rtol=1e-6)
    np.testing.assert_array_equal(out.trajectory[1], out.x)
    np.testing.assert_allclose(out.x, np.full((2, 1), 0.5), atol=0.01)
    assert out.nfe == 1


def test_a_memory_of_its_own_for_every_run_under_vmap():
    x = jnp.arange(3.0)[:, None, None]
    keys = jax.random.split(jax.random.key(0), 3)
    out = jax.vmap(lambda k, x: sm.simulate(fibonacci(), k, x, GRID).x)(keys, x)
    np.testing.assert_array_equal(out[:, 0, 0], 5 * np.arange(3) + 3)


def test_what_is_wrong_is_named():
    x = jnp.ones((2, 1))
    with pytest.raises(ValueError, match="x must be floating point, got dtype int32"):
        sm.simulate(fibonacci(), jax.random.key(0), x.astype(jnp.int32), GRID)
    with pytest.raises(ValueError, match="save_every must be at least 1, got 0"):
        run(fibonacci(), save_every=0)
    with pytest.raises(ValueError, match="decrease strictly"):
        sm.simulate(fibonacci(), jax.random.key(0), x, GRID[::-1].copy())
