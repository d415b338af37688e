"""The loss on held-out data: its closed form for a network that says zero, whatever the chunks."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import presets, runs, train
from experiments.parts import objectives
from experiments.reports.held_out import _function, held_out_loss
from score_jax import training


def small(name, **net):
    config = presets.get(name)
    return runs.build(dataclasses.replace(config, net=config.net.clone(**net)))


@pytest.fixture(scope="module")
def moons():
    exp = small("two_moons_vp", width=8, num_blocks=1)
    return exp, exp.init_params(jax.random.key(0))


def test_a_network_that_predicts_no_noise_has_the_loss_of_noise(moons, key):
    """Its last layer starts at zero, so the loss is the mean square of normal noise, 1."""
    exp, params = moons
    n, draws = 400, 5
    loss = held_out_loss(exp, params, key, draws=draws, most=n, chunk=100)
    assert loss == pytest.approx(1, abs=5 * math.sqrt(2 / (n * draws * 2)))
    assert loss != held_out_loss(exp, params, jax.random.key(1), draws=draws, most=n, chunk=100)


@pytest.mark.slow
def test_the_value_does_not_depend_on_chunks_and_is_that_of_the_whole_batch(moons, key):
    """Against the loss of one batch of all examples; 101 are no multiple of chunk or devices."""
    exp, params = moons
    params = jax.tree.map(lambda p: p + 0.3, params)
    found = [held_out_loss(exp, params, key, most=101, chunk=c) for c in (8, 300)]
    np.testing.assert_allclose(found, found[0], rtol=1e-5)
    prepare_key, loss_key = (jax.random.fold_in(key, i) for i in range(2))
    ready = exp.source.prepare(prepare_key, {"x": jnp.asarray(exp.source.test.x[:101])})
    np.testing.assert_allclose(found[0], exp.test_loss(params, loss_key, ready)[0], rtol=1e-5)


def test_labels_and_grey_levels_go_along(key):
    """Traced only."""
    exp = small("digits_vp_conditional", channels=8, num_blocks=1, channel_mult=(1,), attention=())
    params = jax.eval_shape(exp.init_params, key)
    part = {"x": jnp.asarray(exp.source.test.x[:6]), "y": jnp.asarray(exp.source.test.y[:6])}
    losses, levels = jax.eval_shape(
        _function(exp, 6),
        (tuple(jax.random.split(key)), params),
        jnp.arange(6, dtype=jnp.uint32),
        part,
    )
    assert losses.shape == (6,) and losses.dtype == jnp.float32
    assert levels.shape == (6, 2, objectives.LEVELS)


@pytest.mark.slow
def test_the_best_checkpoint_by_held_out_data_is_judged_so(moons):
    exp, params = moons
    state = training.init_state(jax.random.key(2), params, exp.optimizer)
    first, again = (train._test_loss(exp, step, state) for step in (1, 2))
    assert first == again == pytest.approx(1, abs=0.25)  # the same noise at every step
