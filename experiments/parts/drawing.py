"""Drawing many samples chunk by chunk, over all hosts, while the chunk before is written."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from score_jax import training, viz
from score_jax._files import locked
from score_jax._hosts import agreed, share_of
from score_jax.types import Params, PRNGKey

from ..config import SampleConfig
from ..runs import Run
from . import folders, sampling
from .guiding import Guide

_PLAIN_SECONDS = 15.0  # between two plain lines of progress


class Plan(NamedTuple):
    """What is drawn: samples number 0, ..., num - 1 of a key, with labels y (num,) or none.

    cond: vectors or fields (m, *d) in the data's own units, repeated; None: those that the run keeps.
    """

    run: Run
    params: Params
    key: PRNGKey
    num: int
    config: SampleConfig
    y: np.ndarray | None = None
    guide: Guide | None = None
    chunk: int = 256
    cond: np.ndarray | None = None

    def cond_of(self, numbers: np.ndarray) -> np.ndarray | None:
        """The vectors or fields of the samples of these numbers, or None."""
        if self.cond is None:
            return sampling.cond_of(self.run, numbers)
        return self.cond[numbers % len(self.cond)]

    @property
    def classes(self) -> np.ndarray | None:
        """The labels, if they are classes; vectors and fields follow from the numbers of samples."""
        given = self.y is not None and np.issubdtype(self.y.dtype, np.integer)
        return self.y if given else None


class Cost(NamedTuple):
    """What was drawn, by this host."""

    num: int = 0
    nfe: float = 0.0  # network evaluations of all samples
    seconds: float = 0.0
    compile_seconds: float = 0.0

    def plus(self, drawn: sampling.Drawn) -> "Cost":
        """The cost with that of a chunk."""
        n = len(drawn.x)
        return Cost(
            self.num + n,
            self.nfe + n * drawn.nfe,
            self.seconds + drawn.seconds,
            self.compile_seconds + drawn.compile_seconds,
        )

    def as_dict(self) -> dict[str, Any]:
        """The cost as JSON: nfe is the mean of a sample, None if nothing was drawn."""
        return {
            "nfe": self.nfe / self.num if self.num else None,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "devices": [device.device_kind for device in jax.devices()],
        }


def as_stored(run: Run, x: Any) -> np.ndarray:
    """Samples in the network's range as they are stored: bytes by `viz.to_uint8`, or float32.

    Bytes are those of data with grey levels, and this is the only rule by which samples become bytes.
    Continuous data are stored in their own units.
    """
    if run.source.levels is None:
        return np.asarray(run.source.to_data(x), np.float32)
    return viz.to_uint8(x, run.config.data.range)


def settings(step: int, seed: int, config: SampleConfig) -> dict[str, Any]:
    """What decides samples, beside the weights, as JSON."""
    return {"step": step, "seed": seed, "sample": dataclasses.asdict(config)}


def fingerprint(params: Params) -> str:
    """The SHA-256 of parameters: of their values, in the order of their names."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def draw_chunks(
    plan: Plan,
    chunks: Sequence[int],
    progress: "Progress | None" = None,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[tuple[int, sampling.Drawn]]:
    """Draw the numbered chunks: pairs (chunk, its samples); `devices` as for `sampling.draw`.

    Sample i is the same whichever chunks are drawn. The last chunk is drawn at full size and cut, so
    that there is one program.
    """
    run, config, guide = plan.run, plan.config, plan.guide
    for index in chunks:
        first = index * plan.chunk
        size = min(plan.chunk, plan.num - first)
        full = min(plan.chunk, plan.num)
        numbers = (first + np.arange(full)) % plan.num
        y = None if plan.classes is None else plan.classes[numbers]
        options: dict[str, Any] = {
            "y": y, "cond": plan.cond_of(numbers), "guide": guide, "chunk": full,
            "first": first, "devices": devices,
        }  # fmt: skip
        drawn = sampling.draw(run, plan.params, plan.key, full, config, progress=False, **options)
        if progress is not None:
            progress.update(size)
        yield index, drawn._replace(x=drawn.x[:size])


def write_chunks(plan: Plan, chunks: Sequence[int], write: Callable[[int, Any], None]) -> Cost:
    """Draw the chunks and write each, as stored, while the next one is drawn."""
    cost = Cost()
    total = sum(min(plan.chunk, plan.num - index * plan.chunk) for index in chunks)
    with Progress(total) as progress, concurrent.futures.ThreadPoolExecutor(1) as writer:
        waiting = None
        for index, drawn in draw_chunks(plan, chunks, progress):
            if waiting is not None:
                waiting.result()
            waiting = writer.submit(write, index, as_stored(plan.run, drawn.x))
            cost = cost.plus(drawn)
        if waiting is not None:
            waiting.result()
    return cost


def folder_of(
    plan: Plan, path: pathlib.Path, format: folders.Format, settings: dict[str, Any]
) -> folders.SampleFolder:
    """The folder for the samples of a plan; ValueError for a format that does not hold them."""
    shape = plan.run.shape
    dtype = as_stored(plan.run, np.zeros((1, *shape), np.float32)).dtype
    low, high = plan.run.config.data.range
    how = f"uint8 by viz.to_uint8 of [{low:g}, {high:g}]" if dtype == np.uint8 else dtype.name
    settings = settings | {"values": how}
    if plan.config.together:  # the samples of a chunk on a device depend on each other
        settings = settings | {"local_devices": jax.local_device_count()}
    return folders.SampleFolder(path, format, plan.num, plan.chunk, shape, dtype, settings)


def fill(folder: folders.SampleFolder, plan: Plan) -> tuple[Cost, list[pathlib.Path]]:
    """Draw what the folder lacks, on all hosts: the cost on this host, and the files to look at.

    Raises ValueError as `SampleFolder.open`, and FolderLocked if another process fills it.
    """
    missing, first = agreed(folder.open, only_first=True), training.is_first()
    with locked(folder.path) if first else contextlib.nullcontext():
        if first and missing and len(missing) < folder.chunks:
            left = f"{len(missing)} of {folder.chunks} chunks are left"
            print(f"{folder.path}: continuing, {left}", file=sys.stderr, flush=True)
        mine = [missing[i] for i in share_of(0, len(missing))]
        cost = agreed(lambda: write_chunks(plan, mine, folder.write))
        complete = lambda: list(map(str, folder.complete(plan.classes, cost.as_dict())))
        written = agreed(complete, only_first=True)
    return cost, list(map(pathlib.Path, written))


class Progress:
    """A bar on a terminal, and a plain line from time to time elsewhere, with the time that is left."""

    def __init__(self, total: int, what: str = "samples") -> None:
        self._total, self._what, self._done = total, what, 0
        self._show = training.is_first() and total > 0

    def __enter__(self) -> "Progress":
        self._start = self._last = time.monotonic()
        use_bar = self._show and sys.stderr.isatty()
        self._bar = tqdm(total=self._total, unit=f" {self._what}", disable=not use_bar)
        self._lines = self._show and not use_bar
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def update(self, n: int) -> None:
        """Count n more."""
        self._done += n
        self._bar.update(n)
        now = time.monotonic()
        if self._lines and now - self._last >= _PLAIN_SECONDS:
            self._last = now
            rate = self._done / (now - self._start)
            left = tqdm.format_interval((self._total - self._done) / rate)
            text = (
                f"{self._done:,} of {self._total:,} {self._what}, {rate:.3g} a second, {left} left"
            )
            print(text, file=sys.stderr, flush=True)

    def count(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass batches on and count them."""
        for batch in batches:
            yield batch
            self.update(len(next(iter(batch.values()))))
