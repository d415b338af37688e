"""The Improved DDPM and ADM U-Net: equal to the authors', in every form, with what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.port_unet import load, nested


@pytest.mark.parametrize("name", ["iddpm_unet_additive", "iddpm_unet_scale_shift_class"])
def test_parity_with_the_authors_network(name):
    net, state, arrays = load(name)
    x, label = jnp.asarray(arrays["x"]), jnp.asarray(arrays["t"])
    y = jnp.asarray(arrays["y"], jnp.int32) if "y" in arrays else None
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, label, y)
    params = nested(state, shapes)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    out = jax.jit(net.apply)(params, x, label, y)
    worst = np.abs(out - arrays["out"]).max() / np.abs(arrays["out"]).max()
    print(worst)
    assert worst < 4e-6
