"""Pictures: grids of images, trajectories from noise to data, loss curves, points of the plane.

Grids need Pillow alone; curves and points need matplotlib (`pip install "score_jax[notebooks]"`).
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from score_jax._check import check_interval
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


def image_grid(
    x: ArrayLike,
    *,
    range: tuple[float, float] = (-1.0, 1.0),
    columns: int | None = None,
    scale: int = 1,
    gap: int = 2,
) -> Image.Image:
    """Set images (b, h, w, c), c 1 or 3, in a grid of `columns`, by default about square.

    `scale` enlarges every pixel to a square of that side; `gap` is in pixels of the result. Raises
    ValueError for other shapes.
    """
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[3] not in (1, 3) or len(x) == 0:
        raise ValueError(f"x must be images (b, h, w, 1 or 3), got shape {x.shape}")
    if scale < 1 or (columns is not None and columns < 1):
        raise ValueError(f"scale and columns must be at least 1, got {scale} and {columns}")
    n, h, w, _ = x.shape
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


def strip(
    frames: ArrayLike, *, range: tuple[float, float] = (-1.0, 1.0), scale: int = 1, gap: int = 2
) -> Image.Image:
    """Set a trajectory (k, b, h, w, c) as b rows of k pictures, from left to right.

    A frame whose values exceed the range is scaled by its own spread, so that large noise still
    looks like noise. Raises ValueError for other shapes.
    """
    frames = np.asarray(frames, np.float64)
    if frames.ndim != 5:
        raise ValueError(f"frames must be (k, b, h, w, c), got shape {frames.shape}")
    middle, half = (range[0] + range[1]) / 2, (range[1] - range[0]) / 2
    spread = np.quantile(np.abs(frames - middle), 0.98, axis=(1, 2, 3, 4), keepdims=True) / half
    frames = middle + (frames - middle) / np.maximum(spread, 1.0)
    by_row = np.swapaxes(frames, 0, 1).reshape(-1, *frames.shape[2:])
    return image_grid(by_row, range=range, columns=frames.shape[0], scale=scale, gap=gap)


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


def new_figure(width: float, height: float, *, dpi: int = 120) -> Any:
    """An empty Matplotlib figure, in inches. Raises ImportError that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'this picture needs matplotlib: pip install "score_jax[notebooks]"'
        ) from None
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
    axes.legend(frameon=False, loc="upper right")
    return render(figure)
