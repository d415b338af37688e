"""The chunked runner: every example once and in order, one trace a function, nothing kept alive."""

import gc
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax._batched import in_chunks
from score_jax.likelihood import over_dataset


def run(function, shared, n=7, **options):
    """Numbers 0 to n - 1 and ten times these as the examples."""
    take = lambda index: {"x": 10.0 * (index % n).astype(np.float32)}
    return in_chunks(function, shared, take, n, progress=False, **options)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("count", [1, 2])
def test_every_example_is_seen_once_and_in_order(chunk, count):
    function = lambda shared, index, part: (index + shared["w"], {"y": part["x"] - shared["w"]})
    out = run(function, {"w": jnp.float32(0.5)}, chunk=chunk, devices=jax.devices()[:count]).out
    np.testing.assert_array_equal(out[0], np.arange(7) + 0.5)
    np.testing.assert_array_equal(out[1]["y"], 10 * np.arange(7) - 0.5)


def scaled(traced):
    """A function that closes over an array, a weak reference to the array."""
    weights = jnp.full(1000, 2.0)

    def function(shared, index, part):
        traced.append(1)
        return part["x"] * weights[0] * shared["f"](shared["w"])

    return function, weakref.ref(weights)


def test_arrays_are_arguments_and_functions_decide_the_program():
    traced, double, triple = [], lambda w: 2 * w, lambda w: 3 * w
    function, _ = scaled(traced)
    for w in (1.0, 5.0):
        out = run(function, {"w": jnp.float32(w), "f": double}, chunk=4).out
        np.testing.assert_array_equal(out, 10 * np.arange(7) * 4 * w)
    once = len(traced)
    np.testing.assert_array_equal(
        run(function, {"w": jnp.float32(1), "f": triple}, chunk=4).out, 10 * np.arange(7) * 6.0
    )
    assert len(traced) == 2 * once > 0


def test_a_function_is_not_kept_alive():
    function, weights = scaled([])
    one = lambda w: w
    run(function, {"w": jnp.float32(1), "f": one}, chunk=4)
    alive = weakref.ref(one)
    del one, function
    gc.collect()
    assert alive() is None and weights() is None


class Estimate(NamedTuple):
    """What `over_dataset` reads of an estimate."""

    logp: jax.Array
    stderr: jax.Array
    nfe: jax.Array


def test_a_second_pass_over_a_data_set_compiles_nothing():
    traced = []

    def estimate(key, params, x, y):
        traced.append(1)
        return Estimate(x[:, 0] * params, jnp.zeros(len(x)), jnp.asarray(3))

    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    for params in (1.0, 3.0):
        out = over_dataset(
            jax.random.key(0), estimate, x, params=jnp.float32(params), draws=2, chunk=4,
            progress=False,
        )  # fmt: skip
        np.testing.assert_array_equal(out.logp, np.stack([x[:, 0]] * 2) * params)
        once = len(traced) if params == 1 else once
    assert len(traced) == once > 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"chunk": 1, "n": 0}, "at least one example, got 0"),
        ({"chunk": 1, "devices": []}, "devices must hold at least one"),
    ],
)
def test_bad_input_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        run(lambda shared, index, part: index, None, **options)
