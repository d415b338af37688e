"""What a command measured, kept on the disk as it goes: a part that fails leaves its reason."""

from __future__ import annotations

import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from score_jax._files import write_text

from ..late import late

with late():
    from score_jax import training


MISSING = "missing"
# Faults of one part, such as a network that returns NaN or a matrix that does not fit in memory.
FAULTS = (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError)


class Results:
    """A tree of JSON values that is written after every part.

    Numbers that are not finite become null. They, and parts that raised an error, are listed with the
    reason under "missing", by their dotted names.
    """

    def __init__(self, path: pathlib.Path | None, values: dict[str, Any]) -> None:
        self.path, self.values, self.missing = path, dict(values), dict[str, str]()

    def part(self, name: str, what: str, function: Callable[[], Any]) -> Any:
        """Say what is computed, compute it and keep it under a dotted name: its value, or None."""
        say(f"{what} ...")
        clock = time.perf_counter()
        try:
            value = function()
        except FAULTS as error:
            value, reason = None, " ".join(str(error).split()) or type(error).__name__
            self.missing[name] = reason
            say(f"{what}: failed: {reason:.300}")
        else:
            say(f"{what}: {time.perf_counter() - clock:.1f} s")
        self.keep(name, value)
        return value

    def keep(self, name: str, value: Any) -> None:
        """Keep a value and write the file."""
        *parents, last = name.split(".")
        place = self.values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = self._finite(name, value)
        self.write()

    def leave_out(self, name: str, reason: str) -> None:
        """Say in the result why a part is not in it; this is not a fault."""
        self.values.setdefault("left_out", {})[name] = reason
        say(f"{name.replace('_', ' ')} is left out: {reason}")
        self.write()

    def write(self) -> None:
        """Write the file, on the first host."""
        if self.path is not None and training.is_first():
            text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
            write_text(self.path, text + "\n")

    def as_dict(self) -> dict[str, Any]:
        """All values, and the reasons of those that are missing."""
        return self.values | ({MISSING: self.missing} if self.missing else {})

    def check(self) -> None:
        """Raise ValueError with the reasons if anything is missing."""
        if self.missing:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.missing.items())
            kept = f" (the rest is in {self.path})" if self.path else ""
            raise ValueError(f"not everything could be computed: {reasons}{kept}")

    def _finite(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: self._finite(f"{name}.{k}", v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._finite(f"{name}.{i}", v) for i, v in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            self.missing[name] = f"it is {value}, not a finite number"
            return None
        return value


def say(text: str) -> None:
    """Print a line of progress on stderr, on the first host."""
    if training.is_first():
        print(text, file=sys.stderr, flush=True)


def number(value: float | None, form: str = ".4g") -> str:
    """A number of a result as text; a dash if it is missing."""
    return "-" if value is None else format(value, form)


def with_error(part: dict[str, Any] | None, form: str = ".3f") -> str:
    """A {"mean", "stderr"} as text."""
    if part is None or part["mean"] is None:
        return "-"
    return number(part["mean"], form) + (
        "" if part["stderr"] is None else f" ± {part['stderr']:{form}}"
    )


def lines_of_missing(result: dict[str, Any]) -> Iterator[str]:
    """Lines for a report that say what is missing or left out, and why."""
    for name, why in {**result.get("left_out", {}), **result.get(MISSING, {})}.items():
        yield f"no {name.replace('_', ' ')}: {why}"
