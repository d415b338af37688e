"""Streamed statistics are those of one batch, whatever the batches, devices and hosts."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import metrics
from score_jax.metrics.statistics import Moments, merge_reservoirs
from tests.helpers import ROOT

RNG = np.random.default_rng(5)


def parts(x, *ends):
    return np.split(x, ends)


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_streamed_moments_are_numpys(block):
    """With a mean of 1e4 and a deviation of 1, where raw sums in float32 keep no digit."""
    x = (1e4 + RNG.normal(size=(50, 4))).astype(np.float32)
    found = metrics.collect(({"pool": v} for v in parts(x, 3, 20, 21)), block=block)["pool"].moments
    assert found.n == 50
    np.testing.assert_allclose(found.mean, x.mean(0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64).T), rtol=1e-10)


def test_merged_moments_do_not_depend_on_the_order():
    x = RNG.normal(size=(40, 3)) * [1, 10, 100]
    pieces = [metrics.moments_of(v) for v in parts(x, 1, 8, 30)]
    for order in (pieces, pieces[::-1]):
        found = metrics.merge(*order)
        np.testing.assert_allclose(found.mean, x.mean(0))
        np.testing.assert_allclose(found.covariance, np.cov(x.T))


def test_a_reservoir_is_the_same_for_any_batches_and_hosts():
    x = RNG.normal(size=(100, 2))
    collect = lambda pieces, first=0: metrics.collect(
        ({"f": v} for v in pieces), first=first, keep=20, seed=3, block=16
    )["f"]
    whole = collect([x])
    split = metrics.merge_summaries(collect(parts(x[60:], 7), 60), collect(parts(x[:60], 31)))
    np.testing.assert_array_equal(split.reservoir.index, whole.reservoir.index)
    np.testing.assert_array_equal(split.reservoir.rows, x[whole.reservoir.index])
    assert len(np.unique(whole.reservoir.index)) == 20
    np.testing.assert_allclose(split.moments.covariance, whole.moments.covariance)


def test_a_reservoir_is_fair():
    """Each of 50 numbers is kept in 10 of 50 by about a fifth of 400 seeds."""
    x = np.zeros((50, 1))
    counts = np.zeros(50)
    for seed in range(400):
        counts[metrics.collect([{"f": x}], keep=10, seed=seed)["f"].reservoir.index] += 1
    assert counts.sum() == 4000
    assert np.abs(counts - 80).max() < 5 * np.sqrt(400 * 0.2 * 0.8)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def squares(x):
    """Two features of an image that no other program computes: sums of values and of squares."""
    x = x.astype(jnp.float32)
    return jnp.stack([x.sum((1, 2, 3)), (x**2).sum((1, 2, 3))], 1)


@pytest.mark.parametrize("batch", [1, 4, 5, 64])
@pytest.mark.parametrize("count", [1, 2])
def test_features_do_not_depend_on_batches_and_devices_and_nothing_is_dropped(batch, count):
    x = RNG.integers(0, 256, (11, 4, 4, 3), dtype=np.uint8)
    features = metrics.function_features(squares, "squares")
    for images in (x, iter(parts(x, 2, 3, 9))):
        out = list(metrics.extract(features, images, batch=batch, devices=jax.devices()[:count]))
        got = np.concatenate([v["squares"] for v in out])
        np.testing.assert_allclose(got, np.asarray(squares(x)), rtol=1e-6)


def test_features_are_traced_once():
    traced = []

    def function(x):
        traced.append(x.shape)
        return squares(x)

    images = np.zeros((11, 4, 4, 3), np.uint8)
    features = metrics.function_features(function, "f")
    for _ in range(2):
        list(metrics.extract(features, images, batch=4))
    assert traced == [(4, 4, 4, 3)]


def test_grey_images_have_three_channels():
    x = RNG.integers(0, 256, (2, 4, 4, 1), dtype=np.uint8)
    (out,) = metrics.extract(metrics.function_features(squares, "f"), x, batch=2)
    np.testing.assert_allclose(out["f"][:, 0], 3.0 * x.sum((1, 2, 3)))


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (np.zeros((2, 4, 4, 3)), "uint8"),
        (np.zeros((2, 4, 4, 3), np.int32), "uint8"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"\(b, h, w, 1 or 3\)"),
        (np.zeros((4, 4, 3), np.uint8), r"\(b, h, w, 1 or 3\)"),
        ([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 5, 4, 3), np.uint8)], "all of the shape"),
    ],
)
def test_images_that_are_not_bytes_of_one_size_are_refused(images, named):
    with pytest.raises(ValueError, match=named):
        list(metrics.extract(metrics.function_features(squares, "f"), images))


def test_wrong_use_is_named():
    one = metrics.moments_of(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="at least two points"):
        metrics.frechet(one, metrics.moments_of(RNG.normal(size=(3, 2))))
    with pytest.raises(ValueError, match="of one length"):
        metrics.merge(one, metrics.moments_of(np.zeros((2, 3))))
    with pytest.raises(ValueError, match="known sizes"):
        metrics.merge(one, Moments(np.zeros(2), np.eye(2)))
    with pytest.raises(ValueError, match="at least one"):
        metrics.collect([])
    with pytest.raises(ValueError, match="finite"):
        metrics.collect([{"f": np.full((2, 2), np.nan)}])
    with pytest.raises(ValueError, match="of one length"):
        metrics.collect([{"f": np.zeros((2, 2))}, {"f": np.zeros((2, 3))}])
    a, b = (metrics.collect([{"f": np.zeros((2, 1))}], keep=1, seed=s)["f"] for s in (0, 1))
    with pytest.raises(ValueError, match="one size and seed"):
        merge_reservoirs(a.reservoir, b.reservoir)


@pytest.mark.slow
def test_two_hosts_have_the_statistics_of_one(tmp_path):
    """In float64: a covariance that went through float32 would differ in the eighth digit."""
    x = 1e3 + RNG.normal(size=(30, 4))
    np.save(tmp_path / "x.npy", x)
    port = free_port()
    script = ROOT / "tests" / "helpers" / "statistics_script.py"
    hosts = [
        subprocess.Popen(
            [sys.executable, script, tmp_path / "x.npy", str(port), str(index)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for index in range(2)
    ]
    assert [host.wait(120) for host in hosts] == [0, 0]
    whole = metrics.collect([{"f": x}], keep=9, seed=1)["f"]
    for index in range(2):
        with np.load(tmp_path / f"x.npy.{index}.npz") as found:
            assert found["n"] == 30
            np.testing.assert_allclose(found["mean"], x.mean(0), rtol=1e-14)
            np.testing.assert_allclose(found["covariance"], np.cov(x.T), rtol=1e-11)
            np.testing.assert_array_equal(found["index"], whole.reservoir.index)
            np.testing.assert_array_equal(found["rows"], whole.reservoir.rows)
