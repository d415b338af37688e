"""The weights in pretrained/: the file that is meant, its description, and that they have learned."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs import checks
from experiments import presets
from score_jax import load_pretrained
from score_jax._files import sha256_of
from score_jax.convert import PUBLISHED_FILES, from_release

ROOT = pathlib.Path(__file__).parents[1]
RELEASES = sorted((ROOT / "pretrained").glob("*.npz"))
CARD = ROOT / "pretrained" / "README.md"
# Mean grey level of each class of the training split, from 0 to 1.
MEANS = [0.326, 0.223, 0.377, 0.259, 0.385, 0.137, 0.332, 0.168, 0.354, 0.301]


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.stem)
def test_a_release_is_the_file_that_the_library_and_the_card_name(path):
    known = PUBLISHED_FILES[path.stem]
    assert known.place == path.relative_to(ROOT).as_posix()
    assert sha256_of(path) == known.sha256 and known.sha256 in CARD.read_text()
    assert path.stat().st_size <= checks.LARGEST_WEIGHTS
    model, params, info = from_release(path)
    found = load_pretrained(path.stem)[1]
    assert jax.tree.all(jax.tree.map(np.array_equal, found, params))
    config = presets.get(path.stem)
    assert (model.sde, model.parametrization) == (config.sde, config.parametrization)
    assert info["module"].clone(num_classes=None) == config.net
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters" in CARD.read_text()
    assert f"{info['step']:,} updates" in CARD.read_text()


@pytest.mark.slow
def test_from_pure_noise_the_denoiser_gives_the_mean_of_each_class():
    """The best estimate of x0 there: its mean given the class, or without one that of all classes.

    Training draws few times near t = 1; a network that ignores its label is 0.15 away.
    """
    model, params, info = from_release(ROOT / "pretrained" / "fashion_vp.npz")
    y = jnp.arange(11)
    z = jax.random.normal(jax.random.key(0), (11, *info["shape"]))
    x0 = jax.jit(lambda params, z: model.denoiser(params, y)(z, model.sde.t1))(params, z)
    grey = (np.asarray(x0).mean(axis=(1, 2, 3)) + 1) / 2
    np.testing.assert_allclose(grey, [*MEANS, np.mean(MEANS)], atol=0.12)
