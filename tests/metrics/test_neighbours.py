"""Inception score, precision, recall, density, coverage and nearest neighbours."""

import numpy as np
import pytest

from score_jax import metrics
from tests.golden.make_metrics import features
from tests.helpers import ROOT

GOLDEN = np.load(ROOT / "tests" / "golden" / "metrics.npz")
RNG = np.random.default_rng(2)


def test_published_programs_give_the_same_numbers():
    """torch-fidelity and ADM's evaluator (precision, recall, Inception score), prdc; 1e-6."""
    a, b = features("a", 400, 3), features("b", 300, 3)
    found = metrics.precision_recall(a, b)
    np.testing.assert_allclose(found, GOLDEN["distance/precision_recall"], rtol=1e-6)
    np.testing.assert_allclose(found, GOLDEN["adm/precision_recall"], rtol=1e-6)
    found = metrics.density_coverage(a, b)
    np.testing.assert_allclose(found, GOLDEN["distance/density_coverage"], rtol=1e-6)
    logits = 4 * features("logits", 403, 12)
    found = metrics.inception_score(logits)
    np.testing.assert_allclose(found[:2], GOLDEN["distance/inception_score"], rtol=1e-6)
    found = metrics.inception_score(logits, splits=None, chunk=100, seed=None)
    assert found.value == pytest.approx(float(GOLDEN["adm/inception_score"]), rel=1e-6)


def test_inception_score_of_sure_and_of_unsure_networks():
    """Sure of each of 5 classes equally often: 5. The same answer for all images: 1."""
    sure = 1000.0 * np.eye(5)[np.arange(100) % 5]
    assert metrics.inception_score(sure, splits=1).value == pytest.approx(5)
    same = np.tile(RNG.normal(size=5), (100, 1))
    found = metrics.inception_score(same, splits=4)
    assert found.value == pytest.approx(1)
    assert found.std == pytest.approx(0, abs=1e-12)


def test_points_on_a_line_by_hand():
    """Reference 0, 1, 2, 10; samples 0.5, 3, 30, 31; radii 1, 1, 1, 8 and 2.5, 2.5, 1, 1."""
    reference, samples = (np.array(v, float)[:, None] for v in ([0, 1, 2, 10], [0.5, 3, 30, 31]))
    # 0.5 lies in the balls of 0 and 1; 3 in those of 2 (on its surface) and 10.
    assert metrics.precision_recall(reference, samples, k=1) == (0.5, 0.75)
    assert metrics.density_coverage(reference, samples, k=1) == (3 / 4, 3 / 4)


@pytest.mark.parametrize("cells", [1, 100, 1 << 24])
def test_blocks_do_not_matter(monkeypatch, cells):
    a, b = RNG.normal(size=(2, 40, 3)).astype(np.float32)
    want = metrics.precision_recall(a, b), metrics.density_coverage(a, b), metrics.nearest(a, b)
    monkeypatch.setattr("score_jax.metrics.neighbours.CELLS", cells)
    got = metrics.precision_recall(a, b), metrics.density_coverage(a, b), metrics.nearest(a, b)
    assert got[:2] == want[:2]
    np.testing.assert_array_equal(got[2], want[2])


def test_a_set_against_itself_and_against_a_far_one():
    x = RNG.normal(size=(60, 4))
    assert metrics.precision_recall(x, x) == (1.0, 1.0)
    assert metrics.precision_recall(x, x + 100) == (0.0, 0.0)
    assert metrics.density_coverage(x, x + 100) == (0.0, 0.0)
    assert metrics.density_coverage(x, x).coverage == 1.0
    assert metrics.density_coverage(x, x).density == pytest.approx(1, abs=0.01)


def test_a_mode_that_is_missing_costs_recall_and_not_precision():
    one, two = RNG.normal(size=(2, 100, 2)) + np.array([[[0.0]], [[50.0]]])
    precision, recall = metrics.precision_recall(np.concatenate([one, two]), one + 0.01)
    assert precision > 0.95
    assert recall == pytest.approx(0.5, abs=0.05)


def test_neighbours_are_those_of_all_distances():
    points, reference = RNG.normal(size=(20, 3)), RNG.normal(size=(30, 3)) + 1e4
    every = np.linalg.norm(points[:, None] - reference[None], axis=2)
    distance, index = metrics.nearest(points, reference)
    np.testing.assert_array_equal(index, every.argmin(1))
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-9)


def test_copies_of_training_data_are_seen():
    """Copies with a little noise are far closer than held-out data; new draws are as close."""
    train, held_out, new = RNG.normal(size=(3, 200, 5))
    found = metrics.memorization(train + 1e-3, train, held_out)
    assert found.ratio < 0.01
    np.testing.assert_array_equal(found.where, np.arange(200))
    assert metrics.memorization(new, train, held_out).ratio == pytest.approx(1, abs=0.2)
    with pytest.raises(ValueError, match="held_out"):
        metrics.memorization(new, train, train)


def test_wrong_use_is_named():
    x = np.zeros((4, 2))
    for metric in (metrics.precision_recall, metrics.density_coverage):
        with pytest.raises(ValueError, match="k must be at least 1"):
            metric(x, x, k=0)
        with pytest.raises(ValueError, match="n >= 5"):
            metric(x, x, k=4)
        with pytest.raises(ValueError, match="samples must be of the same features"):
            metric(np.zeros((9, 2)), np.zeros((9, 3)), k=2)
    for splits, chunk, named in ((None, None, "one of"), (2, 2, "one of"), (5, None, "at most")):
        with pytest.raises(ValueError, match=named):
            metrics.inception_score(x, splits=splits, chunk=chunk)
