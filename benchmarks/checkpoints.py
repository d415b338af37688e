"""Seconds and bytes of saving and reading a divided state, by processes that share a folder.

    python -m benchmarks.checkpoints [--gb 10] [--processes 2] [--devices 4] [--folder DIR]

Each process holds its part of a float32 state (parameters, averages and two moments of Adam in leaves of
64 MB) on its CPU devices, saves it twice, and reads it onto the same and half of the devices, as
after a restart on fewer chips. Prints seconds, the bytes on the disk, the largest resident set of each
process, and the seconds of the checksums alone. On CPUs a save copies the state once, so that all
processes together need twice the state while it runs; accelerators copy to the host instead.
"""

import argparse
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

LEAF = (4096, 4096)  # 64 MB


def child(args):
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from score_jax import training
    from score_jax.checkpoints import leaves, open_checkpoints

    if args.processes > 1:
        training.connect(coordinator=args.address, count=args.processes, index=args.index)
    say = print if jax.process_index() == 0 else lambda *a, **k: None
    count = max(1, round(args.gb * 1e9 / (4 * np.prod(LEAF)) / 4))

    def lies(devices):
        return NamedSharding(Mesh(np.array(devices), ("fsdp",)), PartitionSpec("fsdp"))

    def tree(make):
        names = ("params", "ema_params", "mu", "nu")
        return {
            n: {f"{i:03d}": make(1000 * j + i) for i in range(count)} for j, n in enumerate(names)
        }

    def made(seed):
        def part(index):
            rows = index[0].indices(LEAF[0])
            draw = np.random.default_rng([seed, rows[0]])
            return draw.standard_normal((rows[1] - rows[0], LEAF[1]), np.float32)

        return jax.make_array_from_callback(LEAF, lies(jax.devices()), part)

    state = tree(made)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    say(
        f"{total / 1e9:.2f} GB on {len(jax.devices())} devices of {jax.process_count()} process(es)"
    )
    clock = time.perf_counter()
    for leaf in jax.tree.leaves(state):
        leaves.local_sum(leaf)
    say(f"checksums of a process's part: {time.perf_counter() - clock:.1f} s", flush=True)
    with open_checkpoints(args.folder, keep=1, together=args.processes > 1) as store:
        for step in (1, 2):
            clock = time.perf_counter()
            store.save(step, state)
            paused = time.perf_counter() - clock
            store.wait()
            say(
                f"save {step}: training pauses {paused:.1f} s, on the disk after "
                f"{time.perf_counter() - clock:.1f} s",
                flush=True,
            )
        del state
        size = sum(p.stat().st_size for p in pathlib.Path(args.folder).rglob("*") if p.is_file())
        say(f"{size / 1e9:.2f} GB on the disk")
        half = [d for d in jax.devices() if d.id % 2 == 0]
        for name, devices in (("the same", jax.devices()), ("half of the", half)):
            form = tree(
                lambda seed, devices=devices: jax.ShapeDtypeStruct(
                    LEAF, np.float32, sharding=lies(devices)
                )
            )
            clock = time.perf_counter()
            found = store.restore(2, form)
            seconds = time.perf_counter() - clock
            del found
            say(f"read onto {name} devices, verified: {seconds:.1f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"largest resident set of process {jax.process_index()}: {peak:.2f} GB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=4, help="of each process")
    parser.add_argument(
        "--folder", help="where to write (default: a new folder in the temporary one)"
    )
    parser.add_argument("--index", type=int)
    parser.add_argument("--address")
    args = parser.parse_args()
    if args.index is not None:
        child(args)
        return
    home = tempfile.mkdtemp(dir=args.folder)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={args.devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.checkpoints", "--gb", str(args.gb)]
    command += ["--processes", str(args.processes), "--folder", f"{home}/c", "--address", address]
    try:
        children = [
            subprocess.Popen([*command, "--index", str(i)], env=env) for i in range(args.processes)
        ]
        sys.exit(max(child.wait() for child in children))
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
