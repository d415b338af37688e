"""Pictures: every pixel where it belongs."""

import numpy as np
import pytest
from PIL import Image

from score_jax import viz
from score_jax.viz.grids import round_values
from score_jax.viz.pictures import MOST_PIXELS


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
    stacked = viz.side_by_side([grid] * 3, ["a", "b", "c"], columns=2)
    assert stacked.height == 2 * both.height and stacked.width <= both.width
    assert (np.asarray(grid)[4, 4] == [255, 0, 0]).all()


def test_saved_whole(tmp_path):
    image = viz.image_grid(np.zeros((1, 2, 2, 1)))
    viz.save_image(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert read.size == image.size
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(OSError):
        viz.save_image(image, tmp_path / "none" / "a.png")


SHAPES = [
    (1,),
    (2,),
    (7,),
    (30, 2),
    (30, 12),
    (8, 8, 1),
    (8, 8, 2),
    (8, 8, 5),
    (4, 8, 8, 1),
    (3, 4, 6, 6, 2),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_data_of_every_shape_have_a_picture(shape):
    x = np.random.default_rng(0).normal(size=(5, *shape))
    reference = x[:3] if len(shape) == 1 else None
    image = np.asarray(viz.picture(x, reference=reference))
    assert image.ndim == 3 and len(np.unique(image.reshape(-1, 3), axis=0)) > 20


def test_channels_stand_side_by_side_and_volumes_show_their_middle():
    x = np.linspace(-1, 1, 5) * np.ones((2, 3, 4, 5))
    grid = np.asarray(viz.image_grid(viz.as_images(x), columns=1, scale=2, gap=1))
    # Gaps of 3 around the examples, and lines of 1 between the channels.
    assert grid.shape == (2 * (6 + 3) + 3, 5 * 8 + 4 + 6, 3)
    for k, value in enumerate(viz.to_uint8(x[0, 0, 0])):
        left = 3 + 9 * k
        assert (grid[12:18, left : left + 8] == value).all()
        assert k == 4 or (grid[12:18, left + 8] == viz.GAP).all()
    volume = np.arange(2 * 5 * 3 * 4).reshape(2, 5, 3, 4, 1)
    np.testing.assert_array_equal(viz.as_images(volume), volume[:, 2])
    assert viz.as_images(np.zeros((2, 28, 28))).shape == (2, 28, 28, 1)
    assert viz.how_shown((8, 8, 1)) == viz.how_shown((28, 28)) == ""
    assert "2 of 0 to 4 on axis 0" in viz.how_shown((5, 3, 4, 1))
    assert "channels 0 to 4" in viz.how_shown((3, 4, 5))
    with pytest.raises(ValueError, match="two or more axes"):
        viz.as_images(np.zeros((2, 3)))


def test_names_of_rows_and_columns_are_in_the_picture():
    grid = viz.image_grid(np.zeros((6, 8, 8, 1)), columns=3, scale=None)
    assert grid.width == 3 * 66 + 2  # 64 pixels an image, and gaps
    named = viz.labelled(grid, columns=["measured", "restored", "truth"], rows=["0", "1"])
    assert named.width > grid.width and named.height == grid.height + 24
    assert (np.asarray(named)[:24] < 128).any() and (np.asarray(named)[30:, :14] < 128).any()
    assert viz.labelled(grid).size == grid.size
    bar = np.asarray(viz.with_bar(grid, (-2.0, 3.0)))
    assert bar[4, grid.width + 18, 0] == 255 and bar[4 + 125, grid.width + 18, 0] == 0
    assert viz.captioned(grid, "") is grid and viz.captioned(grid, "a").height > grid.height


def test_a_bar_has_round_values():
    assert round_values(0.0, 6.75) == [0, 2, 4, 6] and round_values(0.0, 16.0) == [0, 5, 10, 15]
    assert round_values(-1.93, 2.1) == [-1, 0, 1, 2]
    for low, high in ((-1.0, 1.0), (0.0, 1.45e-7), (-3e4, 7.1), (999.0, 1000.2)):
        found = round_values(low, high)
        assert 3 <= len(found) <= 6 and low <= found[0] and found[-1] <= high


def test_what_is_left_out_of_a_picture_is_said_below_it():
    plain = viz.picture(np.zeros((4, 8, 8, 1)), range=(-1, 1))
    assert viz.picture(np.zeros((4, 5, 8, 8, 1)), range=(-1, 1)).height > plain.height + 20
    large = viz.picture(np.zeros((99, 800, 700, 1)), range=(-1, 1))
    assert large.height * large.width < 1.1 * MOST_PIXELS
    columns = ["measured", "restored", "truth"]
    table = viz.named_grid(np.zeros((2, 3, 5, 8, 8, 2)), rows=["0", "1"], columns=columns)
    assert table.width > 3 * 2 * 64 + 86  # two channels of each, and a bar
    units = np.random.default_rng(0).normal(size=(4, 8, 8, 2)) * np.array([1.0, 100.0])
    grey = np.asarray(viz.picture(units).convert("L"))[30:90, 10:70]
    assert len(np.unique(grey)) > 40  # the small channel is not one grey
    waves = np.sin(np.arange(60)).reshape(2, 30, 1) * np.ones(2)
    assert viz.series(waves * [1, 100]).height > viz.series(waves).height  # a note below
    with pytest.raises(ValueError, match="x must be"):
        viz.named_grid(np.zeros((2, 3, 4)))


def test_animations(tmp_path):
    frames = [viz.image_grid(np.full((1, 7, 7, 1), v)) for v in np.linspace(-1, 1, 4)]
    viz.save_animation(frames, tmp_path / "a.gif", seconds=0.4)
    with Image.open(tmp_path / "a.gif") as read:
        assert read.n_frames == 4 and read.size == frames[0].size
    with pytest.raises(ValueError, match=r"path must be a \.gif or an \.mp4"):
        viz.save_animation(frames, tmp_path / "a.avi")
    with pytest.raises(ValueError, match="images must be at least one"):
        viz.save_animation([], tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.filterwarnings("ignore:os.fork")
def test_films(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    frames = [viz.image_grid(np.full((1, 7, 7, 1), v)) for v in (-1, 1)]
    viz.save_animation(frames, tmp_path / "a.mp4", seconds=0.4)
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


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
    with pytest.raises(ValueError, match=r"images \(b, h, w, c\)"):
        viz.image_grid(np.zeros((2, 4, 4)))
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
