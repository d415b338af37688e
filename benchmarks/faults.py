"""Interrupt and damage runs in all known ways, and check that no bit is lost: the long fault test.

    python -m benchmarks.faults [--kills 20] [--range-bytes 64] [--rounds 4] [--only kills bytes hosts]

kills: SIGKILL at random moments of one run (while it compiles, steps, saves), the same command again
until it has ended; then parameters, averages and optimiser against those of a run left alone, to the
bit. bytes: every range of every file of the newest checkpoint flipped, and every file cut at the
start of every range; each time the restore must give the newest step exactly, an older one exactly, or
an error. hosts: one of two processes killed at a random moment; the other must end by itself, with a
message, in bounded time; the pair then ends the run. The suite has short forms of all three.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUN = ROOT / "tests" / "helpers" / "resume_script.py"
HOST = ROOT / "tests" / "helpers" / "hosts_script.py"
STEPS = 1200


def launch(script, *args, log=subprocess.DEVNULL):
    """Start a script of the tests in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def finals(folder):
    with np.load(folder / "final.npz") as file:
        return [file[name] for name in file.files]


def kills(args, folder, moments):
    """SIGKILL at random moments over one run."""
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir()
    killed.mkdir()
    clock = time.monotonic()
    alone = launch(RUN, whole, STEPS, 0.0, log=subprocess.PIPE)
    alone.stdout.readline()
    started = time.monotonic() - clock
    alone.communicate()
    assert alone.returncode == 0
    where = {"before the first step": 0, "between steps": 0, "with a save under way": 0}
    for count in range(args.kills):
        before = newest(killed)
        run = launch(RUN, killed, STEPS, 0.05, log=subprocess.PIPE)
        # Half of them early (imports, compilation, restore), half while it steps and saves.
        if count % 2:
            time.sleep(moments.uniform(0.2, 1) * started)
        else:
            run.stdout.readline()
            time.sleep(moments.uniform(0, 2))
        assert run.poll() is None, f"the run ended before kill {count + 1}: give it more steps"
        run.send_signal(signal.SIGKILL)
        run.communicate()
        saving = list((killed / "checkpoints").glob("*tmp*"))
        moved = "between steps" if newest(killed) != before else "before the first step"
        where["with a save under way" if saving else moved] += 1
    reached = newest(killed)
    assert launch(RUN, killed, STEPS, 0.0).wait() == 0
    same = all(np.array_equal(a, b) for a, b in zip(finals(whole), finals(killed), strict=True))
    rows = [
        json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()
    ]
    once = rows == list(range(1, STEPS + 1))
    print(
        f"{args.kills} SIGKILLs ({where}), reaching step {reached} of {STEPS}: bit-identical {same}, "
        f"every step once in the metrics {once}"
    )
    return same and once


def newest(folder):
    """The newest checkpoint of a run, or -1."""
    return max(
        (int(p.name[5:]) for p in (folder / "checkpoints").glob("step_*") if p.name[5:].isdigit()),
        default=-1,
    )


def damage(args, folder, _):
    """Every byte range of the newest checkpoint flipped, and every file cut there."""
    import logging

    import jax
    import jax.numpy as jnp
    import optax

    from score_jax.checkpoints import CheckpointError, open_checkpoints
    from score_jax.training import init_state

    logging.disable(logging.WARNING)

    def make(seed):
        keys = jax.random.split(jax.random.key(seed), 2)
        params = {"kernel": jax.random.normal(keys[0], (16, 16)), "bias": jnp.ones(16)}
        return init_state(keys[1], params, optax.adam(1e-3))

    states = {step: make(step) for step in (1, 2)}
    with open_checkpoints(folder / "c") as store:
        for step, state in states.items():
            store.save(step, state, extra={"step": step})

    raw = lambda state: [
        np.asarray(jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a)
        for a in jax.tree.leaves(state)
    ]
    known = {step: raw(state) for step, state in states.items()}
    found = {"newest": 0, "older": 0, "error": 0, "WRONG": 0}
    files = sorted(p for p in (folder / "c" / "step_00000002").rglob("*") if p.is_file())
    for file in files:
        data = file.read_bytes()
        for at in range(0, max(len(data), 1), args.range_bytes):
            part = bytes(b ^ 0x41 for b in data[at : at + args.range_bytes])
            for new in (data[:at] + part + data[at + len(part) :], data[:at]):
                if new == data:
                    continue
                file.write_bytes(new)
                try:
                    with open_checkpoints(folder / "c", read_only=True) as store:
                        got = store.restore_latest(make(0))
                    same = all(
                        np.array_equal(a, b)
                        for a, b in zip(raw(got.state), known[got.step], strict=True)
                    )
                    right = same and got.extra == {"step": got.step}
                    found[("newest" if got.step == 2 else "older") if right else "WRONG"] += 1
                except CheckpointError:
                    found["error"] += 1
        file.write_bytes(data)
    print(f"{len(files)} files, {sum(found.values())} damages of {args.range_bytes} bytes: {found}")
    return found["WRONG"] == 0


def hosts(args, folder, moments):
    """One of two processes killed, then the pair again."""
    ok = True
    for mapping in ("pmap", "shard_map", "jit")[: args.rounds] * -(-args.rounds // 3):
        place = folder / f"{mapping}_{moments.random():.6f}"
        place.mkdir()
        victim, log = moments.randrange(2), place / "log"
        with log.open("w") as file:
            pair = pair_of(place, mapping, 400, file)
            while not log.read_text().count("\n8\n"):
                assert all(p.poll() is None for p in pair), log.read_text()
                time.sleep(0.1)
            time.sleep(moments.uniform(0, 2))
            pair[victim].kill()
            clock = time.monotonic()
            code = pair[1 - victim].wait(120)
            seconds = time.monotonic() - clock
            reached = newest_of(place)
            again = pair_of(place, mapping, reached + 8, file)
            codes = [p.wait(240) for p in again]
        told = "start all hosts again" in log.read_text().lower()
        # JAX may end the process first (SIGABRT), with a message of its own.
        ended = code == -signal.SIGABRT or (code == 76 and told)
        ok &= ended and codes == [0, 0] and (place / "final.npz").exists()
        print(
            f"{mapping}: host {victim} killed near step {reached}; the other ended with code {code} "
            f"after {seconds:.1f} s, message {told}; the pair then ended the run: {codes == [0, 0]}"
        )
    return ok


def pair_of(place, mapping, steps, log):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return [launch(HOST, place, mapping, steps, 0.1, 1, port, 2, i, log=log) for i in range(2)]


def newest_of(place):
    return max(int(p.name[5:]) for p in (place / "c").glob("step_*") if p.name[5:].isdigit())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--range-bytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of hosts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=["kills", "bytes", "hosts"])
    args = parser.parse_args()
    moments = random.Random(args.seed)
    tests = {"kills": kills, "bytes": damage, "hosts": hosts}
    results = []
    for name in args.only:
        clock = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results.append(tests[name](args, pathlib.Path(folder), moments))
        print(f"{name}: {'passed' if results[-1] else 'FAILED'} ({time.monotonic() - clock:.0f} s)")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
