"""The environment of the tests and of the processes that they start; imports nothing heavy.

Compiling is most of the cost of a test, so programs are compiled without optimisation and kept in
an ignored folder. Set XLA_FLAGS to run the tests with other options:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 make test
"""

import importlib.metadata
import os

from tests.helpers import ROOT

DEVICES = "--xla_force_host_platform_device_count="
FAST = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Without optimisation the older emitters compile in half the time. Another jaxlib may not know
    # this flag, and an unknown flag ends the process.
    FAST.append("--xla_cpu_use_fusion_emitters=false")


def set_environment() -> None:
    """Set what JAX reads at its import; what the user has set stays.

    There are two devices, so that every mapping is really mapped. Each process has one thread, as
    several run side by side. All share the folder of compiled programs: tests therefore count
    traces, never compilations.
    """
    for name, value in {
        "XLA_FLAGS": " ".join([f"{DEVICES}2", *FAST]),
        "NPROC": "1",  # the size of XLA's thread pool
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }.items():
        os.environ.setdefault(name, value)


def set_devices(n: int) -> None:
    """Give this process n devices and leave the other flags as they are; before importing JAX."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if DEVICES not in flag]
    os.environ["XLA_FLAGS"] = " ".join([f"{DEVICES}{n}", *flags])
