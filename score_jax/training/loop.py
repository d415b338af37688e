"""The loop around a mapped training step: progress, metrics, samples, checkpoints, exact resume.

The loop knows no device and no network. It drives a `MappedStep`, and it fetches the metrics of one
call only after the next was dispatched, and places the batches of calls ahead, so that the devices
are not idle between calls.
"""

import copy
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from score_jax._fit import (
    Clock,
    FitResult,
    MappedStep,
    MetricsFile,
    NonFiniteLoss,
    Progress,
    Settler,
    Signals,
    Streak,
)
from score_jax.training.hosts import Watchdog, several_hosts, when_a_host_is_lost

_log = logging.getLogger(__name__)


class _Feed:
    """Batches placed on the devices some calls ahead, with the state of the data as consumed."""

    def __init__(self, batches: Any, step_fn: MappedStep, start: int, steps: int, ahead: int):
        self._batches, self._step_fn, self._ahead = batches, step_fn, ahead
        self.start, self._taken, self._steps = start, start, steps
        self._queue: deque[tuple[Any, Any]] = deque()
        self.resumable = hasattr(batches, "get_state")
        self._state = self._now()

    def _now(self) -> Any:
        return copy.deepcopy(self._batches.get_state()) if self.resumable else None

    def _fill(self, depth: int) -> None:
        n = self._step_fn.n_steps
        while len(self._queue) < depth and self._taken < self._steps:
            taken = _take(self._batches, n)
            if taken is None:
                return
            self._queue.append((self._step_fn.place(taken), self._now()))
            self._taken += n

    def next(self, step: int) -> Any:
        """The batch of the call at `step`. Raises ValueError if the batches have ended."""
        self._fill(1)
        if not self._queue:
            raise ValueError(f"batches ended after step {step}: give an iterator that repeats")
        batch, self._state = self._queue.popleft()
        return batch

    def prepare(self) -> None:
        """Place the batches of the next calls, while the devices are at work."""
        self._fill(self._ahead)

    def get_state(self) -> Any:
        """The state of the data after the last batch that `next` gave."""
        return self._state


def _take(batches: Iterator[Any], n: int) -> list[Any] | None:
    """The next n batches, or None if they end."""
    taken = []
    for batch in batches:
        taken.append(batch)
        if len(taken) == n:
            return taken
    return None


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


def _restore(state: Any, batches: Any, checkpoints: Any) -> tuple[Any, int, Streak]:
    """The newest checkpoint, or `state` if there is none, its step, and its bad steps."""
    found = checkpoints and checkpoints.restore_latest(state, data_iterator=batches)
    if not found:
        return state, int(state.step), Streak()
    if found.data is None or not hasattr(batches, "set_state"):
        _log.warning("the data iterator has no saved state: the data begin anew at %d", found.step)
    return found.state, found.step, Streak(**(found.progress or {}))


class _Saver:
    """Saves checkpoints and snapshots of the averages; a failure stops the run, or is reported."""

    def __init__(
        self, checkpoints: Any, snapshots: Any, feed: _Feed, extra: Any, stop_on_error: bool
    ) -> None:
        self._checkpoints, self._snapshots, self._feed = checkpoints, snapshots, feed
        self._extra, self._stop = extra, stop_on_error
        self.saved: int | None = feed.start

    def _write(self, save: Callable[[], Any], step: int, stop: bool) -> bool:
        """Save; a second time if it was only the save before that had failed."""
        for attempt in (1, 2):
            try:
                save()
                return True
            except OSError as error:  # CheckpointError is one
                if stop:
                    raise
                _log.warning("%s; training goes on", error)
                if attempt == 2:
                    _log.warning("step %d is not saved", step)
        return False

    def _writer(self, step: int, state: Any, streak: Streak, score: float | None) -> Any:
        data = self._feed if self._feed.resumable else None
        notes = {"progress": streak._asdict(), "score": score}
        return lambda: self._checkpoints.save(
            step, state, data_iterator=data, extra=self._extra, **notes
        )

    def save(self, step: int, state: Any, streak: Streak, score: float | None) -> None:
        """Save `state` as `step`, in the background."""
        if self._checkpoints is not None:
            write = self._writer(step, state, streak, score)
            if self._write(write, step, self._stop):
                self.saved = step

    def finish(self, step: int, state: Any, streak: Streak, score: float | None) -> None:
        """Save the last step, unless it is saved, and wait: this one must be written."""
        if self._checkpoints is None:
            return
        if step != self.saved:
            self.save(step, state, streak, score)
        try:
            self._checkpoints.wait()
        except OSError as error:
            if self._stop:
                raise
            _log.warning("%s; trying once more", error)
            self.saved = None
        if step != self.saved:
            self._writer(step, state, streak, score)()
            self._checkpoints.wait()

    def snapshot(self, step: int, averages: Any) -> None:
        """Keep the averages as they are at `step`, unless they are kept already."""
        if self._snapshots is None:
            return
        newest = self._snapshots.latest_step()
        if newest is None or step > newest:
            write = lambda: self._snapshots.save(step, {"averages": averages})
            self._write(write, step, self._stop)

    def last_good(self) -> str:
        """Where training can go on from, in words."""
        if self._checkpoints is None:
            return "nothing was saved"
        self._checkpoints.wait()
        step = self._checkpoints.latest_step()
        if step is None:
            return f"there is no checkpoint yet in {self._checkpoints.folder}"
        return f"the last good checkpoint is step {step} in {self._checkpoints.folder}"


class _Plan(NamedTuple):
    """What is done when, and by whom."""

    start: int
    steps: int
    every: dict[str, int | None]
    on_sample: Callable[[int, Any], None] | None
    judge: Callable[[int, Any], float] | None

    def due(self, before: int, done: int) -> set[str]:
        """What is due after the steps before + 1 to done."""
        return {name for name, n in self.every.items() if n and done // n > before // n}


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
    bad_steps: int = 1,
    stop_on_save_error: bool = True,
    judge: Callable[[int, Any], float] | None = None,
    snapshots: Any = None,
    snapshot_every: int | None = None,
    ahead: int = 2,
    stall_seconds: float | None = None,
) -> FitResult:
    """Train up to step `steps` (counted from the start of the run, not of this call).

    state: a fresh state, left as it is; with `checkpoints` (`open_checkpoints`) that hold a step,
    it is only the template, and training goes on exactly where that step was. batches: endless
    iterator of batches; with `get_state`/`set_state` (Grain's) it resumes exactly too. A checkpoint
    is saved when a multiple of `checkpoint_every` is passed and at the end, with the JSON value
    `extra`; on_sample(step, state) is called when a multiple of `sample_every` is passed, its state
    valid during the call; metrics of every `log_every`-th step go to `metrics_path`. progress: None
    shows a bar on a terminal and a line now and then elsewhere, True the bar always, False nothing.

    A step that is not finite changes nothing (`make_train_step`); `bad_steps` of them in a row raise
    NonFiniteLoss, and none of their checkpoints is saved. A checkpoint that cannot be written raises,
    or with stop_on_save_error=False is reported and training goes on; the last one must be written.
    judge(step, state) -> a number, lower is better, says which checkpoint is the best (by default the
    mean loss since the last). `snapshots`, a second folder, takes the averages of the state every
    `snapshot_every` steps. `ahead` calls have their batches placed early. With `stall_seconds` a
    process whose call takes longer (ten times that for the first, which compiles) is ended with a
    message and exit code 76: a lost host leaves the others waiting in calls that cannot return.

    SIGTERM or SIGINT finishes the call in hand, saves, and returns with `interrupted`; a second one
    raises KeyboardInterrupt. Over several hosts a signal to one stops all of them at one step.

    Raises NonFiniteLoss, ValueError for counts out of range or batches that end, what `checkpoints`
    raises, and LostHost when another host cannot be reached.

    >>> result = fit(state, jit_step(step), batches, steps=1000, checkpoint_every=None)
    """
    batches = iter(batches)
    state, start, streak = _restore(state, batches, checkpoints)
    every = {"checkpoint_every": checkpoint_every, "sample_every": sample_every}
    # The same on all hosts, whoever writes: taking the state off the devices concerns all of them.
    every |= {"snapshot_every": snapshot_every}
    counts = {"log_every": log_every, "bad_steps": bad_steps, "ahead": ahead}
    _check_plan(start, steps, step_fn.n_steps, {**every, **counts})
    plan = _Plan(start, steps, every, on_sample, judge)
    path = None if metrics_path is None else Path(metrics_path)
    feed = _Feed(batches, step_fn, start, steps, ahead)
    saver = _Saver(checkpoints, snapshots, feed, extra, stop_on_save_error)
    with (
        Signals() as signals,
        MetricsFile(path, start, log_every) as log,
        Progress(progress, start, steps) as bar,
        Watchdog(stall_seconds) as watchdog,
        when_a_host_is_lost(),
    ):
        settler = Settler(step_fn.read, log, bar, limit=bad_steps, streak=streak)
        try:
            return _run(
                step_fn.enter(state), step_fn, plan, feed, saver, settler, bar, signals, watchdog
            )
        except NonFiniteLoss as error:
            message = f"{error}; {saver.last_good()}"
            raise NonFiniteLoss(message, error.step) from None


def _run(
    mapped: Any,
    step_fn: MappedStep,
    plan: _Plan,
    feed: _Feed,
    saver: _Saver,
    settler: Settler,
    bar: Progress,
    signals: Signals,
    watchdog: Watchdog,
) -> FitResult:
    """The calls from the start to the end or a signal, and what is due between them."""
    clock, done = Clock(), plan.start
    together = several_hosts()
    while done < plan.steps:
        # Over several hosts all of them stop at the call in which they learn of the wish.
        if settler.stop if together else signals.caught:
            break
        batch = feed.next(done)
        mapped, metrics = step_fn.call(mapped, batch, bool(signals.caught))
        settler.put(done, metrics)
        watchdog.beat()
        feed.prepare()
        before, done = done, done + step_fn.n_steps
        if before == plan.start:
            step_fn.read(metrics)  # wait, so that the first call is timed alone
            bar.first(clock.first(), step_fn.n_steps)
        due = plan.due(before, done)
        if due:
            settler.settle()
            with clock.pause():
                _attend(due, done, step_fn.leave(mapped), plan, saver, settler)
            watchdog.beat()
    settler.settle()
    rate = clock.rate(done - plan.start - step_fn.n_steps)
    state = step_fn.leave(mapped)
    score = None if done == saver.saved else _score(done, state, plan, settler)
    saver.finish(done, state, settler.streak, score)
    stopped = settler.stop if together else signals.caught is not None
    seconds, skipped = clock.first_seconds, settler.streak.skipped
    return FitResult(state, done, stopped, settler.last, seconds, rate, skipped)


def _attend(
    due: set[str], done: int, state: Any, plan: _Plan, saver: _Saver, settler: Settler
) -> None:
    """What is due after step `done`."""
    # In the middle of bad steps the newest checkpoint stays the one before them.
    if "checkpoint_every" in due and not settler.streak.in_a_row:
        saver.save(done, state, settler.streak, _score(done, state, plan, settler))
    if "snapshot_every" in due:
        saver.snapshot(done, state.averages)
    if plan.on_sample is not None and "sample_every" in due:
        plan.on_sample(done, state)


def _score(done: int, state: Any, plan: _Plan, settler: Settler) -> float | None:
    """How good this checkpoint is; lower is better."""
    mean = settler.mean_loss()
    return mean if plan.judge is None else plan.judge(done, state)
