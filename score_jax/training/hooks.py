"""What the training loop does beside training: one `Hook` for each thing.

A hook overrides the moments that it needs. `Report` gives the metrics to TensorBoard or Weights & Biases.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from score_jax._check import check_count
from score_jax._files import write_text
from score_jax.training.run import Run, Values
from score_jax.types import CheckpointStore

_log = logging.getLogger(__name__)
_PLAIN_SECONDS = 15.0  # between two plain progress lines

CheckpointMetric = Callable[[int, Any], float]  # (step, state) -> a number, lower is better


class Hook:
    """Something that the loop does beside training.

    every: `act` is called when a multiple of it is passed (None: never). needs_state: whether `act`
    uses `run.state`. Both must be the same on all hosts, because taking the state off the devices
    concerns all of them.
    """

    every: int | None = None
    needs_state: bool = True

    def start(self, run: Run) -> None:
        """Before the first step, after a restore."""

    def before(self, run: Run) -> None:
        """Before every call."""

    def log(self, run: Run, first_step: int, metrics: Values) -> None:
        """The metrics (n,) of the steps first_step, first_step + 1, ..., one call later."""

    def act(self, run: Run) -> None:
        """After a multiple of `every`: all metrics are logged, `run.held` and `run.state` are there."""

    def finish(self, run: Run) -> None:
        """After the last step, also when a signal stopped the run, with `run.state`."""

    def close(self) -> None:
        """At the end, also after an error."""


@dataclass
class Every(Hook):
    """Call `call(step, state)` when a multiple of `every` steps is passed; log numbers it returns.

    The state is valid during the call only. On hosts that only take part, `call` is None.

    >>> draw = Every(500, lambda step, state: save_pictures(step, state.ema_params))
    >>> score = Every(5000, lambda step, state: {"fid": fid(state.ema_params)})
    """

    every: int | None = field()
    call: Callable[[int, Any], Mapping[str, float] | None] | None

    def act(self, run: Run) -> None:
        """Call it."""
        values = None if self.call is None else self.call(run.step, run.state)
        if values:
            run.record(values)


@dataclass
class Progress(Hook):
    """A bar on a terminal, and a plain line from time to time elsewhere.

    show: None for that, True for the bar everywhere, False for nothing.
    """

    show: bool | None = None
    _bar: Any = field(default=None, init=False, repr=False)

    def start(self, run: Run) -> None:
        """Open the bar."""
        use_bar = sys.stderr.isatty() if self.show is None else self.show
        self._lines = self.show is None and not use_bar
        self._last: tuple[float, int] | None = None
        self._bar = tqdm(
            total=run.steps,
            initial=run.start,
            unit="step",
            disable=not use_bar,
            dynamic_ncols=True,
            file=sys.stderr,
            # Without a percentage: nothing moves until the first call is done.
            bar_format=f"compiling the first {run.n_steps} steps ...",
        )
        if self._lines and run.steps > run.start:
            self._say(f"compiling the first {run.n_steps} steps ...")

    def log(self, run: Run, first_step: int, metrics: Values) -> None:
        """Move the bar, or print a line if the last one is old."""
        if "loss" not in metrics:
            return
        now, loss = time.monotonic(), metrics["loss"]
        if self._last is None:
            self._last = (now, run.start)
            seconds = run.first_call_seconds
            self._say(f"first call ({run.n_steps} steps, with compilation): {seconds:.1f} s")
            self._bar.bar_format = None
            self._bar.set_description("training")
            self._bar.unpause()
        loss = loss[metrics["finite"]]
        if len(loss):
            self._bar.set_postfix_str(f"loss={loss.mean():.4g}", refresh=False)
        self._bar.update(len(metrics["loss"]))
        done = first_step + len(metrics["loss"]) - 1
        then, since = self._last
        if self._lines and len(loss) and now - then >= _PLAIN_SECONDS:
            rate = (done - since) / max(now - then, 1e-9)
            used = "".join(f"  {name} {value:g}" for name, value in run.usage.items())
            self._say(f"step {done}/{run.steps}  loss {loss.mean():.4g}  {rate:.1f} steps/s{used}")
            self._last = (now, done)

    def _say(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if self._lines:
            print(text, file=sys.stderr, flush=True)
        elif not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class Rows:
    """The metrics of every `log_every`-th step as rows: {name: number, list of numbers or None}.

    Numbers that are not finite become None. Of sums and counts (n, 2, k) a row has the quotients (k,)
    since the row before. Numbers recorded beside the loss have a row of their own.
    """

    def __init__(self, log_every: int = 1) -> None:
        check_count(log_every=log_every)
        self._every = log_every
        self._sums: dict[str, np.ndarray] = {}

    def of(self, first_step: int, metrics: Values) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows that are due among the steps first_step, first_step + 1, ...: (step, row)."""
        shown = dict(metrics)
        shown.pop("finite", None)
        trained = "loss" in metrics
        for i, step in enumerate(range(first_step, first_step + len(next(iter(shown.values()))))):
            row = {name: self._taken(name, value[i]) for name, value in shown.items()}
            if not trained or step % self._every == 0:
                yield step, {name: _finite(value) for name, value in row.items()}
                self._sums.clear()

    def _taken(self, name: str, value: Any) -> Any:
        """A number or a list as it is; sums and counts added to those since the last row."""
        if value.ndim < 2:
            return value
        if np.isfinite(value).all():
            self._sums[name] = self._sums.get(name, 0) + value.astype(np.float64)
        sums, counts = self._sums.get(name, np.zeros_like(value))
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _finite(value: Any) -> Any:
    """A number, or numbers, as JSON has them."""
    if np.ndim(value):
        return [_finite(v) for v in value]
    return float(value) if math.isfinite(value) else None


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
        self._rows = Rows(self.log_every)

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
        rows = self._rows.of(first_step, metrics)
        lines = [json.dumps({"step": step, **row, "seconds": seconds}) for step, row in rows]
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


@dataclass
class Report(Hook):
    """Give the metrics of every `log_every`-th step to `write(step, row)`; `end` is called at the end.

    A row is {name: number}; of a list, such as the loss by noise level, name/1, name/2, ... Numbers
    that are not finite are left out.

    >>> from tensorboardX import SummaryWriter
    >>> writer = SummaryWriter("runs/x")
    >>> write = lambda step, row: [writer.add_scalar(k, v, step) for k, v in row.items()]
    >>> fit(state, jit_step(step), batches, steps=1000, hooks=[Report(write, end=writer.close)])
    """

    write: Callable[[int, dict[str, float]], Any]
    log_every: int = 1
    end: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        self._rows = Rows(self.log_every)

    def log(self, run: Run, first_step: int, metrics: Values) -> None:
        """Give the rows that are due."""
        for step, row in self._rows.of(first_step, metrics):
            flat: dict[str, Any] = {}
            for name, value in row.items():
                parts = value if isinstance(value, list) else None
                numbered = {f"{name}/{i}": v for i, v in enumerate(parts or (), start=1)}
                flat |= {name: value} if parts is None else numbered
            self.write(step, {name: v for name, v in flat.items() if v is not None})

    def close(self) -> None:
        """Call `end`."""
        if self.end is not None:
            self.end()


@dataclass(frozen=True)
class Saving:
    """How `fit` saves checkpoints.

    every: the steps between two saves (None: only at the end); extra: a JSON value
    saved with each, such as a config; metric(step, state): which checkpoint is the best, lower is
    better (by default the mean loss since the last one); stop_on_error: whether a checkpoint that
    cannot be written ends the run. If not, the error is logged; the last one must be written.
    """

    every: int | None = 1000
    extra: Any = None
    metric: CheckpointMetric | None = None
    stop_on_error: bool = True


class SaveCheckpoints(Hook):
    """Saves the state, the state of the data and the counts of the run; `fit` makes this hook."""

    def __init__(self, store: CheckpointStore | None, saving: Saving) -> None:
        self._store, self._saving, self.every = store, saving, saving.every
        self.needs_state = saving.metric is not None
        self._losses: list[np.ndarray] = []
        self._saved: int | None = None

    def start(self, run: Run) -> None:
        """The step that was restored is saved already."""
        self._saved = run.start

    def log(self, run: Run, first_step: int, metrics: Values) -> None:
        """Keep the finite losses for the mean loss since the last checkpoint."""
        if self._store is not None and "loss" in metrics:
            self._losses.append(metrics["loss"][metrics["finite"]])

    def act(self, run: Run) -> None:
        """Save in the background, unless the last step was not finite."""
        # During a streak of such steps the newest checkpoint stays the one before it.
        if self._store is not None and not run.nonfinite.in_a_row:
            self._save(run, self._score(run))

    def finish(self, run: Run) -> None:
        """Save the last step, unless it is saved, and wait: this one must be written."""
        if self._store is None:
            return
        score = None
        if run.step != self._saved:
            score = self._score(run)
            self._save(run, score)
        try:
            self._store.wait()
        except OSError as error:
            if self._saving.stop_on_error:
                raise
            _log.warning("%s; trying once more", error)
            self._saved = None
        if run.step != self._saved:
            self._writer(run, score)()
            self._store.wait()

    def last_good(self) -> str:
        """Where training can resume from, in words."""
        if self._store is None:
            return "nothing was saved"
        self._store.wait()
        step = self._store.latest_step()
        if step is None:
            return f"there is no checkpoint yet in {self._store.folder}"
        return f"the last good checkpoint is step {step} in {self._store.folder}"

    def _save(self, run: Run, score: float | None) -> None:
        if _attempt(self._writer(run, score), run.step, self._saving.stop_on_error):
            self._saved = run.step

    def _score(self, run: Run) -> float | None:
        """The checkpoint metric at this step, None if there was no finite loss."""
        losses, self._losses = self._losses, []
        if self._saving.metric is not None:
            return self._saving.metric(run.step, run.state)
        mean = np.concatenate(losses).mean(dtype=np.float64) if any(map(len, losses)) else math.nan
        return None if math.isnan(mean) else float(mean)

    def _writer(self, run: Run, score: float | None) -> Callable[[], Any]:
        assert self._store is not None
        save, extra, progress = self._store.save, self._saving.extra, run.nonfinite._asdict()
        return lambda: save(
            run.step, run.held, data_iterator=run.data, extra=extra, progress=progress, score=score
        )


@dataclass
class Snapshots(Hook):
    """Keep the averages of the state every `every` steps in a store of their own, for `post_hoc`.

    store: None on all hosts but the first, unless all write `together`. A step that is there already is
    not saved again. Snapshots of later steps than that at which training starts are of a run that is
    gone: they are renamed, and no longer count.

    >>> hooks = [Snapshots(open_checkpoints("runs/x/averages", keep=None), 1000)]
    """

    store: Any  # a `Checkpoints`, or None
    every: int | None = field()
    stop_on_error: bool = True
    needs_state = False

    def start(self, run: Run) -> None:
        """Rename the snapshots of later steps."""
        if self.store is not None:
            self.store.set_aside_after(run.start)

    def act(self, run: Run) -> None:
        """Save the averages."""
        if self.store is None:
            return
        save, newest = self.store.save, self.store.latest_step()
        if newest is None or run.step > newest:
            write = lambda: save(run.step, {"averages": run.held.averages})
            _attempt(write, run.step, self.stop_on_error)


def _attempt(save: Callable[[], Any], step: int, stop: bool) -> bool:
    """Save; a second time if only the save before had failed. Whether the step was saved."""
    for _ in range(2):
        try:
            save()
            return True
        except OSError as error:  # CheckpointError is one
            if stop:
                raise
            _log.warning("%s; training goes on", error)
    _log.warning("step %d is not saved", step)
    return False


def _step_of(line: str) -> float:
    """The step of a line, infinity if the line is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf
