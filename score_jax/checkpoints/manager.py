"""Orbax's manager as we use it: what is kept, which processes take part, and what a failure leaves."""

import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from score_jax import _hosts
from score_jax.checkpoints import memory
from score_jax.checkpoints.errors import CheckpointError, guard

PREFIX = "step"
_log = logging.getLogger(__name__)

Scores = dict[int, float | None]  # {step: its score}


def lowest(scores: Scores) -> int | None:
    """The step with the lowest score, the newest of equals."""
    known = {step: score for step, score in scores.items() if score is not None}
    return min(known, key=lambda step: (known[step], -step), default=None)


class _NewestAndBest(preservation_policy.PreservationPolicy):
    """Keep the newest checkpoints, all of them with keep=None, and the one with the lowest score."""

    def __init__(self, keep: int | None, scores: Scores) -> None:
        self._keep, self._scores = keep, scores

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        """Whether to keep each of the checkpoints, which are in the order of their steps."""
        steps = [info.step for info in checkpoints]
        kept = set(steps if self._keep is None else sorted(steps)[-self._keep :])
        best = lowest({step: self._scores.get(step) for step in steps})
        return [step == best or step in kept for step in steps]


def processes(together: bool, name: str) -> Any:
    """Options by which Orbax waits for all processes, or for no other."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    if together:
        every = set(range(jax.process_count()))
        return ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes=every, barrier_sync_key_prefix=f"all_{name}"
        )
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host_{own}"
    )


def make(folder: Path, *, keep: int | None, scores: Scores, read_only: bool, together: bool) -> Any:
    """The manager of a folder, which is made if it is missing unless `read_only`."""
    taking_part = processes(together, folder.name)
    handlers = ocp.handlers.create_default_handler_registry(state=memory.writer(taking_part))
    options = ocp.CheckpointManagerOptions(
        step_prefix=PREFIX,
        step_format_fixed_length=8,
        preservation_policy=_NewestAndBest(keep, scores),
        create=False,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
        multiprocessing_options=taking_part,
        # A folder that cannot be made is then an error of `save`. Made in the background, it would
        # leave threads that wait five minutes for it and keep the process alive.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    what = f"cannot open the checkpoint folder {folder}"
    if not read_only:
        made = lambda: guard(what, lambda: folder.mkdir(parents=True, exist_ok=True))
        _hosts.agreed(made, only_first=True) if together else made()
    if together:
        _check_shared(folder, writes=not read_only)
    return guard(
        what, lambda: ocp.CheckpointManager(folder, options=options, handler_registry=handlers)
    )


def _check_shared(folder: Path, *, writes: bool) -> None:
    """Raise CheckpointError on every host unless all of them see one folder."""
    token = _hosts.share(secrets.token_hex(8))
    mark = folder / f".shared-{token}"

    def write() -> None:
        if writes:
            mark.touch()

    def look() -> None:
        if not (mark if writes else folder).exists():
            raise CheckpointError(
                f"{folder} is not the first host's folder: each host writes its part of a divided "
                "state, so that all hosts need one shared folder"
            )

    _hosts.agreed(write, only_first=True)
    try:
        _hosts.agreed(look)
    finally:
        if _hosts.is_first():
            mark.unlink(missing_ok=True)


class Held:
    """A folder that is kept open, so that no other one is taken for it when it is removed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, os.open(folder, os.O_RDONLY)

    def there(self) -> bool:
        """Whether the folder is at its path."""
        try:
            return os.path.samestat(os.stat(self._folder), os.fstat(self._file))
        except OSError:
            return False

    def close(self) -> None:
        """Let it go."""
        os.close(self._file)


def remove_unfinished(folder: Path) -> None:
    """Remove what a failed save has left, which keeps the space that a full disk lacks."""
    for path in folder.glob(f"{PREFIX}_*.orbax-checkpoint-tmp*"):
        _log.debug("removing %s", path)
        shutil.rmtree(path, ignore_errors=True)
