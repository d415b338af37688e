"""What networks are given beside the noise input, vectors and fields; NCSN++ along one to three axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.nets import MLP, NCSNpp, SeriesUNet, UNet
from score_jax.nets.resample import fir_conv_down, fir_conv_up, fir_down, fir_up
from tests.helpers.nets import filled

TAPS = (1, 3, 3, 1)
SMALL = {"channels": 4, "channel_mult": (1, 2), "num_blocks": 1}
NETS = {
    "mlp": (MLP(width=8, num_blocks=1), (3,)),
    "series": (SeriesUNet(groups=2, channels=4, channel_mult=(1,)), (4, 2)),
    "ncsnpp_series": (
        NCSNpp(
            attention=(), dims=1, fir=True, progressive="output_skip",
            progressive_input="input_skip", **SMALL,
        ),
        (4, 2),
    ),
    "ncsnpp_volume": (
        NCSNpp(
            attention=(), dims=3, fir=True, progressive="residual", progressive_input="residual",
            **SMALL,
        ),
        (3, 2, 2, 1),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_output_depends_on_a_vector_and_a_field(name):
    """Three times the same x, of which the second has other conditions, one kind after the other."""
    net, shape = NETS[name]
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), shape)[None], (3, *shape))
    vector = jnp.array([[1.0, 0.0, 2.0]] * 3)
    fields = {} if name == "mlp" else {"low_res": jnp.cos(x)}
    made = net.clone(cond_size=3, **({"super_resolution": True} if fields else {}))

    params = filled(made, x, jnp.ones(3), vector, **fields)
    run = jax.jit(lambda vector, fields: made.apply(params, x, jnp.ones(3), vector, **fields))
    changed = jax.tree.map(lambda v: v.at[1].add(1), fields)
    for given in ((vector.at[1].add(1), fields), *([(vector, changed)] if fields else [])):
        out = np.asarray(run(*given))
        assert out.shape == x.shape
        np.testing.assert_allclose(out[0], out[2], rtol=1e-5, atol=1e-6)
        assert np.abs(out[0] - out[1]).max() > 1e-3


def test_a_network_refuses_what_it_is_not_conditioned_on():
    net, shape = NETS["mlp"]
    x, t = jnp.zeros((2, *shape)), jnp.ones(2)
    for made, y, named in (
        (net, jnp.ones((2, 3)), "cond_size is"),
        (net.clone(cond_size=3), None, "cond_size=3"),
        (net.clone(cond_size=3), jnp.ones((2, 2)), "of shape"),
        (net.clone(cond_size=3, num_classes=2), jnp.ones((2, 3)), "exclude each other"),
    ):
        with pytest.raises(ValueError, match=named):
            jax.eval_shape(made.init, jax.random.key(0), x, t, y)


@pytest.mark.slow
def test_the_vector_of_an_augmentation_is_zero_unless_given():
    """Beside classes, of three times the same x."""
    x, t, y = jnp.ones((3, 2, 2, 1)), jnp.ones(3), jnp.zeros(3, jnp.int32)
    small = {"channels": 4, "channel_mult": (1,), "num_blocks": 1, "dropout": 0.0}
    for net in (
        NCSNpp(num_classes=2, augment_size=9, attention=(), **small),
        UNet(num_classes=2, augment_size=9, attention_factors=(), groups=2, num_heads=1, **small),
    ):
        params = filled(net, x, t, y)

        @jax.jit
        def run(vector, net=net, params=params):
            return net.apply(params, x, t, y), net.apply(params, x, t, y, augment=vector)

        without, given = jax.device_get(run(jnp.zeros((3, 9)).at[1, 4].set(1.0)))
        np.testing.assert_allclose(given[::2], without[::2], rtol=1e-6)
        assert np.abs(given[1] - without[1]).max() > 1e-4
        with pytest.raises(ValueError, match="augment_size=0"):
            jax.eval_shape(
                net.clone(augment_size=0).init, jax.random.key(0), x, t, y, augment=jnp.ones((3, 9))
            )


def test_filters_are_separable_and_leave_the_first_of_three_axes_alone():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(1, n, 1)), jnp.float32) for n in (6, 4))
    plane = a[:, :, None] * b[:, None]
    slices = jnp.stack([plane, 2 * plane, -plane], axis=1)
    for move in (fir_up, fir_down):
        filtered = jax.jit(lambda *all_of, move=move: [move(x, TAPS) for x in all_of])
        a_, b_, plane_, slices_ = jax.device_get(filtered(a, b, plane, slices))
        both = a_[:, :, None] * b_[:, None]
        np.testing.assert_allclose(plane_, both, atol=1e-6)
        np.testing.assert_allclose(slices_[:, 1], 2 * both, atol=1e-6)


@pytest.mark.parametrize("move", [fir_conv_down, fir_conv_up])
def test_filtered_convolutions_of_a_volume_are_those_of_its_slices(move):
    """With a kernel that looks at one slice alone."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 6, 2)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
    kernel = np.zeros((3, *w.shape), np.float32)
    kernel[1] = w
    volume = np.asarray(jax.jit(lambda x, w: move(x, w, TAPS))(x, kernel))
    each = jax.jit(lambda x, w: [move(x[:, i], w, TAPS) for i in range(3)])(x, w)
    for i in range(3):
        np.testing.assert_allclose(volume[:, i], each[i], rtol=2e-5, atol=1e-5)
