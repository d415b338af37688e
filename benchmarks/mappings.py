"""What a mapping costs: dispatch on 8 forced devices, scaling on 1 and 2, and whether data keep up.

    python -m benchmarks.mappings [--rounds 9] [--calls 40]

dispatch: a network of two small layers, so that the call itself is what takes the time; ms a step of the
three mappings on 8 forced host devices beside the same step jitted for one of them, each also with ten
steps a call. scaling: a small U-Net, 32 examples a device, on 1 and 2 forced devices of this machine;
efficiency is the rate on 2 over twice that on 1. data: examples a second of the batches of the digits as
the devices get them, beside those that a training step of the digits' network takes. Rounds alternate
between the candidates; medians. Every part runs in a process of its own, because the number of devices
is fixed when JAX starts.
"""

import argparse
import os
import subprocess
import sys
import time

PARTS = {"dispatch": 8, "scaling_1": 1, "scaling_2": 2, "data": 1}


def median_ms(candidates, rounds):
    """{name: median ms} of functions, timed in turn."""
    import statistics

    for call in candidates.values():
        call()
    times = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            clock = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - clock))
    return {name: statistics.median(t) for name, t in times.items()}


def driver(mapped, state, batch, calls):
    """A function that runs `calls` calls, dispatched one after the other and then waited for."""
    import jax

    held = [mapped.enter(state)]
    placed = [mapped.place([batch] * mapped.n_steps) for _ in range(2)]

    def run():
        for i in range(calls):
            held[0], metrics = mapped.call(held[0], placed[i % 2])
        jax.block_until_ready((held[0], metrics))

    return run


def dispatch(args):
    """ms a step of every mapping with a tiny network on 8 devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from score_jax import training as tr

    def loss(params, key, batch):
        hidden = jnp.tanh(batch["x"] @ params["a"])
        return jnp.mean(jnp.square(hidden @ params["b"] - batch["x"])), {}

    optimizer = tr.make_optimizer()
    params = {"a": jnp.ones((4, 8)) / 8, "b": jnp.ones((8, 4)) / 8}
    state = tr.init_state(jax.random.key(0), params, optimizer)
    batch = {"x": np.ones((16, 4), np.float32)}
    mapped = tr.make_train_step(loss, optimizer, axis_name="devices")
    plain = tr.make_train_step(loss, optimizer)
    makers = {
        "one device, bare jit": (tr.jit_step, plain),
        "pmap": (tr.pmap_step, mapped),
        "shard_map": (tr.shard_map_step, mapped),
        "jit, global arrays": (tr.global_step, plain),
    }
    steps = {}
    for name, (make, step) in makers.items():
        steps[name] = driver(make(step), state, batch, args.calls)
        steps[f"{name}, 10 a call"] = driver(
            make(tr.scan_steps(step, 10)), state, batch, max(args.calls // 10, 1)
        )
    found = median_ms(steps, args.rounds)
    print(
        "| mapping on 8 forced devices | ms a step | of it above the bare jit | 10 steps a call |"
    )
    print("|---|---|---|---|")
    bare = found["one device, bare jit"] / args.calls
    for name in makers:
        one = found[name] / args.calls
        ten = found[f"{name}, 10 a call"] / (max(args.calls // 10, 1) * 10)
        print(f"| {name} | {one:.2f} | {one - bare:.2f} | {ten:.2f} |")


def small_unet(batch_size, mapping, steps_per_call=1):
    """(mapped step, state, batch, examples a call) of the digits' network."""
    import dataclasses

    import jax
    import numpy as np

    from experiments import presets, runs
    from experiments.parts import mapping as parts

    config = presets.get("digits_vp")
    config = dataclasses.replace(
        config,
        net=config.net.clone(channels=16),
        mesh=dataclasses.replace(config.mesh, mapping=mapping),
        train=dataclasses.replace(
            config.train, batch_size=batch_size, steps_per_call=steps_per_call
        ),
    )
    exp = runs.build(config)
    batch = {"x": np.asarray(exp.source.train.x[:batch_size])}
    return parts.mapped_step(exp), runs.initial_state(exp), batch, exp, jax


def scaling(args):
    """Examples a second of the small U-Net, 32 a device."""
    import jax

    n = len(jax.devices())
    calls = 4
    steps = {}
    for mapping in ("pmap", "shard_map", "jit"):
        mapped, state, batch, *_ = small_unet(32 * n, mapping)
        steps[mapping] = driver(mapped, state, batch, calls)
    for name, ms in median_ms(steps, args.rounds).items():
        print(f"RATE {n} {name} {32 * n * calls / ms * 1e3:.1f}")


def data(args):
    """Examples a second of the input pipeline, and of the step that eats them."""
    from score_jax import data as sd

    size, calls = 64, 4
    mapped, state, batch, exp, jax = small_unet(size, "pmap", steps_per_call=10)
    source = sd.batches(exp.source.train, size, seed=0)

    def feed():
        for _ in range(20):
            mapped.place([next(source) for _ in range(10)])

    step = driver(mapped, state, batch, calls)
    found = median_ms({"feed": feed, "step": step}, args.rounds)
    fed, eaten = 200 * size / found["feed"] * 1e3, 10 * calls * size / found["step"] * 1e3
    print(
        f"batches of {size} 8 x 8 images, shuffled, stacked by 10 and placed: {fed:,.0f} examples/s; "
        f"the step of the small U-Net takes {eaten:,.0f} examples/s: {fed / eaten:.0f} times less"
    )
    del jax


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--part", choices=list(PARTS))
    args = parser.parse_args()
    if args.part:
        {"dispatch": dispatch, "data": data}.get(args.part, scaling)(args)
        return
    rates = {}
    for part, devices in PARTS.items():
        env = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        options = ["--rounds", str(args.rounds), "--calls", str(args.calls), "--part", part]
        command = [sys.executable, "-m", "benchmarks.mappings", *options]
        out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in out.splitlines():
            if line.startswith("RATE"):
                _, n, name, rate = line.split()
                rates[name, int(n)] = float(rate)
            else:
                print(line, flush=True)
    for name in ("pmap", "shard_map", "jit"):
        one, two = rates[name, 1], rates[name, 2]
        print(
            f"{name}: {one:.0f} examples/s on 1 device, {two:.0f} on 2: efficiency {two / (2 * one):.2f}"
            f" (both devices share the {os.cpu_count()} cores, which one alone already uses)"
        )


if __name__ == "__main__":
    main()
