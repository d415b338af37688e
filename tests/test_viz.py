"""Pictures: every pixel where it belongs."""

import numpy as np
import pytest
from PIL import Image

from score_jax import viz


def test_to_uint8_rounds_and_clips():
    x = np.array([-2.0, -1.0, 0.0, 0.999, 1.0, 5.0, np.nan])
    np.testing.assert_array_equal(viz.to_uint8(x), [0, 0, 128, 255, 255, 255, 0])
    np.testing.assert_array_equal(viz.to_uint8(np.array([0.0, 0.5]), (0.0, 1.0)), [0, 128])


def test_grid_puts_images_row_by_row():
    x = np.linspace(-1, 1, 5)[:, None, None, None] * np.ones((5, 2, 3, 1))
    grid = np.asarray(viz.image_grid(x, columns=3, scale=2, gap=1))
    assert grid.shape == (2 * (4 + 1) + 1, 3 * (6 + 1) + 1, 3)
    for i, value in enumerate(viz.to_uint8(x[:, 0, 0, 0])):
        row, column = divmod(i, 3)
        cell = grid[1 + row * 5 : 5 + row * 5, 1 + column * 7 : 7 + column * 7]
        assert (cell == value).all()
    assert (grid[6:, 15:] == viz.GAP[0]).any()  # the empty sixth cell shows the ground


def test_strip_is_rows_of_frames():
    frames = np.zeros((4, 2, 3, 3, 1))
    frames[2, 1] = 1.0
    image = np.asarray(viz.strip(frames, gap=0))
    assert image.shape == (6, 12, 3)
    assert (image[3:, 6:9] == 255).all() and (image[:3] == 128).all()


def test_titles_and_colours():
    red = np.zeros((1, 4, 4, 3)) + np.array([1.0, -1.0, -1.0])
    grid = viz.image_grid(red, scale=4)
    both = viz.side_by_side([grid, grid], ["one", "two"])
    assert both.width > 2 * grid.width and both.height > grid.height
    assert (np.asarray(grid)[4, 4] == [255, 0, 0]).all()


def test_saved_whole(tmp_path):
    image = viz.image_grid(np.zeros((1, 2, 2, 1)))
    viz.save_image(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert read.size == image.size
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(OSError):
        viz.save_image(image, tmp_path / "none" / "a.png")


def test_curves_and_points_draw_ink():
    curve = np.asarray(viz.loss_curve(np.arange(50), 1 / (1.0 + np.arange(50))))
    points = np.asarray(viz.scatter_2d(np.random.default_rng(0).normal(size=(50, 2)), np.eye(2)))
    for picture in (curve, points):
        assert picture.ndim == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_smooth_keeps_constants_and_ends():
    np.testing.assert_allclose(viz.smooth(np.ones(7), 3), 1)
    np.testing.assert_allclose(viz.smooth([0.0, 3.0, 6.0], 3), [1.5, 3.0, 4.5])
    assert len(viz.smooth([1.0, 2.0], 5)) == 2


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="1 or 3"):
        viz.image_grid(np.zeros((2, 4, 4, 2)))
    with pytest.raises(ValueError, match="low < high"):
        viz.to_uint8(np.zeros(1), (1.0, 0.0))
    with pytest.raises(ValueError, match="at least 1"):
        viz.image_grid(np.zeros((2, 4, 4, 1)), columns=0)
    with pytest.raises(ValueError, match="frames"):
        viz.strip(np.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="titles"):
        viz.side_by_side([], [])
    with pytest.raises(ValueError, match="losses"):
        viz.loss_curve([1], [1.0])
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        viz.scatter_2d(np.zeros((3, 3)))
