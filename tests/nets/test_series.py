"""Networks for vectors and series: they learn, vectors are series, less memory changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax.data import two_moons
from score_jax.losses import dsm_loss
from score_jax.nets import MLP, SeriesUNet
from score_jax.parametrization import TimeInput
from score_jax.sde import VP
from tests.helpers.nets import filled

FAST = {"xla_backend_optimization_level": 0}


@pytest.mark.slow
def test_series_network_learns_the_moons():
    """Predicting no noise costs 1; a network that has learned costs less."""
    net = SeriesUNet(channels=16, num_blocks=1)
    x = two_moons(128).x
    x = jnp.asarray(x, jnp.float32)
    params = jax.jit(net.init, compiler_options=FAST)(jax.random.key(0), x[:1], jnp.zeros(1))
    loss = dsm_loss(VP(), net.apply, noise_input=TimeInput())
    optimiser = optax.adam(3e-3)

    @jax.jit
    def train(params, key):
        def step(carry, key):
            params, state = carry
            (value, _), grad = jax.value_and_grad(loss, has_aux=True)(params, key, {"x": x})
            update, state = optimiser.update(grad, state)
            return (optax.apply_updates(params, update), state), value

        return jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(key, 60))

    (_, _), losses = train(params, jax.random.key(1))
    assert abs(losses[0] - 1) < 0.36  # four standard deviations of the mean of 256 squares
    assert losses[-20:].mean() < 0.75


def test_vectors_are_series_of_one_channel():
    net = SeriesUNet(channels=8, groups=4)
    x, label = jax.random.normal(jax.random.key(1), (3, 6)), jnp.array([0.0, 5.0, 900.0])
    params = filled(net, x, label)
    apply = jax.jit(net.apply, compiler_options=FAST)
    series = apply(params, x[:, :, None], label)
    np.testing.assert_array_equal(apply(params, x, label), series[:, :, 0])
    with pytest.raises(ValueError, match=r"divisible by \(2,\)"):
        net.apply(params, x[:, :5], label)
    with pytest.raises(ValueError, match="series"):
        net.apply(params, x[:, :, None, None], label)


def test_mlp_recomputed_and_in_half_precision():
    x, label = jax.random.normal(jax.random.key(1), (3, 2)), jnp.array([0.0, 5.0, 900.0])
    plain = MLP(width=8, num_blocks=2, dropout=0.3)
    params = filled(plain, x, label)
    results = []
    for remat in (False, True):
        net = plain.clone(remat=remat)

        def loss(params, net=net):
            out = net.apply(params, x, label, train=True, rngs={"dropout": jax.random.key(4)})
            return jnp.square(out - 1).sum()

        traced = jax.jit(jax.value_and_grad(loss)).trace(params)
        program = str(traced.jaxpr)  # JAX prints what is computed again under two names
        assert ("checkpoint" in program or "remat" in program) == remat
        results.append(traced.lower().compile(FAST)(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *results)

    half = plain.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, label)
    assert {v.dtype for v in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    out, full = half.apply(params, x, label), plain.apply(params, x, label)
    assert out.dtype == jnp.float32
    assert 1e-6 < np.abs(out - full).max() / np.abs(full).max() < 0.05
