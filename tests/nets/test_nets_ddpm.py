"""DDPM, noise levels by index, attention, recomputed blocks and half precision of the U-Nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.nets import DDPM, NCSNpp
from score_jax.nets.layers import attend, divide_by_sigma, noise_levels
from tests.helpers.nets import filled

DDPM_MICRO = DDPM(
    channels=4, channel_mult=(1,), num_blocks=1, attention=(4,), dropout=0.0, norm_groups=2
)
NCSNPP_MICRO = NCSNpp(channels=4, channel_mult=(1,), num_blocks=1, attention=(4,), dropout=0.0)
X = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
LABEL = jnp.array([10.0, 600.0])


@pytest.mark.parametrize(
    "net",
    [DDPM_MICRO, pytest.param(NCSNPP_MICRO, marks=pytest.mark.slow)],
    ids=["ddpm", "ncsnpp"],
)
def test_remat_changes_neither_names_nor_gradients(net):
    params, nets = filled(net, X, LABEL), [net, net.clone(remat=True)]
    make = lambda n: jax.eval_shape(n.init, jax.random.key(0), X, LABEL)
    first, second = (jax.tree.map(lambda v: (v.shape, v.dtype), make(n)) for n in nets)
    assert first == second

    def gradient(params, net):
        return jax.grad(lambda p: jnp.square(net.apply(p, X, LABEL, train=True)).sum())(params)

    plain, again = jax.jit(lambda p: [gradient(p, n) for n in nets])(params)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 * largest)
    # The blocks are indeed computed again.
    text = [str(jax.make_jaxpr(lambda p, n=n: gradient(p, n))(params)) for n in nets]
    assert "remat" not in text[0] and text[1].count("remat") >= 4


def test_half_precision_is_near():
    params = filled(DDPM_MICRO, X, LABEL)
    exact, half = jax.jit(
        lambda p: [DDPM_MICRO.clone(dtype=d).apply(p, X, LABEL) for d in (None, jnp.bfloat16)]
    )(params)
    assert half.dtype == jnp.float32  # that of x
    assert 1e-6 < float(jnp.abs(half - exact).max() / jnp.abs(exact).max()) < 0.1


def test_noise_levels_by_index():
    """50, 5 and 0.5 in geometric progression; without a table the label is sigma itself."""
    np.testing.assert_allclose(noise_levels((50.0, 0.5, 3)), [50, 5, 0.5])
    h = jnp.ones((2, 3, 2))
    by_index = divide_by_sigma(h, jnp.array([0, 2]), (50.0, 0.5, 3))
    np.testing.assert_allclose(by_index[:, 0, 0], [0.02, 2.0], rtol=1e-6)
    by_float = divide_by_sigma(h, jnp.array([0.0, 2.0]), (50.0, 0.5, 3))
    np.testing.assert_array_equal(by_float, by_index)
    direct = divide_by_sigma(h, jnp.array([4.0, 0.5]), None)
    np.testing.assert_allclose(direct[:, 2, 1], [0.25, 2.0])
    for wrong in ((0.0, 1.0, 3), (1.0, -1.0, 3), (1.0, 0.1, 0)):
        with pytest.raises(ValueError, match="sigmas must be"):
            noise_levels(wrong)


def direct_attention(q, k, v):
    """One query and one head at a time, in NumPy."""
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, n, h in np.ndindex(*q.shape[:3]):
        logits = np.array([np.dot(q[b, n, h], key) for key in k[b, :, h]]) / np.sqrt(q.shape[3])
        weights = np.exp(logits - logits.max())
        out[b, n, h] = (weights / weights.sum()) @ v[b, :, h]
    return out


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-6), ("float64", 1e-13)])
def test_attention_is_its_definition_in_either_precision(dtype, atol, x64):
    rng = np.random.default_rng(0)
    q, k, v = (2 * rng.normal(size=(2, n, 2, 5)) for n in (3, 4, 4))
    out = attend(*(jnp.asarray(a, dtype) for a in (q, k, v)))
    assert out.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(out, direct_attention(q, k, v), atol=atol)


def test_unconditional_network_ignores_the_noise_input_and_has_no_parts_for_it():
    shapes = jax.eval_shape(DDPM_MICRO.init, jax.random.key(0), X, LABEL)["params"]
    net = DDPM_MICRO.clone(noise_conditional=False)
    params = filled(net, X, LABEL)
    missing = {"embed0", "embed1"}
    assert set(shapes) - set(params["params"]) == missing
    assert "label" in shapes["mid0"] and "label" not in params["params"]["mid0"]
    apply = jax.jit(net.apply)
    np.testing.assert_array_equal(apply(params, X, LABEL), apply(params, X, LABEL + 7))


def test_attention_is_placed_by_the_larger_side():
    """4 x 8 then 2 x 4: attention at 4 belongs to the second level."""
    x = jnp.ones((1, 4, 8, 1))
    for net in (DDPM_MICRO, NCSNPP_MICRO):
        shapes = jax.eval_shape(
            net.clone(channel_mult=(1, 1)).init, jax.random.key(0), x, LABEL[:1]
        )["params"]
        assert {n for n in shapes if "attention" in n and n != "mid_attention"} == {
            "enc1_0_attention",
            "dec1_attention",
        }


BIG = {
    "channel_mult": (1, 2, 4, 8, 16, 32, 32, 32), "num_blocks": 1, "embedding": "fourier",
    "fir": True, "progressive": "output_skip", "progressive_input": "input_skip",
    "scale_by_sigma": True, "centered": False, "dropout": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("net", "size", "count"),
    [(DDPM(), 32, 35_218_947), (NCSNpp(channels=16, **BIG), 1024, 105_785_896)],
    ids=["DDPM", "NCSN++ 1024"],
)
def test_published_sizes(net, size, count):
    """As many parameters as the authors' JAX program has."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.float32)
    out, shapes = jax.eval_shape(net.init_with_output, jax.random.key(0), x, label)
    assert out.shape == x.shape
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"norm_groups": 3}, "4 channels cannot be normalised in 3 groups"),
        ({"norm_groups": 0}, "groups must be at least 1, got 0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"channel_mult": (1, 1, 1, 1)}, r"divisible by \(8, 8\)"),
        ({"num_classes": 3}, "class labels y are needed exactly when"),
        ({"sigmas": (50.0, 0.01, 0)}, "sigmas must be"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_wrong_use_is_named(fields, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(DDPM_MICRO.clone(**fields).init, jax.random.key(0), X, LABEL)
