"""The environment of the tests and of the processes that they start; imports nothing heavy.

Compiling is most of the cost of a test. Programs are therefore kept in an ignored folder, and only
tests with the mark `optimized` compile with optimisation. To optimise everywhere:

    JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test
"""

import importlib.metadata
import os

from tests.helpers import ROOT

DEVICES = "--xla_force_host_platform_device_count="
FLAGS = [f"{DEVICES}2"]
JAXLIB = importlib.metadata.version("jaxlib")
# Another jaxlib may not know a flag, and an unknown flag ends the process.
if JAXLIB.startswith(("0.10.", "0.12.")):
    # Programs are divided for threads that compile them; with one thread that costs a fifth of the time.
    FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
if JAXLIB.startswith("0.10."):
    # Without optimisation the older emitters compile in half the time.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def set_environment() -> bool:
    """Set what JAX reads at its import; what the user has set stays.

    There are two devices, so that every mapping is really mapped. Each process has one thread, as
    several run side by side. All share the folder of compiled programs: tests therefore count
    traces, never compilations. Returns whether programs are compiled without optimisation.
    """
    for name, value in {
        "XLA_FLAGS": " ".join(FLAGS),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "NPROC": "1",  # the size of XLA's thread pool
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }.items():
        os.environ.setdefault(name, value)
    return os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] not in ("0", "false", "False")


def set_devices(n: int) -> None:
    """Give this process n devices and leave the other flags as they are; before importing JAX."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if DEVICES not in flag]
    os.environ["XLA_FLAGS"] = " ".join([f"{DEVICES}{n}", *flags])
