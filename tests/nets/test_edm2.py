"""EDM2: magnitudes are preserved by every operation, and only directions of weights matter."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax.nets import EDM2, unit_directions
from score_jax.nets.magnitude import MPClasses, MPFourier, MPMap, mp_cat, mp_silu, mp_sum
from score_jax.training import inverse_sqrt, projected

FAST = {"xla_backend_optimization_level": 0}
# Without borders, where convolutions see zeros, and with attention, which averages, in the middle alone.
NET = EDM2(
    channels=16, channel_mult=(1,), num_blocks=1, attention_factors=(), num_head_channels=16,
    padding=("circular",),
)  # fmt: skip


def rms(x, axis=None):
    return jnp.sqrt(jnp.square(x).mean(axis=axis))


def test_silu_of_a_unit_normal_has_unit_mean_square():
    """By Gauss-Hermite quadrature, to the three digits of the paper's constant."""
    x, w = np.polynomial.hermite_e.hermegauss(80)
    square = np.square(np.asarray(mp_silu(jnp.asarray(x, jnp.float32)), np.float64))
    assert w @ square / w.sum() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_sums_and_concatenations_of_orthogonal_parts_have_unit_mean_square(t):
    turn = 2 * math.pi * jnp.arange(8) / 8
    a, b = math.sqrt(2) * jnp.cos(turn)[None], math.sqrt(2) * jnp.sin(turn)[None]
    assert float(rms(mp_sum(a, b, t))) == pytest.approx(1, rel=1e-6)
    both = mp_cat(a, jnp.tile(b, (1, 3)), t)
    assert float(rms(both)) == pytest.approx(1, rel=1e-6)
    # The shares do not depend on the numbers of channels.
    share = float(jnp.square(both[:, 8:]).sum() / jnp.square(both).sum())
    assert share == pytest.approx(t**2 / (t**2 + (1 - t) ** 2), abs=1e-6)


def test_cosines_over_all_phases_have_unit_mean_square():
    net = MPFourier(64)
    params = net.init(jax.random.key(0), jnp.zeros(1))
    params["params"]["phase"] = 2 * math.pi * jnp.arange(64) / 64
    params["params"]["frequency"] = jnp.ones(64)
    np.testing.assert_allclose(rms(net.apply(params, jnp.array([-3.0, 0.2])), 1), 1, rtol=1e-5)
    spread = net.init(jax.random.key(1), jnp.zeros(1))["params"]["frequency"].std()
    assert float(spread) == pytest.approx(2 * math.pi, rel=0.35)


@pytest.mark.parametrize(("size", "shape"), [(1, (3, 5)), (3, (1, 9, 2)), (3, (1, 7, 7, 2))])
def test_maps_have_rows_of_length_one_whatever_the_length_of_their_weights(size, shape):
    """The response to every single entry, summed over the entries: the squared length of a row."""
    net = MPMap(4, size)
    x = jnp.zeros(shape)
    params = jax.tree.map(lambda w: 7 * w, net.init(jax.random.key(0), x))
    if size == 1:
        seen = net.apply(params, jnp.eye(shape[-1]))
    else:  # one entry in the middle of each channel
        middle = tuple(n // 2 for n in shape[1:-1])
        each = jnp.zeros((shape[-1], *shape[1:]))
        each = each.at[(jnp.arange(shape[-1]), *middle, jnp.arange(shape[-1]))].set(1)
        seen = net.apply(params, each)
    np.testing.assert_allclose(jnp.square(seen).reshape(-1, 4).sum(axis=0), 1, rtol=1e-3)
    np.testing.assert_allclose(net.apply(params, seen_input := jnp.ones(shape), 3.0),
                               3 * net.apply(params, seen_input), rtol=1e-5)  # fmt: skip


def test_embeddings_of_classes_have_unit_mean_square_over_the_classes():
    net = MPClasses(6, 5)
    params = net.init(jax.random.key(0), jnp.zeros(1, jnp.int32))
    table = net.apply(params, jnp.arange(-1, 7))
    np.testing.assert_allclose(rms(table[1:7], 0), 1, rtol=1e-3)
    np.testing.assert_array_equal(table[jnp.array([0, 7])], 0)


@pytest.fixture(scope="module")
def tiny():
    """The network with its last gain at 1, the mean square of its output, and a gradient."""
    x = jax.random.normal(jax.random.key(1), (8, 4, 4, 3))
    t = jnp.linspace(-1.0, 1.0, 8)

    @jax.jit
    def run(key):
        params = NET.init(key, x, t)
        first = NET.apply(params, x, t)
        params["params"]["out_gain"] = jnp.ones(())

        def loss(params):
            out = NET.apply(params, x, t)
            return jnp.square(out - jnp.sin(x)).mean(), out

        (_, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return params, first, out, grads

    return run.lower(jax.random.key(0)).compile(FAST)(jax.random.key(0))


@pytest.mark.slow
def test_activations_start_with_unit_variance_and_the_prediction_with_zero(tiny):
    _, first, out, _ = tiny
    assert not first.any()
    assert 0.7 < float(rms(out)) < 1.3  # attention averages


@pytest.mark.slow
def test_gradients_are_orthogonal_to_the_rows_of_weights(tiny):
    """So is an update of gradient descent, and rows of weights can only grow: hence the projection."""
    params, _, _, grads = tiny
    rows = 0
    for (path, w), g in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(grads), strict=True):
        if path[-1].key != "direction":
            continue
        axes = tuple(range(w.ndim - 1))
        along = jnp.abs((w * g).sum(axis=axes))
        size = jnp.sqrt(jnp.square(w).sum(axis=axes) * jnp.square(g).sum(axis=axes))
        assert float((along / (size + 1e-9)).max()) < 5e-3  # the small number in the norm
        rows += w.shape[-1]
    assert rows > 200


def test_projected_updates_keep_the_lengths_and_everything_else():
    net, x = MPMap(4), jax.random.normal(jax.random.key(1), (8, 3))
    params = {"map": net.init(jax.random.key(0), x)["params"], "gain": jnp.ones(())}
    params = unit_directions(params)

    def loss(params):
        out = net.apply({"params": params["map"]}, x, params["gain"])
        return jnp.square(out - jnp.sin(x).sum(axis=1, keepdims=True)).mean()

    plain = optax.sgd(2.0)
    held = projected(plain, unit_directions)
    assert held.init(params) == plain.init(params)
    grads = jax.grad(loss)(params)
    moved = {}
    for name, optimizer in (("plain", plain), ("held", held)):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        moved[name] = optax.apply_updates(params, updates)
    lengths = {name: rms(tree["map"]["direction"], 0) for name, tree in moved.items()}
    np.testing.assert_allclose(lengths["held"], 1, rtol=1e-3)
    # By Pythagoras: the gradient is orthogonal to the row.
    step = rms(2.0 * grads["map"]["direction"], 0)
    np.testing.assert_allclose(lengths["plain"], jnp.hypot(1.0, step), rtol=1e-3)
    assert float(step.max()) > 0.1
    # The network computes the same with either, and the gain is no direction.
    outs = [net.apply({"params": tree["map"]}, x) for tree in moved.values()]
    np.testing.assert_allclose(*outs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(moved["held"]["gain"], moved["plain"]["gain"], rtol=1e-6)
    assert float(moved["held"]["gain"]) != 1


def test_the_rate_falls_as_one_over_the_root():
    rate = inverse_sqrt(0.01, 100)
    np.testing.assert_allclose([rate(n) for n in (0, 100, 400, 10_000)], [0.01, 0.01, 0.005, 0.001])
    with pytest.raises(ValueError, match="reference"):
        inverse_sqrt(0.01, 0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"label_balance": 2.0}, "label_balance"),
        ({"num_head_channels": 24}, "num_head_channels must be a divisor of 16"),
        ({"clip": 0.0}, "clip"),
        ({"noise_mult": 0}, "noise_mult"),
        ({"padding": ("circular",) * 3}, "padding"),
    ],
)
def test_wrong_fields_are_named(fields, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(
            NET.clone(**fields).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.ones(1)
        )
