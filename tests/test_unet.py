"""The Improved DDPM and ADM U-Net: equal to the authors', in every form, with what it refuses."""

import jax
import numpy as np
import pytest

from tests.port_unet import load

PUBLISHED_KIND = ["iddpm_unet_additive", "iddpm_unet_scale_shift_class"]
VARIANTS = [
    "adm_class", "adm_half", "plain_resampling", "series", "series_conv", "volume", "upsampler",
    "upsampler_improved",
]  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_KIND + [f"unet_variants/{v}" for v in VARIANTS])
def test_parity_with_the_authors_network(name):
    net, params, inputs, theirs = load(name)
    out = jax.jit(net.apply)(params, **inputs)
    assert out.shape == theirs.shape
    worst = np.abs(out - theirs).max() / np.abs(theirs).max()
    assert worst < 5e-6
