"""Damage files at random, and check that every reader returns or names the file in one line.

    python -m benchmarks.fuzz [--count 2000] [--seed 0] [--keep FOLDER]

One good file of every kind of weights and arrays is damaged `count` times. Every fault is printed with
its seed; with --keep the damaged files are written to a folder. The suite has a short form
(tests/convert/test_hostile_files.py), which also has files that were made hostile by hand.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from score_jax.data import load_array
from tests.helpers.fuzz import faults, weight_files


def array_files(folder):
    """Good files of arrays, and their reader."""
    x = np.arange(40, dtype=np.uint8).reshape(10, 4)
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x, y=np.arange(10))
    np.savez_compressed(folder / "packed.npz", x=x)
    for name in ("x.npy", "x.npz", "packed.npz"):
        yield load_array, folder / name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="damaged copies of every file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files that made a fault")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for read, path in (*weight_files(folder), *array_files(folder)):
            start, found = time.perf_counter(), {}
            for bad, what in faults(read, path, args.count, args.seed):
                found.setdefault(what.split(":")[0], []).append((bad, what))
            seconds = time.perf_counter() - start
            total = sum(map(len, found.values()))
            print(f"{path.name}: {args.count} copies, {total} faults, {seconds:.1f} s")
            for kind, cases in found.items():
                print(f"  {len(cases)} x {cases[0][1]}")
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{kind}-{path.name}").write_bytes(cases[0][0])


if __name__ == "__main__":
    main()
