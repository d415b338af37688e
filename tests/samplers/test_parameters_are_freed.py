"""Nothing keeps the arrays of a score alive after a call, however the score holds them."""

import gc
import weakref

import diffrax
import jax
import jax.numpy as jnp
import pytest

import score_jax as sj

pytestmark = pytest.mark.slow

SDE, X = sj.VP(), jnp.ones((3, 2))
LOOSE = {"rtol": 1e-2, "atol": 1e-2}
RUNS = {
    "probability_flow": lambda score: sj.probability_flow(
        SDE, score, X, t_from=1e-3, t_to=1.0, **LOOSE
    ),
    "adaptive_multistep": lambda score: sj.adaptive_multistep(
        SDE, score, X, t_from=1.0, t_to=1e-3, **LOOSE
    ),
    "log_likelihood": lambda score: sj.log_likelihood(jax.random.key(0), SDE, score, X, **LOOSE),
    "diffrax_sde": lambda score: sj.samplers.diffrax_sde(
        jax.random.key(0), SDE, score, X, [1.0, 0.5, 0.1], solver=diffrax.Euler()
    ),
    "sample": lambda score: sj.sample(
        jax.random.key(0), SDE, score, (4, 2), sampler=sj.flow(**LOOSE), grid=[1.0, 1e-3],
        progress=False,
    ),
}  # fmt: skip


def closure():
    weights = jnp.full(1000, 1.0)
    return lambda x, t: -x * weights[0], weakref.ref(weights)


def tree():
    weights = jnp.full(1000, 1.0)
    return jax.tree_util.Partial(lambda w, x, t: -x * w[0], weights), weakref.ref(weights)


def after(run, make):
    """A weak reference to the arrays after the call.

    In a function of its own: beartype reads the local variables of all functions that run, and until
    Python 3.12 what it read is kept as long as they do.
    """
    score, weights = make()
    jax.block_until_ready(run(score))
    return weights


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("make", [closure, tree], ids=["closure", "tree"])
def test_parameters_are_freed(name, make):
    weights = after(RUNS[name], make)
    gc.collect()
    assert weights() is None
