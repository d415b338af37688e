"""Weights that a run starts from: `train --init RUN|FILE`, and where a run folder says so.

The parameters and all averages start from the given weights; the optimiser and the number of the step
start anew. A run that has trained never reads them again: it resumes from its own checkpoints.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from score_jax import checkpoints, training
from score_jax._files import sha256_of, write_json
from score_jax.convert import load_pretrained
from score_jax.convert.assemble import leaves, listed
from score_jax.losses.uncertainty import COLLECTION
from score_jax.types import Params

from .. import runs

FACTS = ("sde", "noise_input", "parametrization", "variance")  # of a model, beside its network


@dataclasses.dataclass(frozen=True)
class Start:
    """Which weights: what `load_pretrained` takes, and whether leaves that do not fit are drawn."""

    path: str
    preset: str | None = None
    raw: bool = False  # of the last step rather than averaged
    anew: bool = False  # leaves that do not fit are drawn, instead of an error

    @classmethod
    def of_flags(
        cls, path: str | None, preset: str | None, raw: bool, anew: bool
    ) -> "Start | None":
        """The start that the flags name; ValueError for further flags without --init."""
        if path is not None:
            found = pathlib.Path(path)
            # A command that is repeated in another folder means the same weights.
            return cls(str(found.resolve()) if found.exists() else path, preset, raw, anew)
        for flag, value in (("preset", preset), ("raw", raw), ("anew", anew)):
            if value:
                raise ValueError(f"--init-{flag} is for --init")
        return None


def read(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What a run folder says of the weights that it started from; None for a run from scratch."""
    path = workdir / runs.ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        Start(**found["start"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the origin of a run: {error!r}") from None
    return dict(found)


def due(workdir: pathlib.Path, start: Start | None) -> Start | None:
    """The weights that the run in a folder has to read: those of a new run, or none if it has trained.

    Raises ValueError if the folder holds a run that did not start from them.
    """
    if not (workdir / runs.CONFIG_FILE).is_file():
        return start
    record = read(workdir)
    own = None if record is None else Start(**record["start"])
    if start is not None and own != start:
        how = "from scratch" if own is None else f"from {own.path}"
        raise ValueError(
            f"workdir {str(workdir)!r} holds a run that started {how}, and --init starts a new one: "
            "choose another --workdir, or leave out --init to resume"
        )
    saved = any((workdir / runs.CHECKPOINTS).glob("step_*"))
    return None if saved else own


def _show(shape: Any) -> str:
    return str(tuple(shape)).replace(" ", "")


def fitted(drawn: Params, given: Params, start: Start) -> tuple[Params, dict[str, list[str]]]:
    """Replace drawn parameters by the given ones: (parameters, what did not fit).

    A learned weight of the loss is not part of the network and may be missing on either side. Raises
    ValueError that names the leaves unless all others fit, or `start.anew` and some do.
    """
    own, theirs = leaves(drawn), leaves(given)
    name = lambda path: "/".join(path).removeprefix("params/")
    both = [path for path in own if path in theirs]
    wrong = {
        "of another shape": [
            f"{name(p)} {_show(theirs[p].shape)} for {_show(own[p].shape)}"
            for p in both
            if theirs[p].shape != own[p].shape
        ],
        "missing there": [name(path) for path in own if path not in theirs],
        "not used here": [name(path) for path in theirs if path not in own],
    }
    wrong = {why: names for why, names in wrong.items() if names}
    fit = [path for path in both if theirs[path].shape == own[path].shape]
    config = pathlib.Path(start.path) / runs.CONFIG_FILE
    how = f"; its own config is --config {config}" if config.is_file() else ""
    if not fit:
        raise ValueError(f"--init {start.path}: no leaf fits, it is another network{how}")
    of_network = [
        n for names in wrong.values() for n in names if not n.startswith(f"{COLLECTION}/")
    ]
    if of_network and not start.anew:
        texts = [f"{len(names)} {why} ({listed(names)})" for why, names in wrong.items()]
        raise ValueError(
            f"--init {start.path}: {len(fit)} of {len(own)} leaves fit; {'; '.join(texts)}: "
            f"--init-anew draws those of this network{how}"
        )
    tree = jax.tree.map(lambda leaf: leaf, drawn)  # a copy of the dictionaries
    for path in fit:
        place = tree
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = jnp.asarray(theirs[path], own[path].dtype)
    return tree, wrong


def _facts_of(path: pathlib.Path) -> dict[str, Any]:
    """What identifies the weights: the step of a run, the checksum of a file."""
    if (path / runs.CHECKPOINTS).is_dir():
        with checkpoints.open_checkpoints(path / runs.CHECKPOINTS, read_only=True) as store:
            return {"step": store.latest_step()}
    if path.is_file():
        return {"sha256": sha256_of(path)}
    return {}


def state_of(run: runs.Run, start: Start) -> tuple[training.TrainState, dict[str, Any]]:
    """The state of step 0 with the given weights, and what the folder is to say of them.

    Raises ValueError for weights that do not fit, and what `load_pretrained` raises.
    """
    model, given = load_pretrained(start.path, start.preset, ema=not start.raw)
    key, state_key = jax.random.split(jax.random.key(run.config.seed))
    params, wrong = fitted(run.init_params(key), given, start)
    text = lambda model, fact: str(getattr(getattr(model, fact), "name", getattr(model, fact)))
    pairs = {fact: (text(model, fact), text(run.model, fact)) for fact in FACTS}
    record = {
        "start": dataclasses.asdict(start), **_facts_of(pathlib.Path(start.path)),
        "anew": wrong,
        "changed": {fact: list(pair) for fact, pair in pairs.items() if pair[0] != pair[1]},
    }  # fmt: skip
    return runs.make_state(run, state_key, params), record


def said(record: dict[str, Any]) -> list[str]:
    """The origin of a run in lines: the first is the weights."""
    start = Start(**record["start"])
    weights = "weights of the last step" if start.raw else "averaged weights"
    at = f", step {record['step']:,}" if record.get("step") is not None else ""
    lines = [f"started from {start.path} ({weights}{at})"]
    for why, names in record["anew"].items():
        leaf = "leaf" if len(names) == 1 else "leaves"
        lines.append(f"{len(names)} {leaf} {why}: {listed(names)}")
    changed = record["changed"].items()
    return lines + [f"{fact}: {new} here, {old} there" for fact, (old, new) in changed]


def write(workdir: pathlib.Path, record: dict[str, Any]) -> None:
    """Write the origin into the folder of a run."""
    write_json(workdir / runs.ORIGIN_FILE, record)
