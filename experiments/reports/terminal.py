"""A curve in characters, for a terminal."""

import math
from collections.abc import Sequence
from itertools import pairwise

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a Braille sign, by column and row


def curve(x: Sequence[float], y: Sequence[float], width: int = 60, height: int = 8) -> list[str]:
    """A line through points as rows of text, its largest and smallest value at the left.

    Positive values are shown by their logarithm. Points that are not finite are left out.

    >>> print("\\n".join(curve([0, 1, 2], [4.0, 2.0, 1.0], width=20)))
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not points:
        return []
    scale = math.log if min(b for _, b in points) > 0 else float
    values = [scale(b) for _, b in points]
    low, high = min(values), max(values)
    first, last = points[0][0], points[-1][0]
    cells = [[0] * width for _ in range(height)]
    columns: dict[int, list[float]] = {}
    for (a, _), value in zip(points, values, strict=True):
        place = (a - first) / (last - first) if last > first else 0.0
        columns.setdefault(round(place * (2 * width - 1)), []).append(value)
    means = {column: sum(found) / len(found) for column, found in columns.items()}
    for column, mean in _joined(means).items():
        up = (mean - low) / (high - low) if high > low else 0.5
        row = round((1 - up) * (4 * height - 1))
        cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
    ends = [f"{max(b for _, b in points):.3g}", f"{min(b for _, b in points):.3g}"]
    margin = max(map(len, ends))
    labels = [ends[0], *[""] * (height - 2), ends[1]]
    rows = ["".join(chr(0x2800 + cell) for cell in line) for line in cells]
    under = f"{first:,.0f}".ljust(width - len(f"{last:,.0f}")) + f"{last:,.0f}"
    return [
        *(f"{label.rjust(margin)} ┤{row}" for label, row in zip(labels, rows, strict=True)),
        f"{' ' * margin} └{'─' * width}",
        f"{' ' * margin}  {under}",
    ]


def _joined(means: dict[int, float]) -> dict[int, float]:
    """Values of columns, with those between them on straight lines."""
    places = sorted(means)
    found = dict(means)
    for left, right in pairwise(places):
        for column in range(left + 1, right):
            share = (column - left) / (right - left)
            found[column] = means[left] + share * (means[right] - means[left])
    return found
