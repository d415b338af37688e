"""Releases: one file of float16 weights that describes itself, found by its name; or one line."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax._files import sha256_of
from score_jax.convert import (
    PUBLISHED_FILES,
    Ingredients,
    find_release,
    from_release,
    load_pretrained,
    release,
    to_release,
)
from score_jax.convert.files import PublishedFile
from score_jax.data import Description
from score_jax.nets import MLP
from score_jax.parametrization import TimeInput, edm
from score_jax.sde import VP

NAMES = ("T-shirt/top", "Trouser", "Pullover")
DATA = Description((8, 8, 1), "uint8", 256, 3, NAMES)
NET = MLP(width=16, num_blocks=1, num_classes=4)  # the last: no label
WHOLE = Ingredients(NET, VP(), TimeInput(), edm(0.7))


@pytest.fixture(scope="module")
def params():
    y = jnp.zeros(1, jnp.int32)
    return jax.jit(NET.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), y)


@pytest.fixture(scope="module")
def path(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "tiny.npz"
    to_release(path, WHOLE, params, DATA, step=7, notes={"by": "a test"})
    return path


@pytest.fixture
def published(path, tmp_path, monkeypatch):
    """The release under a name, in the folder pretrained of an empty current folder."""
    monkeypatch.chdir(tmp_path)
    known = PublishedFile("https://x.org/tiny.npz", None, "pretrained/tiny.npz", sha(path))
    monkeypatch.setitem(PUBLISHED_FILES, "tiny", known)
    pathlib.Path("pretrained").mkdir()
    return pathlib.Path("pretrained/tiny.npz")


def sha(path):
    return sha256_of(path)


def test_the_model_computes_what_it_did_to_the_precision_of_float16(path, params):
    model, read, info = from_release(path)
    assert (model.sde, model.noise_input, model.parametrization) == (VP(), TimeInput(), edm(0.7))
    assert (info["shape"], info["step"], info["notes"]) == ((8, 8, 1), 7, {"by": "a test"})
    assert info["data"] == DATA and info["data"].class_names == NAMES
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), params)
    assert jax.tree.all(jax.tree.map(np.array_equal, read, half))
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype("float32")}
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    score = jax.jit(lambda params: model.score(params, jnp.array([0, 3]))(x, 0.5))
    np.testing.assert_allclose(score(read), score(params), atol=5e-3)
    # Two bytes a number, beside the names and the description.
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert path.stat().st_size < 2 * numbers + 9_000


def test_it_is_found_by_its_name(path, published, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"x\.org/tiny\.npz to pretrained/tiny\.npz in the"):
        load_pretrained("tiny")
    published.write_bytes(path.read_bytes())
    assert find_release("tiny") == published
    model, _ = load_pretrained("tiny")
    assert model.sde == VP()
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.setattr(release.score_jax, "__file__", str(tmp_path / "score_jax" / "x.py"))
    assert find_release("tiny") == tmp_path / published  # beside the package


def test_another_file_under_the_name_is_refused(path, published, params):
    to_release(published, WHOLE, params, DATA)
    with pytest.raises(ValueError, match=f"must have the sha256 {sha(path)}, got {sha(published)}"):
        load_pretrained("tiny")
    assert from_release(published)[2]["step"] == 0


def changed(path, out, **entries):
    """The file with other entries; None removes one."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | entries
    np.savez(out, **{name: value for name, value in arrays.items() if value is not None})


def about(**fields):
    return np.array(json.dumps({"format": 1, **fields}))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"about": None}, "no entry 'about'"),
        ({"about": np.array("{")}, "Expecting property name"),
        ({"about": about(format=2)}, "its format must be 1, got 2"),
        ({"about": about()}, "KeyError: 'model'"),
        ({"about": about(model={"net": {"kind": "Evil"}})}, "its model"),
        ({"more": np.zeros(1)}, "does not use: more"),
        ({"about": np.array([None])}, "Object arrays cannot be loaded"),
    ],
    ids=["none", "no-json", "format", "fields", "network", "superfluous", "pickle"],
)
def test_a_file_that_is_no_release_is_one_line(path, tmp_path, entries, message):
    bad = tmp_path / "bad.npz"
    changed(path, bad, **entries)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(bad)
    assert str(bad) in str(error.value) and "\n" not in str(error.value)


def test_damaged_and_packed_files_are_refused(path, tmp_path):
    bad = tmp_path / "bad.npz"
    bad.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"bad\.npz cannot be read as a release: "):
        from_release(bad)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    bad.write_bytes(whole)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        from_release(bad)
    np.savez_compressed(bad, about=about(), x=np.zeros(10_000))
    with pytest.raises(ValueError, match="it is compressed, which a release is not"):
        from_release(bad)


def test_what_a_release_cannot_hold_is_refused(path, params, tmp_path):
    with pytest.raises(ValueError, match=r"path must be a file that ends in \.npz"):
        to_release(tmp_path / "x.bin", WHOLE, params, DATA)
    beyond = jax.tree.map(lambda leaf: leaf + 1e6, params)
    with pytest.raises(ValueError, match="finite in float16"):
        to_release(tmp_path / "x.npz", WHOLE, beyond, DATA)
    net = MLP(width=16, num_blocks=1, cond_size=3)
    with pytest.raises(ValueError, match=r"net\.cond_size must be unset for a release, got 3"):
        to_release(tmp_path / "x.npz", WHOLE.__class__(net, VP(), TimeInput()), params, DATA)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="ema must be True for the release"):
        load_pretrained(path, ema=False)
    with pytest.raises(ValueError, match="preset must be None"):
        load_pretrained(path, "vp_ddpm_cifar10")
