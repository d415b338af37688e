"""Checkpoints of everything a run needs, by Orbax, that never load damaged values silently.

One folder holds steps, `step_00000100/`, each with two items: `state`, any pytree of arrays (typed
keys included) in Orbax' standard layout, and `meta`, JSON: format and package version, the state of
the data iterator, what the caller adds (a config), and for every leaf its shape, dtype and CRC-32.
The checksums are there because Orbax loads a flipped byte without complaint. Steps are written
beside and renamed, so a killed save leaves nothing that counts as a checkpoint.

>>> with open_checkpoints("runs/x/checkpoints", keep=3) as checkpoints:
...     checkpoints.save(100, state, data_iterator=batches, extra={"lr": 1e-4})
...     found = checkpoints.restore_latest(state)  # Restored(step=100, state, data, extra) or None
>>> ema_params = restore_params("runs/x/checkpoints")
"""

import base64
import gc
import inspect
import json
import logging
import math
import os
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from score_jax import __version__
from score_jax.types import Restored

FORMAT_VERSION = 1
_PREFIX = "step"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class CheckpointError(OSError):
    """A checkpoint could not be written or read; what was already written is untouched."""


class _Quiet(logging.Filter):
    """Drops Orbax' log while ours is open: each of its failures is raised, as one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep the record."""
        return "orbax" not in record.pathname


def _one_line(error: BaseException) -> str:
    """The kind and the text of an error on one line; of a long text the beginning and the end."""
    text = " ".join(str(error).split())
    if len(text) > 240:
        # The reason that the system gives ("No space left on device") comes last.
        text = f"{text[:100]} ... {text[-130:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _guard(what: str, call: Callable[[], _T]) -> _T:
    """Run `call`; whatever Orbax raises (its types vary) becomes a CheckpointError of one line."""
    try:
        return call()
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {_one_line(error)}") from error


def _guard_read(what: str, call: Callable[[], _T]) -> _T:
    """As `_guard` for a restore of many leaves.

    When one of them fails, Orbax abandons the reads of the others, and Python would print a page
    for each as it is collected. So they are collected here and now, unheard, without the cause.
    """
    heard = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        abandoned = inspect.iscoroutine(unraisable.object) or "Event loop is closed" in str(
            unraisable.exc_value
        )
        if not abandoned:
            heard(unraisable)

    sys.unraisablehook = hook
    try:
        try:
            return call()
        except Exception as error:
            message = f"{what}: {_one_line(error)}"
            _log.debug("%s", what, exc_info=True)
        gc.collect()
        time.sleep(0.1)
    finally:
        sys.unraisablehook = heard
    raise CheckpointError(message)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _names(tree: Any) -> list[str]:
    """A readable name for every leaf, in order: "opt_state/1/0/mu/params/Dense_0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _crc(leaf: Any) -> int:
    """CRC-32 of the bytes of an array."""
    flat = np.ascontiguousarray(np.asarray(leaf)).reshape(-1)
    return zlib.crc32(flat.view(np.uint8).data)


def _crc_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _raw(leaf: Any) -> Any:
    """What is written for a leaf: typed keys as their words, the buffer owned by the save alone."""
    if _is_key(leaf):
        words = jax.random.key_data(leaf)
        # One of several processes may write what is numpy's, but no array of JAX.
        return words if jax.process_count() == 1 else np.asarray(words)
    if not isinstance(leaf, jax.Array):
        return np.array(leaf)
    # On CPU the host "copy" of a background save is a view, which a donated step could overwrite.
    on_cpu = all(device.platform == "cpu" for device in leaf.devices())
    return jnp.copy(leaf) if on_cpu else leaf


def _raw_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding (the first local device if the leaf says none) to restore to."""
    shaped = jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)
    if _is_key(leaf):
        shaped = jax.eval_shape(jax.random.key_data, shaped)
    sharding = None if _is_key(leaf) else getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(shaped.shape, shaped.dtype, sharding=sharding)


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


def _check_layout(names: list[str], abstract: list[Any], saved: dict[str, Any], where: str) -> None:
    """Raise ValueError that names the first leaf in which the template and the file differ."""
    for name, leaf in zip(names, abstract, strict=True):
        if name not in saved:
            raise ValueError(f"{where} has no leaf {name!r}, which the template asks for")
        shape, dtype = tuple(saved[name]["shape"]), saved[name]["dtype"]
        if (shape, dtype) != (leaf.shape, str(leaf.dtype)):
            raise ValueError(
                f"leaf {name!r} of {where} is {dtype}{list(shape)}, but the template asks for "
                f"{leaf.dtype}{list(leaf.shape)}"
            )
    extra = sorted(set(saved) - set(names))
    if extra:
        raise ValueError(f"{where} has the leaf {extra[0]!r}, which the template lacks")


def _lowest(scores: dict[int, float | None]) -> int | None:
    """The step with the lowest score, the newest of equals."""
    known = {step: score for step, score in scores.items() if score is not None}
    return min(known, key=lambda step: (known[step], -step), default=None)


class _NewestAndBest(preservation_policy.PreservationPolicy):
    """Keep the newest checkpoints, all of them with keep=None, and the one with the lowest score."""

    def __init__(self, keep: int | None, scores: dict[int, float | None]) -> None:
        self._keep, self._scores = keep, scores

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        """Whether to keep each of the checkpoints, which are in the order of their steps."""
        steps = [info.step for info in checkpoints]
        kept = set(steps if self._keep is None else sorted(steps)[-self._keep :])
        best = _lowest({step: self._scores.get(step) for step in steps})
        return [step == best or step in kept for step in steps]


def _own_process() -> Any:
    """Orbax waits for no other process: of several hosts one saves (`training.SharedCheckpoints`)."""
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
        self._scores: dict[int, float | None] = {}
        self._quiet = _Quiet()
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
        if not read_only:
            what = f"cannot open the checkpoint folder {folder}"
            _guard(what, lambda: folder.mkdir(parents=True, exist_ok=True))
        self._manager = _guard(
            f"cannot open the checkpoint folder {folder}",
            lambda: ocp.CheckpointManager(folder, options=options),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps there are, oldest first, finished saves only (whether intact is seen later)."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def _read_scores(self) -> dict[int, float | None]:
        """The score of every step, read once; None where there is none or it cannot be read."""
        for step in self.steps():
            if step not in self._scores:
                try:
                    self._scores[step] = self._content(step).get("score")
                except (CheckpointError, ValueError):
                    self._scores[step] = None
        return {step: self._scores[step] for step in self.steps()}

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

        `data_iterator` with `get_state()` has that state stored; `extra` is any JSON value, such as
        a config, and `progress` another, such as counts. The oldest steps beyond `keep` are deleted
        once the new one is complete, but for the one with the lowest `score`.

        Raises ValueError for a negative step or one older than the newest, CheckpointError when
        this save or the one before cannot be written (a full disk); finished steps stay intact.
        """
        if step < 0:
            raise ValueError(f"step must be >= 0, got {step=}")
        self.wait()
        for damaged in sorted(self._damaged):
            self._set_aside(damaged)
        latest = self.latest_step()
        if latest is not None and step < latest:
            raise ValueError(f"step {step} is older than the newest checkpoint, step {latest}")
        if step == latest:
            return False
        raw = jax.tree.map(_raw, state)
        leaves = {
            name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "crc32": _crc(leaf)}
            for name, leaf in zip(_names(raw), jax.tree.leaves(raw), strict=True)
        }
        content = {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "step": step,
            "leaves": leaves,
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
        what = f"cannot save step {step} in {self.folder}"
        self._read_scores()
        self._scores[step] = content["score"]
        return bool(_guard(what, lambda: self._manager.save(step, args=args, force=True)))

    def restore(self, step: int, template: Any, *, data_iterator: Any = None) -> Restored:
        """The checkpoint of `step`, with every leaf verified against its checksum.

        `template` has the structure, shapes and dtypes of the state: a state, or `jax.eval_shape`
        of what makes one. A leaf goes to the template's sharding if it names one, else to the first
        local device, whatever number of devices saved it. `data_iterator.set_state` is called with
        what was saved, if both are there.

        Raises CheckpointError if the step is missing, incomplete or damaged, and ValueError naming
        the leaf when the template does not fit.
        """
        content = self._content(step)
        where = f"the checkpoint of step {step} in {self.folder}"
        abstract = jax.tree.map(_raw_abstract, template)
        _check_layout(_names(abstract), jax.tree.leaves(abstract), content["leaves"], where)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        raw = _guard_read(
            f"cannot read {where}", lambda: self._manager.restore(step, args=args)["state"]
        )
        self._verify(raw, content, where)
        state = jax.tree.map(_unraw, template, raw)
        data = _decode_data(content["data"])
        if data is not None and hasattr(data_iterator, "set_state"):
            data_iterator.set_state(data)
        return Restored(step, state, data, content["extra"], content.get("progress"))

    def restore_latest(self, template: Any, *, data_iterator: Any = None) -> Restored | None:
        """The newest checkpoint that is intact, or None if there are none; see `restore`.

        Damaged ones are passed over with a logged warning that says why; a later `save` renames
        them to `damaged_step_...` so that they never count again.

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

    def wait(self) -> None:
        """Wait for the save in the background. Raises CheckpointError if it failed."""
        try:
            _guard(f"cannot save in {self.folder}", self._manager.wait_until_finished)
        except CheckpointError:
            # Orbax has already struck the steps it was about to delete off its list.
            self._manager.reload()
            raise

    def close(self) -> None:
        """Wait for the save in the background and release everything. Raises as `wait`."""
        try:
            self.wait()
        finally:
            _guard(f"cannot close {self.folder}", self._manager.close)
            logging.getLogger("absl").removeFilter(self._quiet)

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
        where = f"the checkpoint of step {step} in {self.folder}"
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{where} does not exist; there are {self.steps()}")
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = _guard(f"cannot read {where}", lambda: self._manager.restore(step, args=args).meta)
        if not isinstance(meta, dict) or set(meta) != {"content", "crc32"}:
            raise CheckpointError(f"{where} is damaged: its JSON is not ours")
        content = meta["content"]
        if _crc_json(content) != meta["crc32"]:
            raise CheckpointError(f"{where} is damaged: the checksum of its JSON differs")
        if content["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{where} has format {content['format_version']}, written by score_jax "
                f"{content['package_version']}; this is {__version__}, which knows "
                f"{FORMAT_VERSION}: install a newer score_jax"
            )
        return content

    def _verify(self, raw: Any, content: dict[str, Any], where: str) -> None:
        for name, leaf in zip(_names(raw), jax.tree.leaves(raw), strict=True):
            if _crc(leaf) != content["leaves"][name]["crc32"]:
                raise CheckpointError(f"{where} is damaged: the checksum of leaf {name!r} differs")

    def _field(self, step: int, template: Any, field: str) -> Any:
        content = self._content(step)
        where = f"the checkpoint of step {step} in {self.folder}"
        saved = {n: v for n, v in content["leaves"].items() if n.split("/")[0] == field}
        if template is None:
            template = _nest(saved, field)
        abstract = {field: jax.tree.map(_raw_abstract, template)}
        _check_layout(_names(abstract), jax.tree.leaves(abstract), saved, where)
        args = ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        # A manager remembers one handler per item, and the standard one cannot restore a part.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            path = self.folder / f"{_PREFIX}_{step:08d}" / "state"
            raw = _guard_read(f"cannot read {where}", lambda: reader.restore(path, args=args))
        self._verify(raw, content, where)
        return jax.tree.map(_unraw, template, raw[field])

    def _set_aside(self, step: int) -> None:
        """Rename a damaged step, so that it no longer counts and nothing is lost."""
        source = self.folder / f"{_PREFIX}_{step:08d}"
        target = self.folder / f"damaged_{source.name}"
        number = 1
        while target.exists():
            number += 1
            target = self.folder / f"damaged_{source.name}_{number}"
        _guard(f"cannot rename {source}", lambda: os.rename(source, target))
        self._damaged.discard(step)
        self._manager.reload()


def _unraw(template: Any, raw: Any) -> Any:
    """The leaf as the template has it: words become a typed key again."""
    if not _is_key(template):
        return raw
    return jax.random.wrap_key_data(raw, impl=_key_impl(template))


def _key_impl(template: Any) -> Any:
    """The generator of a typed key or of its shape alone."""
    if isinstance(template, jax.Array):
        return jax.random.key_impl(template)
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), template)
    return found[0]


def _nest(saved: dict[str, Any], field: str) -> Any:
    """The nested dict of shapes that the names of the leaves of `field` spell."""
    tree: dict[str, Any] = {}
    for name, leaf in saved.items():
        *parents, last = name.split("/")[1:]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))
    if not tree:
        raise ValueError(f"the checkpoint has no leaves under {field!r}")
    return tree


def open_checkpoints(
    folder: str | os.PathLike[str], *, keep: int | None = 3, read_only: bool = False
) -> Checkpoints:
    """The checkpoints in `folder`, which is made if it is missing unless `read_only`.

    The newest `keep` are kept, all with keep=None, and the one with the lowest score. Folders and
    files that are not ours are left alone.

    Raises ValueError for keep < 1, CheckpointError if the folder cannot be made or, read only, is
    not there.

    >>> with open_checkpoints("runs/x/checkpoints") as checkpoints:
    ...     checkpoints.save(1, state)
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be >= 1, got {keep=}")
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

    Reads that field alone. Without a `template` (arrays or `jax.ShapeDtypeStruct`s) the parameters
    come back as the nested dict that Flax uses. Never writes.

    Raises CheckpointError if there is no intact checkpoint, ValueError if the template misfits.

    >>> ema_params = restore_params("runs/x/checkpoints")
    """
    with open_checkpoints(folder, read_only=True) as checkpoints:
        params = checkpoints.restore_params(template, field=field)
    if params is None:
        raise CheckpointError(f"there is no checkpoint in {Path(folder).expanduser().resolve()}")
    return params
