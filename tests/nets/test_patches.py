"""Patches as channels: neighbours stay together, and U-Nets of patches begin and end with images."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.nets import NCSNpp
from score_jax.nets.layers import folded, unfolded
from tests.helpers.nets import filled

SMALL = {"channels": 4, "channel_mult": (1, 2), "num_blocks": 1, "attention": (), "dropout": 0.0}


@pytest.mark.parametrize("size", [(6,), (4, 6), (2, 4, 2)])
def test_patches_hold_neighbours_and_are_put_back(size):
    shape = (2, *size, 3)
    x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    cut = folded(x, 2)
    assert cut.shape == (2, *(n // 2 for n in size), 3 * 2 ** len(size))
    first, last = slice(2), slice(-2, None)
    ends = ((0, first, (0,)), (1, last, (-1,)))
    for example, part, place in ends:
        patch = x[(example, *[part] * len(size))]
        np.testing.assert_array_equal(cut[(example, *place * len(size))], patch.reshape(-1))
    np.testing.assert_array_equal(unfolded(cut, 2), x)
    assert folded(x, 1) is x and unfolded(x, 1) is x


def test_a_network_of_patches_is_that_of_their_channels():
    """It is the network without patches on the folded image, whose output is put together."""
    x, t = jax.random.normal(jax.random.key(1), (2, 4, 8, 1)), jnp.array([1.0, 500.0])
    net, plain = NCSNpp(**SMALL, patch=2), NCSNpp(**SMALL)
    params = filled(net, x, t)
    out = jax.jit(net.apply)(params, x, t)
    assert out.shape == x.shape
    want = unfolded(jax.jit(plain.apply)(params, folded(x, 2), t), 2)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("patch", "message"),
    [(0, "patch must be"), (3, r"divisible by \(6, 6\), because it is cut into patches of 3 and")],
)
def test_sizes_that_cannot_be_cut_are_refused(patch, message):
    net = NCSNpp(**SMALL, patch=patch)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
