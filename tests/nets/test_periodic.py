"""Periodic fields: networks see no edge, so a shift of the input shifts the output."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.nets import NCSNpp, SeriesUNet, resample
from score_jax.nets.layers import Conv, with_low_res
from score_jax.nets.periodic import continued, filter_reach, periodic_axes
from tests.helpers.nets import filled, forced

FAST = {"xla_backend_optimization_level": 0}
SMALL = {"channels": 4, "channel_mult": (1, 2), "num_blocks": 1}
AROUND = ("circular",)
# A network, the shape of x, and which axes are periodic.
NETS = {
    "fir": (
        NCSNpp(
            attention=(), fir=True, progressive="residual", progressive_input="residual",
            padding=AROUND, **SMALL,
        ),
        (8, 8, 1), (True, True),
    ),
    "series": (
        SeriesUNet(
            channels=4, channel_mult=(1,), groups=2, padding=AROUND, super_resolution=True
        ),
        (8, 2), (True,),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_shift_by_the_total_stride_shifts_the_output(name):
    net, shape, periodic = NETS[name]
    x = jax.random.normal(jax.random.key(1), shape)
    axes = range(len(shape) - 1)
    batch = jnp.stack([x, *(jnp.roll(x, 2, axis) for axis in axes)])
    low = {"low_res": batch[:, ::2]} if name == "series" else {}

    params = filled(net, batch, jnp.ones(len(batch)), **low)

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(x, low):
        return net.apply(params, x, jnp.ones(len(x)), **low)

    first, *shifted = run(batch, low)
    for axis, out in zip(axes, shifted, strict=True):
        error = np.abs(out - jnp.roll(first, 2, axis)).max() / np.abs(first).max()
        assert error < 1e-5 if periodic[axis] else error > 1e-3


def test_a_convolution_along_three_axes_goes_around_some_of_them():
    x = jax.random.normal(jax.random.key(1), (1, 3, 4, 2, 1))
    net = Conv(1, periodic=(True, False, True))
    params = net.init(jax.random.key(0), x)
    out = net.apply(params, x)
    for axis, periodic in ((1, True), (2, False), (3, True)):
        shifted = net.apply(params, jnp.roll(x, 1, axis))
        error = float(jnp.abs(shifted - jnp.roll(out, 1, axis)).max())
        assert error < 1e-5 if periodic else error > 1e-3
    halved = Conv(1, stride=2, padding=(0, 1), periodic=(False, True))
    image = x[:, 0, :, :, :].repeat(2, axis=2)
    params = halved.init(jax.random.key(0), image)
    shifted = halved.apply(params, jnp.roll(image, 2, 2))
    np.testing.assert_allclose(shifted, jnp.roll(halved.apply(params, image), 1, 2), atol=1e-6)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 3, 3, 2, 1)])
@pytest.mark.parametrize("size", [1, 3])
def test_continuing_is_seeing_copies_of_the_field(size, taps):
    """Along an axis as short as the filter, too: the middle of five copies."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 2)), jnp.float32)
    w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 1)), jnp.float32)
    with_w = {True: resample.fir_conv_up, False: resample.fir_conv_down}
    without = {True: resample.fir_up, False: resample.fir_down}
    for up in (True, False):
        move = (lambda x, up=up: with_w[up](x, w, taps)) if size > 1 else functools.partial(
            without[up], taps=taps
        )  # fmt: skip
        copies = move(jnp.tile(x, (1, 9, 1)))
        n = copies.shape[1] // 9
        found = continued(move, x, (True,), filter_reach(len(taps), size, up))
        np.testing.assert_allclose(found, copies[:, 4 * n : 5 * n], atol=1e-5)


def test_a_field_of_low_resolution_goes_on_around_the_edge():
    """Interpolated between the centres of the last and the first entry: three to one, and back."""
    low = jnp.array([0.0, 8.0])[None, :, None]
    wide = with_low_res(jnp.zeros((1, 8, 1)), low, True, (True,))[0, :, 1]
    np.testing.assert_allclose(wide, [3, 1, 1, 3, 5, 7, 7, 5])
    with pytest.raises(ValueError, match="divide"):
        with_low_res(jnp.zeros((1, 9, 1)), low, True, (True,))


def test_kinds_of_padding_are_checked():
    assert periodic_axes(("zeros",), 3) == ()
    assert periodic_axes(AROUND, 2) == (True, True)
    x = jnp.zeros((1, 8, 8, 1))
    for padding in (("circular",) * 3, ()):
        net = forced(NCSNpp(**SMALL), padding=padding)
        with pytest.raises(ValueError, match="padding"):
            jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones(1))
