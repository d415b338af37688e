"""Pictures of a run: samples, the loss curve, trajectories from noise to data."""

import json
import pathlib
from typing import Any

import numpy as np

from score_jax import viz

from ..runs import Run


def save_samples(run: Run, x: Any, path: pathlib.Path) -> None:
    """Draw samples: a grid of images, or points of the plane over the test data."""
    if len(run.shape) == 3:
        viz.save_image(viz.image_grid(np.asarray(x), range=run.config.data.range, scale=4), path)
    elif run.shape == (2,):
        viz.save_image(viz.scatter_2d(run.source.to_data(x), _test_points(run)), path)


def _test_points(run: Run) -> np.ndarray | None:
    """Points of the test data, or None where the data were moved or deleted."""
    try:
        found: np.ndarray = run.source.examples(2_000)["x"]
    except (OSError, ValueError):
        return None
    return found


def save_comparison(run: Run, panels: dict[str, Any], path: pathlib.Path) -> None:
    """Draw grids of images side by side with their titles."""
    grids = [
        viz.image_grid(np.asarray(x), range=run.config.data.range, columns=8, scale=5)
        for x in panels.values()
    ]
    viz.save_image(viz.side_by_side(grids, list(panels)), path)


def save_strip(run: Run, trajectory: Any, path: pathlib.Path, rows: int = 6) -> None:
    """Draw some samples of a trajectory (k, b, h, w, c) as rows from noise to data."""
    keep = np.linspace(0, len(trajectory) - 1, min(12, len(trajectory))).round().astype(int)
    frames = np.asarray(trajectory)[keep, :rows]
    viz.save_image(viz.strip(frames, range=run.config.data.range, scale=6), path)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def save_loss(metrics: pathlib.Path, path: pathlib.Path) -> None:
    """Draw the training loss of metrics.jsonl."""
    rows = [row for row in read_metrics(metrics) if "loss" in row]
    if len(rows) > 1:
        curve = viz.loss_curve([row["step"] for row in rows], [row["loss"] for row in rows])
        viz.save_image(curve, path)
