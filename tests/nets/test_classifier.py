"""The classifier of noisy images: equal to the authors', its pools, its gradients, what it refuses."""

import jax
import numpy as np
import pytest

from tests.helpers.port_unet import load

POOLS = ["adaptive", "attention", "spatial", "spatial_v2"]


@pytest.mark.parametrize("pool", POOLS)
def test_parity_with_the_authors_classifier(pool):
    net, params, inputs, theirs = load(f"unet_variants/classifier_{pool}")
    assert net.pool == pool
    out = jax.jit(net.apply)(params, **inputs)
    assert out.shape == theirs.shape
    worst = np.abs(out - theirs).max() / np.abs(theirs).max()
    assert worst < 5e-6
