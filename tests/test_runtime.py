"""Settings of XLA: set once, never against the user, never where they would end the process."""

import os
import subprocess
import sys

import jax
import pytest

from score_jax import runtime
from tests.helpers import ROOT


@pytest.fixture
def environment(monkeypatch):
    """An environment in which nobody has set anything."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    return monkeypatch


def test_the_option_is_added_once_beside_the_users(environment):
    assert runtime.tune_cpu()
    assert not runtime.tune_cpu()
    user, ours = os.environ["XLA_FLAGS"].split()
    assert user == "--xla_force_host_platform_device_count=2"
    assert ours == f"--{runtime.FLAG}={runtime.VALUE}"


@pytest.mark.parametrize(("platforms", "set_"), [("", True), ("cuda,cpu", True), ("cuda", False)])
def test_the_option_is_for_cpus(environment, platforms, set_):
    environment.setenv("JAX_PLATFORMS", platforms)
    assert runtime.tune_cpu() == set_


def test_the_users_own_choice_stays(environment):
    environment.setenv("XLA_FLAGS", f"--{runtime.FLAG}=")
    assert not runtime.tune_cpu()
    assert os.environ["XLA_FLAGS"] == f"--{runtime.FLAG}="


@pytest.mark.parametrize("name", ["FLAG", "KNOWN_AS"])
def test_an_unknown_flag_or_value_is_not_set(environment, name):
    environment.setattr(runtime, name, "xla_cpu_no_such_thing")
    before = os.environ["XLA_FLAGS"]
    assert not runtime.tune_cpu()
    assert os.environ["XLA_FLAGS"] == before


def test_a_cache_of_the_users_or_a_folder_that_cannot_be_is_left_alone(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    file = tmp_path / "file"
    file.touch()
    assert runtime.enable_compilation_cache(file / "folder") is None
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert runtime.enable_compilation_cache(tmp_path / "other") is None
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


PROGRAM = """
import os, jax
before = os.environ.get("XLA_FLAGS")
import score_jax, score_jax.nets, score_jax.training
from score_jax import runtime
assert os.environ.get("XLA_FLAGS") == before, "an import has set the flag"
assert jax.config.jax_compilation_cache_dir is None, "an import has set the cache"
print(runtime.tune_cpu(), runtime.enable_compilation_cache())
x = jax.numpy.ones((1, 4, 4, 1))
w = jax.numpy.ones((3, 3, 1, 1))
conv = lambda x: jax.lax.conv_general_dilated(
    x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
assert float(jax.jit(conv)(x).sum()) == 100
"""


def test_a_process_starts_with_the_option_and_fills_the_cache(tmp_path):
    unset = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR")
    env = {k: v for k, v in os.environ.items() if k not in unset}
    env["SCORE_JAX_CACHE"] = str(tmp_path)
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=120
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["True", str(tmp_path / "xla")]
    assert [p for p in (tmp_path / "xla").iterdir() if "conv" in p.name or "lambda" in p.name]


SCRIPT = """
import jax, jax.numpy as jnp
from score_jax import runtime
assert runtime.failures_as_nan() and not runtime.failures_as_nan()
from score_jax import likelihood, samplers
from score_jax.sde import VP

x = jnp.ones((2, 3))
def run(x, score=lambda x, t: -x):
    options = dict(max_steps=2)
    flow = samplers.probability_flow(VP(), score, x, t_from=1.0, t_to=1e-3, **options)
    logp = likelihood.log_likelihood(jax.random.key(0), VP(), score, x, **options).logp
    steps = samplers.adaptive_multistep(VP(), score, x, t_from=1.0, t_to=1e-3, **options)
    return flow.x, logp, steps.x
jax.export.export(jax.jit(run), platforms=["tpu"])(x)
assert all(jnp.isnan(out).all() for out in jax.jit(run)(x)), "a failure must be seen"
"""


@pytest.mark.slow
def test_programs_with_checks_are_exported_by_a_switch():
    """Adaptive solvers and likelihoods lowered for a TPU; a failure is NaN."""
    environment = {k: v for k, v in os.environ.items() if k != runtime.ON_ERROR}
    subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=ROOT, check=True, timeout=300
    )


def test_the_switch_comes_before_the_solvers(monkeypatch):
    monkeypatch.delenv(runtime.ON_ERROR, raising=False)
    with pytest.raises(RuntimeError, match="EQX_ON_ERROR=nan in the environment"):
        runtime.failures_as_nan()
    monkeypatch.setenv(runtime.ON_ERROR, "nan")
    assert not runtime.failures_as_nan()
