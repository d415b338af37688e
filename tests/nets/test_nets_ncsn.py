"""NCSN and NCSNv2: equal to the authors' JAX program, their parts by hand, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from score_jax.nets import NCSN, NCSNv2, ncsnv2
from score_jax.nets import refinenet as rn
from score_jax.nets.layers import Conv
from tests.helpers.golden_files import golden
from tests.helpers.nets import filled, forced
from tests.helpers.port_flax import port

TABLE = (50.0, 0.01, 10)
NETS = {
    "ncsn": NCSN(channels=4, scale_by_sigma=True, sigmas=TABLE),
    "ncsnv2_64": NCSNv2(channels=4, sigmas=TABLE),
    "ncsnv2_128": NCSNv2(channels=4, variant=128, sigmas=TABLE),
    "ncsnv2_256": NCSNv2(channels=4, variant=256, sigmas=TABLE),
}
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("ncsnv2_128", "ncsnv2_256")]


def load(name):
    """(module, parameters, x, label, output) of one network of refinenets.npz."""
    arrays = {
        k.removeprefix(f"{name}/"): v
        for k, v in golden("refinenets").items()
        if k.startswith(f"{name}/")
    }
    tree = {k.removeprefix("params/"): v for k, v in arrays.items() if k.startswith("params/")}
    tree = traverse_util.unflatten_dict(tree, sep="/")
    x, label, out = (jnp.asarray(arrays[f"net/{k}"]) for k in ("x", "label", "out"))
    params = port(NETS[name], tree, x.shape[1])
    return NETS[name], jax.tree.map(lambda v: np.asarray(v, np.float32), params), x, label, out


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2_64", *SLOW])
def test_parity_with_the_authors_jax_program(name):
    """Not square; labels are indices 0 and 3 of ten noise levels."""
    net, params, x, label, expected = load(name)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, label)
    assert jax.tree.map(lambda v: v.shape, shapes) == jax.tree.map(lambda v: v.shape, params)
    out = jax.jit(net.apply)(params, x, label)
    assert float(jnp.abs(out - expected).max() / jnp.abs(expected).max()) <= 5e-6


@pytest.mark.parametrize("unbiased", [False, True])
def test_instance_norm_plus_by_hand(unbiased):
    """Two channels (1, 3) and (4, 8): means 2 and 6, deviations 1 and 2, of the means 2 or sqrt(8)."""
    x = jnp.array([[[[1.0, 4.0], [3.0, 8.0]]]])
    parameters = {"gamma": [1.0, 3.0], "alpha": [1.0, 2.0], "beta": [0.0, 10.0]}
    parameters = {k: jnp.array(v) for k, v in parameters.items()}
    out = rn.InstanceNormPlus(unbiased=unbiased).apply({"params": parameters}, x)
    s = np.sqrt(0.5) if unbiased else 1.0  # of the channels' means, off theirs by -2 and 2
    first, second = [-1 - s, 1 - s], [3 * (-1 + 2 * s) + 10, 3 * (1 + 2 * s) + 10]
    np.testing.assert_allclose(out[0, 0], np.stack([first, second], 1), atol=2e-4)

    rows = jnp.stack([jnp.arange(6.0), jnp.array([1.0, 3.0, 1.0, 2.0, 0.0, 10.0])])
    told = rn.InstanceNormPlus(levels=2, unbiased=unbiased)
    again = told.apply({"params": {"embedding": rows}}, x, jnp.array([1]))
    np.testing.assert_allclose(again, out, rtol=1e-6)
    other = told.apply({"params": {"embedding": rows}}, x, jnp.array([0]))
    assert float(jnp.abs(other - out).max()) > 1


def test_bilinear_resizing():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 2))
    theirs = jax.image.resize(x, (2, 6, 12, 2), "bilinear")
    np.testing.assert_allclose(rn.bilinear(x, 6, 12, False), theirs, rtol=1e-5, atol=1e-6)
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 3)[None, :, None, None], (1, 3, 2, 1))
    aligned = rn.bilinear(ramp, 6, 2, True)  # a straight line stays one, ends included
    np.testing.assert_allclose(aligned[0, :, 0, 0], np.linspace(0, 1, 6), atol=1e-6)
    np.testing.assert_array_equal(rn.bilinear(x, 3, 4, True), x)


def test_dilated_convolution_sees_places_apart():
    x = jnp.zeros((1, 7, 7, 1)).at[0, 3, 3, 0].set(1.0)
    params = {"params": {"kernel": jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)}}
    out = Conv(1, use_bias=False, spacing=2).apply(params, x)[0, :, :, 0]
    np.testing.assert_array_equal(out[1::2, 1::2], np.arange(9, 0, -1.0).reshape(3, 3))
    assert float(jnp.abs(out).sum()) == 45.0


def test_pools_are_those_of_five_by_five():
    """Maxima inside the image; means with zeros around."""
    x = jax.random.normal(jax.random.key(0), (1, 6, 5, 1))
    wide = np.pad(np.asarray(x), ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=np.nan)
    seen = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), axis=(1, 2))
    np.testing.assert_allclose(rn.pool(x, None), np.nanmax(seen, axis=(4, 5)))
    means = np.nansum(seen, axis=(4, 5)) / 25
    np.testing.assert_allclose(rn.pool(x, 3), means, rtol=1e-5, atol=1e-6)


def test_fusion_takes_the_size_of_the_finest_and_its_own_width():
    style = rn.Style(jax.nn.elu, 3, True, None)
    block = rn.RefineBlock(style, 6, end=True)
    xs, index = [jnp.ones((1, 8, 4, 2)), jnp.ones((1, 4, 2, 5))], jnp.zeros(1, int)
    out, tree = jax.eval_shape(
        lambda key: block.init_with_output(key, xs, index), jax.random.key(0)
    )
    assert out.shape == (1, 8, 4, 6)
    assert tree["params"]["fuse"]["conv1"]["kernel"].shape == (3, 3, 5, 6)
    assert {f"conv{i}_{j}" for i in (1, 2, 3) for j in (1, 2)} < set(tree["params"]["output"])
    assert set(tree["params"]["adapt1"]["norm2_1"]) == {"embedding"}


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (NCSN(num_levels=10), 34_428_675),
        (NCSNv2(), 33_970_563),
        (NCSNv2(variant=128), 83_445_379),
        (NCSNv2(variant=256), 94_132_611),
    ],
    ids=["NCSN", "NCSNv2", "128", "256"],
)
def test_published_sizes(net, count):
    """As many parameters as the authors' JAX program has (128 channels, three colours)."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1, int))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2_64"])
def test_precision_and_remat_leave_the_parameters_alone(name):
    net, params, x, label, _ = load(name)
    for fields in ({"dtype": jnp.bfloat16, "remat": True}, {"activation": jax.nn.silu}):
        out, tree = jax.eval_shape(
            lambda key, f=fields: net.clone(**f).init_with_output(key, x, label), jax.random.key(0)
        )
        assert jax.tree.map(lambda v: (v.shape, v.dtype), tree) == jax.tree.map(
            lambda v: (v.shape, v.dtype), params
        )
        assert (out.shape, out.dtype) == (x.shape, jnp.float32)


@pytest.mark.slow
def test_remat_leaves_the_gradients_alone_and_half_precision_is_near(monkeypatch):
    """Of two of the four levels, which have every kind of block."""
    monkeypatch.setitem(ncsnv2.STAGES, 64, ((("2", 2, 1),), (("1", 2), ("4", 1))))
    net, label = NETS["ncsn"], jnp.array([0, 3])
    x = jax.random.normal(jax.random.key(1), (2, 8, 4, 3))
    params = filled(net, x, label)

    def loss(params, net):
        out = net.apply(params, x, label, train=True)
        return jnp.square(out).sum(), out

    grad = jax.value_and_grad(loss, has_aux=True)
    nets = [net, net.clone(remat=True)]
    ((_, out), plain), ((_, _), again) = jax.jit(lambda p: [grad(p, n) for n in nets])(params)
    half = jax.jit(lambda p: loss(p, net.clone(dtype=jnp.bfloat16))[1])(params)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 * largest)
    assert 1e-6 < float(jnp.abs(half - out).max() / jnp.abs(out).max()) < 0.1


def test_original_is_narrower_in_one_place():
    """The papers' PyTorch programs: the third refining block of the smallest network."""
    x, label = jnp.ones((1, 8, 8, 1)), jnp.zeros(1, int)
    trees = [
        jax.eval_shape(NCSNv2(channels=4, original=o).init, jax.random.key(0), x, label)["params"]
        for o in (False, True)
    ]
    widths = [t["refine3"]["fuse"]["conv0"]["kernel"].shape[3] for t in trees]
    assert widths == [8, 4]
    assert set(trees[0]) == set(trees[1])


@pytest.mark.parametrize(
    ("net", "shape", "named"),
    [
        (
            forced(NCSNv2(), variant=32),
            (1, 8, 8, 1),
            r"variant must be one of \(64, 128, 256\), got 32",
        ),
        (NCSNv2(channels=0), (1, 8, 8, 1), "channels must be at least 1, got 0"),
        (NCSNv2(variant=256), (1, 8, 12, 1), r"divisible by \(8, 8\)"),
        (NCSNv2(sigmas=(1.0, 0.0, 3)), (1, 8, 8, 1), "sigmas must be"),
        (NCSN(num_levels=0), (1, 8, 8, 1), "num_levels must be at least 1, got 0"),
        (NCSN(scale_by_sigma=True), (1, 8, 8, 1), "needs sigmas of num_levels=10, got None"),
    ],
)
def test_wrong_use_is_named(net, shape, named):
    with pytest.raises(ValueError, match=named):
        net._check(jnp.ones(shape), jnp.zeros(1, int), None)
