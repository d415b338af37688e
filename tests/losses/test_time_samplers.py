"""Importance sampling of indices: the authors' probabilities, no bias, one history for all devices."""

import dataclasses
import functools
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax import losses
from score_jax.checkpoints import open_checkpoints
from score_jax.training import (
    Saving,
    fit,
    init_state,
    jit_step,
    make_train_step,
    pmap_step,
    scan_steps,
)
from tests.helpers import ROOT
from tests.helpers.golden_files import golden

N = 6
# Each index has its own size of loss, so that importance sampling has something to learn.
SIZES = jnp.array([9.0, 4.0, 1.0, 0.5, 0.25, 0.125])


def test_probabilities_are_the_authors():
    g = golden("iddpm_process")
    sampler = losses.loss_second_moment(20, uniform=float(g["resampler/uniform_prob"]))
    state = sampler.init()
    np.testing.assert_allclose(losses.index_probabilities(state), g["resampler/weights_cold"])
    update = jax.jit(sampler.update)
    for t, loss in zip(g["resampler/t"], g["resampler/loss"], strict=True):
        state = update(state, jnp.asarray(t, jnp.int32), jnp.asarray(loss, jnp.float32))
    np.testing.assert_array_equal(np.minimum(state.count, 10), g["resampler/counts"])
    p = losses.index_probabilities(state)
    np.testing.assert_allclose(p, g["resampler/probs"], rtol=1e-5)
    # The weights belong to the probabilities, and the frequencies to them too.
    index, weight = jax.jit(sampler.draw, static_argnums=2)(state, jax.random.key(0), 40_000)
    np.testing.assert_allclose(weight * (20 * p[index]), 1, rtol=1e-5)
    counts = np.bincount(index, minlength=20)
    sd = np.sqrt(40_000 * p * (1 - p))
    assert (np.abs(counts - 40_000 * p) < 4.5 * sd).all()


def test_one_batch_is_recorded_as_one_loss_after_the_other():
    """With many repeats of an index, more than its history holds."""
    rng = np.random.default_rng(0)
    index = jnp.asarray(rng.integers(0, 3, 50), jnp.int32)
    values = jnp.asarray(rng.uniform(1, 2, 50), jnp.float32)
    sampler = losses.loss_second_moment(3, history=7)
    singly, update = sampler.init(), jax.jit(sampler.update)
    at_once = update(singly, index, values)
    for k in range(50):
        singly = update(singly, index[k : k + 1], values[k : k + 1])
    np.testing.assert_array_equal(at_once.losses, singly.losses)
    np.testing.assert_array_equal(at_once.count, singly.count)
    for i in range(3):  # the last seven, whatever their order
        last = np.asarray(values)[np.asarray(index) == i][-7:]
        np.testing.assert_array_equal(np.sort(at_once.losses[i]), np.sort(last))


@pytest.mark.slow
def test_uniform_until_every_index_has_its_ten():
    sampler = losses.loss_second_moment(2)
    state, update = sampler.init(), jax.jit(sampler.update)
    index = jnp.array([0] * 30 + [1] * 9, jnp.int32)
    state = update(state, index, jnp.where(index == 0, 8.0, 1.0))
    np.testing.assert_allclose(losses.index_probabilities(state), [0.5, 0.5])
    state = update(state, jnp.array([1], jnp.int32), jnp.array([1.0]))
    p = losses.index_probabilities(state)
    np.testing.assert_allclose(p, 0.999 * np.array([8, 1]) / 9 + 0.0005, rtol=1e-6)
    nothing = losses.LossHistory(jnp.zeros((2, 10)), jnp.full(2, 10, jnp.int32))
    np.testing.assert_allclose(losses.index_probabilities(nothing), [0.5, 0.5])


def per_index_loss(params, key, batch):
    """SIZES of the index times w^2; the mean over indices of SIZES is the truth."""
    del key
    per_example = SIZES[batch["index"]] * params["w"] ** 2
    total = (batch["weight"] * per_example).mean()
    return total, {"per_example": per_example}


def filled(sampler):
    index = jnp.repeat(jnp.arange(N, dtype=jnp.int32), 10)
    return jax.jit(sampler.update)(sampler.init(), index, SIZES[index])


@pytest.mark.slow
def test_the_weighted_loss_and_gradient_are_unbiased_and_vary_less():
    even, wise = losses.uniform_indices(N), losses.loss_second_moment(N)
    params = {"w": jnp.float32(1.5)}

    def spread(sampler, state):
        def one(key):
            index, weight = sampler.draw(state, key, 16)
            batch = {"index": index, "weight": weight}
            grad = jax.grad(per_index_loss, has_aux=True)
            return grad(params, jax.random.key(0), batch)[0]["w"]

        return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000))

    truth = 2 * 1.5 * float(SIZES.mean())
    plain, importance = spread(even, even.init()), spread(wise, filled(wise))
    for got in (plain, importance):
        assert float(got.mean()) == pytest.approx(truth, abs=4 * float(got.std()) / 4000**0.5)
    # Losses that are constant at an index: drawn in proportion to them nothing is left to vary.
    assert float(importance.var()) < 1e-2 * float(plain.var())


def train(devices, steps=12, batch=8):
    """The state after some steps of a real training step, on these devices or without a mapping."""
    sampler = losses.loss_second_moment(N)
    optimizer = optax.sgd(1e-3)
    state = init_state(jax.random.key(3), {"w": jnp.float32(1.5)}, optimizer, index_sampler=sampler)
    axis = None if devices is None else "devices"
    step = make_train_step(per_index_loss, optimizer, axis_name=axis, index_sampler=sampler)
    mapped = scan_steps(step, 4)
    mapped = jit_step(mapped) if devices is None else pmap_step(mapped, devices=devices)
    batches = ({"x": np.zeros((batch, 2), np.float32)} for _ in range(steps))
    out = fit(state, mapped, batches, steps=steps)
    return out.state, out.metrics


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_history():
    single, metrics = train(None)
    assert int(single.index_sampler.count.sum()) == 12 * 8
    assert "per_example" not in metrics and metrics["loss"] > 0
    for n in (1, 2):
        state, _ = train(jax.devices()[:n])
        np.testing.assert_array_equal(state.index_sampler.count, single.index_sampler.count)
        np.testing.assert_allclose(
            state.index_sampler.losses, single.index_sampler.losses, rtol=1e-6
        )
        np.testing.assert_allclose(state.params["w"], single.params["w"], rtol=1e-6)


@pytest.mark.slow
def test_four_devices_give_the_same_history():
    code = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, numpy as np
from tests.losses.test_time_samplers import train
assert len(jax.devices()) == 4
one, four = train(jax.devices()[:1])[0], train(jax.devices())[0]
np.testing.assert_array_equal(one.index_sampler.count, four.index_sampler.count)
np.testing.assert_allclose(one.index_sampler.losses, four.index_sampler.losses, rtol=1e-6)
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr


class Batches:
    """Endless equal batches."""

    def __iter__(self):
        return self

    def __next__(self):
        return {"x": np.zeros((4, 2), np.float32)}

    def get_state(self):
        return {}

    def set_state(self, state):
        del state


@functools.cache
def made(importance):
    sampler = losses.loss_second_moment(N) if importance else None
    optimizer = optax.sgd(1e-3)
    state = init_state(jax.random.key(3), {"w": jnp.float32(1.5)}, optimizer, index_sampler=sampler)
    loss = per_index_loss if importance else (lambda p, k, b: (p["w"] ** 2, {}))
    step = make_train_step(loss, optimizer, index_sampler=sampler)
    return state, jit_step(scan_steps(step, 5))


def leaves(state):
    state = state.__class__(**{**vars(state), "key": jax.random.key_data(state.key)})
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_a_resumed_run_draws_as_if_it_had_never_stopped(tmp_path):
    state, step = made(True)
    whole = fit(state, step, Batches(), steps=30).state
    for until in (15, 30):
        with open_checkpoints(tmp_path) as checkpoints:
            last = fit(
                state, step, Batches(), steps=until, checkpoints=checkpoints, saving=Saving(None),
            )  # fmt: skip
    assert not np.array_equal(whole.index_sampler.losses, 0 * whole.index_sampler.losses)
    for a, b in zip(leaves(last.state), leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateBeforeSamplers:
    """The fields of `TrainState` when checkpoints were first written."""

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any
    key: Any


def test_checkpoints_from_before_there_were_samplers_are_restored(tmp_path):
    state, _ = made(False)
    assert state.index_sampler is None
    old = StateBeforeSamplers(
        state.step, state.params, state.ema_params, state.opt_state, state.key
    )
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, old)
    with open_checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_latest(state).state
    assert type(found) is type(state) and found.index_sampler is None
    for a, b in zip(leaves(found), leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_without_a_sampler_is_refused_where_one_is_asked_for(tmp_path):
    state, step = made(False)
    with open_checkpoints(tmp_path) as checkpoints:
        fit(
            state, step, Batches(), steps=5, checkpoints=checkpoints, saving=Saving(None),
        )  # fmt: skip
        assert checkpoints.restore_latest(state).state.index_sampler is None
        with pytest.raises(ValueError, match="has no leaf 'index_sampler/losses'"):
            checkpoints.restore_latest(made(True)[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.loss_second_moment(0), "n must be at least 1, got 0"),
        (lambda: losses.uniform_indices(0), "n must be at least 1, got 0"),
        (lambda: losses.loss_second_moment(5, history=0), "history must be at least 1"),
        (lambda: losses.loss_second_moment(5, uniform=0.0), r"uniform must be in \(0, 1\]"),
    ],
)
def test_wrong_use_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
