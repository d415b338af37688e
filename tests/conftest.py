"""Strictness for all tests: shapes are checked at run time, broadcasting of ranks is an error."""

import os

# Two devices, so that every mapping is really mapped; a fixed cache of compiled programs is not
# used, so that a test measures what it compiles.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from jaxtyping import install_import_hook

with install_import_hook("score_jax", "beartype.beartype"):
    import score_jax  # noqa: F401

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


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
