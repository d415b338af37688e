"""The loss by noise level of a run: a picture of what metrics.jsonl has of it."""

import pathlib
from typing import Any

import numpy as np

from score_jax import viz
from score_jax.losses import level_edges

from ..parts.objectives import LEVELS
from ..runs import Run
from .pictures import read_metrics

TRAIN, TEST = "loss_by_level", "test_loss_by_level"
_LAST = 10  # lines of metrics.jsonl that are averaged


def save_levels(run: Run, metrics: pathlib.Path, path: pathlib.Path) -> bool:
    """Draw the loss at each noise level, now and over the steps; whether there is any to draw."""
    rows = read_metrics(metrics)
    train, test = (_losses(rows, name) for name in (TRAIN, TEST))
    if len(train[0]) < 2:
        return False
    edges = level_edges(run.sde, run.config.loss.t0, LEVELS)
    middle = (edges[1:] + edges[:-1]) / 2
    figure = viz.new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    left.plot(middle, _mean(train[1][-_LAST:]), "o-", color="#1c5d99", label="training")
    if len(test[0]):
        left.plot(
            middle, test[1][-1], "s--", color="#d1495b", label="held-out (averaged parameters)"
        )
    shown = [losses[np.isfinite(losses)] for _, losses in (train, test)]
    scale = "log" if min(v.min(initial=1.0) for v in shown) > 0 else "linear"
    left.set(xlabel="log-SNR (noise to data)", ylabel="loss", yscale=scale)
    for i in range(LEVELS):
        color = _color(i / (LEVELS - 1))
        label = f"{edges[i]:.1f} to {edges[i + 1]:.1f}"
        right.plot(train[0], train[1][:, i], color=color, linewidth=1, label=label)
        if len(test[0]):
            right.plot(test[0], test[1][:, i], "--", color=color, linewidth=1)
    right.set(xlabel="step", ylabel="loss (held-out: dashed)", yscale=scale)
    right.legend(
        title="log-SNR", frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1)
    )
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(True, which="both", alpha=0.25)
    viz.save_image(viz.render(figure), path)
    return True


def _color(share: float) -> tuple[float, float, float]:
    """A colour between dark blue (noise) and orange (data)."""
    low, high = np.array([0.09, 0.2, 0.45]), np.array([0.95, 0.6, 0.15])
    r, g, b = low + share * (high - low)
    return float(r), float(g), float(b)


def _losses(rows: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps (n,), losses (n, levels)) of the rows that have this value; NaN where there is none."""
    found = [row for row in rows if len(row.get(name) or ()) == LEVELS]
    losses = [[np.nan if v is None else v for v in row[name]] for row in found]
    return np.array([row["step"] for row in found]), np.array(losses, float).reshape(-1, LEVELS)


def _mean(losses: np.ndarray) -> np.ndarray:
    """The mean over rows, without those that have no value."""
    known = np.isfinite(losses)
    total = np.where(known, losses, 0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(LEVELS, np.nan), where=known.any(axis=0))
