"""A tiny training run to be killed: python resume_script.py FOLDER STEPS SLEEP.

It is a script of its own, so that the test can end the process at any moment. Prints the step of
every call, and at the end writes the parameters to FOLDER/final.npz.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.checkpoints import open_checkpoints
from score_jax.training import (
    Every,
    MetricsFile,
    Saving,
    fit,
    init_state,
    make_optimizer,
    make_train_step,
    pmap_step,
    scan_steps,
)


class Batches:
    """Endless batches, each a function of its index alone."""

    def __init__(self):
        self.index = 0

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng(self.index)
        self.index += 1
        return {"x": rng.integers(0, 17, (8, 3), dtype=np.uint8)}

    def get_state(self):
        return {"next_index": self.index}

    def set_state(self, state):
        self.index = state["next_index"]


def loss(params, key, batch):
    noise = jax.random.normal(key, batch["x"].shape)
    value = jnp.mean(jnp.square(batch["x"] @ params["w"] + noise))
    return value, {}


def prepare(key, batch):
    x = batch["x"].astype(jnp.float32)
    return {"x": (x + jax.random.uniform(key, x.shape)) / 17}


def main(folder, steps, sleep):
    optimizer = make_optimizer(learning_rate=1e-2, warmup=5)
    state = init_state(jax.random.key(1), {"w": jnp.eye(3)}, optimizer)
    step = make_train_step(loss, optimizer, prepare=prepare, axis_name="devices")

    def on_sample(step, state):
        print(step, flush=True)
        time.sleep(sleep)

    with open_checkpoints(folder / "checkpoints") as checkpoints:
        result = fit(
            state,
            pmap_step(scan_steps(step, 2)),
            Batches(),
            steps=steps,
            checkpoints=checkpoints,
            saving=Saving(4),
            hooks=[MetricsFile(folder / "metrics.jsonl"), Every(2, on_sample)],
        )
    if result.interrupted:
        sys.exit(75)
    leaves = jax.tree.leaves((result.state.params, result.state.ema_params, result.state.opt_state))
    np.savez(folder / "final.npz", *leaves)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
