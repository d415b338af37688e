"""Train two tiny problems by every mapping on 1, 2, 4 and 8 devices; writes what came out.

    python tests/mappings_script.py OUT.npz pmap/1/1 pmap/2/1 fsdp/4/1 ...

(mapping, devices, parts of a batch). A script of its own because the number of devices is fixed when
JAX starts.
"""

import os
import sys

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import losses, training
from score_jax.nets import MLP
from score_jax.score import label_time
from score_jax.sde import VP
from score_jax.types import rows_of

STEPS, BATCH = 4, 16


def problem():
    """(loss, prepare, params): a conditional MLP with dropout, stratified times, noise on the data."""
    net = MLP(width=16, num_blocks=1, dropout=0.3)
    x = jnp.zeros((1, 3))
    params = jax.jit(net.init)(jax.random.key(0), x, jnp.ones(1))
    leaves, tree = jax.tree.flatten(params)
    # The last layer starts at zero, which would hide the others.
    keys = jax.random.split(jax.random.key(7), len(leaves))
    leaves = [p + 0.2 * jax.random.normal(k, p.shape) for k, p in zip(keys, leaves, strict=True)]
    loss = losses.dsm_loss(VP(), net.apply, label=label_time())

    def prepare(key, batch):
        rows = rows_of(key, batch)
        noise = rows.each(lambda k: 0.1 * jax.random.normal(k, (3,)), rows.key)
        return {"x": batch["x"] + noise}

    return loss, prepare, jax.tree.unflatten(tree, leaves)


def batches():
    rng = np.random.default_rng(0)
    while True:
        yield {"x": rng.normal(size=(BATCH, 3)).astype(np.float32)}


def run(mapping, n_devices, accumulate=1):
    """(loss of every step, final parameters and averages, bytes held) of one mapping."""
    loss, prepare, params = problem()
    optimizer = training.make_optimizer(learning_rate=1e-2, grad_clip=0.5)
    devices = jax.local_devices()[:n_devices]
    jitted = mapping in ("jit", "fsdp")
    step = training.make_train_step(
        loss, optimizer, prepare=prepare, axis_name=None if jitted else "devices",
        accumulate=accumulate, averages={"0.1": training.power(0.1)},
    )  # fmt: skip
    step = training.scan_steps(step, 2)
    mesh = training.make_mesh(devices)
    mapped = {
        "pmap": lambda: training.pmap_step(step, devices=devices),
        "shard_map": lambda: training.shard_map_step(step, devices=devices),
        "jit": lambda: training.global_step(step, devices=devices),
        "fsdp": lambda: training.global_step(step, sharding_of=training.divided(mesh, smallest=16)),
    }[mapping]()
    start = training.init_state(jax.random.key(1), params, optimizer, averages=("0.1",))
    given = jax.tree.map(lambda leaf: leaf, params)
    state, source, seen = mapped.enter(start), batches(), []
    if mapping == "fsdp" and n_devices > 1:
        parts = [
            leaf.addressable_shards[0].data.size < leaf.size for leaf in jax.tree.leaves(state)
        ]
        assert sum(parts) >= 8, "nothing is divided"
    for _ in range(STEPS // 2):
        state, metrics = mapped.call(state, mapped.place([next(source), next(source)]))
        seen += list(mapped.read(metrics)["loss"])
    left = mapped.leave(state)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), given, params))
    flat = [left.params, left.ema_params, left.averages]
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(flat)])
    return np.array(seen), flat, held(mapped, start) if jitted and n_devices == 8 else 0


def held(mapped, start):
    """Bytes that a device holds of the state and the batch of a call, by XLA's own analysis."""
    batch = mapped.place([next(batches())] * 2)
    compiled = mapped.program.lower(mapped.enter(start), batch).compile()
    return compiled.memory_analysis().argument_size_in_bytes


if __name__ == "__main__":
    found = {}
    for name in sys.argv[2:]:
        mapping, n, parts = name.split("/")
        loss, flat, memory = run(mapping, int(n), int(parts))
        found |= {f"{name}/loss": loss, f"{name}/params": flat, f"{name}/memory": memory}
    np.savez(sys.argv[1], **found)
