"""The Improved DDPM and ADM U-Net: equal to the authors', in every form, with what it refuses."""

import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.nets import EncoderUNet, UNet, layers
from score_jax.nets.layers import sinusoids, with_low_res
from tests.helpers.nets import filled, xlas
from tests.helpers.port_unet import load
from tests.helpers.published_unets import PUBLISHED, network

PUBLISHED_KIND = ["iddpm_unet_additive", "iddpm_unet_scale_shift_class"]
VARIANTS = [
    "adm_class", "adm_half", "plain_resampling", "series", "series_conv", "volume", "upsampler",
    "upsampler_improved",
]  # fmt: skip
QUICK = [
    "cifar10_uncond_50M", "imagenet64_cond_270M", "512x512_diffusion", "64_256_upsampler",
    "128x128_classifier",
]  # fmt: skip
# The type and the face of every convolution of images in a program.
CONVOLUTION = re.compile(
    r":(\w+)\[\d+,\d+,\d+,\d+\] = score_jax_conv\[\n\s*geometry=.*\n\s*role=(\w)"
)
MICRO = UNet(
    channels=8, channel_mult=(1, 2), num_blocks=1, attention_factors=(2,), num_heads=2, groups=4,
    dropout=0.2, resblock_updown=True,
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_KIND + [f"unet_variants/{v}" for v in VARIANTS])
def test_parity_with_the_authors_network(name):
    net, params, inputs, theirs = load(name)
    out = jax.jit(net.apply)(params, **inputs)
    assert out.shape == theirs.shape
    worst = np.abs(out - theirs).max() / np.abs(theirs).max()
    assert worst < 5e-6


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in PUBLISHED]
)
def test_published_networks_have_the_authors_size(name):
    """Counted in the authors' modules; arXiv:2105.05233, table 4, says 296, 422, 554, 559 million."""
    net = network(name)
    # The attention pool of a classifier has a parameter for every place: it needs the true size.
    size = 2 ** (len(net.channel_mult) - 1)
    size = PUBLISHED[name][1]["image_size"] if isinstance(net, EncoderUNet) else size
    x = jnp.zeros((1, size, size, 3))
    given = {}
    if isinstance(net, UNet) and net.super_resolution:
        given["low_res"] = x
    if isinstance(net, UNet) and net.num_classes:
        given["y"] = jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, jnp.zeros(1), **given))
    count = sum(math.prod(v.shape) for v in jax.tree.leaves(shapes))
    assert count == PUBLISHED[name][2]
    said = [part for part in name.split("_") if part.endswith("M")]
    assert all(abs(count / 1e6 - float(part[:-1])) < 0.25 * float(part[:-1]) for part in said)


@pytest.fixture(scope="module")
def micro():
    """(variables, x, label) of the smallest network."""
    x = jax.random.normal(jax.random.key(1), (2, 4, 6, 3))
    label = jnp.array([0.5, 600.0])
    return filled(MICRO, x, label), x, label


def gradient(net, params, *inputs, train=True):
    """Output, gradient of a loss and program of one training step with fixed dropout."""

    def loss(params):
        out = net.apply(params, *inputs, train=train, rngs={"dropout": jax.random.key(3)})
        return jnp.square(out - 1).mean(), out

    traced = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(params)
    (_, out), grad = traced.lower().compile()(params)
    return out, grad, str(traced.jaxpr)


def recomputes(program):
    """Whether a program computes parts again; JAX prints that under two names."""
    return "checkpoint" in program or "remat" in program


def close(a, b, rtol):
    """Whether two trees agree relative to the largest entry of each leaf."""
    near = lambda u, v: np.abs(u - v).max() <= rtol * np.abs(v).max() + 1e-7
    return all(jax.tree.leaves(jax.tree.map(near, a, b)))


@pytest.fixture(scope="module")
def plain(micro):
    """Output, gradient and program of the smallest network."""
    return gradient(MICRO, *micro)


@pytest.mark.slow
def test_remat_changes_neither_output_nor_gradient(micro, plain):
    remat = gradient(MICRO.clone(remat=True), *micro)
    assert recomputes(remat[2]) and not recomputes(plain[2])
    assert close(remat[0], plain[0], 1e-5) and close(remat[1], plain[1], 1e-4)


@pytest.mark.slow
def test_bfloat16_computes_in_half_and_keeps_float32_outside(micro, plain):
    params, x, label = micro
    half = MICRO.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, label)
    assert {v.dtype for v in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    out, grad, program = gradient(half, params, x, label)
    full, full_grad, _ = plain
    kinds = Counter(CONVOLUTION.findall(program))
    # All but that of the output, forward and backward, are in half precision; kernels keep theirs.
    assert kinds["f32", "g"] == kinds["f32", "x"] == 1 < kinds["bf16", "x"] < kinds["bf16", "g"]
    assert kinds["f32", "w"] == kinds["bf16", "g"] + 1 and not kinds["bf16", "w"]
    assert out.dtype == jnp.float32
    assert {v.dtype for v in jax.tree.leaves(grad)} == {jnp.dtype(jnp.float32)}
    assert 1e-6 < np.abs(out - full).max() / np.abs(full).max() < 0.05
    flat = lambda tree: np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)])
    a, b = flat(grad), flat(full_grad)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 8, 3), (2, 2, 4, 2, 3)], ids=["series", "volume"])
def test_gradients_for_training_are_those_of_the_convolution(shape, monkeypatch):
    """One- and three-dimensional networks against XLA's own convolutions."""
    net = UNet(
        channels=4, channel_mult=(1, 1), num_blocks=1, attention_factors=(), groups=2, num_heads=1,
        dims=len(shape) - 2,
    )  # fmt: skip
    x, label = jax.random.normal(jax.random.key(1), shape), jnp.array([0.5, 600.0])
    params = filled(net, x, label)
    train = gradient(net, params, x, label)
    monkeypatch.setattr(layers, "conv", xlas)
    plain = gradient(net, params, x, label)
    assert "conv_general" in plain[2] and "conv_general" not in train[2]
    assert close(train[0], plain[0], 1e-5) and close(train[1], plain[1], 1e-4)


def test_dropout_and_class_matter_where_they_should(micro):
    params, x, label = micro
    net = MICRO.clone(num_classes=3, remat=True)
    y = jnp.array([0, 2])
    params = filled(net, x, label, y=y)

    @jax.jit
    def run(y, key):
        return net.apply(params, x, label, y, train=True, rngs={"dropout": key})

    first = run(y, jax.random.key(0))
    assert np.abs(run(y, jax.random.key(1)) - first).max() > 1e-3
    other = np.abs(run(jnp.array([0, 1]), jax.random.key(0)) - first).max(axis=(1, 2, 3))
    assert other[0] == 0 and other[1] > 1e-3


def test_the_first_output_is_zero():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    net = MICRO.clone(out_channels=6)
    out, params = jax.jit(net.init_with_output)(jax.random.key(0), x, jnp.ones(2))
    np.testing.assert_array_equal(out, np.zeros((2, 4, 4, 6)))
    # The others start as PyTorch's: uniform with variance 1 / (3 fan_in).
    kernel = np.asarray(params["params"]["middle_block_0"]["in_layers_2"]["kernel"])
    assert np.abs(kernel).max() <= 1 / 12 and abs(kernel.std() * 12 * 3**0.5 - 1) < 0.05


def test_embedding_at_known_points():
    e = sinusoids(jnp.array([0.0, 0.5]), 5, cosines_first=True)
    np.testing.assert_allclose(e[0], [1, 1, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(
        e[1], [np.cos(0.5), np.cos(0.005), np.sin(0.5), np.sin(0.005), 0], rtol=1e-6
    )


def test_low_resolution_is_interpolated_between_centres():
    """A ramp stays a ramp inside, and is level beyond the outer centres."""
    low = jnp.arange(4.0).reshape(1, 4, 1, 1)
    joined = with_low_res(jnp.zeros((1, 8, 2, 1)), low, True)
    expected = np.clip(np.arange(8) / 2 - 0.25, 0, 3)
    np.testing.assert_allclose(joined[0, :, 0, 1], expected, atol=1e-6)
    np.testing.assert_array_equal(joined[..., 0], 0)


X, LABEL = jnp.zeros((2, 4, 4, 3)), jnp.zeros(2)
REFUSED = {
    "x must be of shape": (MICRO.clone(dims=1), {}),
    "dims": (MICRO.clone(dims=4), {}),
    "divisible by (4, 4)": (MICRO.clone(channel_mult=(1, 1, 1)), {"x": jnp.zeros((2, 4, 6, 3))}),
    "dropout": (MICRO.clone(dropout=1.0), {}),
    "channel_mult": (MICRO.clone(channel_mult=()), {}),
    "num_blocks": (MICRO.clone(num_blocks=0), {}),
    "attention heads": (MICRO.clone(num_heads=3), {}),
    "num_head_channels": (MICRO.clone(num_head_channels=5), {}),
    "groups": (MICRO.clone(groups=3), {}),
    "super_resolution": (MICRO, {"low_res": X}),
    "low_res must be": (MICRO.clone(super_resolution=True), {"low_res": X[:1]}),
    "num_classes": (MICRO.clone(num_classes=3), {}),
    "noise_input must be of shape": (MICRO, {"noise_input": jnp.zeros(3)}),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what):
    net, inputs = REFUSED[what]
    with pytest.raises(ValueError) as error:
        jax.eval_shape(
            lambda: net.init(jax.random.key(0), **({"x": X, "noise_input": LABEL} | inputs))
        )
    assert what in str(error.value)
