"""Samples by their numbers, a PNG each."""

import itertools
import pathlib
import re
from typing import Any

import jax
import numpy as np

from score_jax import training
from score_jax._files import replacing, write_json
from score_jax._hosts import agreed

from . import drawing, folders, sampling

MOST = 1_000_000


def numbers(text: str) -> list[int]:
    """The numbers of a text such as "0-63" or "3,7,20-29", in order; ValueError for another text."""
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (0, -1) if ends is None else (int(ends[1]), int(ends[2] or ends[1]))
        if not 0 <= last - first < MOST:
            raise ValueError(f"--seeds must be numbers such as 0-63 or 3,7,20-29, got {text!r}")
        found |= set(range(first, last + 1))
    return sorted(found)


def write(
    plan: drawing.Plan, folder: pathlib.Path, wanted: list[int], y: Any, *, overwrite: bool
) -> list[pathlib.Path]:
    """Draw the samples of these numbers and write 000007.png for number 7, and labels.json.

    y (n,) are their classes; None: all classes in turn. After an interrupt those that were drawn are
    there. Raises ValueError for data that are not images with levels, and files that are there.
    """
    run = plan.run
    if len(run.shape) != 3 or run.shape[-1] not in (1, 3) or run.source.levels is None:
        raise ValueError(
            f"--seeds is for images of 1 or 3 channels with levels, got shape {run.shape}"
        )
    paths = {i: folder / f"{i:06d}.png" for i in wanted}
    look = lambda: [path.name for path in paths.values() if path.exists()]
    there = agreed(look, only_first=True)
    if there and not overwrite:
        raise ValueError(
            f"--out {str(folder)!r} has {there[0]} already: choose another --out, or write over it by "
            "--overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    classes = run.num_classes if plan.guide is None else run.source.num_classes
    labels = None if not classes else np.asarray(wanted) % classes if y is None else np.asarray(y)
    written: list[pathlib.Path] = []
    try:
        for start in range(0, len(wanted), plan.chunk):
            part = wanted[start : start + plan.chunk]
            for a, b in _runs(part):
                own = None if labels is None else labels[start + a : start + b]
                drawn = sampling.draw(
                    run, plan.params, plan.key, b - a, plan.config, y=own, guide=plan.guide,
                    cond=sampling.cond_of(run, np.asarray(part[a:b])), chunk=plan.chunk,
                    first=part[a], devices=jax.devices(),
                )  # fmt: skip
                for i, image in zip(part[a:b], drawing.as_stored(run, drawn.x), strict=True):
                    if training.is_first():
                        with replacing(paths[i]) as file:
                            file.write_bytes(folders.png_bytes(image))
                    written.append(paths[i])
    finally:
        if labels is not None and written and training.is_first():
            done = {i: int(k) for i, k in zip(wanted, labels, strict=True) if paths[i] in written}
            write_json(folder / folders.LABELS_FILE, done)
    return written


def _runs(part: list[int]) -> list[tuple[int, int]]:
    """The stretches of consecutive numbers: (first place, place after the last)."""
    breaks = [0, *(i for i in range(1, len(part)) if part[i] != part[i - 1] + 1), len(part)]
    return list(itertools.pairwise(breaks))
