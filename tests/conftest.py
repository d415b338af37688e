"""Strictness for all tests: shapes are checked at run time, broadcasting of ranks is an error."""

import collections
import contextlib
import gc

gc.disable()  # until everything is imported

from tests.helpers.environment import set_environment

FAST = set_environment()

from tests.helpers import typecheck

typecheck.install("score_jax")  # for the whole run: modules that the tests import later, too

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# Folders whose code draws nothing but the parameters of networks.
KEYLESS = {"convert", "metrics", "nets", "sde"}


def pytest_collection_finish():
    """Collect garbage less often, and not in modules, which all stay: it was 8 % of the suite's time."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def collected():
    """Keep what earlier modules left, such as compiled programs, out of later collections.

    A failed read of a checkpoint collects garbage; with all of the run before it, that took 0.3 s.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def settled():
    """What a test breaks on purpose inside a program must not be reported to the next one's barrier."""
    yield
    try:
        jax.effects_barrier()
    except Exception:
        # A device keeps the error until its next program with an effect has run.
        effect = jax.jit(lambda x: jax.debug.callback(lambda _: None, x))
        for device in jax.local_devices():
            effect(jax.device_put(0.0, device))
        with contextlib.suppress(Exception):
            jax.effects_barrier()


@pytest.fixture(autouse=True)
def keys(request):
    """Look for reused keys where the code draws; the search takes a seventh of a test's time."""
    with jax.debug_key_reuse(request.path.parent.name not in KEYLESS):
        yield


@pytest.fixture(autouse=True)
def level(request):
    """Compile the programs of a test with the mark `optimized` as users have them."""
    marked = request.node.get_closest_marker("optimized") is not None
    if marked:
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    if marked:
        jax.config.update("jax_disable_most_optimizations", FAST)


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


def pytest_terminal_summary(terminalreporter):
    """List the ten slowest files: a suite stays fast only where somebody sees what is slow."""
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                seconds[report.nodeid.split("::")[0]] += report.duration
    if len(seconds) > 1:
        terminalreporter.section(f"slowest files (of {sum(seconds.values()):.0f} s in all)")
        for name, taken in seconds.most_common(10):
            terminalreporter.line(f"{taken:7.1f} s  {name}")
