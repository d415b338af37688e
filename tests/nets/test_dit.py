"""DiT: the published size, patches and places, and that it starts as the identity and learns."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.nets import DIT_SIZES, DiT
from score_jax.nets.dit import DiTBlock, positions

FAST = {"xla_backend_optimization_level": 0}


def test_the_largest_published_network_has_its_size():
    """DiT-XL/2 on latents, with learned variances: 675,129,632 with its 256 fixed places there."""
    net = DiT(**DIT_SIZES["XL"], out_channels=8, num_classes=1001)
    x, y = jnp.zeros((1, 32, 32, 4)), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1), y)
    count = sum(math.prod(v.shape) for v in jax.tree.leaves(shapes))
    assert count + 256 * 1152 == 675_129_632


def test_places_are_sines_and_cosines_of_the_last_axis_first():
    found = positions((2, 3), 8).reshape(2, 3, 8)
    for i in range(2):
        for j in range(3):
            want = [f(k * w) for k in (j, i) for f in (np.sin, np.cos) for w in (1.0, 0.01)]
            np.testing.assert_allclose(found[i, j], want, atol=1e-6)
    with pytest.raises(ValueError, match="width must be a multiple of 6"):
        positions((2, 2, 2), 8)


def shaken(params):
    """Without zeros: every block starts as the identity."""
    return jax.tree.map(
        lambda p: p + 0.3 * jnp.cos(jnp.arange(p.size) ** 1.5).reshape(p.shape), params
    )


@pytest.mark.slow
def test_it_starts_with_zero_and_tokens_see_one_another_their_places_and_what_is_given():
    """Five times the same flat x, of which one has another noise input, class, or far-away corner."""
    net = DiT(width=8, depth=1, num_heads=2, num_classes=3, super_resolution=True, out_channels=2)
    x = jnp.ones((5, 4, 4, 1)).at[1, 3, 3].add(1)
    t = jnp.ones(5).at[2].set(9.0)
    y = jnp.zeros(5, jnp.int32).at[3].set(2)
    low = jnp.zeros((5, 2, 2, 1)).at[4, 1, 1].set(1)
    block = DiTBlock(2, 4.0, 0.0)
    tokens, c = jax.random.normal(jax.random.key(1), (2, 3, 8)), jnp.ones((2, 8))

    @jax.jit
    def run(key):
        own = block.apply(block.init(key, tokens, c), tokens, c)
        params = net.init(key, x, t, y, low_res=low)
        apply = lambda params: net.apply(params, x, t, y, low_res=low)
        return own, apply(params), apply(shaken(params))

    own, first, out = run.lower(jax.random.key(0)).compile(FAST)(jax.random.key(0))
    np.testing.assert_array_equal(own, tokens)
    assert first.shape == (5, 4, 4, 2) and not first.any()
    for other in out[1:]:
        assert float(jnp.abs(other[:2, :2] - out[0, :2, :2]).max()) > 1e-4
    # Without places, all patches of one value would be alike.
    assert float(jnp.abs(out[0, :2, :2] - out[0, 2:, 2:]).max()) > 1e-4


@pytest.mark.parametrize(
    ("fields", "shape", "named"),
    [
        ({"patch": 3}, (1, 8, 8, 1), "multiple of patch=3"),
        ({"num_heads": 3}, (1, 8, 8, 1), "attention heads"),
        ({"dims": 1}, (1, 8, 8, 1), "of shape"),
        ({"dropout": 1.0}, (1, 8, 8, 1), "dropout"),
        ({"depth": 0}, (1, 8, 8, 1), "depth"),
    ],
)
def test_wrong_fields_are_named(fields, shape, named):
    net = DiT(width=16, depth=1, num_heads=2).clone(**fields)
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape), jnp.ones(1))
