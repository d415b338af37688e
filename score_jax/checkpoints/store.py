"""The folder of a run's checkpoints: save, restore, keep the newest and the best."""

import base64
import json
import logging
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from score_jax import __version__
from score_jax._check import check
from score_jax.checkpoints import leaves
from score_jax.checkpoints.errors import CheckpointError, Quiet, guard, guard_read
from score_jax.types import Restored

FORMAT_VERSION = 1
_PREFIX = "step"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")

Scores = dict[int, float | None]  # {step: its score}


def _crc_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _encode_data(data_iterator: Any) -> Any:
    """The iterator's state as JSON: Grain's data sets give a dict, its loaders bytes."""
    if data_iterator is None or not hasattr(data_iterator, "get_state"):
        return None
    state = data_iterator.get_state()
    return {"bytes": base64.b64encode(state).decode()} if isinstance(state, bytes) else state


def _decode_data(data: Any) -> Any:
    if isinstance(data, dict) and set(data) == {"bytes"}:
        return base64.b64decode(data["bytes"])
    return data


def _lowest(scores: Scores) -> int | None:
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
        best = _lowest({step: self._scores.get(step) for step in steps})
        return [step == best or step in kept for step in steps]


def _own_process() -> Any:
    """Options with which Orbax waits for no other process: one host saves (`SharedCheckpoints`)."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host_{own}"
    )


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save on leaving.

    Made by `open_checkpoints`. Saves run in the background: `wait` and `close` finish them.
    """

    def __init__(self, folder: Path, *, keep: int | None, read_only: bool) -> None:
        self.folder = folder
        self._damaged: set[int] = set()
        self._scores: Scores = {}
        self._quiet = Quiet()
        logging.getLogger("absl").addFilter(self._quiet)
        options = ocp.CheckpointManagerOptions(
            step_prefix=_PREFIX,
            step_format_fixed_length=8,
            preservation_policy=_NewestAndBest(keep, self._scores),
            create=False,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=_own_process(),
        )
        what = f"cannot open the checkpoint folder {folder}"
        if not read_only:
            guard(what, lambda: folder.mkdir(parents=True, exist_ok=True))
        self._manager = guard(what, lambda: ocp.CheckpointManager(folder, options=options))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The finished steps, oldest first, whether intact or damaged."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the lowest score, the newest of equals, or None if none has one."""
        return _lowest(self._read_scores())

    def save(
        self,
        step: int,
        state: Any,
        *,
        data_iterator: Any = None,
        extra: Any = None,
        progress: Any = None,
        score: float | None = None,
    ) -> bool:
        """Save `state` (a pytree of arrays) as `step`, in the background; False if it is there.

        The state of a `data_iterator` with `get_state()` is saved too; `extra` is any JSON value, such
        as a config, and `progress` another, such as counts. When the new step is complete, the oldest
        steps beyond `keep` are deleted, except the one with the lowest `score`.

        Raises ValueError for a negative step or one older than the newest, CheckpointError when this
        save or the one before cannot be written (a full disk); finished steps stay intact.
        """
        check("step", step, step >= 0, ">= 0")
        self.wait()
        for damaged in sorted(self._damaged):
            self._set_aside(damaged)
        latest = self.latest_step()
        if latest is not None and step < latest:
            raise ValueError(f"step {step} is older than the newest checkpoint, step {latest}")
        if step == latest:
            return False
        raw = jax.tree.map(leaves.to_raw, state)
        content = {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "step": step,
            "leaves": leaves.layout(raw),
            "data": _encode_data(data_iterator),
            "extra": extra,
            "progress": progress,
            "score": score if score is not None and math.isfinite(score) else None,
        }
        content = json.loads(json.dumps(content))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(raw),
            meta=ocp.args.JsonSave({"content": content, "crc32": _crc_json(content)}),
        )
        self._read_scores()
        self._scores[step] = content["score"]
        what = f"cannot save step {step} in {self.folder}"
        return bool(guard(what, lambda: self._manager.save(step, args=args, force=True)))

    def restore(self, step: int, template: Any, *, data_iterator: Any = None) -> Restored:
        """The checkpoint of `step`, with every leaf verified against its checksum.

        `template` has the structure, shapes and dtypes of the state: a state, or `jax.eval_shape` of
        a function that makes one. A leaf goes to the sharding that its template names, else to the
        first local device, whatever the number of devices that saved it. `data_iterator.set_state` is
        called with the saved state, if both exist.

        Raises CheckpointError if the step is missing, incomplete or damaged, and ValueError naming
        the leaf when the template does not fit.
        """
        content, where = self._content(step), self._where(step)
        abstract = jax.tree.map(leaves.raw_shape, template)
        leaves.check_layout(abstract, content["leaves"], where)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        read = lambda: self._manager.restore(step, args=args)["state"]
        raw = guard_read(f"cannot read {where}", read)
        self._verify(raw, content, where)
        state = jax.tree.map(leaves.from_raw, template, raw)
        data = _decode_data(content["data"])
        if data is not None and hasattr(data_iterator, "set_state"):
            data_iterator.set_state(data)
        return Restored(step, state, data, content["extra"], content.get("progress"))

    def restore_latest(self, template: Any, *, data_iterator: Any = None) -> Restored | None:
        """The newest checkpoint that is intact, or None if there are none; see `restore`.

        Damaged ones are skipped with a logged warning that says why; a later `save` renames them to
        `damaged_step_...`, so that they never count again.

        Raises CheckpointError if there are checkpoints and none is intact, ValueError if the
        template does not fit.
        """
        return self._newest(lambda step: self.restore(step, template, data_iterator=data_iterator))

    def restore_params(self, template: Any = None, *, field: str = "ema_params") -> Any:
        """One field of the newest intact state and nothing else of it; see `restore_params`."""
        return self._newest(lambda step: self._field(step, template, field))

    def read(self, step: int, field: str) -> Any:
        """One field of the state of `step`, and nothing else of it, as nested dicts of arrays.

        Raises CheckpointError if the step is missing or damaged, ValueError if it has no such field.
        """
        return self._field(step, None, field)

    def extra(self, step: int) -> Any:
        """The caller's value that was saved with `step`, such as a config.

        Raises CheckpointError if the step is missing or damaged.
        """
        return self._content(step)["extra"]

    def wait(self) -> None:
        """Wait for the save in the background. Raises CheckpointError if it failed."""
        try:
            guard(f"cannot save in {self.folder}", self._manager.wait_until_finished)
        except CheckpointError:
            # Orbax has already removed from its list the steps that it was about to delete.
            self._manager.reload()
            raise

    def close(self) -> None:
        """Wait for the save in the background and release everything. Raises as `wait`."""
        try:
            self.wait()
        finally:
            guard(f"cannot close {self.folder}", self._manager.close)
            logging.getLogger("absl").removeFilter(self._quiet)

    def _where(self, step: int) -> str:
        return f"the checkpoint of step {step} in {self.folder}"

    def _read_scores(self) -> Scores:
        """The score of every step, read once; None where there is none or it cannot be read."""
        for step in self.steps():
            if step not in self._scores:
                try:
                    self._scores[step] = self._content(step).get("score")
                except (CheckpointError, ValueError):
                    self._scores[step] = None
        return {step: self._scores[step] for step in self.steps()}

    def _newest(self, read: Callable[[int], _T]) -> _T | None:
        reasons = []
        for step in reversed(self.steps()):
            try:
                return read(step)
            except CheckpointError as error:
                _log.warning("skipped a checkpoint: %s", error)
                reasons.append(str(error))
                self._damaged.add(step)
        if reasons:
            raise CheckpointError(
                f"none of the {len(reasons)} checkpoints in {self.folder} is intact: {reasons[0]}"
            )
        return None

    def _content(self, step: int) -> dict[str, Any]:
        """The JSON of a step, verified."""
        where = self._where(step)
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{where} does not exist; there are {self.steps()}")
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = guard(f"cannot read {where}", lambda: self._manager.restore(step, args=args).meta)
        if not isinstance(meta, dict) or set(meta) != {"content", "crc32"}:
            raise CheckpointError(f"{where} is damaged: its JSON is not ours")
        content = meta["content"]
        if _crc_json(content) != meta["crc32"]:
            raise CheckpointError(f"{where} is damaged: the checksum of its JSON differs")
        if content["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{where} has format {content['format_version']}, written by score_jax "
                f"{content['package_version']}; this is {__version__}, which reads up to "
                f"{FORMAT_VERSION}: install a newer score_jax"
            )
        return content

    def _verify(self, raw: Any, content: dict[str, Any], where: str) -> None:
        for name, leaf in leaves.named(raw).items():
            if leaves.crc(leaf) != content["leaves"][name]["crc32"]:
                raise CheckpointError(f"{where} is damaged: the checksum of leaf {name!r} differs")

    def _field(self, step: int, template: Any, field: str) -> Any:
        content, where = self._content(step), self._where(step)
        saved = {n: v for n, v in content["leaves"].items() if n.split("/")[0] == field}
        if template is None:
            template = leaves.nested(saved, field)
        abstract = {field: jax.tree.map(leaves.raw_shape, template)}
        leaves.check_layout(abstract, saved, where)
        args = ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        # A manager remembers one handler for each item, and the standard one restores no parts.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            path = self._path(step) / "state"
            raw = guard_read(f"cannot read {where}", lambda: reader.restore(path, args=args))
        self._verify(raw, content, where)
        return jax.tree.map(leaves.from_raw, template, raw[field])

    def _path(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}_{step:08d}"

    def _set_aside(self, step: int) -> None:
        """Rename a damaged step, so that it no longer counts and nothing is lost."""
        source = self._path(step)
        target, number = self.folder / f"damaged_{source.name}", 1
        while target.exists():
            number += 1
            target = self.folder / f"damaged_{source.name}_{number}"
        guard(f"cannot rename {source}", lambda: os.rename(source, target))
        self._damaged.discard(step)
        self._manager.reload()


def open_checkpoints(
    folder: str | os.PathLike[str], *, keep: int | None = 3, read_only: bool = False
) -> Checkpoints:
    """The checkpoints in `folder`, which is made if it is missing unless `read_only`.

    The newest `keep` are kept (all with keep=None), and the one with the lowest score. Folders and
    files that are not checkpoints are left as they are.

    Raises ValueError for keep < 1, CheckpointError if the folder cannot be made or, read only, does
    not exist.

    >>> with open_checkpoints("runs/x/checkpoints") as checkpoints:
    ...     checkpoints.save(1, state)
    """
    check("keep", keep, keep is None or keep >= 1, ">= 1 or None")
    path = Path(folder).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"the checkpoint folder {path} is a file")
    if read_only and not path.is_dir():
        raise CheckpointError(f"there is no checkpoint folder {path}")
    return Checkpoints(path, keep=keep, read_only=read_only)


def restore_params(
    folder: str | os.PathLike[str], template: Any = None, *, field: str = "ema_params"
) -> Any:
    """The averaged parameters of the newest intact checkpoint in `folder`, for inference.

    Reads only that field. Without a `template` (arrays or `jax.ShapeDtypeStruct`s) the parameters
    are returned as the nested dict that Flax uses. Never writes.

    Raises CheckpointError if there is no intact checkpoint, ValueError if the template does not fit.

    >>> ema_params = restore_params("runs/x/checkpoints")
    """
    with open_checkpoints(folder, read_only=True) as checkpoints:
        params = checkpoints.restore_params(template, field=field)
    if params is None:
        raise CheckpointError(f"there is no checkpoint in {Path(folder).expanduser().resolve()}")
    return params
