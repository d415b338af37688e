"""Rows of text as tables."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Set rows of text as an aligned table with a line under the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    line = lambda row: "  ".join(
        cell.ljust(w) if i == 0 else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    return "\n".join([line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Set rows of text as a Markdown table, the first its head."""
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(rows[0]), line(["---"] * len(rows[0])), *map(line, rows[1:])])
