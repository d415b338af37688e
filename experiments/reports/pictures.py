"""Pictures of a run: samples, the loss curve, trajectories from noise to data.

A picture is never a reason to stop: what cannot be drawn is a line on stderr.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from score_jax import viz

from ..runs import Run

FRAMES = 48  # of an animation, at most
HELD = 6  # samples of a strip


def written(path: pathlib.Path, draw: Callable[[], Any]) -> bool:
    """Write the picture that `draw` makes; False, and a line that says why, if there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        viz.save_image(draw(), path)
    except (ImportError, ValueError, OSError) as error:
        print(f"no picture {path}: {error}", file=sys.stderr)
        return False
    return True


def shown(run: Run, x: Any) -> tuple[np.ndarray, tuple[float, float] | None]:
    """(data in the network's range as they are drawn, the values of black and white or None).

    Data with levels are drawn in the network's range, and continuous data in their own units, whose
    range is found from the values.
    """
    if run.source.levels is None:
        return np.asarray(run.source.to_data(x)), None
    return np.asarray(x), run.config.data.range


def _reference(run: Run) -> np.ndarray | None:
    """Test data, or None where the data were moved or deleted, or there are none."""
    try:
        found: np.ndarray = run.source.examples(2_000)["x"]
    except (OSError, ValueError, ImportError):
        return None
    return found


def save_samples(run: Run, x: Any, path: pathlib.Path) -> bool:
    """Draw samples (n, *d) in the form that fits their shape: whether it was written."""

    def draw() -> Image.Image:
        values, limits = shown(run, x)
        reference = _reference(run) if values.ndim == 2 else None
        return viz.picture(values, range=limits, reference=reference)

    return written(path, draw)


def save_comparison(
    run: Run, panels: dict[str, Any], path: pathlib.Path, *, columns: int = 8
) -> bool:
    """Draw data of several kinds side by side with their titles: whether it was written.

    columns: of each picture; of more than three pictures two stand in a row.
    """

    def draw() -> Image.Image:
        pairs = [shown(run, x) for x in panels.values()]
        images = [viz.picture(x, range=limits, columns=columns) for x, limits in pairs]
        return viz.side_by_side(images, list(panels), columns=2 if len(images) > 3 else None)

    return written(path, draw)


def save_strip(run: Run, trajectory: Any, path: pathlib.Path, rows: int = HELD) -> bool:
    """Draw some samples of a trajectory (k, b, *d) as rows from noise to data: whether it was written.

    Its columns are named by the share of the steps that were done.
    """

    def draw() -> Image.Image:
        if not viz.is_image(run.shape):
            raise ValueError(f"a strip is for images, and the examples are of shape {run.shape}")
        keep = np.linspace(0, len(trajectory) - 1, min(12, len(trajectory))).round().astype(int)
        states, limits = frames(run, np.asarray(trajectory)[keep, :rows])
        each = np.swapaxes(viz.in_range(states, limits), 0, 1)
        share = (np.asarray(keep) + 1) / len(trajectory)
        grid = viz.named_grid(each, columns=[f"{round(100 * s)} %" for s in share], range=limits)
        return viz.captioned(grid, "columns: the share of the steps from noise to data")

    return written(path, draw)


def save_animation(run: Run, trajectory: Any, path: pathlib.Path, most: int = 36) -> bool:
    """Write a trajectory (k, b, *d) from noise to data as a .gif or an .mp4: whether it was written."""
    try:
        keep = np.linspace(0, len(trajectory) - 1, min(FRAMES, len(trajectory))).round().astype(int)
        states, limits = frames(run, np.asarray(trajectory)[keep, :most])
        images = [viz.picture(x, range=limits) for x in viz.in_range(states, limits)]
        viz.save_animation(images, path)
    except (ImportError, ValueError, OSError) as error:
        print(f"no animation {path}: {error}", file=sys.stderr)
        return False
    return True


def frames(run: Run, trajectory: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """States (k, b, *d) as they are drawn, and the values of black and white."""
    if run.source.levels is not None:
        return trajectory, run.config.data.range
    # In the network's units, in which all channels are about as large.
    return trajectory, viz.value_range(trajectory[-1])


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def save_loss(metrics: pathlib.Path, path: pathlib.Path) -> bool:
    """Draw the training loss of metrics.jsonl: whether it was written."""
    rows = [row for row in read_metrics(metrics) if "loss" in row]
    if len(rows) < 2:
        return False
    steps, losses = ([row[name] for row in rows] for name in ("step", "loss"))
    return written(path, lambda: viz.loss_curve(steps, losses))
