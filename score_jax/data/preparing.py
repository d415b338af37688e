"""Write sources as folders of records: in parallel, resumable, whole or not at all.

Everything is written to a hidden folder beside the target, which is renamed when all of it is there. A
shard counts as done when its note, a JSON file beside it, exists; another call with the same source and
the same options goes on from there.
"""

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from score_jax._check import check, check_count
from score_jax._files import locked, replacing, sha256_of, write_json
from score_jax.data.records import (
    DESCRIPTION_FILE,
    FORMAT,
    WRITE,
    Leaf,
    Shard,
    encode,
    leaves_of,
)
from score_jax.data.sources import Description, describe
from score_jax.types import Source

PathLike = str | os.PathLike[str]
PLAN_FILE = "plan.json"
SHARD_SIZE, MOST_SHARDS = (
    4096,
    256,
)  # records of a shard, or more, so that not too many files are open
LISTED = 20  # unreadable examples that a message names


class Unreadable(ValueError):
    """Examples that cannot be read; `errors` has a line for each."""

    def __init__(self, errors: list[str]) -> None:
        more = f"; and {len(errors) - LISTED} more" if len(errors) > LISTED else ""
        super().__init__(
            f"{len(errors)} examples cannot be read: {'; '.join(errors[:LISTED])}{more}"
        )
        self.errors = errors


class Written(NamedTuple):
    """What `write_records` did: the records of each split, and a line for each example left out."""

    counts: dict[str, int]
    skipped: list[str]


@dataclass(frozen=True)
class _Job:
    """One shard: the examples [start, end) of a split, to be written to a file."""

    split: str
    start: int
    end: int
    path: pathlib.Path

    @property
    def note(self) -> pathlib.Path:
        """The file that says that the shard is done."""
        return self.path.with_suffix(".json")


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[Callable[[bytes], Any]]:
    """A function that adds a record to a new file; OSError naming it where it cannot be written."""
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), WRITE)
    try:
        try:
            yield writer.write
        finally:
            writer.close()
    except RuntimeError as error:  # array_record's error for a full disk
        raise OSError(f"{path} cannot be written: {error}") from None


def _write_shard(
    job: _Job, sources: Mapping[str, Source], leaves: Mapping[str, Leaf], skip: bool
) -> tuple[_Job, list[str]]:
    """Write a shard and its note, the note only if nothing is unreadable or `skip` allows it."""
    source, errors, count = sources[job.split], [], 0
    classes: collections.Counter[str] = collections.Counter()
    with replacing(job.path) as part, _writing(part) as write:
        for i in range(job.start, job.end):
            try:
                example = source[i]
                record = encode(example, leaves, f"example {i} of {job.split}")
            except ValueError as error:
                errors.append(str(error))
                continue
            write(record)
            count += 1
            if "y" in leaves:
                classes[str(int(example["y"]))] += 1
    if skip or not errors:
        shard = Shard(job.path.name, count, job.path.stat().st_size, sha256_of(job.path))
        write_json(job.note, dataclasses.asdict(shard) | {"classes": classes, "skipped": errors})
    return job, errors


# What a worker process writes from: given once, because a source may have a million names.
_given: dict[str, Any] = {}


def _leave_with_parent() -> None:
    """End this worker when the process that started it is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _give(sources: Any, leaves: Any, skip: bool) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops them
    _given.update(sources=sources, leaves=leaves, skip=skip)


def _work(job: _Job) -> tuple[_Job, list[str]]:
    return _write_shard(job, **_given)


def _run(
    jobs: list[_Job], sources: Any, leaves: Any, *, skip: bool, workers: int
) -> Iterator[tuple[_Job, list[str]]]:
    """Write the shards, here or in worker processes, in the order in which they are done."""
    if not workers or len(jobs) <= 1:
        yield from (_write_shard(job, sources, leaves, skip) for job in jobs)
        return
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)) or 1,
        multiprocessing.get_context("spawn"),
        initializer=_give,
        initargs=(sources, leaves, skip),
    ) as pool:
        futures: list[Any] = []
        try:
            futures += [pool.submit(_work, job) for job in jobs]
            yield from (f.result() for f in concurrent.futures.as_completed(futures))
        except concurrent.futures.process.BrokenProcessPool:
            raise ValueError(
                "a worker process was killed: the same call with fewer workers continues"
            ) from None
        finally:
            for future in futures:
                future.cancel()


def _description(sources: Mapping[str, Source]) -> Description:
    """That of the first split, with the classes of all; ValueError where another one differs."""
    forms = {name: describe(source) for name, source in sources.items()}
    first = next(iter(forms.values()))
    for name, form in forms.items():
        check(f"sources[{name!r}]", len(sources[name]), len(sources[name]) > 0, "of some examples")
        for k in ("shape", "dtype", "levels", "class_names"):
            value, wanted = getattr(form, k), getattr(first, k)
            check(f"{k} of {name!r}", value, value == wanted, f"that of the first split, {wanted}")
    classes = max(form.num_classes or 0 for form in forms.values()) or None
    return dataclasses.replace(first, num_classes=classes)


def _plan(
    sources: Mapping[str, Source],
    description: Description,
    leaves: Mapping[str, Leaf],
    shard_size: int | None,
    options: Any,
) -> dict[str, Any]:
    """What must be the same for a folder to be continued."""
    plan = {
        "format": FORMAT,
        "description": description.to_record(),
        "leaves": leaves,
        "examples": {name: len(source) for name, source in sources.items()},
        "shard_size": shard_size,
        "options": options,
    }
    value: dict[str, Any] = json.loads(json.dumps(plan))
    return value


def _jobs(
    sources: Mapping[str, Source], shard_size: int | None, folder: pathlib.Path
) -> list[_Job]:
    jobs = []
    for name, source in sources.items():
        size = shard_size or max(SHARD_SIZE, -(-len(source) // MOST_SHARDS))
        count = -(-len(source) // size)
        for i in range(count):
            file = f"{name}-{i:05d}-of-{count:05d}.array_record"
            end = min(len(source), (i + 1) * size)
            jobs.append(_Job(name, i * size, end, folder / file))
    return jobs


def _begin(part: pathlib.Path, plan: dict[str, Any], say: Callable[[str], None]) -> None:
    """Empty the hidden folder unless it was begun with the same plan."""
    path = part / PLAN_FILE
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_text(encoding="utf-8")) == plan:
            say(f"continues {part}")
            return
        say(f"{part} was begun with other data or options: starts again")
    for old in part.iterdir():
        if old.is_file() and not old.name.startswith(".lock"):
            old.unlink()
    write_json(path, plan)


def _end(
    part: pathlib.Path, out: pathlib.Path, jobs: list[_Job], plan: dict[str, Any]
) -> tuple[dict[str, list[Shard]], list[str]]:
    """Write the description and give the folder its name."""
    splits: dict[str, list[Shard]] = {name: [] for name in plan["examples"]}
    classes = {name: collections.Counter[str]() for name in splits}
    skipped: list[str] = []
    for job in jobs:
        note = json.loads(job.note.read_text(encoding="utf-8"))
        skipped += note.pop("skipped")
        classes[job.split].update(note.pop("classes"))
        if note["count"]:
            splits[job.split].append(Shard(**note))
    if not all(splits.values()):
        raise Unreadable(skipped)
    record = {k: plan[k] for k in ("format", "description", "leaves", "options")}
    described = {
        "classes": {
            k: dict(sorted(v.items(), key=lambda pair: int(pair[0]))) for k, v in classes.items()
        },
        "splits": {
            name: [dataclasses.asdict(s) for s in shards] for name, shards in splits.items()
        },
        "skipped": skipped,
    }
    write_json(part / DESCRIPTION_FILE, record | described)
    os.replace(part, out)
    kept = {DESCRIPTION_FILE, *(s.file for shards in splits.values() for s in shards)}
    for old in out.iterdir():
        if old.name not in kept:
            old.unlink()
    return splits, skipped


def write_records(
    sources: Mapping[str, Source],
    out: PathLike,
    *,
    options: Mapping[str, Any] | None = None,
    shard_size: int | None = None,
    workers: int = 0,
    skip: bool = False,
    progress: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda line: None,
) -> Written:
    """Write the splits {"train": source, ...} as the folder `out`, which `read_records` reads: `Written`.

    The description is that of the first split, with the classes of all. `options` are JSON values that
    are kept with it. `shard_size` is the number of records of a file, by default 4096 or what makes 256
    files. `workers` processes decode (0: this one). `skip` leaves out examples that cannot be
    read. `progress` is called with the number of examples done, `say` with a line about a folder that is
    continued.

    A call that was killed is continued by the same call. Nothing is at `out` before all of it is.

    Raises Unreadable, a ValueError that names the files, if examples cannot be read and `skip` is not
    set; ValueError if `out` exists; FolderLocked if another process writes it.

    >>> write_records({"train": read_folder("photos", ImageOptions(size=(64, 64)))}, "data/photos")
    """
    out = pathlib.Path(out)
    check("out", str(out), not out.exists(), "a new folder")
    check_count(shard_size=SHARD_SIZE if shard_size is None else shard_size)
    check_count(0, workers=workers)
    description = _description(sources)
    leaves = _leaves(sources)
    part = out.with_name(f".{out.name}.preparing")
    with locked(part):
        plan = _plan(sources, description, leaves, shard_size, dict(options or {}))
        _begin(part, plan, say)
        jobs = _jobs(sources, shard_size, part)
        left = [job for job in jobs if not job.note.exists()]
        progress(sum(job.end - job.start for job in jobs if job.note.exists()))
        failed: dict[_Job, list[str]] = {}
        for job, found in _run(left, sources, leaves, skip=skip, workers=workers):
            progress(job.end - job.start)
            failed[job] = found
        errors = [line for job in left for line in failed[job]]
        if errors and not skip:
            raise Unreadable(errors)
        splits, skipped = _end(part, out, jobs, plan)
    return Written({k: sum(s.count for s in v) for k, v in splits.items()}, skipped)


def _leaves(sources: Mapping[str, Source]) -> dict[str, Leaf]:
    """The form of the records: that of the first example that can be read."""
    source = next(iter(sources.values()))
    errors = []
    for i in range(len(source)):
        try:
            return leaves_of(source[i])
        except ValueError as error:
            errors.append(str(error))
    raise Unreadable(errors)
