"""How a run uses its machine: memory, waiting for data, arithmetic, and a trace for the profiler."""

import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax

from score_jax._check import check
from score_jax.training.hooks import Hook
from score_jax.training.run import Run

# Dense bfloat16 FLOP/s of a device by the vendors' data sheets; the first name that occurs in
# `device_kind` counts.
PEAKS = (
    ("H100 NVL", 835e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("H200", 989e12), ("A100", 312e12),
    ("V100", 125e12), ("L40S", 362e12), ("TPU v5 lite", 197e12), ("TPU v5e", 197e12),
    ("TPU v6 lite", 918e12), ("TPU v6e", 918e12), ("TPU v5p", 459e12), ("TPU v5", 459e12),
    ("TPU v4", 275e12), ("TPU v3", 123e12),
)  # fmt: skip


def peak_flops(device: jax.Device) -> float | None:
    """The largest number of bfloat16 operations a second of a device, None where it is unknown."""
    return next((peak for name, peak in PEAKS if name in device.device_kind), None)


def memory_peak() -> tuple[str, float]:
    """(name, GB): the most that a device of this process held, or, on CPUs, that the process held."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    found = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if found:
        return "device_memory_peak_gb", max(found) / 1e9
    unit = 1 if sys.platform.startswith("darwin") else 1024  # of ru_maxrss
    return "memory_peak_gb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@dataclass
class Usage(Hook):
    """Log, when a multiple of `every` steps is passed, how the run used its machine since the last time.

    Logged are the peak of memory ("device_memory_peak_gb", or on CPUs "memory_peak_gb" of the process),
    "data_wait", the share of the time in which the loop waited for batches or placed them (while the
    devices compute, as far as they have a call; near 1 the data are the limit), and "mfu", the model's
    FLOP/s over the peak of all devices in bfloat16, where that is known. `flops()` gives the FLOP of a
    step of the whole batch; it is called once, on devices whose peak is known. Pauses for other hooks do
    not count.

    >>> hooks = [Usage(1000, lambda: jax.jit(step).lower(state, batch).cost_analysis()["flops"])]
    """

    every: int | None = field()
    flops: Callable[[], float | None] | None = None
    needs_state = False

    def start(self, run: Run) -> None:
        """Begin to measure after the first call, which compiles."""
        self._last: tuple[float, int, float, float] | None = None
        self._flops: float | None = None

    def log(self, run: Run, first_step: int, metrics: object) -> None:
        """Begin at the first call that is logged."""
        if self._last is None:
            self._last = self._now(run)

    def act(self, run: Run) -> None:
        """Log the usage since the last time."""
        name, peak = memory_peak()
        values, now = {name: round(peak, 3)}, self._now(run)
        then, self._last = self._last or now, now
        seconds, steps = (now[0] - now[2]) - (then[0] - then[2]), now[1] - then[1]
        if steps > 0 and seconds > 0:
            values["data_wait"] = round((now[3] - then[3]) / seconds, 4)
            rate = steps / seconds * self._of_peak()
            values |= {"mfu": round(rate, 4)} if rate else {}
        run.usage = values
        run.record(values)

    def _now(self, run: Run) -> tuple[float, int, float, float]:
        clock = time.monotonic() if run.pause is None else run.pause
        return clock, run.step, run.paused, run.waited

    def _of_peak(self) -> float:
        """The share of a second for which all devices would compute a step at their peak; 0: unknown."""
        peak = peak_flops(jax.devices()[0])
        if peak is None or self.flops is None:
            return 0.0
        if self._flops is None:
            self._flops = self.flops() or 0.0
        return self._flops / (peak * len(jax.devices()))


@dataclass
class Trace(Hook):
    """Write a trace of the calls with the steps first, ..., last to `folder`, for TensorBoard or XProf.

    folder: None on hosts that write none.

    Raises ValueError unless 1 <= first <= last, and where training resumes after `last`.

    >>> hooks = [Trace("runs/x/profile", 1001, 1010)]
    """

    folder: str | os.PathLike[str] | None
    first: int
    last: int
    _running: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        check("first", self.first, 1 <= self.first <= self.last, f"in [1, last={self.last}]")

    def start(self, run: Run) -> None:
        """Whether there is something to trace."""
        ok = run.start < self.last
        check("last", self.last, ok, f"after step {run.start}, from which training resumes")
        self._done = False

    def before(self, run: Run) -> None:
        """Start before the call with the first step, and stop after that with the last."""
        if self._running and run.step >= self.last:
            self.close()
        due = not self._done and run.step + run.n_steps >= self.first
        if due and not self._running and self.folder is not None:
            run.settle()  # nothing of an earlier call
            jax.profiler.start_trace(os.fspath(self.folder))
            self._running = True

    def finish(self, run: Run) -> None:
        """Stop, if the last call is one of them."""
        self.close()

    def close(self) -> None:
        """Write the trace."""
        if self._running:
            self._running, self._done = False, True
            jax.profiler.stop_trace()
