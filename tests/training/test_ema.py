"""Averages of the parameters against integrals in closed form, and any length made afterwards."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax.checkpoints import open_checkpoints
from score_jax.training import (
    Profile,
    Snapshots,
    combination,
    combine,
    exponential,
    fit,
    init_state,
    jit_step,
    make_train_step,
    post_hoc,
    power,
    power_gamma,
    scan_steps,
)

WIDTHS = {"power_0.05": 0.05, "power_0.1": 0.1}


def test_widths_have_the_published_exponents():
    # The pair of the paper, section 3.1: gamma = 16.97 and 6.94 for 5 % and 10 %.
    assert power_gamma(0.05) == pytest.approx(16.97, abs=0.01)
    assert power_gamma(0.1) == pytest.approx(6.94, abs=0.01)
    for std in (0.02, 0.13, 0.25):
        # The standard deviation of tau with density proportional to tau^gamma on [0, 1].
        g, tau = power_gamma(std), np.linspace(0, 1, 200_001)[1:]
        p = tau**g / np.sum(tau**g)
        assert np.sqrt(np.sum(p * tau**2) - np.sum(p * tau) ** 2) == pytest.approx(std, rel=1e-3)
    for bad in (0.0, 0.3, -0.1):
        with pytest.raises(ValueError, match="std must be in"):
            power_gamma(bad)


def trajectory(n, decays, every):
    """{step: averages} of theta(n) = n, trained by gradient descent at rate 1 with gradient -1."""
    optimizer = optax.sgd(1.0)
    params = {"w": jnp.zeros(())}
    state = init_state(jax.random.key(0), params, optimizer, averages=tuple(decays))
    step = make_train_step(lambda p, k, b: (-p["w"], {}), optimizer, averages=decays)
    run = jax.jit(scan_steps(step, every).run)
    found = {}
    for _ in range(n // every):
        state, _ = run(state, {"x": jnp.zeros(every)})
        found[int(state.step)] = state.averages
    return found


def test_power_average_of_a_line():
    # The mean of tau with density proportional to tau^gamma on [0, t] is t (gamma + 1)/(gamma + 2).
    found = trajectory(4000, {"a": power(0.05), "b": power(0.2)}, 1000)
    for name, std in (("a", 0.05), ("b", 0.2)):
        g = power_gamma(std)
        for t, averages in found.items():
            assert float(averages[name]["w"]) == pytest.approx(t * (g + 1) / (g + 2), rel=2e-3)


def test_several_rates_at_once():
    found = trajectory(400, {"0.9": exponential(0.9), "0.99": exponential(0.99)}, 400)[400]
    # An exponential average lags a line by d / (1 - d).
    assert float(found["0.9"]["w"]) == pytest.approx(400 - 9, abs=0.01)
    # Still warming up, (1 + n)/(10 + n) is the power function of gamma = 8, whose mean is 9/10.
    assert float(found["0.99"]["w"]) == pytest.approx(0.9 * 400, rel=1e-3)


def test_weights_reproduce_what_is_stored():
    stored = [Profile(t, s) for t in (100, 200, 300) for s in (0.05, 0.1)]
    for i, wanted in enumerate(stored):
        np.testing.assert_allclose(combination(stored, wanted), np.eye(6)[i], atol=1e-6)
    with pytest.raises(ValueError, match="at or before step 50"):
        combination(stored, Profile(50, 0.1))


@pytest.mark.parametrize(("std", "error"), [(0.03, 2e-3), (0.07, 5e-4), (0.15, 2e-3), (0.25, 0.02)])
def test_any_length_afterwards(std, error):
    """The profile made of 16 x 2 stored ones is the one asked for, seen through a curved path."""
    steps = np.arange(1, 1601)
    theta = np.sin(steps / 300) + steps / 800  # what training did, at every step

    def average(t, width):
        p = (steps[:t] / t) ** power_gamma(width)
        return float(np.sum(p * theta[:t]) / p.sum())

    stored = [Profile(t, s) for t in range(100, 1601, 100) for s in (0.05, 0.1)]
    trees = [{"w": np.float32(average(p.step, p.std))} for p in stored]
    wanted = Profile(1600, std)
    made = combine(trees, combination(stored, wanted))
    assert float(made["w"]) == pytest.approx(average(1600, std), abs=error)


def test_snapshots_in_a_folder(tmp_path):
    found = trajectory(1200, {"power_0.05": power(0.05), "power_0.1": power(0.1)}, 200)
    with open_checkpoints(tmp_path, keep=None) as store:
        for step, averages in found.items():
            store.save(step, {"averages": averages})
        store.wait()
        assert len(store.steps()) == 6
        made = post_hoc(store, WIDTHS, Profile(1200, 0.15))
        g = power_gamma(0.15)
        assert float(made["w"]) == pytest.approx(1200 * (g + 1) / (g + 2), rel=0.01)
        earlier = post_hoc(store, WIDTHS, Profile(800, 0.1))
        np.testing.assert_allclose(earlier["w"], found[800]["power_0.1"]["w"], rtol=1e-5)


def test_the_loop_keeps_snapshots_and_does_not_take_them_twice(tmp_path):
    optimizer = optax.sgd(0.1)
    loss = lambda params, key, batch: (jnp.mean(jnp.square(params["w"] - batch["x"][0])), {})
    step = make_train_step(loss, optimizer, averages={"power_0.1": power(0.1)})
    state = init_state(jax.random.key(0), {"w": jnp.ones(2)}, optimizer, averages=["power_0.1"])
    mapped = jit_step(step)
    with open_checkpoints(tmp_path, keep=None) as store:
        for last in (4, 6, 6):  # from the start each time: what is kept already stays
            batches = itertools.repeat({"x": jnp.zeros((4, 2))})
            result = fit(state, mapped, batches, steps=last, hooks=[Snapshots(store, 2)])
        store.wait()
        assert store.steps() == [2, 4, 6]
        kept = store.read(6, "averages")["power_0.1"]["w"]
    np.testing.assert_array_equal(kept, result.state.averages["power_0.1"]["w"])
