"""Networks, what reference numbers of the published members leave open: rarer members and other uses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from score_jax.nets import MLP, NCSNpp, resample
from score_jax.nets.layers import GroupNorm, check_inputs
from tests.helpers.nets import filled, forced
from tests.helpers.port import load
from tests.nets.test_nets import direct_upfirdn

VARIANTS = ["skips_cat", "residuals", "ddpm", "ddpm_fir", "ddpm_bare"]
MICRO = NCSNpp(channels=4, channel_mult=(1,), num_blocks=1, attention=(), dropout=0.2)


@pytest.fixture(scope="module")
def micro():
    """(params with nothing at zero, x, label) of the smallest network."""
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    label = jnp.array([10.0, 600.0])
    return filled(MICRO, x, label), x, label


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_rarer_members(name):
    """Progressive paths, concatenation, the DDPM block, FIR convolutions, no label, three levels."""
    net, params, arrays = load(f"variants/{name}")
    x, label = jnp.asarray(arrays["net/x"]), jnp.asarray(arrays["net/label"])
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, label)
    assert jax.tree.map(lambda v: v.shape, shapes) == jax.tree.map(lambda v: v.shape, params)
    out = jax.jit(net.apply)(params, x, label)
    assert np.abs(out - arrays["net/out"]).max() <= 2e-5 * np.abs(arrays["net/out"]).max()


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 61_804_419),
        (
            {"embedding": "fourier", "fir": True, "progressive_input": "residual"}
            | {"scale_by_sigma": True},
            62_758_915,
        ),
    ],
    ids=["DDPM++", "NCSN++"],
)
def test_published_sizes(fields, count):
    """The CIFAR-10 networks of arXiv:2011.13456: as many parameters as the authors' program has."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.float32)
    shapes = jax.eval_shape(NCSNpp(**fields).init, jax.random.key(0), x, label)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.slow
def test_steps_in_a_scan_are_steps_in_a_loop(micro):
    params, x, label = micro

    def step(params, key):
        def loss(params):
            out = MICRO.apply(params, x, label, train=True, rngs={"dropout": key})
            return jnp.square(out - x).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), value

    keys = jax.random.split(jax.random.key(3), 3)
    scanned, values = jax.jit(lambda p, keys: lax.scan(step, p, keys))(params, keys)
    looped, alone = params, jax.jit(step)
    losses = []
    for i in range(3):
        looped, value = alone(looped, keys[i])
        losses.append(value)
    np.testing.assert_allclose(values, jnp.stack(losses), rtol=1e-4)
    assert len({float(v) for v in values}) == 3  # dropout and parameters move
    for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(looped), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_vmap_over_examples_is_the_batch(micro):
    """Forward, its tangent, and the gradient of training: as an ODE per sample uses them."""
    params, x, label = micro
    net = MICRO.clone(dropout=0.0)
    f = lambda x, label: net.apply(params, x, label)
    one = lambda x, label: f(x[None], label[None])[0]
    tangent = lambda f, x: jax.jvp(lambda x: f(x, label), (x,), (jnp.cos(x),))
    alone, together = jax.jit(lambda x: (tangent(jax.vmap(one), x), tangent(f, x)))(x)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    train = lambda x, label: jnp.sin(net.apply(params, x, label, train=True)).sum()
    each = jax.jit(jax.vmap(jax.grad(lambda x, label: train(x[None], label[None]))))
    np.testing.assert_allclose(
        each(x, label), jax.jit(jax.grad(train))(x, label), rtol=1e-3, atol=1e-4
    )


def test_double_precision_is_kept(micro, x64):
    """Tangent against a central difference: an error of 1e-8 shows that nothing is float32."""
    params, x, label = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float64)), micro)
    v = jnp.cos(x)
    f = lambda x: MICRO.apply(params, x, label)
    value, tangent = jax.jit(lambda x: jax.jvp(f, (x,), (v,)))(x)
    assert value.dtype == jnp.float64
    g, h = jax.jit(f), 1e-5
    difference = (g(x + h * v) - g(x - h * v)) / (2 * h)
    np.testing.assert_allclose(tangent, difference, rtol=1e-7, atol=1e-8 * jnp.abs(tangent).max())


def test_half_precision_is_near(micro):
    params, x, label = micro
    exact, half = jax.jit(
        lambda p: [MICRO.clone(dtype=d).apply(p, x, label) for d in (None, jnp.bfloat16)]
    )(params)
    assert half.dtype == jnp.float32  # that of x
    error = jnp.abs(half - exact).max() / jnp.abs(exact).max()
    assert 1e-6 < error < 0.1


def test_dropout_acts_in_training_alone(micro):
    params, x, label = micro
    f = jax.jit(lambda key: MICRO.apply(params, x, label, train=True, rngs={"dropout": key}))
    a, b = (f(jax.random.key(i)) for i in (0, 1))
    assert float(jnp.abs(a - b).max()) > 1e-3
    with pytest.raises(Exception, match="dropout"):
        MICRO.apply(params, x, label, train=True)


@pytest.mark.parametrize("taps", [(1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 2)])
def test_fir_of_any_length_is_its_definition(taps):
    """Zeros between, pad, filter, subsample in two dimensions; not square, not symmetric."""
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    kernel, p = np.outer(taps, taps) / np.sum(taps) ** 2, len(taps) - 2
    image = jnp.asarray(x)
    ours = jax.jit(lambda v: (resample.fir_up(v, taps), resample.fir_down(v, taps)))(image)
    up = direct_upfirdn(x, 4 * kernel, 2, 1, (p + 1) // 2 + 1, p // 2)
    np.testing.assert_allclose(ours[0], up, atol=1e-6)
    down = direct_upfirdn(x, kernel, 1, 2, (p + 1) // 2, p // 2)
    np.testing.assert_allclose(ours[1], down, atol=1e-6)


def test_two_equal_taps_copy_and_average():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    up = jax.jit(lambda x: (resample.fir_up(x, (1, 1)), resample.double(x)))
    np.testing.assert_allclose(*up(x), rtol=1e-6)
    down = jax.jit(lambda x: (resample.fir_down(x, (1, 1)), resample.halve(x)))
    np.testing.assert_allclose(*down(x), rtol=1e-5, atol=1e-6)


def test_classes_of_zero_embedding_are_no_classes(micro):
    """The class is added to the label's embedding and does nothing else."""
    params, x, label = micro
    table = {"embedding": jnp.zeros((3, 16)).at[2].set(1.0)}
    more = {"params": params["params"] | {"classes": table}}
    net = MICRO.clone(num_classes=3)
    y = jnp.array([1, 2])
    plain, out = jax.jit(lambda p: (MICRO.apply(params, x, label), net.apply(p, x, label, y)))(more)
    np.testing.assert_allclose(out[0], plain[0], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(out[1] - plain[1]).max()) > 1e-2


@pytest.mark.slow
def test_mlp_starts_at_zero_and_differentiates_both_ways():
    net = MLP(width=8, num_blocks=1, num_classes=2)
    x, label, y = jnp.ones((3, 2, 2)), jnp.array([1.0, 50.0, 999.0]), jnp.array([0, 1, 1])
    params = jax.jit(net.init)(jax.random.key(0), x, label, y)
    np.testing.assert_array_equal(jax.jit(net.apply)(params, x, label, y), np.zeros(x.shape))
    wave = lambda p: np.float32(0.1 * np.cos(np.arange(p.size)).reshape(p.shape))
    params = jax.tree.map(lambda p: np.asarray(p) + wave(p), params)
    v = np.sin(np.arange(12, dtype=np.float32)).reshape(x.shape)

    @jax.jit
    def both_ways(params, x, y):
        f = lambda x: net.apply(params, x, label, y)
        out, tangent = jax.jvp(f, (x,), (v,))
        return out, tangent.sum(), jax.grad(lambda x: f(x).sum())(x)

    out, tangent, gradient = jax.device_get(both_ways(params, x, y))
    assert abs(float(tangent)) > 1e-3
    np.testing.assert_allclose((gradient * v).sum(), tangent, rtol=1e-4)
    assert np.abs(out[1] - out[2]).max() > 1e-4  # the label is heard
    assert np.abs(out - both_ways(params, x, 1 - y)[0]).max() > 1e-4  # and the class


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"channel_mult": ()}, r"channel_mult .* got \(\)"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"embedding": "sine"}, "embedding must be one of .* got 'sine'"),
        ({"combine": "product"}, "combine must be one of .* got 'product'"),
        ({"fir": True, "fir_kernel": (1,)}, r"two or more.* got \(1,\)"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_wrong_fields_are_named(fields, named):
    with pytest.raises(ValueError, match=named):
        net, x = forced(MICRO, **{"channel_mult": (1, 2)} | fields), jnp.ones((1, 4, 4, 1))
        net._check(x, jnp.ones(1), None)
        jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones(1))


def test_wrong_labels_and_sizes_are_named():
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"noise_input must be of shape \(2,\), got \(1,\)"):
        check_inputs(x, jnp.ones(1))
    with pytest.raises(ValueError, match=r"y must be of shape \(2,\), got \(3,\)"):
        check_inputs(x, jnp.ones(2), jnp.ones(3, int), 4)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        MLP(width=0).init(jax.random.key(0), x, jnp.ones(2))


def test_group_norm_of_half_precision_sums_in_float32():
    """At mean 30 and std 1 sums in bfloat16 would lose the variance."""
    x = (30 + jax.random.normal(jax.random.key(0), (2, 8, 8, 8))).astype(jnp.bfloat16)
    norm = GroupNorm(groups=2)
    params = norm.init(jax.random.key(0), x)
    theirs = nn.GroupNorm(2, epsilon=1e-6, use_fast_variance=False).apply(
        params, x.astype("float32")
    )
    np.testing.assert_allclose(
        norm.apply(params, x).astype("float32"), theirs, rtol=0.02, atol=0.02
    )
    with pytest.raises(ValueError, match="8 channels cannot be normalised in 3 groups"):
        GroupNorm(groups=3).init(jax.random.key(0), x)
