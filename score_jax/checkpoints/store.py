"""The folder of a run's checkpoints: save, restore, keep the newest and the best."""

import base64
import contextlib
import json
import logging
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from score_jax import __version__, _hosts
from score_jax._check import check
from score_jax.checkpoints import leaves, manager, memory
from score_jax.checkpoints.errors import (
    CheckpointError,
    DamagedCheckpoint,
    Quiet,
    collect_abandoned,
    guard,
    without_abandoned,
)
from score_jax.types import Restored

FORMAT_VERSION = 2
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


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


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save on leaving.

    Made by `open_checkpoints`. Saves run in the background: `wait` and `close` finish them. With
    `together` all processes of a run call every method together: each writes and reads the parts of
    arrays that its devices hold, and an error on one of them is raised on all.
    """

    def __init__(self, folder: Path, *, keep: int | None, read_only: bool, together: bool) -> None:
        self.folder = folder
        self.together = together and jax.process_count() > 1
        self._writes = not read_only and (not self.together or jax.process_index() == 0)
        self._damaged: set[int] = set()
        self._scores: manager.Scores = {}
        self._quiet = Quiet()
        logging.getLogger("absl").addFilter(self._quiet)
        self._hooks, self._failed = contextlib.ExitStack(), False
        options: dict[str, Any] = {"read_only": read_only, "together": self.together}
        self._manager = manager.make(folder, keep=keep, scores=self._scores, **options)
        self._held = guard(f"cannot open {folder}", lambda: manager.Held(folder))
        self._hooks.enter_context(without_abandoned())

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
        return manager.lowest(self._read_scores())

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
        what = f"cannot save step {step} in {self.folder}"
        if not self._held.there():
            # Orbax would make it anew, without the files of the run beside it.
            raise CheckpointError(f"{what}: the folder was removed or replaced while it was in use")
        for damaged in sorted(self._damaged):
            self._set_aside(damaged)
        latest = self.latest_step()
        if latest is not None and step < latest:
            raise ValueError(f"step {step} is older than the newest checkpoint, step {latest}")
        if step == latest:
            return False
        memory.give_back()
        raw = jax.tree.map(leaves.to_raw, state)
        content = {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "step": step,
            "leaves": leaves.layout(raw, self._sums(raw)),
            "data": _encode_data(data_iterator),
            "extra": extra,
            "progress": progress,
            "score": score if score is not None and math.isfinite(score) else None,
        }
        content = json.loads(json.dumps(content))
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(raw),
            meta=ocp.args.JsonSave({"content": content, "crc32": _crc_json(content)}),
        )
        self._read_scores()
        self._scores[step] = content["score"]
        try:
            return bool(guard(what, lambda: self._manager.save(step, args=args, force=True)))
        except CheckpointError:
            self._after_failure()
            raise

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
        leaves.check_layout(jax.tree.map(leaves.raw_shape, template), content["leaves"], where)
        state = self._read(step, template, content)
        data = _decode_data(content["data"])
        if data is not None and hasattr(data_iterator, "set_state"):
            data_iterator.set_state(data)
        return Restored(step, state, data, content["extra"], content.get("progress"))

    def restore_latest(self, template: Any, *, data_iterator: Any = None) -> Restored | None:
        """The newest checkpoint that is intact, or None if there are none; see `restore`.

        Damaged ones are skipped with a logged warning that says why; a later `save` renames them to
        `damaged_step_...`, so that they never count again. One that cannot be read for another reason,
        such as its permissions, is an error.

        Raises CheckpointError if there are checkpoints and none is intact, ValueError if the
        template does not fit.
        """
        read = lambda step: self.restore(step, template, data_iterator=data_iterator)
        return self._newest(read, self._damaged.add)

    def restore_field(self, template: Any = None, *, field: str = "ema_params") -> Restored | None:
        """One field of the newest intact state, as `state`, and nothing else; see `restore_params`."""
        return self._newest(lambda step: self._field(step, template, field), lambda step: None)

    def read(self, step: int, field: str) -> Any:
        """One field of the state of `step`, and nothing else of it; see `restore_params`.

        Raises CheckpointError if the step is missing or damaged, ValueError if it has no such field.
        """
        return self._field(step, None, field).state

    def extra(self, step: int) -> Any:
        """The caller's value that was saved with `step`, such as a config.

        Raises CheckpointError if the step is missing or damaged.
        """
        return self._content(step)["extra"]

    def set_aside_after(self, step: int) -> None:
        """Rename all later steps to `later_step_...`, so that they no longer count; nothing is lost.

        Raises CheckpointError if a folder cannot be renamed.
        """
        self.wait()
        for later in [found for found in self.steps() if found > step]:
            _log.warning("set aside, as training starts before it: %s", self._where(later))
            self._set_aside(later, "later")

    def wait(self) -> None:
        """Wait for the save in the background. Raises CheckpointError if it failed."""
        try:
            guard(f"cannot save in {self.folder}", self._manager.wait_until_finished)
        except CheckpointError:
            self._after_failure()
            raise

    def close(self) -> None:
        """Wait for the save in the background and release everything. Raises as `wait`."""
        try:
            self.wait()
        finally:
            self._held.close()
            logging.getLogger("absl").removeFilter(self._quiet)
            try:
                guard(f"cannot close {self.folder}", self._manager.close)
            finally:
                if self._failed:
                    collect_abandoned()
                self._hooks.close()

    def _where(self, step: int) -> str:
        return f"the checkpoint of step {step} in {self.folder}"

    def _read_scores(self) -> manager.Scores:
        """The score of every step, read once; None where there is none or it cannot be read."""
        for step in self.steps():
            if step not in self._scores:
                try:
                    self._scores[step] = self._content(step).get("score")
                except (CheckpointError, ValueError):
                    self._scores[step] = None
        return {step: self._scores[step] for step in self.steps()}

    def _after_failure(self) -> None:
        self._failed = True
        if self._writes:
            manager.remove_unfinished(self.folder)
        # Orbax has already removed from its list the steps that it was about to delete.
        self._manager.reload()

    def _newest(self, read: Callable[[int], _T], note: Callable[[int], Any]) -> _T | None:
        reasons = []
        for step in reversed(self.steps()):
            try:
                return read(step)
            except DamagedCheckpoint as error:
                _log.warning("skipped a checkpoint: %s", error)
                reasons.append(str(error))
                note(step)
        if reasons:
            raise CheckpointError(
                f"none of the {len(reasons)} checkpoints in {self.folder} is intact: {reasons[0]}"
            )
        return None

    def _agreed(self, call: Callable[[], Any], *, only_first: bool = False) -> Any:
        """The value of the call; with `together`, an error on one process is raised on all."""
        if not self.together:
            return call()
        # What one process cannot reach is no damage, whatever another one says.
        faults: tuple[type[Exception], ...] = (DamagedCheckpoint, CheckpointError, *_hosts.FAULTS)
        return _hosts.agreed(call, only_first=only_first, faults=faults)

    def _sums(self, raw: Any) -> dict[str, int]:
        """The checksum of every leaf, of the parts of all processes that hold some."""
        own = {name: leaves.local_sum(leaf) for name, leaf in leaves.named(raw).items()}
        far = [n for n, v in leaves.named(raw).items() if not leaves.is_local(v)]
        if not self.together or not far:
            return own
        every = _hosts.of_all(np.array([own[name] for name in far], np.uint64))
        return own | dict(zip(far, np.stack(every).sum(axis=0).tolist(), strict=True))

    def _content(self, step: int) -> dict[str, Any]:
        """The JSON of a step, verified; it may be that of the save in the background."""
        self.wait()
        content: dict[str, Any] = self._agreed(lambda: self._meta(step), only_first=True)
        return content

    def _meta(self, step: int) -> dict[str, Any]:
        where = self._where(step)
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{where} does not exist; there are {self.steps()}")
        file = self._path(step) / "meta" / "metadata"  # as Orbax's JsonSave writes it
        meta = guard(f"cannot read {where}", lambda: json.loads(file.read_bytes()), reads=True)
        if not isinstance(meta, dict) or set(meta) != {"content", "crc32"}:
            raise DamagedCheckpoint(f"{where} is damaged: its JSON is not ours")
        content: dict[str, Any] = meta["content"]
        if _crc_json(content) != meta["crc32"]:
            raise DamagedCheckpoint(f"{where} is damaged: the checksum of its JSON differs")
        if content["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{where} has format {content['format_version']}, written by score_jax "
                f"{content['package_version']}; this is {__version__}, which reads up to "
                f"{FORMAT_VERSION}: install a newer score_jax"
            )
        if content["step"] != step:
            raise DamagedCheckpoint(
                f"the folder {self._path(step)} holds the checkpoint of step {content['step']}: it was "
                f"copied or renamed; rename it to {self._path(content['step']).name} to use it"
            )
        return content

    def _read(self, step: int, template: Any, content: dict[str, Any], **options: Any) -> Any:
        """A tree of the state as the template has it, or one field of it, verified."""
        where, saved = self._where(step), content["leaves"]
        # A checksum of format 1 is that of a whole leaf, which is therefore read to one device.
        whole = content["format_version"] == 1
        abstract = jax.tree.map(lambda leaf: leaves.raw_shape(leaf, whole=whole), template)
        args = ocp.args.PyTreeRestore(
            abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), **options
        )
        path = self._path(step) / "state"
        memory.give_back()

        def read() -> Any:
            with self._reader(abstract) as reader:
                return guard(
                    f"cannot read {where}", lambda: reader.restore(path, args=args), reads=True
                )

        raw = self._agreed(read)
        sums = {} if whole else self._sums(raw)

        def verify() -> None:
            for name, leaf in leaves.named(raw).items():
                found = leaves.crc(leaf) if whole else f"{sums[name]:016x}"
                if found != saved[name][leaves.CRC if whole else leaves.SUM]:
                    raise DamagedCheckpoint(
                        f"{where} is damaged: the checksum of leaf {name!r} differs"
                    )

        self._agreed(verify)
        return jax.tree.map(leaves.from_raw, template, raw)

    def _reader(self, tree: Any = ()) -> Any:
        """A reader of a tree of shapes, which waits for no other process."""
        options = manager.processes(False, self.folder.name)
        handler = memory.reader(options, tree)
        return ocp.Checkpointer(handler, multiprocessing_options=options)

    def _field(self, step: int, template: Any, field: str) -> Restored:
        content, where = self._content(step), self._where(step)
        saved = {n: v for n, v in content["leaves"].items() if n.split("/")[0] == field}
        if not saved:
            raise ValueError(f"{where} has no leaves under {field!r}")
        if template is None:
            template = self._agreed(lambda: self._form(step, field, saved))
        tree = {field: template}
        leaves.check_layout(jax.tree.map(leaves.raw_shape, tree), saved, where)
        found = self._read(step, tree, content, partial_restore=True)[field]
        return Restored(step, found, None, content["extra"], content.get("progress"))

    def _form(self, step: int, field: str, saved: leaves.Layout) -> Any:
        """Shapes and dtypes of a field in nested dicts and lists, as Orbax has noted them.

        Dicts alone follow from the names of the leaves, without a look at the files of all arrays.
        """
        if not any(part.isdigit() for name in saved for part in name.split("/")):
            return leaves.nested(saved)[field]
        path, what = self._path(step) / "state", f"cannot read {self._where(step)}"

        def look() -> Any:
            with self._reader() as reader:
                tree = reader.metadata(path).item_metadata.tree[field]
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

        return guard(what, look, reads=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"{manager.PREFIX}_{step:08d}"

    def _set_aside(self, step: int, why: str = "damaged") -> None:
        """Rename a step, so that it no longer counts and nothing is lost."""
        source = self._path(step)
        target, number = self.folder / f"{why}_{source.name}", 1
        while target.exists():
            number += 1
            target = self.folder / f"{why}_{source.name}_{number}"
        rename = lambda: guard(f"cannot rename {source}", lambda: os.rename(source, target))
        self._agreed(rename, only_first=True)
        self._damaged.discard(step)
        self._manager.reload()


def open_checkpoints(
    folder: str | os.PathLike[str],
    *,
    keep: int | None = 3,
    read_only: bool = False,
    together: bool = False,
) -> Checkpoints:
    """The checkpoints in `folder`, which is made if it is missing unless `read_only`.

    The newest `keep` are kept (all with keep=None), and the one with the lowest score. Folders and
    files that are not checkpoints are left as they are. together: all processes of a run on several
    hosts open the folder, which they share, and each writes and reads its part of a divided state.

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
    return Checkpoints(path, keep=keep, read_only=read_only, together=together)


def restore_params(
    folder: str | os.PathLike[str], template: Any = None, *, field: str = "ema_params"
) -> Any:
    """The averaged parameters of the newest intact checkpoint in `folder`, for inference.

    Reads only that field, here or another one of the state, such as "params" or "opt_state". Without a
    `template` (arrays or `jax.ShapeDtypeStruct`s) it is returned as nested dicts and lists, with keys
    as their words. Never writes.

    Raises CheckpointError if there is no intact checkpoint, ValueError if the template does not fit.

    >>> ema_params = restore_params("runs/x/checkpoints")
    """
    with open_checkpoints(folder, read_only=True) as checkpoints:
        found = checkpoints.restore_field(template, field=field)
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {Path(folder).expanduser().resolve()}")
    return found.state
