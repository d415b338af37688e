"""One host of a tiny run: python hosts_script.py FOLDER MAPPING STEPS SLEEP DEVICES [PORT COUNT INDEX].

Without the last three it is the whole run. The first host writes FOLDER/final.npz at the end; the
exit code is 0, or 75 after a signal. Prints the number of every fourth step.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

from tests.helpers.environment import set_devices

set_devices(int(sys.argv[5]))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import data, training
from score_jax._batched import in_chunks
from score_jax.checkpoints import open_checkpoints
from score_jax.draws import draw_of


def loss(params, key, batch):
    noise = draw_of(key, batch).each(lambda k: jax.random.normal(k, (3,)))
    return jnp.mean(jnp.square(batch["x"] @ params["w"] + noise)), {}


def make(mapping):
    """(optimiser, mapped step) of two steps a call."""
    optimizer = training.make_optimizer(learning_rate=1e-2, warmup=5)
    axis = None if mapping == "jit" else "devices"
    step = training.scan_steps(training.make_train_step(loss, optimizer, axis_name=axis), 2)
    # pmap has the devices that it is given: of several hosts every second one.
    some = jax.devices()[:: 2 if jax.process_count() > 1 else 1]
    mappings = {
        "pmap": lambda step: training.pmap_step(step, devices=some),
        "shard_map": training.shard_map_step,
        "jit": lambda step: training.global_step(
            step, sharding_of=training.divided(training.make_mesh(), smallest=16)
        ),
    }
    return optimizer, mappings[mapping](step)


def check_hosts(apart):
    """Hosts that differ are told; all share one computation, and the fault of one is that of all."""
    index, count = jax.process_index(), jax.process_count()
    training.check_same({"mapping": sys.argv[2]})
    if not apart:
        return
    try:
        training.check_same({"seed": index})
    except training.HostsDiffer as error:
        assert "seed is 1 on host 1 and 0 on the first" in str(error)
    else:
        raise AssertionError("hosts that differ were not noticed")
    devices, double = jax.devices(), lambda w, i, x: 2.0 * x + i * w
    for n in (1, 7, 16):
        take = lambda index, n=n: (index % n).astype(np.float32)
        out = in_chunks(
            double, np.float32(10), take, n, chunk=3, devices=devices, progress=False
        ).out
        np.testing.assert_array_equal(out, 12.0 * np.arange(n))

    def broken(numbers):
        if index == count - 1:
            raise ValueError("no such example")
        return take(numbers)

    try:
        in_chunks(double, np.float32(10), broken, 8, chunk=4, devices=devices, progress=False)
    except ValueError as error:
        assert "no such example" in str(error)
    else:
        raise AssertionError("the fault of a host was not that of all")


def main(folder, mapping, steps, sleep):
    rng = np.random.default_rng(0)
    examples = data.from_arrays(rng.normal(size=(50, 3)).astype(np.float32))
    batches = data.batches(
        examples, 12, process_index=jax.process_index(), process_count=jax.process_count()
    )
    optimizer, mapped = make(mapping)
    w = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32) @ jnp.ones((8, 3)) / 8
    state = training.init_state(jax.random.key(1), {"w": w, "wide": jnp.ones((8, 3))}, optimizer)

    def on_sample(step, state):
        print(step, flush=True)
        time.sleep(sleep)

    first = training.is_first()
    apart = training.divided_over_hosts(mapped.form(state))
    check_hosts(apart)
    with contextlib.ExitStack() as stack:
        store = None
        if apart or first:
            store = stack.enter_context(open_checkpoints(folder / "c", together=apart))
        result = training.fit(
            state, mapped, batches, steps=steps, saving=training.Saving(4),
            checkpoints=store if apart else training.SharedCheckpoints(store),
            hooks=[
                training.MetricsFile(folder / "metrics.jsonl" if first else None),
                training.Every(4, on_sample if first else None),
            ],
            stall_seconds=20,
        )  # fmt: skip
    if first and not result.interrupted:
        state = result.state
        leaves = jax.tree.leaves((state.params, state.ema_params, state.opt_state))
        np.savez(folder / "final.npz", *leaves)
    sys.exit(75 if result.interrupted else 0)


if __name__ == "__main__":
    if len(sys.argv) > 6:
        port, count, index = map(int, sys.argv[6:])
        training.connect(coordinator=f"127.0.0.1:{port}", count=count, index=index)
    try:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    except training.LostHost as error:
        training.leave_at_once(training.STALLED, str(error))
