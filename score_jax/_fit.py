"""What the training loop is made of: signals, progress, the metrics file, steps gone bad, times."""

import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

_log = logging.getLogger(__name__)
_PLAIN_SECONDS = 15.0  # between two plain progress lines


class NonFiniteLoss(FloatingPointError):
    """The loss, a gradient or an update was infinite or NaN too often; `step` is the first such."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class MappedStep(NamedTuple):
    """A training step as it runs on devices, whatever the mapping.

    call(mapped_state, batch, stop=False) -> (mapped_state, metrics), the state donated; over several
    hosts `stop` is this host's wish to stop, and the metric "stop" that of any; n_steps: per call;
    enter: state -> mapped state, owning its buffers; leave: back, to one device; place: n_steps
    batches -> the batch of a call; read: metrics -> arrays (n_steps,) on the host, which waits;
    program: what JAX compiles, for its analyses of memory and cost.
    """

    call: Callable[..., tuple[Any, Any]]
    n_steps: int
    enter: Callable[[Any], Any]
    leave: Callable[[Any], Any]
    place: Callable[[Sequence[Any]], Any]
    read: Callable[[Any], dict[str, np.ndarray]]
    program: Any = None


class FitResult(NamedTuple):
    """What `fit` returns.

    state: at the last step, on one device; step: its number; interrupted: stopped by a signal;
    metrics: of the last step (empty if none ran); first_call_seconds: the first call, mostly
    compilation; steps_per_second: of the calls after it, without the pauses for saves and samples
    (NaN if there were none); skipped: steps of the run that were not finite and changed nothing.
    """

    state: Any
    step: int
    interrupted: bool
    metrics: dict[str, float]
    first_call_seconds: float
    steps_per_second: float
    skipped: int = 0


class Signals:
    """Catch the first SIGTERM or SIGINT so that the step in hand can be finished and saved."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        # Python allows handlers in the main thread only; elsewhere the owner stops the run.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = number

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class Progress:
    """A bar on a terminal; elsewhere a plain line now and then; or nothing.

    `show`: True for the bar wherever, None for the bar on a terminal and lines elsewhere, False for
    nothing.
    """

    def __init__(self, show: bool | None, start: int, steps: int) -> None:
        use_bar = sys.stderr.isatty() if show is None else show
        self._lines = show is None and not use_bar
        self._steps = steps
        self._last = (time.monotonic(), start)
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            disable=not use_bar,
            dynamic_ncols=True,
            file=sys.stderr,
            desc="compiling",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def first(self, seconds: float, n_steps: int) -> None:
        """Tell how long the first call took."""
        self.say(f"first call ({n_steps} steps, with compilation): {seconds:.1f} s")
        self._bar.set_description("training")
        self._bar.unpause()
        self._last = (time.monotonic(), self._last[1])

    def say(self, text: str) -> None:
        """One line, above the bar if there is one."""
        if self._lines:
            print(text, file=sys.stderr, flush=True)
        elif not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def update(self, step: int, n_steps: int, loss: float) -> None:
        """Show that `n_steps` more are done."""
        self._bar.set_postfix_str(f"loss={loss:.4g}", refresh=False)
        self._bar.update(n_steps)
        then, since = self._last
        now = time.monotonic()
        if self._lines and now - then >= _PLAIN_SECONDS:
            rate = (step - since) / (now - then)
            self.say(f"step {step}/{self._steps}  loss {loss:.4g}  {rate:.1f} steps/s")
            self._last = (now, step)


class MetricsFile:
    """metrics.jsonl: one JSON object a line, every logged step once.

    Opened after a restore to `start`: lines after it, and a last line cut by a kill, are dropped by
    writing beside and renaming. Numbers that are not finite are written as null.
    """

    def __init__(self, path: Path | None, start: int, every: int) -> None:
        self._every = every
        self._file = None
        self._began = time.monotonic()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _trim(path, start)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, first_step: int, metrics: dict[str, np.ndarray]) -> None:
        """Write the metrics (n,) of the steps first_step, first_step + 1, ..."""
        if self._file is None:
            return
        seconds = round(time.monotonic() - self._began, 3)
        lines = []
        for i in range(len(metrics["loss"])):
            if (first_step + i) % self._every == 0:
                values = {name: float(v[i]) for name, v in metrics.items() if name != "finite"}
                finite = {n: v if math.isfinite(v) else None for n, v in values.items()}
                lines.append(json.dumps({"step": first_step + i, **finite, "seconds": seconds}))
        if lines:
            try:
                self._file.write("\n".join(lines) + "\n")
                self._file.flush()
            except OSError as error:
                _log.warning("cannot write metrics: %s; training goes on", error)


def _trim(path: Path, last: int) -> None:
    """Keep the whole lines of steps up to `last`."""
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = [line for line in text.splitlines() if _step_of(line) <= last]
    wanted = "".join(line + "\n" for line in kept)
    if wanted == text:
        return
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(wanted)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _step_of(line: str) -> float:
    """The step of a line, infinity if the line is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


class Streak(NamedTuple):
    """Steps that were not finite: of the whole run, in a row up to the last, and since which one."""

    skipped: int = 0
    in_a_row: int = 0
    since: int = 0


class Settler:
    """Takes the metrics of finished calls: to the file, the bar, and a stop if too many are bad.

    `limit` steps in a row that are not finite raise NonFiniteLoss.
    """

    def __init__(
        self,
        read: Callable[[Any], Any],
        log: MetricsFile,
        bar: Progress,
        *,
        limit: int = 1,
        streak: Streak = Streak(),  # noqa: B008
    ) -> None:
        self._read, self._log, self._bar, self._limit = read, log, bar, limit
        self._pending: tuple[int, Any] | None = None
        self._losses: list[np.ndarray] = []
        self.streak = streak
        self.last: dict[str, float] = {}
        self.stop = False  # some host was asked to stop

    def put(self, before: int, metrics: Any) -> None:
        """Settle the call before this one; this one has just been dispatched at step `before`."""
        self.settle()
        self._pending = (before, metrics)

    def settle(self) -> None:
        """Wait for the outstanding call. Raises NonFiniteLoss."""
        if self._pending is None:
            return
        (before, metrics), self._pending = self._pending, None
        values = self._read(metrics)
        self.stop |= bool(values.pop("stop", np.zeros(1)).any())
        loss = values["loss"]
        finite = np.isfinite(loss) & np.asarray(values.get("finite", True), bool)
        good = self._count(before, finite)
        self._log.write(before + 1, {name: value[:good] for name, value in values.items()})
        self.last = {name: float(v[good - 1]) for name, v in values.items() if name != "finite"}
        if self.streak.in_a_row >= self._limit:
            told = ", ".join(f"{name}={value:.4g}" for name, value in self.last.items())
            many = f" {self.streak.in_a_row} times in a row since" if self._limit > 1 else " at"
            first = self.streak.since
            raise NonFiniteLoss(f"not finite{many} step {first}: {told}", first)
        if finite.any():
            self._losses.append(loss[finite])
            self._bar.update(before + len(loss), len(loss), float(loss[finite].mean()))

    def mean_loss(self) -> float | None:
        """The mean loss of the finite steps since this was last asked, None if there were none."""
        losses, self._losses = self._losses, []
        return float(np.concatenate(losses).mean(dtype=np.float64)) if losses else None

    def _count(self, before: int, finite: np.ndarray) -> int:
        """Bring the streak up to date, and return how many steps there were until the limit."""
        for i, fine in enumerate(finite):
            skipped, in_a_row, since = self.streak
            if fine:
                self.streak = Streak(skipped)
                continue
            since = since if in_a_row else before + i + 1
            self.streak = Streak(skipped + 1, in_a_row + 1, since)
            _log.warning("step %d is not finite: skipped (%d so far)", before + i + 1, skipped + 1)
            if self.streak.in_a_row >= self._limit:
                return i + 1
        return len(finite)


class Clock:
    """Times the first call apart from the others, and leaves the pauses out."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.first_seconds = 0.0

    def first(self) -> float:
        """The first call is done: how long it took."""
        now = time.monotonic()
        self.first_seconds, self._began = now - self._began, now
        return self.first_seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs inside does not count."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def rate(self, steps: int) -> float:
        """Steps a second for `steps` steps since the first call."""
        return steps / (time.monotonic() - self._began) if steps > 0 else math.nan
