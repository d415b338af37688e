"""Grids of images, by Pillow alone: pixels, names of rows and columns, a bar of values, a caption."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from score_jax._check import check, check_interval

PAPER = (255, 255, 255)
GAP = (222, 226, 230)
INK = (33, 37, 41)
LINE = 20  # pixels of a line of text below a picture


def to_uint8(x: ArrayLike, range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    """Map pictures in the range to 0..255 by rounding; values outside are clipped.

    Raises ValueError unless low < high.
    """
    low, high = range
    check_interval("range", range)
    unit = (np.asarray(x, np.float64) - low) / (high - low)
    return np.clip(np.rint(np.nan_to_num(unit) * 255), 0, 255).astype(np.uint8)


def value_range(x: ArrayLike) -> tuple[float, float]:
    """(low, high) that shows nearly all values of continuous data: their quantiles 0.2 and 99.8 %."""
    values = np.asarray(x, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return -1.0, 1.0
    low, high = (float(v) for v in np.quantile(values, [0.002, 0.998]))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def own_ranges(x: np.ndarray) -> list[tuple[float, float]]:
    """A range for each channel of data (b, *d, c), where one spreads much less than all; otherwise []."""
    low, high = value_range(x)
    own = [value_range(x[..., c]) for c in np.arange(x.shape[-1])]
    return own if high - low > 3 * min(b - a for a, b in own) else []


def named_ranges(own: Sequence[tuple[float, float]]) -> str:
    """The ranges of channels in words."""
    return ", ".join(f"channel {c} from {a:.3g} to {b:.3g}" for c, (a, b) in enumerate(own))


def is_image(shape: Sequence[int]) -> bool:
    """Whether examples of this shape are shown as images; the others are vectors and series.

    Two axes are a series of channels if the last is at most 8, and otherwise an image without a
    channel axis.

    >>> is_image((28, 28)), is_image((100, 3)), is_image((64,))
    (True, False, False)
    """
    return len(shape) > 2 or (len(shape) == 2 and shape[1] > 8)


def as_images(x: ArrayLike) -> np.ndarray:
    """Data (b, *d) with at least two axes each as images (b, h, w, c).

    Of volumes, and of data with more axes, the middle slices. Two axes get a channel. Raises ValueError
    for data of one axis, and empty data.
    """
    x = np.asarray(x)
    if x.ndim < 3 or not x.size:
        raise ValueError(f"x must be (b, *d) with two or more axes d, got shape {x.shape}")
    if x.ndim == 3:
        x = x[..., None]
    while x.ndim > 4:
        x = x[:, x.shape[1] // 2]
    return x


def how_shown(shape: Sequence[int]) -> str:
    """What `as_images` and `image_grid` make of examples of this shape, in words; "" for plain images.

    >>> how_shown((5, 8, 8, 2))
    'middle slice: 2 of 0 to 4 on axis 0; channels 0 to 1 from left to right'
    """
    cut = [f"{n // 2} of 0 to {n - 1} on axis {i}" for i, n in enumerate(shape[:-3])]
    channels = shape[-1] if len(shape) > 2 else 1
    parts = [f"middle slice: {', '.join(cut)}"] if cut else []
    if channels not in (1, 3):
        parts.append(f"channels 0 to {channels - 1} from left to right")
    return "; ".join(parts)


def _channels_apart(x: np.ndarray) -> np.ndarray:
    """Images (b, h, w, c) as (b, k, h, w, 1 or 3): k is 1 for grey and colour, otherwise c."""
    return x[:, None] if x.shape[3] in (1, 3) else np.moveaxis(x, 3, 1)[..., None]


def usual_scale(h: int, w: int) -> int:
    """The side of a pixel with which an image has about 64."""
    return max(1, round(64 / max(h, w)))


def image_grid(
    x: ArrayLike,
    *,
    range: tuple[float, float] = (-1.0, 1.0),
    columns: int | None = None,
    scale: int | None = 1,
    gap: int = 2,
) -> Image.Image:
    """Set images (b, h, w, c) in a grid of `columns`, by default about square.

    One channel is grey and three are a colour. Other channels stand side by side with thin lines
    between them, and then the gap between images is three times as wide. `scale` enlarges every pixel
    to a square of that side; None: so far that an image has about 64 pixels. `gap` is in pixels of the
    result. Raises ValueError for other shapes.
    """
    x = np.asarray(x)
    if x.ndim != 4 or not x.size:
        raise ValueError(f"x must be images (b, h, w, c), not empty, got shape {x.shape}")
    n, h, w, _ = x.shape
    scale = usual_scale(h, w) if scale is None else scale
    if scale < 1 or (columns is not None and columns < 1):
        raise ValueError(f"scale and columns must be at least 1, got {scale} and {columns}")
    cells = _channels_apart(x)
    parts = cells.shape[1]
    columns = int(np.ceil(np.sqrt(n / parts))) if columns is None else min(columns, n)
    rows = -(-n // columns)
    pixels = np.repeat(np.repeat(to_uint8(cells, range), scale, axis=2), scale, axis=3)
    line = 1 if gap else 0
    gap = gap if parts == 1 else 3 * gap
    tall, wide = h * scale + gap, parts * (w * scale + line) - line + gap
    canvas = np.empty((rows * tall + gap, columns * wide + gap, 3), np.uint8)
    canvas[:] = GAP
    for i, cell in enumerate(pixels):
        top, left = gap + i // columns * tall, gap + i % columns * wide
        for image in cell:
            canvas[top : top + h * scale, left : left + w * scale] = image
            left += w * scale + line
    return Image.fromarray(canvas)


def _width(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> int:
    """Pixels that a text takes."""
    return int(np.ceil(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text, font)))


def labelled(
    image: Image.Image, *, rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> Image.Image:
    """A grid with the names of its rows on the left and of its columns above, evenly spaced.

    >>> labelled(image_grid(x, columns=3), columns=["measured", "restored", "truth"])
    """
    cell = image.width // max(1, len(columns))
    for size in (14, 12, 10):
        font = ImageFont.load_default(size)
        wide = [_width(text, font) for text in (*rows, *columns)]
        widest = max(wide[len(rows) :], default=0) + 4
        if widest <= cell:
            break
    left = max(wide[: len(rows)], default=-12) + 12
    step = min(4, -(-widest // cell))  # lines, where names are wider than their columns
    head = 24 * step if columns else 0
    canvas = Image.new("RGB", (image.width + left, image.height + head), PAPER)
    canvas.paste(image, (left, head))
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(columns):
        middle = left + (i + 0.5) * image.width / len(columns)
        middle = min(
            max(middle, left + wide[len(rows) + i] / 2), canvas.width - wide[len(rows) + i] / 2
        )
        draw.text((middle, 12 + 24 * (i % step)), text, fill=INK, font=font, anchor="mm")
    for i, text in enumerate(rows):
        middle = head + (i + 0.5) * image.height / len(rows)
        draw.text((left - 8, middle), text, fill=INK, font=font, anchor="rm")
    return canvas


def captioned(image: Image.Image, text: str) -> Image.Image:
    """A picture with a text below it, in lines of its width; as it is for an empty text."""
    if not text:
        return image
    font, lines, words = ImageFont.load_default(12), [""], text.split()
    width = max([image.width, 240, *(_width(word, font) + 8 for word in words)])
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if _width(longer, font) + 8 <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    canvas = Image.new("RGB", (width, image.height + LINE * len(lines) + 4), PAPER)
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        at = (4, image.height + LINE * i + LINE // 2 + 2)
        draw.text(at, line, fill=INK, font=font, anchor="lm")
    return canvas


def round_values(low: float, high: float) -> list[float]:
    """Three to six multiples of a round number in an interval.

    >>> round_values(0.0, 6.75)
    [0.0, 2.0, 4.0, 6.0]
    """
    most = (high - low) / 3
    step = 10.0 ** np.floor(np.log10(most))
    step *= max(s for s in (1, 2, 5) if s == 1 or step * s <= most)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    if last - first > 5:
        step, first, last = 2 * step, np.ceil(first / 2), np.floor(last / 2)
    return [float(f"{i * step:.12g}") + 0.0 for i in np.arange(first, last + 1)]


def with_bar(image: Image.Image, range: tuple[float, float]) -> Image.Image:
    """A picture in grey levels with a bar of the values from black to white.

    Raises ValueError unless low < high.
    """
    check_interval("range", range)
    font, (low, high) = ImageFont.load_default(12), range
    tall = max(60, min(image.height - 8, 200))
    canvas = Image.new("RGB", (image.width + 86, max(image.height, tall + 8)), PAPER)
    canvas.paste(image, (0, 0))
    levels = np.linspace(255, 0, tall).round().astype(np.uint8)
    bar = np.repeat(np.repeat(levels[:, None, None], 14, axis=1), 3, axis=2)
    canvas.paste(Image.fromarray(bar), (image.width + 12, 4))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((image.width + 11, 3, image.width + 26, tall + 4), outline=INK)
    for value in round_values(low, high):
        y = 4 + round((high - value) / (high - low) * (tall - 1))
        draw.line((image.width + 27, y, image.width + 30, y), fill=INK)
        place = min(max(y, 7), canvas.height - 7)
        draw.text((image.width + 34, place), f"{value:g}", fill=INK, font=font, anchor="lm")
    return canvas


def strip(
    frames: ArrayLike,
    *,
    range: tuple[float, float] = (-1.0, 1.0),
    scale: int | None = 1,
    gap: int = 2,
) -> Image.Image:
    """Set a trajectory of images (k, b, h, w, c) as b rows of k pictures, from left to right.

    A frame whose values exceed the range is scaled by its own spread, so that large noise still
    looks like noise. Raises ValueError for other shapes.
    """
    frames = np.asarray(frames)
    check("frames", frames.shape, frames.ndim == 5, "(k, b, h, w, c)")
    by_row = np.swapaxes(in_range(frames, range), 0, 1).reshape(-1, *frames.shape[2:])
    return image_grid(by_row, range=range, columns=frames.shape[0], scale=scale, gap=gap)


def in_range(frames: ArrayLike, range: tuple[float, float]) -> np.ndarray:
    """Frames (k, b, *d), each divided by its own spread where that exceeds the range."""
    frames = np.asarray(frames, np.float64)
    check("frames", frames.shape, frames.ndim > 2, "(k, b, *d)")
    middle, half = (range[0] + range[1]) / 2, (range[1] - range[0]) / 2
    of_frame = tuple(i + 1 for i in np.arange(frames.ndim - 1))
    spread = np.quantile(np.abs(frames - middle), 0.98, axis=of_frame, keepdims=True) / half
    return middle + (frames - middle) / np.maximum(spread, 1.0)


def side_by_side(
    images: Sequence[Image.Image], titles: Sequence[str], *, columns: int | None = None
) -> Image.Image:
    """Set pictures beside each other, each under its title, `columns` in a row (None: all in one).

    Raises ValueError unless there are as many titles as pictures, and columns >= 1.
    """
    if len(images) != len(titles) or not images:
        raise ValueError(f"as many titles as images, got {len(titles)} and {len(images)}")
    check("columns", columns, columns is None or columns >= 1, "None or at least 1")
    n = columns or len(images)
    rows = [_row(images[i : i + n], titles[i : i + n]) for i in range(0, len(images), n)]
    size = (max(row.width for row in rows), sum(row.height for row in rows))
    canvas, top = Image.new("RGB", size, PAPER), 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height
    return canvas


def _row(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    margin, head = 16, 28
    font = ImageFont.load_default(14)
    wide = [max(i.width, _width(t, font)) for i, t in zip(images, titles, strict=True)]
    width = sum(wide) + margin * (len(images) + 1)
    height = max(i.height for i in images) + head + margin
    canvas = Image.new("RGB", (width, height), PAPER)
    draw, left = ImageDraw.Draw(canvas), margin
    for image, title, own in zip(images, titles, wide, strict=True):
        draw.text((left, 6), title, fill=INK, font=font)
        canvas.paste(image, (left, head))
        left += own + margin
    return canvas
