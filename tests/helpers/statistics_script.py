"""One host of two that summarize their halves of some features: python ... FILE PORT INDEX."""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np

from score_jax import metrics
from score_jax.training import connect

if __name__ == "__main__":
    file, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
    connect(coordinator=f"127.0.0.1:{port}", count=2, index=index)
    x = np.load(file)
    first = (0, 7)[index]  # unequal parts
    part = x[first:] if index else x[:7]
    summaries = metrics.collect([{"f": part}], first=first, keep=9, seed=1)
    found = metrics.merge_hosts(summaries)["f"]
    np.savez(
        f"{file}.{index}.npz",
        mean=found.moments.mean,
        covariance=found.moments.covariance,
        n=found.moments.n,
        index=found.reservoir.index,
        rows=found.reservoir.rows,
    )
