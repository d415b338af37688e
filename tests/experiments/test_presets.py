"""Every preset, at its full size: it can be traced, and has as many parameters as the original."""

import math

import jax
import jax.numpy as jnp
import pytest

from experiments import presets, runs
from experiments.presets.figures import PARAMETERS, PUBLISHED
from score_jax.convert.published import ALIASES

# Of our own: pinned, to notice a change.
OURS = {
    748_737: ["digits_vp", "digits_subvp", "digits_edm", "digits_flow", "digits_consistency"],
    718_340: ["mnist5k_vp"],
    752_865: ["digits_ve"],
    750_145: ["digits_vp_conditional"],
    215_298: ["two_moons_vp"],
    1_609_732: ["fashion_vp", "fashion_flow"],
    755_298: ["digits_iddpm", "digits_iddpm_vlb"],
    755_009: ["digits_iddpm_linear"],
    113_676_678: ["iddpm_unet2d_64"],
    721_835: ["digits_edm2"],
    328_260: ["digits_dit"],
}
SIZES = PARAMETERS | {name: size for size, names in OURS.items() for name in names}


def network(name):
    """The network of a preset and what its parameters depend on."""
    exp = runs.build(presets.get(name))
    return exp, (exp.net, exp.shape, exp.num_classes, exp.config.data.low_res_factor)


TRACED = {}


def parameters(name):
    """The shapes of the parameters of a preset, traced once for all presets that share them."""
    exp, made_of = network(name)
    place = made_of, exp.config.loss.uncertainty
    if place not in TRACED:
        TRACED[place] = jax.eval_shape(exp.init_params, jax.random.key(0))
    return TRACED[place]


def one_of_each():
    """The first preset of every network."""
    found = {}
    for name in presets.CONFIGS:
        found.setdefault(network(name)[1], []).append(name)
    return {names[0]: names for names in found.values()}


GROUPS = one_of_each()


@pytest.mark.parametrize(
    "name",
    [n if SIZES.get(n, 0) < 1e6 else pytest.param(n, marks=pytest.mark.slow) for n in GROUPS],
)
def test_presets_have_the_size_of_the_originals(name):
    shapes = dict(parameters(name))
    assert ("uncertainty" in shapes) == ("edm2" in name)
    shapes.pop("uncertainty", None)  # of the loss and not of the network
    assert {v.dtype for v in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    count = sum(math.prod(v.shape) for v in jax.tree.leaves(shapes))
    assert {SIZES.get(other, count) for other in GROUPS[name]} == {count}


LOCAL = [n for n in presets.CONFIGS if presets.get(n).data.name in ("digits", "two_moons")]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOCAL)
def test_every_preset_fits_its_data_and_network(name):
    """Traced only: the gradient of the loss on one raw batch of the preset's own data."""
    exp, _ = network(name)
    batch = {"x": exp.source.train.x[:8], "y": exp.source.train.y[:8]}

    def gradient(params, key, batch):
        loss = lambda p: exp.loss(p, key, exp.source.prepare(key, batch))[0]
        return jax.grad(loss)(params)

    with jax.debug_key_reuse(False):  # one key for all: nothing is drawn
        shapes = jax.eval_shape(gradient, parameters(name), jax.random.key(0), batch)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


def test_every_published_preset_has_a_size_and_the_39_runs_are_there():
    published = {n for n in presets.CONFIGS if presets.get(n).data.name == "tfds"}
    assert set(PARAMETERS) == published
    assert sum(name.startswith(("vp_", "subvp_", "ve_")) for name in published) == 39
    assert {name for names in OURS.values() for name in names} <= set(presets.CONFIGS) - published
    assert set(ALIASES.values()) <= published


def test_published_figures_are_of_presets():
    assert set(PUBLISHED) <= set(presets.CONFIGS)
    assert all("arXiv" in figures.source for figures in PUBLISHED.values())
