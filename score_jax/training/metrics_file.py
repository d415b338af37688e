"""metrics.jsonl: the metrics of every logged step, one JSON object a line."""

import json
import logging
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from score_jax._check import check_count
from score_jax._files import write_text
from score_jax.training.hooks import Hook
from score_jax.training.run import Run, Values

_log = logging.getLogger(__name__)


@dataclass
class MetricsFile(Hook):
    """Write the metrics of every `log_every`-th step, each once, as JSON lines; None: no file.

    After a restore, lines of later steps and a last line cut by a kill are dropped. Numbers that are
    not finite are written as null. A file that cannot be written does not stop training.

    >>> fit(state, jit_step(step), batches, steps=1000, hooks=[MetricsFile("runs/x/metrics.jsonl")])
    """

    path: str | os.PathLike[str] | None
    log_every: int = 1
    _file: IO[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_count(log_every=self.log_every)

    def start(self, run: Run) -> None:
        """Open the file and drop what is later than the restored step."""
        self._began = time.monotonic()
        if self.path is None:
            return
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            lines = text.splitlines()
            kept = "".join(line + "\n" for line in lines if _step_of(line) <= run.start)
            if kept != text:
                write_text(path, kept)
        self._file = path.open("a", encoding="utf-8")

    def log(self, run: Run, first_step: int, metrics: Values) -> None:
        """Write a line for each step that is due; numbers beside the loss are always written."""
        if self._file is None:
            return
        seconds = round(time.monotonic() - self._began, 3)
        shown = {name: values for name, values in metrics.items() if name != "finite"}
        lines = []
        for step, row in enumerate(zip(*shown.values(), strict=True), start=first_step):
            if "loss" not in metrics or step % self.log_every == 0:
                numbers = dict(zip(shown, map(float, row), strict=True))
                finite = {n: v if math.isfinite(v) else None for n, v in numbers.items()}
                lines.append(json.dumps({"step": step, **finite, "seconds": seconds}))
        if lines:
            try:
                self._file.write("\n".join(lines) + "\n")
                self._file.flush()
            except OSError as error:
                _log.warning("cannot write metrics: %s; training goes on", error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _step_of(line: str) -> float:
    """The step of a line, infinity if the line is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf
