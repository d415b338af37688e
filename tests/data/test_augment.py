"""Augmentation against images whose moved form is known, and the parts that crops cut out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import data

MOVE = jax.jit(lambda x, drawn: (data.augment(x, drawn), drawn.vector))


def moved(x, **parameters):
    """(x moved, the vector) for one image (h, w, c)."""
    given = {name: jnp.zeros(1) for name in data.Augmentation._fields}
    given |= {name: jnp.full(1, value, jnp.float32) for name, value in parameters.items()}
    drawn = data.Augmentation(**given)
    found, vector = MOVE(jnp.asarray(x)[None], drawn)
    return np.asarray(found[0]), np.asarray(vector[0])


def image(h, w):
    return np.random.default_rng(0).normal(size=(h, w, 2)).astype(np.float32)


def test_moves_whose_result_is_known():
    x = image(8, 8)
    same, vector = moved(x)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(vector, np.zeros(data.AUGMENT_SIZE))
    flipped, vector = moved(x, flip_x=1)
    np.testing.assert_array_equal(flipped, x[:, ::-1])
    np.testing.assert_array_equal(vector, np.eye(data.AUGMENT_SIZE)[0])
    # Shifts are in eighths of the image; the flip comes first.
    shifted, vector = moved(x, flip_y=1, shift_x=2, shift_y=-1)
    np.testing.assert_array_equal(shifted[:-1, 2:], x[::-1][1:, :-2])
    np.testing.assert_array_equal(shifted[-1, 2:], x[::-1][-1, :-2])  # mirrored at the edge
    np.testing.assert_array_equal(vector[[1, 7, 8]], [1, 2, -1])
    for size in (8, 7):
        turned, vector = moved(image(size, size), rotation=np.pi / 2)
        np.testing.assert_allclose(turned, np.rot90(image(size, size), -1), atol=1e-5)
    np.testing.assert_allclose(vector[3:5], [-1, 1], atol=1e-6)


def test_scaling_stretches_a_ramp():
    """2 to the power 0.2 a: a = 5 is a factor of 2 about the centre, which cubics render exactly."""
    across, down = np.meshgrid(np.arange(16.0) - 7.5, np.arange(16.0) - 7.5)
    x = np.stack([across, down], -1).astype(np.float32)
    inside = (slice(3, -3),) * 2
    wide, vector = moved(x, scale=5)
    np.testing.assert_allclose(wide, x / 2, atol=1e-5)
    assert vector[2] == 5
    # Along y by a factor of 2, across it by one half.
    far, vector = moved(x, anisotropy=5, axis=np.pi / 2)
    core = (inside[0], slice(6, -6))
    np.testing.assert_allclose(far[core], (x * [2, 0.5])[core], atol=1e-5)
    np.testing.assert_allclose(vector[5:7], [0, 5], atol=1e-5)


def test_draws_have_their_probabilities():
    some, none = (
        jax.jit(jax.vmap(lambda key, p=p: data.random_augmentation(key, p).vector))(
            jax.random.split(jax.random.key(0), 2000)
        )
        for p in (0.25, 0.0)
    )
    used = np.asarray(some != 0).mean(0)
    # The flip of x is always drawn, and a flip is no flip in half of the cases.
    np.testing.assert_allclose(used, [0.5, 0.125, *[0.25] * 7], atol=0.04)
    assert not np.asarray(none)[:, 1:].any()
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 2.0"):
        data.random_augmentation(jax.random.key(0), 2.0)


def test_crops_cut_the_same_part_out_of_all():
    x = jnp.arange(30.0).reshape(5, 6, 1)
    crop = jax.jit(jax.vmap(lambda k: data.random_crop(k, {"x": x, "half": x / 2}, (3, 4))))
    cut = crop(jax.random.split(jax.random.key(0), 200))
    assert cut["x"].shape == (200, 3, 4, 1)
    np.testing.assert_array_equal(cut["half"], cut["x"] / 2)
    # Every corner occurs, and the parts are whole.
    assert set(np.asarray(cut["x"][:, 0, 0, 0])) == {6 * i + j for i in range(3) for j in range(3)}
    np.testing.assert_array_equal(cut["x"][:, 2, 3, 0] - cut["x"][:, 0, 0, 0], 15.0)
    with pytest.raises(ValueError, match="size must be at most that of the image"):
        data.random_crop(jax.random.key(0), x, (6, 4))


def test_centres_keep_what_belongs_to_them():
    x = np.linspace(-1, 1, 4 * 30, dtype=np.float32).reshape(4, 5, 6, 1)
    pairs = data.Paired(data.from_arrays(x, np.arange(4) % 2), data.from_arrays(-x))
    source = data.Cropped(pairs, (3, 4))
    assert source.description.shape == (3, 4, 1) and list(data.labels_of(source)) == [0, 1, 0, 1]
    some = data.take(source, [2, 3])
    np.testing.assert_array_equal(some["x"], x[2:, 1:4, 1:5])
    np.testing.assert_array_equal(some["cond"], -some["x"])
    np.testing.assert_array_equal(source[2]["x"], some["x"][0])
    with pytest.raises(ValueError, match="size must be at most that of images"):
        data.Cropped(pairs, (6, 4))
