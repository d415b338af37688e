"""Run folders without training: networks as they are initialised."""

import dataclasses

import jax
import numpy as np

from experiments import presets, runs
from experiments.config import SampleConfig
from score_jax.nets import MLP


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
    # A last layer of zeros would predict nothing.
    params = jax.tree.map(lambda v: v + 0.01 * np.float32(v.ndim), params)
    runs.write(folder, run, params, 10, {})
    return folder
