"""Noise paired with data by optimal transport: the best order, still normal, resumed exactly."""

import itertools

import numpy as np
import pytest

from score_jax import data
from score_jax.data.pairing import paired_noise


def cost(x, z):
    return np.square(x.reshape(len(x), -1) - z.reshape(len(x), -1)).sum()


def test_no_other_order_is_better():
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    z = paired_noise(x, 7)
    best = min(cost(x, z[list(order)]) for order in itertools.permutations(range(5)))
    assert cost(x, z) == pytest.approx(best)
    # Scale and shift of all data alike do not matter.
    np.testing.assert_array_equal(paired_noise(100 * x + 50, 7), z)


def test_the_noise_of_a_batch_is_that_of_no_pairing_in_another_order():
    x = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    z = paired_noise(x, (1, 2))
    drawn = np.random.default_rng((1, 2)).standard_normal(x.shape, np.float32)
    np.testing.assert_array_equal(np.sort(z, axis=0), np.sort(drawn, axis=0))
    assert z.dtype == np.float32 and cost(x, z) < 0.5 * cost(x, drawn)
    x[0, 0] = np.nan
    assert np.isfinite(paired_noise(x, 1)).all()


def test_batches_resume_exactly_and_each_host_pairs_its_share():
    source = data.from_arrays(np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1))
    make = lambda **kw: data.batches(source, 8, seed=3, pair_noise=True, **kw)
    whole = make()
    first, second = next(whole), next(whole)
    assert first["z"].shape == first["x"].shape
    again = make()
    again.set_state({"next_index": 1})
    np.testing.assert_array_equal(next(again)["z"], second["z"])
    assert (first["z"] != second["z"]).all()
    hosts = [next(make(process_index=i, process_count=2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([h["x"] for h in hosts]), first["x"])
    # In one dimension the best order is the order of the data.
    for batch in (first, *hosts):
        order = np.argsort(batch["x"].ravel())
        assert (np.diff(batch["z"].ravel()[order]) > 0).all()
    assert (hosts[0]["z"] != hosts[1]["z"]).all()
    assert "z" not in next(data.batches(source, 8))
