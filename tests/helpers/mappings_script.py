"""Train a tiny problem by every mapping on 1, 2, 4, 8 and 16 devices; writes what came out.

    python tests/helpers/mappings_script.py FOLDER pmap/1/1 fsdp/4/1 pmap/4/1+jit/8/1 ...

(mapping, devices, microbatches); with a + the second half resumes the first from its checkpoint.
A script of its own because the number of devices is fixed when JAX starts. Writes FOLDER/out.npz.
"""

import functools
import json
import pathlib
import sys

from tests.helpers.environment import set_devices

set_devices(16)

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import data, losses, training
from score_jax.checkpoints import open_checkpoints
from score_jax.draws import draw_of
from score_jax.nets import MLP
from score_jax.parametrization import TimeInput
from score_jax.sde import VP

STEPS, BATCH = 4, 16


def problem():
    """(loss, prepare, params): a conditional MLP with dropout, stratified times, noise on the data."""
    net = MLP(width=64, num_blocks=1, dropout=0.3)
    x = jnp.zeros((1, 3))
    params = jax.jit(net.init)(jax.random.key(0), x, jnp.ones(1))
    leaves, tree = jax.tree.flatten(params)
    # The last layer starts at zero, which would hide the others.
    keys = jax.random.split(jax.random.key(7), len(leaves))
    leaves = [p + 0.2 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
    loss = losses.dsm_loss(VP(), net.apply, noise_input=TimeInput())

    def prepare(key, batch):
        noise = draw_of(key, batch).each(lambda k: 0.1 * jax.random.normal(k, (3,)))
        return {"x": batch["x"] + noise}

    return loss, prepare, jax.tree.unflatten(tree, leaves)


def batches():
    """Endless and resumable, in another order in every epoch."""
    x = np.random.default_rng(0).normal(size=(5 * BATCH, 3)).astype(np.float32)
    return data.batches(data.from_arrays(x), BATCH)


@functools.cache
def start():
    """(loss, prepare, optimiser, state before the first step)."""
    loss, prepare, params = problem()
    # With the usual eps Adam would magnify the rounding of gradients that are nearly zero.
    optimizer = training.make_optimizer(learning_rate=1e-2, grad_clip=0.5, eps=1e-3)
    state = training.init_state(jax.random.key(1), params, optimizer, averages=("0.1",))
    return loss, prepare, optimizer, state


@functools.cache
def mapped(mapping, n_devices, microbatches):
    """Two steps a call, mapped onto this number of devices."""
    loss, prepare, optimizer, _ = start()
    devices = jax.local_devices()[:n_devices]
    step = training.make_train_step(
        loss, optimizer, prepare=prepare,
        axis_name="devices" if mapping in ("pmap", "shard_map") else None,
        microbatches=microbatches, averages={"0.1": training.power(0.1)},
    )  # fmt: skip
    step = training.scan_steps(step, 2)
    mesh = training.make_mesh(devices, space=2 if mapping in ("space", "both") else 1)
    divided = training.divided(mesh, smallest=16)
    return {
        "pmap": lambda: training.pmap_step(step, devices=devices),
        "shard_map": lambda: training.shard_map_step(step, devices=devices),
        "jit": lambda: training.global_step(step, devices=devices),
        "fsdp": lambda: training.global_step(step, sharding_of=divided),
        # These data have no height: both devices of a pair compute the same, and add up half of it each.
        "space": lambda: training.global_step(step, sharding_of=training.replicated(mesh)),
        "both": lambda: training.global_step(step, sharding_of=divided),
    }[mapping]()


def run(name, folder):
    """(loss of every step, final parameters and averages, bytes that a device holds) of one run."""
    state = start()[-1]
    given = jax.tree.map(jnp.copy, state.params)
    stages = [stage.split("/") for stage in name.split("+")]
    path = folder / "metrics.jsonl"
    with open_checkpoints(folder) as store:
        for i, (mapping, n, parts) in enumerate(stages, start=1):
            step = mapped(mapping, int(n), int(parts))
            if mapping in ("fsdp", "both") and n != "1":
                leaves = jax.tree.leaves(step.enter(state))
                divided = [leaf.addressable_shards[0].data.size < leaf.size for leaf in leaves]
                assert sum(divided) >= 8, "nothing is divided"
            result = training.fit(
                state, step, batches(), steps=i * STEPS // len(stages), checkpoints=store,
                hooks=[training.MetricsFile(path)],
            )  # fmt: skip
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), given, state.params))
    left = result.state
    flat = [left.params, left.ema_params, left.averages]
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(flat)])
    seen = [json.loads(line)["loss"] for line in path.read_text().splitlines()]
    whole = mapping in ("jit", "fsdp") and n == "8"
    return np.array(seen), flat, held(step, state) if whole else 0


def held(step, state):
    """Bytes that a device holds of the state and the batch of a call, by XLA's own analysis."""
    batch = step.place([next(iter(batches()))] * 2)
    compiled = step.program.lower(step.enter(state), batch).compile()
    return compiled.memory_analysis().argument_size_in_bytes


if __name__ == "__main__":
    found, out = {}, pathlib.Path(sys.argv[1])
    for number, name in enumerate(sys.argv[2:]):
        loss, flat, memory = run(name, out / str(number))
        found |= {f"{name}/loss": loss, f"{name}/params": flat, f"{name}/memory": memory}
    np.savez(out / "out.npz", **found)
