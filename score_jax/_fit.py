"""The loop around a mapped training step: progress, metrics, samples, checkpoints, exact resume.

The loop knows no device and no network. It drives a `MappedStep`, and it fetches the metrics of one
call only after the next was dispatched, so that the device is never idle between calls.
"""

import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

_log = logging.getLogger(__name__)
_PLAIN_SECONDS = 15.0  # between two plain progress lines


class NonFiniteLoss(FloatingPointError):
    """The loss, a gradient or an update was infinite or NaN; `step` is the first such step."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class MappedStep(NamedTuple):
    """A training step as it runs on devices, whatever the mapping.

    call(mapped_state, batch) -> (mapped_state, metrics), the state donated; n_steps: per call;
    enter: state -> mapped state, owning its buffers; leave: back, to one device; place: n_steps
    batches -> the batch of a call; read: metrics -> arrays (n_steps,) on the host, which waits.
    """

    call: Callable[[Any, Any], tuple[Any, Any]]
    n_steps: int
    enter: Callable[[Any], Any]
    leave: Callable[[Any], Any]
    place: Callable[[Sequence[Any]], Any]
    read: Callable[[Any], dict[str, np.ndarray]]


class FitResult(NamedTuple):
    """What `fit` returns.

    state: at the last step, on one device; step: its number; interrupted: stopped by a signal;
    metrics: of the last step (empty if none ran); first_call_seconds: the first call, mostly
    compilation; steps_per_second: of the calls after it, without the pauses for saves and samples
    (NaN if there were none).
    """

    state: Any
    step: int
    interrupted: bool
    metrics: dict[str, float]
    first_call_seconds: float
    steps_per_second: float


class _Signals:
    """Catch the first SIGTERM or SIGINT so that the step in hand can be finished and saved."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
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


class _Progress:
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

    def __enter__(self) -> "_Progress":
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


class _MetricsFile:
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

    def __enter__(self) -> "_MetricsFile":
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
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()


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


class _Settler:
    """Takes the metrics of finished calls: to the file, the bar, and a stop if not finite."""

    def __init__(self, read: Callable[[Any], Any], log: _MetricsFile, bar: _Progress) -> None:
        self._read, self._log, self._bar = read, log, bar
        self._pending: tuple[int, Any] | None = None
        self.last: dict[str, float] = {}

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
        loss = values["loss"]
        finite = np.isfinite(loss) & np.asarray(values.get("finite", True), bool)
        good = int(np.argmin(finite)) + 1 if not finite.all() else len(loss)
        self._log.write(before + 1, {name: value[:good] for name, value in values.items()})
        self.last = {name: float(v[good - 1]) for name, v in values.items() if name != "finite"}
        if not finite.all():
            told = ", ".join(f"{name}={value:.4g}" for name, value in self.last.items())
            raise NonFiniteLoss(f"not finite at step {before + good}: {told}", before + good)
        self._bar.update(before + len(loss), len(loss), float(loss.mean()))


def _check_plan(start: int, steps: int, n_steps: int, every: dict[str, int | None]) -> None:
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps=}")
    for name, value in every.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1 or None, got {value!r}")
    if steps > start and (steps - start) % n_steps:
        raise ValueError(
            f"steps - start must be a multiple of the {n_steps} steps of one call, "
            f"got {steps=} from step {start}"
        )


def _take(batches: Iterator[Any], n: int, step: int) -> list[Any]:
    """The next n batches. Raises ValueError if they end."""
    taken = []
    for batch in batches:
        taken.append(batch)
        if len(taken) == n:
            return taken
    raise ValueError(f"batches ended after step {step}: give an iterator that repeats")


def _restore(state: Any, batches: Any, checkpoints: Any) -> tuple[Any, int]:
    """The newest checkpoint, or `state` if there is none, and its step."""
    found = checkpoints and checkpoints.restore_latest(state, data_iterator=batches)
    if not found:
        return state, int(state.step)
    if found.data is None or not hasattr(batches, "set_state"):
        _log.warning("the data iterator has no saved state: the data begin anew at %d", found.step)
    return found.state, found.step


def _save(checkpoints: Any, step: int, state: Any, batches: Any, extra: Any) -> int:
    checkpoints.save(step, state, data_iterator=batches, extra=extra)
    return step


def _last_good(checkpoints: Any) -> str:
    """Where training can go on from, in words."""
    if checkpoints is None:
        return "nothing was saved"
    checkpoints.wait()
    step = checkpoints.latest_step()
    if step is None:
        return f"there is no checkpoint yet in {checkpoints.folder}"
    return f"the last good checkpoint is step {step} in {checkpoints.folder}"


class _Clock:
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


def fit(
    state: Any,
    step_fn: MappedStep,
    batches: Iterable[Any],
    *,
    steps: int,
    checkpoints: Any = None,
    checkpoint_every: int | None = 1000,
    extra: Any = None,
    metrics_path: str | os.PathLike[str] | None = None,
    log_every: int = 1,
    sample_every: int | None = None,
    on_sample: Callable[[int, Any], None] | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Train up to step `steps` (counted from the start of the run, not of this call).

    state: a fresh state, left as it is; with `checkpoints` (`open_checkpoints`) that hold a step,
    it is only the template, and training goes on exactly where that step was. batches: endless
    iterator of batches; with `get_state`/`set_state` (Grain's) it resumes exactly too. A checkpoint
    is saved when a multiple of `checkpoint_every` is passed and at the end, with the JSON value
    `extra`; on_sample(step, state) is called when a multiple of `sample_every` is passed, its state
    valid during the call; metrics of every `log_every`-th step go to `metrics_path`. progress: None
    shows a bar on a terminal and a line now and then elsewhere, True the bar always, False nothing.

    SIGTERM or SIGINT finishes the call in hand, saves, and returns with `interrupted`; a second one
    raises KeyboardInterrupt.

    Raises NonFiniteLoss when loss, gradients or update are not finite (that state is never saved),
    ValueError for counts out of range or batches that end, and what `checkpoints` raises.

    >>> result = fit(state, jit_step(step), batches, steps=1000, checkpoint_every=None)
    """
    batches = iter(batches)
    state, start = _restore(state, batches, checkpoints)
    every = {"checkpoint_every": checkpoint_every, "sample_every": sample_every}
    _check_plan(start, steps, step_fn.n_steps, {**every, "log_every": log_every})
    path = None if metrics_path is None else Path(metrics_path)
    done = saved = start
    mapped = step_fn.enter(state)
    with (
        _Signals() as signals,
        _MetricsFile(path, start, log_every) as log,
        _Progress(progress, start, steps) as bar,
    ):
        clock = _Clock()
        settler = _Settler(step_fn.read, log, bar)
        try:
            while done < steps and not signals.caught:
                batch = step_fn.place(_take(batches, step_fn.n_steps, done))
                mapped, metrics = step_fn.call(mapped, batch)
                settler.put(done, metrics)
                before, done = done, done + step_fn.n_steps
                due = {name for name, n in every.items() if n and done // n > before // n}
                if before == start:
                    step_fn.read(metrics)  # wait, so that the first call is timed alone
                    bar.first(clock.first(), step_fn.n_steps)
                if due:
                    settler.settle()
                with clock.pause():
                    if checkpoints is not None and "checkpoint_every" in due:
                        saved = _save(checkpoints, done, step_fn.leave(mapped), batches, extra)
                    if on_sample is not None and "sample_every" in due:
                        on_sample(done, step_fn.leave(mapped))
            settler.settle()
        except NonFiniteLoss as error:
            message = f"{error}; {_last_good(checkpoints)}"
            raise NonFiniteLoss(message, error.step) from None
        rate = clock.rate(done - start - step_fn.n_steps)
        state = step_fn.leave(mapped)
        if checkpoints is not None:
            if done > saved:
                _save(checkpoints, done, state, batches, extra)
            checkpoints.wait()
    return FitResult(
        state, done, signals.caught is not None, settler.last, clock.first_seconds, rate
    )
