"""Means, deviations and credible intervals of posteriors: their picture, figures and file of draws."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from score_jax import viz
from score_jax._files import replacing
from score_jax.inverse import Summary

from ..runs import Run


@contextlib.contextmanager
def draws_file(
    paths: Sequence[pathlib.Path], run: Run, sizes: tuple[int, int]
) -> Iterator[np.ndarray | None]:
    """The array (n, draws, *d) of a new .npy file, written whole or not at all; None without a path."""
    if not paths:
        yield None
        return
    dtype = run.source.to_data(np.zeros((1, *run.shape), np.float32)).dtype
    with replacing(paths[0]) as part:
        store = np.lib.format.open_memmap(part, "w+", dtype, (*sizes, *run.shape))
        yield store
        store.flush()


def nothing(dtype: np.dtype) -> Any:
    """What stands for draws that were not made: NaN, for integers 0."""
    return np.nan if np.issubdtype(dtype, np.floating) else 0


def joined(parts: Sequence[Summary]) -> Summary:
    """The summaries of single examples as one."""
    mean, std, _, quantiles = zip(*parts, strict=True)
    return Summary(
        np.concatenate(mean), np.concatenate(std), parts[0].n, np.concatenate(quantiles, axis=1)
    )


def facts(run: Run, found: Summary, truth: np.ndarray | None) -> dict[str, Any]:
    """The mean deviation in the data's own units, and the comparison with the truth.

    `truth` (n, *d) is in the network's range, as is `rms_error`, that of the mean. `coverage` is the
    share of the entries with a truth in the interval, of those that vary.
    """
    varies = found.std > 1e-6 * max(float(np.abs(found.mean).max()), 1e-30)
    known: dict[str, Any] = {"mean_std": float(found.std.mean())}
    if truth is None or found.quantiles is None:
        return known
    low, high = found.quantiles
    true = run.source.to_data(truth)
    inside = (low <= true) & (true <= high)
    away = np.asarray(run.source.on_levels(found.mean)) - truth
    return known | {
        "rms_error": float(np.sqrt(np.mean(away**2))),
        "coverage": float(inside[varies].mean()) if varies.any() else None,
    }


def comparison(known: dict[str, Any], interval: float) -> str:
    """The comparison with the truth as the end of a sentence."""
    text = f": the mean is {known['rms_error']:.3f} (rms) from the truth"
    if known["coverage"] is None:
        return text
    return (
        f"{text}, and {known['coverage']:.0%} of the entries are in their {interval:.0%} interval"
    )


def draw(run: Run, found: Summary, truth: np.ndarray | None, interval: float) -> Image.Image:
    """Images: a row of mean, interval and truth, and the deviations beside it; other data: bands."""
    if found.quantiles is None:
        raise ValueError("the summary has no quantiles to draw")
    low, high = found.quantiles
    true = [] if truth is None else [run.source.to_data(truth)]
    if not viz.is_image(run.shape):
        return viz.intervals(found.mean, low, high, truth=true[0] if true else None)
    tail = 100 * (1 - interval) / 2
    names = ["mean", f"{tail:.3g} %", f"{100 - tail:.3g} %", *["truth"] * len(true)]
    rows = np.stack([found.mean, low, high, *true], axis=1)
    limits = None if run.source.levels is None else (0.0, run.source.levels - 1.0)
    numbers = [str(i) for i in range(len(rows))]
    colour = limits is not None and run.shape[-1] == 3
    left = viz.named_grid(rows, columns=names, rows=numbers, range=limits, bar=not colour)
    spread = found.std
    if colour:
        spread = np.sqrt(np.square(spread).mean(axis=-1, keepdims=True))
    most = max(float(np.quantile(spread, 0.998)), 1e-30)
    right = viz.named_grid(spread[:, None], columns=["deviation"], range=(0.0, most), bar=True)
    height = max(left.height, right.height)
    both = Image.new("RGB", (left.width + 12 + right.width, height), viz.PAPER)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 12, 0))
    return both
