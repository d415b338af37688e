"""Run folders and a release without training: networks as they are initialised."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments import presets, runs
from experiments.config import SampleConfig
from score_jax.convert import PUBLISHED_FILES, Ingredients, to_release
from score_jax.data import Description
from score_jax.nets import MLP
from score_jax.parametrization import TimeInput
from score_jax.sde import VP


def tiny(name="digits_vp", **changes):
    """A preset with a small MLP and a sampler of three steps."""
    return dataclasses.replace(
        presets.get(name), net=MLP(width=16, num_blocks=1),
        sample=SampleConfig(sampler="ddim", steps=3), **changes,
    )  # fmt: skip


def write_run(folder, config):
    """Write the folder of a run at step 10 whose parameters are not trained."""
    run = runs.build(config)
    params = run.init_params(jax.random.key(0))
    # A last layer of zeros would predict nothing. Added by NumPy, which compiles nothing.
    moved = lambda v: jax.device_put(np.asarray(v) + 0.01 * np.float32(v.ndim))
    params = jax.tree.map(moved, params)
    runs.write(folder, run, params, 10, {})
    return folder


def small_release(folder, monkeypatch):
    """Write a release of random weights that is found in place of fashion_vp."""
    folder.mkdir()
    net = MLP(width=8, num_blocks=1, num_classes=11)
    label = jnp.zeros(1, jnp.int32)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), jnp.zeros(1), label)
    names = (*map(str, range(9)), "Ankle boot")
    data = Description((28, 28, 1), "uint8", 256, 10, names)
    whole = Ingredients(net, VP(), TimeInput())
    to_release(folder / "fashion_vp.npz", whole, params, data)
    known = PUBLISHED_FILES["fashion_vp"]._replace(sha256=None)
    monkeypatch.setitem(PUBLISHED_FILES, "fashion_vp", known)
