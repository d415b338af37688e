"""Networks: equal to the authors', gradients right in every form, what they refuse."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from score_jax.nets import MLP, NCSNpp, resample
from score_jax.nets import convolution as cv
from score_jax.nets.layers import Dense, GroupNorm, default_groups, sinusoids
from tests.helpers.nets import filled, forced, xlas
from tests.helpers.port import load

NAMES = [
    "vp_ddpmpp_continuous",
    "subvp_ddpmpp_continuous",
    "ve_ncsnpp_continuous",
    "ve_ncsnpp_discrete",
    "vp_ddpm_continuous",
]


@pytest.mark.parametrize("name", NAMES)
def test_parity_with_the_authors_network(name):
    net, params, arrays = load(name)
    x, label = jnp.asarray(arrays["net/x"]), jnp.asarray(arrays["net/label"], jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, label)
    same = jax.tree.map(lambda a, b: a.shape == b.shape, shapes, params)
    assert all(jax.tree.leaves(same))
    apply = jax.jit(net.apply)
    relative = lambda out, true: np.abs(out - true).max() / np.abs(true).max()
    assert relative(apply(params, x, label), arrays["net/out"]) < 2e-6
    if net.sigmas is not None:  # given the index of the noise level, the largest first: the score
        index = np.rint((1 - arrays["score/t"]) * (net.sigmas[2] - 1))
        out = apply(params, jnp.asarray(arrays["score/x"]), jnp.asarray(index))
        assert relative(out, arrays["score/out"]) < 2e-6


GEOMETRIES = {
    "same": {"padding": (1, 1)},
    "stride": {"padding": (0, 1), "stride": 2},
    "valid_stride": {"padding": (0, 0), "stride": 2},
    "dilated": {"padding": (2, 2), "dilation": 2},
    "uneven": {"padding": ((2, 0), (0, 2))},
    "spaced": {"padding": (2, 2), "spacing": 2},
    "spaced_stride": {"padding": ((2, 1), (1, 2)), "stride": 2, "spacing": 2},
    "along_one": {"padding": (1, 1), "stride": 2, "size": (8,)},
    "along_three": {"padding": (1, 1), "stride": (1, 2, 2), "size": (3, 4, 4)},
    "linear": {"padding": (), "size": ()},
}


def convolved(name):
    """(fields, x, w, g) of a geometry: data, a kernel, and what is sent back."""
    fields = dict(GEOMETRIES[name])
    size = fields.pop("size", (8, 6))
    rng = np.random.default_rng(0)
    normal = lambda shape: jax.device_put(rng.normal(size=shape))
    x, w = normal((2, *size, 3)), normal((3,) * len(size) + (3, 4))
    shape = jax.eval_shape(lambda x, w: cv.conv(x, w, **fields), x, w).shape
    return fields, x, w, normal(shape)


def near(a, b):
    """Whether two trees agree up to the rounding of sums."""
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), a, b)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_derivatives_of_our_own_equal_xlas(name, x64):
    """Reverse and forward mode, and both in both orders, against those of the plain convolution."""
    fields, x, w, g = convolved(name)

    def all_of(conv):
        f = lambda x, w: jnp.sin(conv(x, w, **fields) * g).sum()
        grad = jax.grad(f, (0, 1))
        once = lambda x, w: jax.jvp(f, (x, w), (x, w))[1]
        parts = lambda x, w: (
            grad(x, w),
            once(x, w),
            jax.jvp(grad, (x, w), (x, w))[1],
            jax.grad(once, (0, 1))(x, w),
        )
        return jax.jit(parts)(x, w)

    near(all_of(cv.conv), all_of(xlas))


@pytest.mark.parametrize("name", ["stride", "dilated", "along_one", "linear"])
def test_a_convolution_maps_over_axes_of_ones_own(name, x64):
    """vmap of a gradient over either input, over both, and over one after the other."""
    fields, x, w, g = convolved(name)
    xs, ws = jnp.stack([x, 2 * x, x[::-1]], 1), jnp.stack([w, w[::-1], 3 * w], 2)

    def all_of(conv):
        f = lambda x, w: jnp.sin(conv(x, w, **fields) * g).sum()
        grad = jax.grad(f, (0, 1))
        over = lambda f, *axes: jax.vmap(f, axes, (0, 0))
        return jax.jit(lambda: (
            over(grad, 1, None)(xs, w),
            over(grad, None, 2)(x, ws),
            over(grad, 1, 2)(xs, ws),
            over(over(grad, None, 2), 1, None)(xs, ws),
            over(lambda x, w: over(grad, 1, None)(xs, w), 1, 2)(xs, ws),
        ))()  # fmt: skip

    near(all_of(cv.conv), all_of(xlas))


def test_what_is_constant_costs_no_product():
    fields, x, w, g = convolved("stride")
    f = lambda x, w: (cv.conv(x, w, **fields) * g).sum()
    for i in (0, 1):
        program = str(jax.make_jaxpr(jax.grad(f, i))(x, w))
        assert program.count("score_jax_conv[") == 2  # the value, and one gradient


def test_convolutions_in_half_and_in_double_precision(x64):
    for dtype in (jnp.bfloat16, jnp.float64):
        fields, x, w, _ = convolved("stride")
        x, w = x.astype(dtype), w.astype(dtype)
        found, expected = (
            jax.jit(jax.grad(lambda x, w, c=c, f=fields: jnp.square(c(x, w, **f)).sum(), (0, 1)))(
                x, w
            )
            for c in (cv.conv, xlas)
        )
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype == dtype
            bound = 0.02 if dtype == jnp.bfloat16 else 1e-12
            assert jnp.abs(a - b).max() <= bound * jnp.abs(b).max()


@pytest.mark.parametrize("name", ["stride", "along_three"])
def test_a_convolution_in_half_precision_rounds_once(name):
    """The value and the gradient of x: float32's of the same arrays, rounded."""
    fields, *arrays = convolved(name)
    half = [a.astype(jnp.bfloat16) for a in arrays]

    @jax.jit
    def both(x, w, g):
        out, back = jax.vjp(lambda x: cv.conv(x, w, **fields), x)
        return out, *back(g)

    for a, b in zip(both(*half), both(*(a.astype(jnp.float32) for a in half)), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2.0**-8, atol=1e-5)


def test_a_linear_map_leaves_the_places_where_they_are():
    """Devices that share images would have to gather them before they could be flattened."""
    layer, x = Dense(4, use_bias=False), jnp.ones((2, 6, 5, 3))
    params = layer.init(jax.random.key(0), x)
    total = lambda params, x: jnp.square(layer.apply(params, x)).sum()
    text = jax.jit(jax.grad(total, (0, 1))).lower(params, x).as_text()
    assert "tensor<2x6x5x4xf32>" in text and "tensor<60x" not in text
    assert layer.apply(params, x[0, 0, 0]).shape == (4,)


PLATFORMS = ("cpu", "tpu", "cuda")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_platform_computes_the_same(name, x64):
    """The forms for a CPU and those for the other platforms, run here."""
    fields, x, w, g = convolved(name)
    program = jax.make_jaxpr(jax.grad(lambda x, w: (cv.conv(x, w, **fields) * g).sum(), (0, 1)))
    (geometry, *_) = (e.params["geometry"] for e in program(x, w).eqns if "geometry" in e.params)
    arrays = {"x": x, "w": w, "g": g}

    def all_of(platform):
        operands = {role: (arrays[a], arrays[b]) for role, (a, b) in cv.OPERANDS.items()}
        lowered = functools.partial(cv._lowered, geometry=geometry, platform=platform)
        return {role: lowered(*v, role=role) for role, v in operands.items()}

    on_cpu, on_tpu, on_gpu = (jax.jit(functools.partial(all_of, p))() for p in PLATFORMS)
    near(on_cpu, on_tpu)
    near(on_cpu, on_gpu)


def test_one_program_is_exported_for_every_platform(x64):
    """The platform is read where a program is compiled, not where it is traced."""
    fields, x, w, _ = convolved("stride")
    grad = jax.jit(jax.grad(lambda x, w: jnp.square(cv.conv(x, w, **fields)).sum(), (0, 1)))
    exported = jax.export.export(grad, platforms=["cpu", "cuda", "tpu"])(x, w)
    assert "stablehlo.case" in exported.mlir_module()
    near(exported.call(x, w), grad(x, w))


DIMENSIONS = re.compile(
    r"stablehlo.convolution.*dim_numbers = (\S+, \S+.*?), window.*-> tensor<(.*?)>"
)
CHANNELS_LAST = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
OF_KERNEL = "[f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]"


def test_a_program_lowered_here_has_the_form_of_its_platform():
    """The gradients of a network in bfloat16: plain convolutions on a CPU, XLA's own elsewhere."""
    net = TINY.clone(dtype=jnp.bfloat16)
    x, label = jnp.ones((2, 8, 8, 1)), jnp.ones(2)
    params = jax.eval_shape(net.init, jax.random.key(0), x, label)
    grad = jax.jit(jax.grad(lambda p: net.apply(p, x, label).sum()))
    found = {}
    for platform in ("cpu", "cuda", "tpu"):
        lowered = jax.export.export(grad, platforms=[platform])(params).mlir_module()
        found[platform] = DIMENSIONS.findall(lowered)
        assert len(found[platform]) > 20
    assert {form for form, _ in found["cpu"]} == {CHANNELS_LAST}
    of_kernel = {
        p: {shape.rpartition("x")[2] for form, shape in found[p] if form == OF_KERNEL}
        for p in found
    }
    # In float32 where the library can: gradients are added up over devices in their type.
    assert of_kernel == {"cpu": set(), "cuda": {"bf16", "f32"}, "tpu": {"f32"}}


def direct_upfirdn(x, kernel, up, down, before, after):
    """The two-dimensional definition, in NumPy loops: zeros between, pad, convolve, subsample."""
    b, h, w, c = x.shape
    wide = np.zeros((b, h * up, w * up, c))
    wide[:, ::up, ::up] = x
    wide = np.pad(wide, ((0, 0), (before, after), (before, after), (0, 0)))
    k = kernel.shape[0]
    flipped = kernel[::-1, ::-1]
    out = np.zeros((b, wide.shape[1] - k + 1, wide.shape[2] - k + 1, c))
    for i in range(k):
        for j in range(k):
            out += flipped[i, j] * wide[:, i : i + out.shape[1], j : j + out.shape[2]]
    return out[:, ::down, ::down]


def test_fir_resampling_is_its_definition():
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3))
    taps = np.array([1.0, 3.0, 3.0, 2.0])  # not symmetric: a flip would show
    kernel = np.outer(taps, taps) / np.outer(taps, taps).sum()
    ints = (1, 3, 3, 2)
    with jax.enable_x64(True):
        up = resample.fir_up(jnp.asarray(x), ints)
        down = resample.fir_down(jnp.asarray(x), ints)
    np.testing.assert_allclose(up, direct_upfirdn(x, 4 * kernel, 2, 1, 2, 1), atol=1e-6)
    np.testing.assert_allclose(down, direct_upfirdn(x, kernel, 1, 2, 1, 1), atol=1e-6)


def test_fir_gradient_is_the_transpose():
    """<fir(x), g> = <x, grad>."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    for fir in (resample.fir_up, resample.fir_down):
        out, pull = jax.vjp(jax.jit(fir), x)
        g = jax.random.normal(jax.random.key(1), out.shape)
        (dx,) = pull(g)
        np.testing.assert_allclose((dx * x).sum(), (out * g).sum(), rtol=1e-4)


def test_plain_resampling():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(resample.halve(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(resample.halve(resample.double(x)), x)


def test_group_norm_is_flaxs():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (3, 4, 6, 16))
    params = {"params": {"scale": jnp.linspace(0.5, 2, 16), "bias": jnp.linspace(-1, 1, 16)}}
    theirs = nn.GroupNorm(num_groups=4, epsilon=1e-6).apply(params, x)
    np.testing.assert_allclose(GroupNorm().apply(params, x), theirs, rtol=1e-4, atol=1e-5)
    assert [default_groups(c) for c in (3, 16, 128, 256, 144)] == [1, 4, 32, 32, 24]


def test_positional_embedding_at_known_points():
    e = sinusoids(jnp.array([0.0, 1.0]), 4)
    np.testing.assert_allclose(e[0], [0, 0, 1, 1], atol=1e-7)
    np.testing.assert_allclose(e[1], np.r_[np.sin([1, 1e-4]), np.cos([1, 1e-4])], rtol=1e-6)


TINY = NCSNpp(channels=8, channel_mult=(1, 2), num_blocks=1, attention=(4,), dropout=0.0)


@pytest.fixture(scope="module")
def tiny():
    """(params with nothing at zero, x, label) of the tiny network."""
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    label = jnp.array([10.0, 600.0])
    return filled(TINY, x, label), x, label


@pytest.mark.slow
def test_forward_and_reverse_derivatives_agree_in_and_out_of_training(tiny):
    """One directional derivative: jvp, gradient, explicit gradient in a scan, finite difference."""
    params, x, label = tiny
    v = jax.random.normal(jax.random.key(3), x.shape)
    f = lambda x, train=False: jnp.sin(TINY.apply(params, x, label, train=train)).sum()
    forward = jax.jit(lambda x: jax.jvp(f, (x,), (v,))[1])(x)
    reverse = jax.jit(lambda x: (jax.grad(f)(x) * v).sum())(x)
    explicit = jax.jit(
        lambda x: lax.scan(
            lambda c, _: (c, (jax.grad(lambda x: f(x, True))(x) * v).sum()), 0, None, length=2
        )[1]
    )(x)
    value = jax.jit(f)
    h = 1e-2
    difference = (value(x + h * v) - value(x - h * v)) / (2 * h)
    np.testing.assert_allclose(reverse, forward, rtol=1e-3)
    np.testing.assert_allclose(explicit, [forward, forward], rtol=1e-3)
    np.testing.assert_allclose(difference, forward, rtol=2e-2, atol=1e-2)


def test_parameter_count_is_pinned(tiny):
    assert sum(leaf.size for leaf in jax.tree.leaves(tiny[0])) == 47_985


def test_starts_at_zero_and_keeps_shape_and_dtype():
    """init_scale 0: the first prediction is zero, whatever the input; non-square sizes work."""
    net = TINY.clone(dtype=jnp.bfloat16)
    x = jnp.ones((1, 4, 8, 3))
    params = jax.jit(net.init)(jax.random.key(0), x, jnp.ones(1))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out = jax.jit(net.apply)(params, x, jnp.ones(1))
    assert out.shape == x.shape and out.dtype == x.dtype
    assert float(jnp.abs(out).max()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"block": "ddpm", "fir": True},
        {"block": "ddpm", "resample_with_conv": False},
        {"progressive": "output_skip", "progressive_input": "input_skip", "combine": "cat"},
        {"progressive": "residual", "progressive_input": "residual", "fir": True},
        {"progressive_input": "input_skip", "centered": False, "noise_conditional": False},
        {"embedding": "fourier", "scale_by_sigma": True, "skip_rescale": False},
    ],
    ids=lambda f: "-".join(map(str, f.values())),
)
def test_every_variation_builds_and_trains(fields):
    """Traced only: shapes of the output and of the gradient of every parameter."""
    net = TINY.clone(**fields)
    x, label = jnp.ones((2, 8, 8, 3)), jnp.ones(2)

    def gradient(key):
        params = net.init(key, x, label)
        loss = lambda p: net.apply(p, x, label, train=True).sum()
        return params, jax.grad(loss)(params)

    params, grads = jax.eval_shape(gradient, jax.random.key(0))
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, grads)


@pytest.mark.parametrize("kind", ["ncsnpp", "mlp"])
def test_classes_change_the_output_and_are_asked_for(kind):
    make = {
        "ncsnpp": lambda n: TINY.clone(num_classes=n, init_scale=1.0),
        "mlp": lambda n: MLP(width=16, num_blocks=1, num_classes=n),
    }[kind]
    x = jnp.ones((2, 8, 8, 1)) if kind == "ncsnpp" else jnp.ones((2, 3))
    label, y = jnp.ones(2), jnp.array([0, 1])
    net = make(3)
    params = filled(net, x, label, y)
    out = np.asarray(jax.jit(net.apply)(params, x, label, y))
    assert out.shape == x.shape
    assert np.abs(out[0] - out[1]).max() > 1e-4
    with pytest.raises(ValueError, match="class labels y are needed exactly when"):
        net.apply(params, x, label)
    with pytest.raises(ValueError, match="class labels y are needed exactly when"):
        make(None).init(jax.random.key(0), x, label, y)


def test_mlp_takes_any_rank():
    net = MLP(width=16, num_blocks=1)
    for shape in [(2, 3), (2, 4, 2), (2, 2, 2, 1)]:
        x = jnp.ones(shape)
        out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), x, jnp.ones(2))
        assert out.shape == shape


@pytest.mark.parametrize(
    ("fields", "shape", "named"),
    [
        ({"block": "resnet"}, (1, 8, 8, 1), "block must be one of"),
        ({"progressive": "input"}, (1, 8, 8, 1), "progressive must be one of"),
        ({}, (1, 7, 8, 1), r"divisible by \(2, 2\)"),
        ({}, (1, 8, 8), "images"),
    ],
)
def test_wrong_use_is_named(fields, shape, named):
    # Not through a call: there the tests' own checks of shapes may be the first to refuse.
    with pytest.raises(ValueError, match=named):
        forced(TINY, **fields)._check(jnp.ones(shape), jnp.ones(1), None)


@pytest.mark.parametrize("name", ["fir_up", "fir_down"])
def test_on_a_tpu_wide_fir_is_a_grouped_convolution(name):
    """Chosen by platform and channels, with all derivatives; both forms are one function."""
    move = getattr(resample, name)
    both = lambda x: jax.jvp(jax.grad(lambda x: jnp.sin(move(x)).sum()), (x,), (x,))
    for channels in (resample.LANES, resample.LANES // 2):
        x = jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.bfloat16)
        for platform in ("cpu", "tpu"):
            text = jax.export.export(jax.jit(both), platforms=[platform])(x).mlir_module()
            wide = channels == resample.LANES and platform == "tpu"
            assert ("stablehlo.convolution" in text) == wide


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_slices_and_a_grouped_convolution_filter_alike(axes):
    x = np.random.default_rng(0).normal(size=(2, *(4, 6, 4)[:axes], 3)).astype(np.float32)
    for taps, pads, step, up in (
        ([0.1, 0.2, 0.3, 0.4], (2, 2), 1, True),
        ([0.5, 0.3, 0.2], (2, 1), 1, True),
        ([0.1, 0.2, 0.3, 0.4], (1, 1), 2, False),
        ([0.5, 0.3, 0.2], (1, 0), 2, False),
        ([0.1, 0.2, 0.3, 0.4], (2, 1), 1, False),
    ):
        slices, grouped = (
            jax.jit(functools.partial(form, taps=taps, pads=pads, step=step, up=up))(x)
            for form in (resample._slices, resample._grouped)
        )
        np.testing.assert_allclose(grouped, slices, atol=1e-6)
