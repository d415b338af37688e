"""Strictness for all tests: shapes are checked at run time, broadcasting of ranks is an error."""

import contextlib
import os

from tests.helpers import ROOT

# Two devices, so that every mapping is really mapped.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiled programs are kept in an ignored folder that workers, child processes and CI share. Tests
# therefore count traces, never compilations.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

from jaxtyping import install_import_hook

# For the whole run: modules imported later by the tests are checked as well.
# An int where a float is asked for is right, as in the rest of Python.
install_import_hook(
    "score_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True)
def settled():
    """What a test breaks on purpose inside a program must not be reported to the next one's barrier."""
    yield
    with contextlib.suppress(Exception):
        jax.effects_barrier()


@pytest.fixture
def key():
    """A fresh typed key."""
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Run the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def rng():
    """A NumPy generator, for data."""
    return np.random.default_rng(0)
