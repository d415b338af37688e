"""Resizings against the programs that define them, and closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from score_jax.metrics import DINO_RESIZINGS, INCEPTION_RESIZINGS
from score_jax.metrics.resize import (
    antialiased_cubic_matrix,
    cubic_matrix,
    half_pixel_matrix,
    resize,
    resize_bytes,
    tf1_matrix,
)
from tests.golden.make_metrics import COLUMNS, RESIZED, ROWS, images
from tests.helpers import ROOT

GOLDEN = np.load(ROOT / "tests" / "golden" / "metrics.npz")
MATRICES = (
    tf1_matrix, half_pixel_matrix, antialiased_cubic_matrix,
    lambda size, new: cubic_matrix(size, new, size / new),
)  # fmt: skip


@pytest.mark.parametrize("size", RESIZED)
def test_resizings_are_those_of_their_programs(size):
    """torch-fidelity, torch, clean-fid, EDM2's call of torch to a rounding; Pillow bit for bit."""
    x = jnp.asarray(images(size))
    found = {name: resizing.apply(x) for name, resizing in INCEPTION_RESIZINGS.items()}
    found["edm2"] = resize(x, antialiased_cubic_matrix, 224)
    for name, value in found.items():
        want = GOLDEN[f"resized/{name}/{size}"]
        got = np.asarray(value)[:, ROWS, COLUMNS]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())
    got = np.asarray(resize_bytes(x, 224))[:, ROWS, COLUMNS]
    np.testing.assert_array_equal(got, GOLDEN[f"resized/pillow/{size}"])


def test_bytes_are_resized_as_by_the_pillow_that_is_installed():
    x = np.random.default_rng(3).integers(0, 256, (1, 19, 301, 3), dtype=np.uint8)
    want = np.asarray(Image.fromarray(x[0]).resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(resize_bytes(jnp.asarray(x), 224))[0], want)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("new", [5, 12, 29])
def test_a_constant_stays_and_the_same_size_is_the_identity(matrix, new):
    np.testing.assert_allclose(matrix(12, new).sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(matrix(new, new), np.eye(new), atol=1e-6)


def test_a_ramp_shows_where_the_pixels_of_each_convention_lie():
    """x = 0, 1, ..., 7 to 16: tf1 has i / 2 up to the edge, half pixels (i + 0.5) / 2 - 0.5."""
    ramp, i = np.arange(8.0), np.arange(16)
    np.testing.assert_allclose(tf1_matrix(8, 16) @ ramp, np.minimum(i / 2, 7))
    want = np.clip((i + 0.5) / 2 - 0.5, 0, 7)
    np.testing.assert_allclose(half_pixel_matrix(8, 16) @ ramp, want)
    # Keys' kernel with a = -0.5 keeps ramps, away from the edges.
    np.testing.assert_allclose((antialiased_cubic_matrix(8, 16) @ ramp)[4:12], want[4:12])


def test_range_and_normalization():
    """0 and 255 of every resizing: -1 and 127/128 (or 1), and ImageNet's normalization."""
    ends = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1) * jnp.ones((1, 3, 3, 3), jnp.uint8)
    for name, high in (("tf1", 127 / 128), ("pytorch_fid", 1.0), ("clean", 127 / 128)):
        out = np.asarray(INCEPTION_RESIZINGS[name].apply(ends))
        np.testing.assert_allclose(out[0], -1, atol=1e-6)
        np.testing.assert_allclose(out[1], high, atol=1e-6)
    for resizing in DINO_RESIZINGS.values():
        out = np.asarray(resizing.apply(ends))
        np.testing.assert_allclose(
            out[0, 0, 0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], 1e-5
        )
        np.testing.assert_allclose(out[1, 0, 0, 0], (1 - 0.485) / 0.229, rtol=1e-5)
