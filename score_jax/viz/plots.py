"""Plots by matplotlib: curves, points of the plane, lines of vectors and series, intervals."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from score_jax._check import check
from score_jax.viz.grids import captioned, named_ranges, own_ranges, value_range


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


def _whole(axis: Any) -> None:
    """Ticks of an axis at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _panels(n: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure and the axes of n panels in a square, of this size in inches, with one scale."""
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    figure = new_figure(width * columns + 0.8, height * rows + 0.9, dpi=100)
    every = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for i, axes in enumerate(every):
        axes.set_visible(i < n)
        axes.tick_params(labelsize=8)
        _whole(axes.xaxis)
    return figure, list(every[:n])


def _some(image: Image.Image, shown: int, n: int) -> Image.Image:
    """A picture that says how many of the examples are in it, where not all are."""
    return captioned(image, "" if shown >= n else f"the first {shown} of {n} examples")


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
    scale = "log" if np.nanmin(losses) > 0 else "linear"
    axes.set(xlabel="step", ylabel="training loss", yscale=scale)
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
    """Draw vectors (n, d): a histogram if d is 1, otherwise 24 lines over the numbers of the entries.

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
        drawn = len(samples)
    else:
        drawn, place = 24, np.arange(samples.shape[1])
        if reference is not None:
            low, high = np.quantile(np.asarray(reference), [0.05, 0.95], axis=0)
            axes.fill_between(place, low, high, color="#dee2e6", label="90 % of the data")
        look = {"color": "#1c5d99", "alpha": 0.4, "linewidth": 0.9}
        lines = axes.plot(place, samples[:drawn].T, marker="." if len(place) < 9 else None, **look)
        lines[0].set_label("samples")
        axes.set(xlabel="entry of the vector", ylabel="value")
        _whole(axes.xaxis)
    axes.legend(frameon=False)
    return _some(render(figure), drawn, len(samples))


def series(
    samples: ArrayLike, *, range: tuple[float, float] | None = None, most: int = 16
) -> Image.Image:
    """Draw series (n, l, c), the first `most`, each with a line for every channel.

    range: the values that are shown, (low, high); None: all, and channels of which one spreads much
    less than the others each over its own range.
    """
    x = np.asarray(samples, np.float64)
    check("samples", x.shape, x.ndim == 3 and x.size > 0, "(n, l, c)")
    n, note = len(x), ""
    x = x[:most]
    own = own_ranges(x) if range is None and x.shape[2] > 1 else []
    if own:
        bounds = np.asarray(own)
        x = (x - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])
        note = f"0 to 1: {named_ranges(own)}"
    figure, panels = _panels(len(x), 2.4, 1.5)
    for axes, one in zip(panels, x, strict=True):
        for c, line in enumerate(one.T):
            axes.plot(line, linewidth=1.0, color=f"C{c % 10}", label=f"channel {c}")
    if range is not None:
        panels[0].set_ylim(range)
    figure.supxlabel("place in the series", fontsize=10)
    figure.supylabel("share of the channel's range" if own else "value", fontsize=10)
    if x.shape[2] > 1:
        shown = panels[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside upper right", frameon=False, ncols=4, fontsize=8)
    return captioned(_some(render(figure), len(x), n), note)


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
    examples, given = len(given[0]), [(v[..., None] if v.ndim == 2 else v)[:most] for v in given]
    n, length, channels = given[0].shape
    figure, panels = _panels(n, 2.8, 1.8)
    place, dot = np.arange(length), "." if length < 9 else None
    for i, axes in enumerate(panels):
        for c in np.arange(channels):
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
    figure.supxlabel("entry", fontsize=10)
    figure.supylabel("value", fontsize=10)
    shown = panels[0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper right", frameon=False, ncols=3, fontsize=8)
    return _some(render(figure), n, examples)
