"""Networks that attend at sizes say so where a trained attention is left out."""

import jax
import jax.numpy as jnp
import pytest

from score_jax.nets import NCSNpp


@pytest.mark.slow
def test_a_trained_attention_that_is_left_out_is_said():
    net = NCSNpp(channels=8, channel_mult=(1, 1), num_blocks=1, attention=(4,))
    shapes = lambda size: (jnp.zeros((1, size, size, 1)), jnp.ones(1))
    params = jax.eval_shape(net.init, jax.random.key(0), *shapes(8))
    jax.eval_shape(net.apply, params, *shapes(8))
    with pytest.warns(
        UserWarning, match=r"leaves out (enc1_0|dec1)_attention, .*attention=\(4,\)"
    ) as found:
        jax.eval_shape(net.apply, params, *shapes(12))
    assert {str(w.message)[-1] for w in found} == {"6"}
    untrained = jax.eval_shape(net.init, jax.random.key(0), *shapes(12))
    jax.eval_shape(net.apply, untrained, *shapes(12))
