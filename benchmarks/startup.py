"""Processor time of commands that only answer: `python -m benchmarks.startup --repeats 3`.

Each command is started in a process of its own, with --help and with a wrong option; the table has the
smallest processor time (user and system) of the repeats. Importing JAX alone is measured for comparison.
"""

import argparse
import os
import resource
import subprocess
import sys

from experiments.__main__ import commands
from experiments.reports import tables

WRONG = {
    "an unknown option": ["train", "--optim.lrr", "1"],
    "an unknown preset": ["train", "--config", "digits_vq"],
    "a value out of range": ["train", "--train.steps", "-10"],
    "an option that is not used": ["train", "--config", "two_moons_vp", "--data.path", "x.npy"],
    "no run in the folder": ["sample", "--workdir", "no_such_run"],
}


def seconds(words: list[str], repeats: int) -> float:
    """The smallest processor time of a child process."""
    found = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, capture_output=True, env={**os.environ, "COLUMNS": "80"}, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    start = [sys.executable, "-m", "experiments"]
    calls = {
        "import jax": [sys.executable, "-c", "import jax"],
        "list of commands": start,
        **{f"{name} --help": [*start, name, "--help"] for name in commands()},
        **{what: [*start, *words] for what, words in WRONG.items()},
    }
    rows = [[what, f"{seconds(words, repeats):.2f}"] for what, words in calls.items()]
    print(tables.table([["call", "processor seconds"], *rows]))


if __name__ == "__main__":
    main()
