"""A training run between its calls: what is done, and the metrics that come from the devices."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from score_jax.training.mappings import MappedStep

_log = logging.getLogger(__name__)

Values = dict[str, np.ndarray]  # metrics by name, one entry a step: a number or an array


class NonFiniteLoss(FloatingPointError):
    """The loss, a gradient or an update was infinite or NaN too often; `step` is the first such."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Nonfinite(NamedTuple):
    """Steps that were not finite: in the whole run, in a row up to now, and the first of those."""

    skipped: int = 0
    in_a_row: int = 0
    since: int = 0


@dataclass
class Run:
    """The run as hooks see it, and the metrics of the call that is under way.

    start, steps: the steps that this call of `fit` goes from and to; step: the steps that are done;
    state: after `step`, on one device, in `act` (of hooks with `needs_state`) and `finish` only; held:
    the same as it is saved, a divided state as it lies; nonfinite: the steps that were not
    finite, of which `limit` in a row end the run; n_steps: of one call; last: the metrics of the last
    step that was logged; pause: when the pause for hooks began that is under way; paused, waited:
    seconds of pauses before it, and of waiting for batches; usage: what `Usage` logged last.
    """

    step_fn: MappedStep
    feed: Any
    hooks: Sequence[Any]
    start: int
    steps: int
    limit: int
    nonfinite: Nonfinite
    state: Any = None
    held: Any = None
    first_call_seconds: float = 0.0
    pause: float | None = None
    paused: float = 0.0
    waited: float = 0.0
    last: dict[str, float] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    pending: tuple[int, Any] | None = None  # a step, and the metrics of the call after it
    stop: bool = False  # a host has a stop request

    def __post_init__(self) -> None:
        self.step, self.n_steps = self.start, self.step_fn.n_steps

    @property
    def data(self) -> Any:
        """What has the state of the data after the current step, or None."""
        return self.feed if self.feed.resumable else None

    def record(self, values: Mapping[str, Any]) -> None:
        """Log numbers of the current step, or lists of them, by all hooks."""
        self._log(self.step, {name: np.array([value]) for name, value in values.items()})

    def settle(self) -> None:
        """Wait for the outstanding call and log its metrics. Raises NonFiniteLoss at the limit."""
        if self.pending is None:
            return
        (before, metrics), self.pending = self.pending, None
        values = self.step_fn.read(metrics)
        self.stop |= bool(values.pop("stop", np.zeros(1)).any())
        loss = values["loss"]
        values["finite"] = np.isfinite(loss) & np.asarray(values.get("finite", True), bool)
        n = self._count(before, values["finite"])
        self._log(before + 1, {name: value[:n] for name, value in values.items()})
        del values["finite"]
        self.last = {name: float(v[n - 1]) for name, v in values.items() if v.ndim == 1}
        _, in_a_row, since = self.nonfinite
        if in_a_row >= self.limit:
            shown = ", ".join(f"{name}={value:.4g}" for name, value in self.last.items())
            many = f" {in_a_row} times in a row since" if self.limit > 1 else " at"
            raise NonFiniteLoss(f"not finite{many} step {since}: {shown}", since)

    def _log(self, first_step: int, values: Values) -> None:
        for hook in self.hooks:
            hook.log(self, first_step, values)

    def _count(self, before: int, finite: np.ndarray) -> int:
        """Count the steps that are not finite; the number of steps until the limit was reached."""
        for i, fine in enumerate(finite):
            skipped, in_a_row, since = self.nonfinite
            if fine:
                self.nonfinite = Nonfinite(skipped)
                continue
            step = before + i + 1
            self.nonfinite = Nonfinite(skipped + 1, in_a_row + 1, since if in_a_row else step)
            _log.warning("step %d is not finite: skipped (%d so far)", step, skipped + 1)
            if in_a_row + 1 >= self.limit:
                return i + 1
        return len(finite)
