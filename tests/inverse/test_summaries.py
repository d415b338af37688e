"""Several observations of one x0 against the conjugate posterior; modes; streamed mean and deviations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import Mixture, gaussian
from score_jax.inverse import (
    Mask,
    Measurement,
    combine_observations,
    each,
    exact_posterior,
    mmps,
    mode_seeking,
    posterior_sample,
    posterior_summary,
    summaries,
)
from score_jax.samplers import dpmpp_2m, log_snr_grid
from tests.inverse.test_inverse import FIRST, SDE, given

ROOT = np.array([[1.0, 0.0, 0.0], [0.7, 0.6, 0.0], [-0.3, 0.4, 0.5]])
PRIOR = gaussian([0.5, -0.2, 0.1], ROOT @ ROOT.T)
ROWS = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0], [1.0, 0.5, 0.0], [0.3, 0.0, -1.0]])
SEEN = np.array([0.9, -0.5, 1.3, 0.2])


@pytest.mark.slow
def test_several_observations_are_the_conjugate_posterior():
    """At every time, with a draw of each; the sum of scores alone is far off at the middle times."""
    parts = [PRIOR.posterior(row[None], [y], 0.4) for row, y in zip(ROWS, SEEN, strict=True)]
    whole = PRIOR.posterior(ROWS, SEEN, 0.4)
    prior, scores = PRIOR.score(SDE), [part.score(SDE) for part in parts]
    together = combine_observations(SDE, prior, scores)

    @jax.jit
    def ways(x, t):
        summed = sum(score(x, t) for score in scores) - 3 * prior(x, t)
        return together(x, t), summed, whole.score(SDE)(x, t)

    x = jax.random.normal(jax.random.key(0), (4, 3))
    t = jnp.asarray([0.02, 0.2, 0.4, 0.7])
    found, summed, want = jax.device_get(ways(x, t))
    size = abs(want).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / size, want / size, atol=0.02)
    assert (abs(summed - want) / size)[1:].max() > 0.3


@pytest.mark.slow
def test_the_mode_of_a_posterior_is_found():
    """A normal one: its mean. Two modes: that of the larger mass."""
    one = Measurement(FIRST, np.array([[1.0, 0.0]]), 0.3)
    pair = gaussian(np.zeros(2), [[1.0, 0.9], [0.9, 1.0]])
    two = Mixture([0.75, 0.25], [[0.0, -1.2], [0.0, 1.2]], [0.05 * np.eye(2)] * 2)
    grid = log_snr_grid(SDE, 40)
    for data, want in ((pair, exact_posterior(pair, one).mean), (two, [0.357, -1.2])):
        out = posterior_sample(
            jax.random.key(0), SDE, data.score(SDE), one, mmps, sampler=mode_seeking, grid=grid, num=5,
            together=True, progress=False,
        )  # fmt: skip
        np.testing.assert_allclose(out.x, np.broadcast_to(want, (5, 2)), atol=0.05)
    assert out.nfe[0] == 3 * 40 + 1


@pytest.mark.slow
def test_streamed_summaries_are_those_of_all_draws():
    """Of two measurements, in parts that do not divide the number; against the exact posterior."""
    data = gaussian(np.zeros(2), [[1.0, 0.6], [0.6, 1.0]])
    y = Measurement(FIRST, np.array([[1.0, 0.0], [-2.0, 0.0]]), 0.3)
    grid = log_snr_grid(SDE, 30)
    kwargs = {"grid": grid, "sampler": dpmpp_2m, "together": True, "progress": False}
    found = posterior_summary(
        jax.random.key(0), SDE, data.score(SDE), y, mmps, num=1000, chunk=700, **kwargs
    )
    assert found.n == 1000 and found.mean.shape == (2, 2)
    for i in range(2):
        truth = exact_posterior(data, Measurement(FIRST, y.y[i : i + 1], 0.3))
        np.testing.assert_allclose(found.mean[i], truth.mean, atol=0.1)
        np.testing.assert_allclose(found.std[i], truth.std, atol=0.07)
    np.testing.assert_allclose(found.error, found.std / np.sqrt(1000))
    # All at once, by hand: the same numbers of the same draws.
    small = {"num": 6, "chunk": 8, **kwargs}
    store = np.zeros((2, 6, 2), np.float32)
    score = data.score(SDE)
    few = posterior_summary(
        jax.random.key(1), SDE, score, y, mmps, quantiles=(0.1, 0.5), store=store, **small
    )
    parts = [
        posterior_sample(
            jax.random.key(1), SDE, score, Measurement(FIRST, np.repeat(y.y, 4, axis=0), 0.3),
            mmps, chunk=8, first=first, **kwargs,
        ).x.reshape(2, 4, 2)
        for first in (0, 8)
    ]  # fmt: skip
    x = np.concatenate(parts, axis=1)[:, :6].astype(np.float64)
    np.testing.assert_array_equal(store, x.astype(np.float32))
    np.testing.assert_allclose(few.mean, x.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(few.std, x.std(axis=1, ddof=1), atol=1e-9)
    want = np.quantile(x, [0.1, 0.5], axis=1)
    np.testing.assert_allclose(few.quantiles, want, atol=1e-9)
    # An operator of each example, a function of the draws, and no store.
    own = Measurement(each(Mask(np.array([[True, False]] * 2))), y.y, 0.3)
    other = posterior_summary(
        jax.random.key(1), SDE, score, own, mmps, quantiles=(0.1, 0.5), of=lambda x: 2 * x, **small
    )
    np.testing.assert_allclose(other.mean, 2 * few.mean, atol=1e-3)
    np.testing.assert_allclose(other.std, 2 * few.std, atol=1e-3)
    np.testing.assert_allclose(other.quantiles, 2 * want, atol=2e-3)


def test_quantiles_are_read_from_a_store_in_parts(monkeypatch):
    x = np.random.default_rng(0).normal(size=(2, 20, 5, 3))
    want = np.quantile(x, [0.0, 0.3], axis=1)
    for held in (1, 150, 10_000):
        monkeypatch.setattr(summaries, "HELD", held)
        np.testing.assert_array_equal(summaries._quantiles(x, [0.0, 0.3]), want)
    flat = summaries._quantiles(x[..., 0, 0], [0.0, 0.3])  # x0 that is one number
    np.testing.assert_array_equal(flat, want[..., 0, 0])


def draws(num=4, **kwargs):
    """A call that fails before anything is compiled."""
    key = jax.random.key(0)
    return posterior_summary(
        key, SDE, PRIOR.score(SDE), given(), num=num, grid=[1.0, 0.1], **kwargs
    )


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: combine_observations(SDE, PRIOR.score(SDE), []), "at least one score"),
        (lambda: combine_observations(SDE, dict, [PRIOR.score(SDE)]), "score must be"),
        (lambda: mode_seeking(SDE, PRIOR.score(SDE), moves=0), "moves must be"),
        (lambda: draws(num=1), "num must be"),
        (lambda: draws(quantiles=(0.5, 1.5)), r"quantiles must be in \[0, 1\]"),
        (lambda: draws(y=np.zeros(7, int)), "y must be labels, one for each"),
        (lambda: summaries._checked(np.zeros((1, 2)), (1, 4, 3), float), "store must be of shape"),
    ],
    ids=["no_scores", "no_prior", "moves", "num", "quantiles", "labels", "store"],
)  # fmt: skip
def test_wrong_use_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
