"""Pictures of data of any shape: one form that fits, and grids with names."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from score_jax._check import check
from score_jax.viz.grids import (
    as_images,
    captioned,
    how_shown,
    image_grid,
    is_image,
    labelled,
    named_ranges,
    own_ranges,
    usual_scale,
    value_range,
    with_bar,
)
from score_jax.viz.plots import scatter_2d, series, vectors

MOST_PIXELS = 4096**2  # of a grid: of larger images fewer are shown
MOST_NAMES = 40  # numbers of channels above a grid


class _Shades(NamedTuple):
    """Images with the values of black and white, whether a bar is to show these, and a note."""

    images: np.ndarray
    range: tuple[float, float]
    bar: bool = False
    note: str = ""


def _shaded(images: np.ndarray, range: tuple[float, float] | None) -> _Shades:
    """Images (b, h, w, c) with a range, by default that of their values.

    Channels whose values spread much less than those of all have ranges of their own.
    """
    if range is not None:
        return _Shades(images, range)
    own = [] if images.shape[3] in (1, 3) else own_ranges(images)
    if not own:
        return _Shades(images, value_range(images), True)
    bounds = np.asarray(own)
    scaled = (images - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])
    return _Shades(scaled, (0.0, 1.0), False, f"black to white: {named_ranges(own)}")


def picture(
    x: ArrayLike,
    *,
    range: tuple[float, float] | None = None,
    reference: ArrayLike | None = None,
    columns: int | None = None,
) -> Image.Image:
    """Draw data (b, *d) of any shape, in the form that fits: see the module.

    range: the values of black and white of images, and those of the axes of series, (low, high);
    None: those of the data, for images shown by a bar. reference: data to compare points and lines
    with. A line below the picture says where only some examples or slices of the data are shown.

    Raises ValueError for empty data, and ImportError where lines and points lack matplotlib.

    >>> save_image(picture(samples.x, reference=data.x), "samples.png")
    """
    x = np.asarray(x)
    check("x", x.shape, x.ndim >= 2 and x.size > 0, "data (b, *d), not empty")
    if x.shape[1:] == (2,):
        return scatter_2d(x, reference)
    if x.ndim == 2:
        return vectors(x, reference)
    if not is_image(x.shape[1:]):
        return series(x, range=range)
    images = as_images(x)
    n, h, w, c = images.shape
    parts, scale = (1 if c in (1, 3) else c), usual_scale(h, w)
    shown = max(1, min(n, MOST_PIXELS // (h * w * scale**2 * parts)))
    shades = _shaded(images[:shown], range)
    columns = min(shown, columns or int(np.ceil(np.sqrt(shown / parts))))
    grid = image_grid(shades.images, range=shades.range, columns=columns, scale=scale)
    if parts > 1 and parts * columns <= MOST_NAMES:
        grid = labelled(grid, columns=[str(i) for i in np.arange(parts)] * columns)
    grid = with_bar(grid, shades.range) if shades.bar else grid
    some = "" if shown == n else f"the first {shown} of {n} examples"
    return captioned(grid, _joined(how_shown(x.shape[1:]), shades.note, some))


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def named_grid(
    x: ArrayLike,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    range: tuple[float, float] | None = None,
    bar: bool | None = None,
) -> Image.Image:
    """A grid of examples (n, k, *d) of two or more axes each, in n rows of k, with their names.

    range: the values of black and white; None: those of the data. bar: whether a bar shows them, by
    default where they are those of the data. A line below says which slices and channels are shown.
    Raises ValueError for data of one axis.

    >>> named_grid(np.stack([seen, restored, true], axis=1), columns=["seen", "restored", "true"])
    """
    x = np.asarray(x)
    check("x", x.shape, x.ndim >= 4 and x.size > 0, "(n, k, *d), two or more axes d, not empty")
    images = as_images(x.reshape(-1, *x.shape[2:]))
    shades = _shaded(images, range)
    grid = image_grid(shades.images, range=shades.range, columns=x.shape[1], scale=None)
    grid = labelled(grid, rows=rows, columns=columns)
    grid = with_bar(grid, shades.range) if (shades.bar if bar is None else bar) else grid
    return captioned(grid, _joined(how_shown(x.shape[2:]), shades.note))
