"""The loop around a mapped training step: calls, hooks between them, exact resume, signals.

The loop depends on no device and no network. It drives a `MappedStep`. To keep the devices busy between
calls it reads the metrics of one call after it has dispatched the next, and places the batches of
later calls ahead.
"""

import contextlib
import copy
import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

from score_jax._check import check
from score_jax.training.hooks import Hook, SaveCheckpoints, Saving
from score_jax.training.hosts import Watchdog, several_hosts, when_a_host_is_lost
from score_jax.training.mappings import MappedStep
from score_jax.training.run import Nonfinite, NonFiniteLoss, Run
from score_jax.training.state import TrainState
from score_jax.types import Batch, CheckpointStore

_log = logging.getLogger(__name__)


class FitResult(NamedTuple):
    """What `fit` returns.

    state: at the last step, on one device; step: its number; interrupted: stopped by a signal;
    metrics: of the last step (empty if none ran); first_call_seconds: the first call, mostly
    compilation; steps_per_second: of the calls after it, without the pauses for hooks (NaN if there
    were none); skipped: steps of the run that were not finite and changed nothing.
    """

    state: TrainState
    step: int
    interrupted: bool
    metrics: dict[str, float]
    first_call_seconds: float
    steps_per_second: float
    skipped: int = 0


def fit(
    state: TrainState,
    step_fn: MappedStep,
    batches: Iterable[Batch],
    *,
    steps: int,
    hooks: Sequence[Hook] = (),
    checkpoints: CheckpointStore | None = None,
    saving: Saving = Saving(),  # noqa: B008
    nonfinite_limit: int = 1,
    ahead: int = 2,
    stall_seconds: float | None = None,
) -> FitResult:
    """Train up to step `steps`, counted from the start of the run and not of this call.

    state: a fresh state, which is not changed; with `checkpoints` (`open_checkpoints`) that hold a
    step, it is only the template, and training resumes exactly from that step. batches: an endless
    iterator; with `get_state`/`set_state` (Grain's) it resumes exactly too. Checkpoints are saved as
    `saving` says, and at the end. hooks: what is done beside training (`MetricsFile`, `Progress`,
    `Every`, `Snapshots`), in this order after each save.

    A step that is not finite changes nothing (`make_train_step`); `nonfinite_limit` of them in a row
    raise NonFiniteLoss, and no checkpoint is saved during such a streak. The batches of `ahead` calls
    are placed early. With `stall_seconds` a process whose call takes longer (ten times that for the
    first, which compiles) is ended with a message and exit code 76, because a lost host leaves the
    others waiting in calls that cannot return.

    After SIGTERM or SIGINT the current call is completed and saved, and `interrupted` is set. A second
    signal raises KeyboardInterrupt, as SIGINT does while the first call compiles. A signal to one of
    several hosts stops all of them at one step.

    Raises NonFiniteLoss, ValueError for counts out of range or batches that end, what `checkpoints`
    and hooks raise, and LostHost when another host cannot be reached.

    >>> result = fit(state, jit_step(step), batches, steps=1000, hooks=[Progress()])
    """
    batches = iter(batches)
    saver = SaveCheckpoints(checkpoints, saving)
    state, start, nonfinite = _restore(state, step_fn, batches, checkpoints)
    hooks = (saver, *hooks)
    _check_counts(start, steps, step_fn.n_steps, hooks)
    check("nonfinite_limit", nonfinite_limit, nonfinite_limit >= 1, ">= 1")
    check("ahead", ahead, ahead >= 1, ">= 1")
    with contextlib.ExitStack() as stack:
        # Of several hosts none may leave the others alone in a call.
        signals = stack.enter_context(Signals(working=several_hosts()))
        feed = _Feed(batches, step_fn, start, steps, ahead)
        run = Run(step_fn, feed, hooks, start, steps, nonfinite_limit, nonfinite)
        for hook in hooks:
            stack.callback(hook.close)
            hook.start(run)
        watchdog = stack.enter_context(Watchdog(stall_seconds))
        stack.enter_context(when_a_host_is_lost())
        try:
            return _run(run, step_fn.enter(state), signals, watchdog)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{error}; {saver.last_good()}", error.step) from None


def _restore(
    state: TrainState,
    step_fn: MappedStep,
    batches: Iterator[Any],
    checkpoints: CheckpointStore | None,
) -> tuple[TrainState, int, Nonfinite]:
    """The newest checkpoint, or `state` if there is none, its step, and its steps not finite."""
    template = step_fn.form(state)
    found = checkpoints and checkpoints.restore_latest(template, data_iterator=batches)
    if not found:
        return state, int(state.step), Nonfinite()
    if found.data is None or not hasattr(batches, "set_state"):
        _log.warning("the data iterator has no saved state: the data begin anew at %d", found.step)
    return found.state, found.step, Nonfinite(**(found.progress or {}))


def _check_counts(start: int, steps: int, n_steps: int, hooks: Sequence[Hook]) -> None:
    check("steps", steps, steps >= 0, ">= 0")
    for hook in hooks:
        ok = hook.every is None or hook.every >= 1
        check(f"every of {type(hook).__name__}", hook.every, ok, ">= 1 or None")
    if steps > start and (steps - start) % n_steps:
        raise ValueError(
            f"steps - start must be a multiple of the {n_steps} steps of one call, "
            f"got {steps=} from step {start}"
        )


def _run(run: Run, mapped: Any, signals: "Signals", watchdog: Watchdog) -> FitResult:
    """The calls from the start to the end or a signal, and the hooks between them."""
    step_fn, together = run.step_fn, several_hosts()
    began = time.monotonic()
    # Several hosts stop together, in the call that brings the signal to all of them.
    stopped = lambda: run.stop if together else signals.caught is not None
    while run.step < run.steps and not stopped():
        for hook in run.hooks:
            hook.before(run)
        asked = time.monotonic()
        batch = run.feed.next(run.step)
        run.waited += time.monotonic() - asked
        mapped, metrics = step_fn.call(mapped, batch, signals.caught is not None)
        run.settle()  # the call before this one
        run.pending = (run.step, metrics)
        watchdog.beat()
        asked = time.monotonic()
        run.feed.prepare()
        run.waited += time.monotonic() - asked
        before, run.step = run.step, run.step + step_fn.n_steps
        if before == run.start:
            step_fn.read(metrics)  # waits, so that the first call is timed alone
            signals.working = True
            run.first_call_seconds = time.monotonic() - began
            began += run.first_call_seconds
            run.settle()
        due = [h for h in run.hooks if h.every and run.step // h.every > before // h.every]
        if due:
            run.settle()
            run.pause = time.monotonic()
            _take(run, mapped, any(hook.needs_state for hook in due))
            for hook in due:
                hook.act(run)
            run.state = run.held = None
            run.paused += time.monotonic() - run.pause
            run.pause = None
            watchdog.beat()
    run.settle()
    timed = run.step - run.start - step_fn.n_steps
    rate = timed / (time.monotonic() - began - run.paused) if timed > 0 else math.nan
    _take(run, mapped, True)
    for hook in run.hooks:
        hook.finish(run)
    return FitResult(
        run.state,
        run.step,
        stopped(),
        run.last,
        run.first_call_seconds,
        rate,
        run.nonfinite.skipped,
    )


def _take(run: Run, mapped: Any, whole: bool) -> None:
    """Give the hooks the state as it is saved and, if `whole`, on one device."""
    run.held = run.step_fn.hold(mapped)
    if whole:
        same = run.step_fn.leave is run.step_fn.hold
        run.state = run.held if same else run.step_fn.leave(mapped)


class _Feed:
    """Batches placed on the devices some calls ahead, with the state of the data as consumed."""

    def __init__(
        self, batches: Any, step_fn: MappedStep, start: int, steps: int, ahead: int
    ) -> None:
        self._batches, self._step_fn, self._ahead = batches, step_fn, ahead
        self._taken, self._steps = start, steps
        self._queue: deque[tuple[Any, Any]] = deque()
        self.resumable = hasattr(batches, "get_state")
        self._state = self._now()

    def _now(self) -> Any:
        return copy.deepcopy(self._batches.get_state()) if self.resumable else None

    def _fill(self, depth: int) -> None:
        n = self._step_fn.n_steps
        while len(self._queue) < depth and self._taken < self._steps:
            taken = [batch for _, batch in zip(range(n), self._batches, strict=False)]
            if len(taken) < n:
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
        """Place the batches of the next calls while the devices compute."""
        self._fill(self._ahead)

    def get_state(self) -> Any:
        """The state of the data after the last batch that `next` gave."""
        return self._state


class Signals:
    """Catch the first SIGTERM or SIGINT, so that the current call can be completed and saved.

    Until `working` is set there is nothing to complete: SIGINT then raises KeyboardInterrupt.
    """

    def __init__(self, *, working: bool = True) -> None:
        self.caught: int | None = None
        self.working = working
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        # Python allows handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None or (number == signal.SIGINT and not self.working):
            raise KeyboardInterrupt
        self.caught = number

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
