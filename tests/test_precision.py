"""Numbers to be believed are computed with float32 products in full; training may choose."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from experiments import presets, runs
from score_jax import likelihood, samplers
from score_jax.nets import MLP
from score_jax.nets.layers import Conv, Dense
from score_jax.sde import VP

X = jnp.ones((2, 8, 1))
SOLVES = {
    "flow": lambda score, x: samplers.probability_flow(VP(), score, x, t_from=1.0, t_to=0.1).x,
    "path": lambda score, x: samplers.probability_path(VP(), score, x, t_from=1.0, t_to=0.1).x,
    "multistep": lambda score, x: (
        samplers.adaptive_multistep(VP(), score, x, t_from=1.0, t_to=0.1).x
    ),
    "likelihood": lambda score, x: (
        likelihood.log_likelihood(jax.random.key(0), VP(), score, x).logp
    ),
    "bound": lambda score, x: likelihood.variational_bound(jax.random.key(0), VP(), score, x).logp,
}


def precisions(function, *args):
    """The precisions of all products and convolutions of a program."""
    lines = jax.jit(function).lower(*args).as_text().splitlines()
    lines = [line for line in lines if "stablehlo.dot_general" in line or ".convolution(" in line]
    assert lines
    return {
        kind for line in lines for kind in re.findall(r"DEFAULT|HIGHEST|HIGH", line) or ["DEFAULT"]
    }


def score_of(x):
    """A score by a convolution and a linear map."""
    conv, dense = Conv(4), Dense(1)
    keys = jax.random.split(jax.random.key(1))
    params = conv.init(keys[0], x), dense.init(keys[1], jnp.ones((2, 8, 4)))
    return lambda x, t: dense.apply(params[1], conv.apply(params[0], x))


@pytest.fixture(autouse=True)
def nothing_chosen():
    """The suite may be run with a precision of its own."""
    with jax.default_matmul_precision(None):
        yield


@pytest.mark.parametrize("name", SOLVES)
def test_solves_and_likelihoods_multiply_in_full(name):
    solve = SOLVES[name]
    score = score_of(X)
    assert precisions(lambda x: score(x, 1.0), X) == {"DEFAULT"}
    assert precisions(lambda x: solve(score, x), X) == {"HIGHEST"}


def test_the_callers_choice_stays():
    score = score_of(X)
    with jax.default_matmul_precision("tensorfloat32"):
        assert precisions(lambda x: SOLVES["flow"](score, x), X) >= {"HIGH"}  # diffrax has its own


@pytest.mark.slow
def test_training_may_choose():
    """The option reaches the products of the loss and of its gradient."""
    config = dataclasses.replace(presets.get("digits_vp"), net=MLP(width=8, num_blocks=1))
    for name, kinds in (("default", {"DEFAULT"}), ("highest", {"HIGHEST"})):
        train = dataclasses.replace(config.train, matmul_precision=name)
        run = runs.build(dataclasses.replace(config, train=train))
        params = jax.eval_shape(run.init_params, jax.random.key(0))
        batch = {"x": jnp.zeros((2, *run.shape))}
        gradient = jax.grad(lambda p, b, loss=run.loss: loss(p, jax.random.key(0), b)[0])
        assert precisions(gradient, params, batch) == kinds
