"""Batches of any source, the same for any workers and hosts, resumed exactly; views and surveys."""

import numpy as np
import pytest

from score_jax import data


class Files:
    """A source that has its examples one by one, as files do."""

    def __init__(self, n=23, **changes):
        rng = np.random.default_rng(0)
        self.x, self.changes = (
            [rng.integers(0, 256, (4, 4, 1), np.uint8) for _ in range(n)],
            changes,
        )

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": int(i) % 3} | self.changes.get(f"at{i}", {})


class Listed(Files):
    """The same, whose fast path returns a list, as sources of tensorflow-datasets do."""

    def __getitems__(self, indices):
        return [self[int(i)] for i in indices]


def taken(iterator, n):
    return [next(iterator) for _ in range(n)]


def same(a, b):
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert one[name].dtype == other[name].dtype


def test_batches_do_not_depend_on_workers_hosts_and_how_examples_are_read():
    want = taken(data.batches(Files(), 4, seed=5, workers=1), 9)
    assert want[0]["y"].dtype == np.int32
    same(taken(data.batches(Files(), 4, seed=5, workers=3), 9), want)
    same(taken(data.batches(Listed(), 4, seed=5), 9), want)
    x = data.from_arrays(np.stack(Files().x), np.arange(23) % 3)
    same(taken(data.batches(x, 4, seed=5), 9), want)
    parts = [data.batches(Files(), 4, seed=5, process_index=i, process_count=2) for i in range(2)]
    for batch in want:
        shares = [next(part) for part in parts]
        same([{k: np.concatenate([s[k] for s in shares]) for k in batch}], [batch])


def test_the_state_is_the_number_of_the_next_batch_whatever_the_workers():
    it = data.batches(Files(), 4, workers=2)
    taken(it, 7)  # in the middle of the second epoch
    state = it.get_state()
    assert state == {"next_index": 7}
    want = taken(it, 3)
    other = data.batches(Files(), 4, workers=1)
    next(other)
    other.set_state(state)
    same(taken(other, 3), want)
    with pytest.raises(ValueError, match="next_index"):
        other.set_state({"step": 7})


def test_batches_that_were_closed_go_on_where_they_were():
    want = taken(data.batches(Files(), 4), 3)
    it = data.batches(Files(), 4, workers=2)
    it.close()
    first = taken(it, 2)
    it.close()
    same([*first, *taken(it, 1)], want)


def test_a_fault_of_one_example_is_named():
    with pytest.raises(ValueError, match="example 3 has the shapes"):
        list(data.eval_batches(Files(at3={"x": np.zeros((2, 4, 1), np.uint8)}), 8))
    with pytest.raises(ValueError, match="workers"):
        data.batches(Files(), 4, workers=0)


def test_a_split_is_fixed_and_complete():
    train, test = data.split(Files(), 0.2)
    assert (len(train), len(test)) == (19, 4)
    assert sorted([*train.indices, *test.indices]) == list(range(23))
    np.testing.assert_array_equal(data.split(Files(), 0.2)[1].indices, test.indices)
    np.testing.assert_array_equal(data.take(test, [1])["x"][0], Files().x[test.indices[1]])
    for fraction in (0.0, 1.0, 0.01):
        with pytest.raises(ValueError, match="fraction"):
            data.split(Files(), fraction)


def test_pairs_keep_together():
    fields = data.from_arrays(np.arange(23, dtype=np.float32)[:, None])
    pairs = data.Paired(data.from_arrays(np.arange(23, dtype=np.float32)[:, None] + 1), fields)
    batch = next(data.batches(pairs, 8))
    np.testing.assert_array_equal(batch["x"], batch["cond"] + 1)
    np.testing.assert_array_equal(pairs[4]["cond"], [4.0])
    with pytest.raises(ValueError, match="as many as the 23"):
        data.Paired(pairs, data.two_moons(10))


def test_a_survey_finds_the_moments_of_what_is_there():
    """In several batches, with missing entries, against NumPy on the whole."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(700, 5, 2)) * [1.0, 30.0] + [1e4, -3.0]).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    source = data.from_arrays(x, np.arange(700) % 4, missing=True)
    found = data.survey(source)
    np.testing.assert_allclose(found.mean, np.nanmean(x.astype(np.float64), (0, 1)), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.nanstd(x.astype(np.float64), (0, 1)), rtol=1e-7)
    assert found.missing == pytest.approx(np.isnan(x).mean())
    assert (found.low, found.high) == (np.nanmin(x), np.nanmax(x))
    assert list(found.classes) == [175] * 4 and found.all_labels and not found.standard
    some = data.survey(data.Subset(source, np.arange(0, 700, 4)), most=10)
    assert (some.examples, some.total, list(some.classes)) == (10, 175, [175])
    form = data.standardised(source.description, found)
    np.testing.assert_allclose(np.array(form.scale) * found.mean + form.shift, 0, atol=1e-9)
    np.testing.assert_allclose(np.array(form.scale) * found.std, 1)
    assert data.survey(data.two_moons(500)).standard


def test_levels_of_sixteen_bits_survive():
    import jax

    k = np.arange(0, 65536, 7, dtype=np.uint16)
    for interval in ((-1.0, 1.0), (0.0, 1.0), (-2.3, 3.1)):
        x = data.dequantize(jax.random.key(1), k, levels=65536, range=interval)
        back = data.quantize(x, levels=65536, range=interval)
        np.testing.assert_array_equal(back, k)
        assert back.dtype == np.uint16
