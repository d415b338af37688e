"""Pictures: data of any shape, trajectories from noise to data, loss curves.

`picture` chooses the form: grids of images (of volumes the middle slices), lines of series and vectors,
points of the plane. Grids need Pillow alone; lines and points need matplotlib
(`pip install "score_jax[plots]"`).
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from score_jax._check import check, check_interval
from score_jax._files import replacing

PAPER = (255, 255, 255)
GAP = (222, 226, 230)
INK = (33, 37, 41)


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


def as_images(x: ArrayLike) -> np.ndarray:
    """Data (b, *d) with at least two axes each as images (b, h, w, 1 or 3).

    A single channel or three stay; other channels stand side by side. Of volumes, and of data with
    more axes, the middle slices. Two axes of which the last is longer than 8 are an image without a
    channel axis. Raises ValueError for data of one axis, and empty data.
    """
    x = np.asarray(x)
    if x.ndim < 3 or not x.size:
        raise ValueError(f"x must be (b, *d) with two or more axes d, got shape {x.shape}")
    if x.ndim == 3:
        x = x[..., None]
    while x.ndim > 4:
        x = x[:, x.shape[1] // 2]
    if x.shape[3] in (1, 3):
        return x
    return np.concatenate(np.split(x, x.shape[3], axis=3), axis=2)


def image_grid(
    x: ArrayLike,
    *,
    range: tuple[float, float] = (-1.0, 1.0),
    columns: int | None = None,
    scale: int | None = 1,
    gap: int = 2,
) -> Image.Image:
    """Set images (b, h, w, c), c 1 or 3, in a grid of `columns`, by default about square.

    `scale` enlarges every pixel to a square of that side; None: so far that an image has about 64
    pixels. `gap` is in pixels of the result. Raises ValueError for other shapes.
    """
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[3] not in (1, 3) or len(x) == 0:
        raise ValueError(f"x must be images (b, h, w, 1 or 3), got shape {x.shape}")
    n, h, w, _ = x.shape
    scale = max(1, round(64 / max(h, w))) if scale is None else scale
    if scale < 1 or (columns is not None and columns < 1):
        raise ValueError(f"scale and columns must be at least 1, got {scale} and {columns}")
    columns = int(np.ceil(np.sqrt(n))) if columns is None else min(columns, n)
    rows = -(-n // columns)
    pixels = np.repeat(np.repeat(to_uint8(x, range), scale, axis=1), scale, axis=2)
    tall, wide = h * scale + gap, w * scale + gap
    canvas = np.empty((rows * tall + gap, columns * wide + gap, 3), np.uint8)
    canvas[:] = GAP
    for i, image in enumerate(pixels):
        top, left = gap + i // columns * tall, gap + i % columns * wide
        canvas[top : top + h * scale, left : left + w * scale] = image
    return Image.fromarray(canvas)


def labelled(
    image: Image.Image, *, rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> Image.Image:
    """A grid with the names of its rows on the left and of its columns above, evenly spaced.

    >>> labelled(image_grid(x, columns=3), columns=["measured", "restored", "truth"])
    """
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    cell = image.width // max(1, len(columns))
    for size in (14, 12, 10):
        font = ImageFont.load_default(size)
        wide = [int(np.ceil(probe.textlength(text, font))) for text in (*rows, *columns)]
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


def with_bar(image: Image.Image, range: tuple[float, float]) -> Image.Image:
    """A picture in grey levels with a bar that says what black and white are."""
    font, (low, high) = ImageFont.load_default(12), range
    tall = max(60, min(image.height, 200))
    canvas = Image.new("RGB", (image.width + 86, max(image.height, tall + 8)), PAPER)
    canvas.paste(image, (0, 0))
    levels = np.linspace(255, 0, tall).round().astype(np.uint8)
    bar = np.repeat(np.repeat(levels[:, None, None], 14, axis=1), 3, axis=2)
    canvas.paste(Image.fromarray(bar), (image.width + 12, 4))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((image.width + 11, 3, image.width + 26, tall + 4), outline=INK)
    for share, value in ((0.0, high), (0.5, (low + high) / 2), (1.0, low)):
        at = (image.width + 32, 4 + min(max(share * tall, 6), tall - 6))
        draw.text(at, f"{value:.3g}", fill=INK, font=font, anchor="lm")
    return canvas


def picture(
    x: ArrayLike,
    *,
    range: tuple[float, float] | None = None,
    reference: ArrayLike | None = None,
    columns: int | None = None,
) -> Image.Image:
    """Draw data (b, *d) of any shape, in the form that fits: see the module.

    range: the values of black and white of images, (low, high); None: those of the data, shown by a
    bar. reference: data to compare points and lines with.

    Raises ValueError for empty data, and ImportError where lines and points lack matplotlib.

    >>> save_image(picture(samples.x, reference=data.x), "samples.png")
    """
    x = np.asarray(x)
    check("x", x.shape, x.ndim >= 2 and x.size > 0, "data (b, *d), not empty")
    if x.shape[1:] == (2,):
        return scatter_2d(x, reference)
    if x.ndim == 2:
        return vectors(x, reference)
    if x.ndim == 3 and x.shape[2] <= 8:
        return series(x)
    images = as_images(x)
    low_high = value_range(images) if range is None else range
    grid = image_grid(images, range=low_high, columns=columns, scale=None)
    return with_bar(grid, low_high) if range is None else grid


def strip(
    frames: ArrayLike,
    *,
    range: tuple[float, float] = (-1.0, 1.0),
    scale: int | None = 1,
    gap: int = 2,
) -> Image.Image:
    """Set a trajectory (k, b, h, w, c) as b rows of k pictures, from left to right.

    A frame whose values exceed the range is scaled by its own spread, so that large noise still
    looks like noise. Raises ValueError for other shapes.
    """
    frames = in_range(frames, range)
    by_row = np.swapaxes(frames, 0, 1).reshape(-1, *frames.shape[2:])
    return image_grid(by_row, range=range, columns=frames.shape[0], scale=scale, gap=gap)


def in_range(frames: ArrayLike, range: tuple[float, float]) -> np.ndarray:
    """Frames (k, b, h, w, c), each divided by its own spread where that exceeds the range."""
    frames = np.asarray(frames, np.float64)
    if frames.ndim != 5:
        raise ValueError(f"frames must be (k, b, h, w, c), got shape {frames.shape}")
    middle, half = (range[0] + range[1]) / 2, (range[1] - range[0]) / 2
    spread = np.quantile(np.abs(frames - middle), 0.98, axis=(1, 2, 3, 4), keepdims=True) / half
    return middle + (frames - middle) / np.maximum(spread, 1.0)


def side_by_side(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Set pictures beside each other, each under its title."""
    if len(images) != len(titles) or not images:
        raise ValueError(f"as many titles as images, got {len(titles)} and {len(images)}")
    margin, head = 16, 28
    width = sum(i.width for i in images) + margin * (len(images) + 1)
    height = max(i.height for i in images) + head + margin
    canvas = Image.new("RGB", (width, height), PAPER)
    draw, font, left = ImageDraw.Draw(canvas), ImageFont.load_default(14), margin
    for image, title in zip(images, titles, strict=True):
        draw.text((left, 6), title, fill=INK, font=font)
        canvas.paste(image, (left, head))
        left += image.width + margin
    return canvas


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG whole or not at all."""
    with replacing(path) as part:
        image.save(part, format="PNG")


def save_animation(
    images: Sequence[Image.Image], path: str | os.PathLike[str], *, seconds: float = 4.0
) -> None:
    """Write pictures as an animation of this length, whole or not at all: a .gif, or an .mp4.

    The last picture stays for a second more. An .mp4 needs imageio-ffmpeg: ImportError without it.
    Raises ValueError for another ending, and no pictures.
    """
    check("images", len(images), len(images) > 0, "at least one picture")
    ending, each = os.path.splitext(path)[1].lower(), seconds / len(images)
    known = {".gif": _write_gif, ".mp4": _write_mp4}
    check("path", os.fspath(path), ending in known, "a .gif or an .mp4")
    with replacing(path) as part:
        known[ending](images, os.fspath(part), each)


def _write_gif(images: Sequence[Image.Image], path: str, each: float) -> None:
    few = [image.quantize(64) for image in images]
    times = [round(1000 * each)] * (len(few) - 1) + [round(1000 * each) + 1000]
    few[0].save(path, format="GIF", save_all=True, append_images=few[1:], duration=times, loop=0)


def _write_mp4(images: Sequence[Image.Image], path: str, each: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ImportError('an .mp4 needs imageio-ffmpeg: pip install "score_jax[video]"') from None
    # Even sides, which the codec needs.
    size = (images[0].width // 2 * 2, images[0].height // 2 * 2)
    last = [images[-1]] * max(1, round(1 / each))
    writer = imageio_ffmpeg.write_frames(path, size, fps=1 / each, macro_block_size=2)
    writer.send(None)
    for image in [*images, *last]:
        writer.send(np.ascontiguousarray(image.convert("RGB").crop((0, 0, *size))))
    writer.close()


def new_figure(width: float, height: float, *, dpi: int = 120) -> Any:
    """An empty Matplotlib figure, in inches. Raises ImportError that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('this picture needs matplotlib: pip install "score_jax[plots]"') from None
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def render(figure: Any) -> Image.Image:
    """The picture of a figure, without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def smooth(values: ArrayLike, width: int) -> np.ndarray:
    """Centred moving mean over `width` values, over fewer at the ends."""
    values = np.asarray(values, np.float64)
    ones = np.ones(max(1, min(width, len(values))))
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def loss_curve(steps: ArrayLike, losses: ArrayLike) -> Image.Image:
    """Draw the loss against the step, and its moving mean, on a logarithmic scale."""
    steps, losses = np.asarray(steps), np.asarray(losses, np.float64)
    if steps.shape != losses.shape or steps.ndim != 1 or len(steps) < 2:
        raise ValueError(
            f"steps and losses must be (n,), n >= 2, got {steps.shape}, {losses.shape}"
        )
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="#a5b4c8", linewidth=0.8, label="loss")
    mean = smooth(losses, max(3, min(len(losses) // 20, 51)))
    axes.plot(steps, mean, color="#1c5d99", linewidth=1.8, label="moving mean")
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    return render(figure)


def scatter_2d(samples: ArrayLike, reference: ArrayLike | None = None) -> Image.Image:
    """Draw points of the plane (n, 2), on top of reference points if given."""
    samples = np.asarray(samples)
    if samples.ndim != 2 or samples.shape[1] != 2:
        raise ValueError(f"samples must be (n, 2), got shape {samples.shape}")
    figure = new_figure(5, 5)
    axes = figure.add_subplot()
    if reference is not None:
        reference = np.asarray(reference)
        axes.scatter(*reference.T, s=6, color="#ced4da", label="data")
    axes.scatter(*samples.T, s=6, color="#1c5d99", alpha=0.7, label="samples")
    axes.set_aspect("equal")
    axes.set(xlabel="first coordinate", ylabel="second coordinate")
    axes.legend(frameon=False, loc="upper right")
    return render(figure)


def vectors(samples: ArrayLike, reference: ArrayLike | None = None) -> Image.Image:
    """Draw vectors (n, d): a histogram if d is 1, else a line each over the numbers of the entries.

    The band holds 90 % of the reference vectors, if given.
    """
    samples = np.asarray(samples, np.float64)
    check("samples", samples.shape, samples.ndim == 2 and samples.size > 0, "(n, d)")
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    if samples.shape[1] == 1:
        both = samples if reference is None else np.concatenate([samples, np.asarray(reference)])
        bins = np.linspace(*value_range(both), 41)
        if reference is not None:
            axes.hist(
                np.asarray(reference)[:, 0], bins, density=True, color="#ced4da", label="data"
            )
        look = {"histtype": "step", "color": "#1c5d99", "linewidth": 1.6}
        axes.hist(samples[:, 0], bins, density=True, label="samples", **look)
        axes.set(xlabel="value", ylabel="density")
    else:
        place = np.arange(samples.shape[1])
        if reference is not None:
            low, high = np.quantile(np.asarray(reference), [0.05, 0.95], axis=0)
            axes.fill_between(place, low, high, color="#dee2e6", label="90 % of the data")
        lines = axes.plot(place, samples[:24].T, color="#1c5d99", alpha=0.4, linewidth=0.9)
        lines[0].set_label("samples")
        axes.set(xlabel="entry of the vector", ylabel="value")
    axes.legend(frameon=False)
    return render(figure)


def series(samples: ArrayLike, *, most: int = 16) -> Image.Image:
    """Draw series (n, l, c), the first `most`, each with a line for every channel."""
    samples = np.asarray(samples, np.float64)[:most]
    check("samples", samples.shape, samples.ndim == 3 and samples.size > 0, "(n, l, c)")
    columns = int(np.ceil(np.sqrt(len(samples))))
    rows = -(-len(samples) // columns)
    figure = new_figure(2.4 * columns + 0.8, 1.5 * rows + 0.9, dpi=100)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for i, axes in enumerate(panels):
        if i >= len(samples):
            axes.set_visible(False)
            continue
        for c in np.arange(samples.shape[2]):
            axes.plot(samples[i, :, c], linewidth=1.0, color=f"C{c % 10}", label=f"channel {c}")
        axes.tick_params(labelsize=8)
    figure.supxlabel("place in the series", fontsize=10)
    figure.supylabel("value", fontsize=10)
    if samples.shape[2] > 1:
        shown = panels[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside upper right", frameon=False, ncols=4, fontsize=8)
    return render(figure)


def intervals(
    mean: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    most: int = 16,
) -> Image.Image:
    """Draw intervals of every entry as bands, with the means as lines and the truth as points.

    mean, low, high and truth are vectors (n, d) or series (n, l, c), of which the first `most` have a
    panel each, with a colour for every channel. Raises ValueError for other or different shapes.
    """
    given = [
        np.asarray(v, np.float64) for v in (mean, low, high, *([] if truth is None else [truth]))
    ]
    shapes = {v.shape for v in given}
    ok = len(shapes) == 1 and given[0].ndim in (2, 3) and given[0].size
    check("mean, low, high and truth", sorted(shapes), ok, "of one shape (n, d) or (n, l, c)")
    given = [(v[..., None] if v.ndim == 2 else v)[:most] for v in given]
    n, length, channels = given[0].shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    figure = new_figure(2.8 * columns + 0.8, 1.8 * rows + 0.9, dpi=100)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    place, dot = np.arange(length), "." if length < 9 else None
    for i, axes in enumerate(panels):
        axes.set_visible(i < n)
        for c in np.arange(channels if i < n else 0):
            middle, below, above, *true = (v[i, :, c] for v in given)
            name = f", channel {c}" if channels > 1 else ""
            look = {"color": f"C{c % 10}"}
            axes.fill_between(
                place, below, above, alpha=0.25, linewidth=0, label=f"interval{name}", **look
            )
            axes.plot(place, middle, linewidth=1.2, marker=dot, label=f"mean{name}", **look)
            for v in true:
                axes.plot(
                    place, v, "x", markersize=3, color="black", label="truth" if c == 0 else None
                )
        axes.tick_params(labelsize=8)
    figure.supxlabel("entry", fontsize=10)
    figure.supylabel("value", fontsize=10)
    shown = panels[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper right", frameon=False, ncols=3, fontsize=8)
    return render(figure)
