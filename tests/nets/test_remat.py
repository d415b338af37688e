"""What is computed again in the backward pass: the same gradients, from less that is kept."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import presets, runs


def loss_of(name, remat, **net):
    """(the loss of a small network of a preset as a function of the parameters, the parameters)."""
    config = presets.get(name)
    net |= {"dropout": 0.1} if hasattr(config.net, "dropout") else {}
    config = dataclasses.replace(
        config,
        net=config.net.clone(**net),
        train=dataclasses.replace(config.train, remat=remat),
    )
    exp = runs.build(config)
    x = np.random.default_rng(0).normal(size=(4, *exp.shape)).astype(np.float32)
    return (lambda params: exp.loss(params, jax.random.key(1), {"x": jnp.asarray(x)})[0]), exp


def kept_bytes(loss, params):
    """Bytes that wait for the backward pass, the parameters left out: traced only."""
    kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    size = lambda tree: sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
    return size(kept) - size(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("digits_vp", {"channels": 8, "num_blocks": 2}),
        ("digits_iddpm", {"channels": 32, "num_blocks": 2}),
        ("ve_ncsnv2_cifar10", {"channels": 8}),
    ],
)
def test_less_is_kept_of_blocks_and_least_of_the_whole(name, net):
    found = []
    for remat in ("none", "blocks", "full"):
        loss, exp = loss_of(name, remat, **net)
        found.append(kept_bytes(loss, jax.eval_shape(exp.init_params, jax.random.key(0))))
    none, blocks, full = found
    assert full < blocks < 0.5 * none, found


@pytest.mark.slow
def test_gradients_are_the_same():
    """With dropout, whose masks must be the same when they are drawn again."""
    found = []
    for remat in ("none", "blocks", "full"):
        loss, exp = loss_of("two_moons_vp", remat, width=8, num_blocks=2)
        params = exp.init_params(jax.random.key(0))
        params = jax.tree.map(lambda p: p + 0.05, params)
        found.append(jax.tree.leaves(jax.jit(jax.grad(loss))(params)))
    for again in found[1:]:
        for a, b in zip(found[0], again, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert max(float(jnp.abs(leaf).max()) for leaf in found[0]) > 0.01
