"""Make a run folder of published weights, for all other commands, or a file of theirs of a run.

python -m experiments.convert --from score_sde_pytorch --file checkpoint_8.pth \
    --config cifar10_ncsnpp_continuous --workdir runs/ncsnpp
python -m experiments.convert --from score_jax --file fashion_vp --workdir runs/fashion
python -m experiments.convert --to diffusers --file my-ddpm --workdir runs/my_ddpm
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from . import cli
from .late import late
from .parts.extras import of_weights
from .parts.flags import SUFFIXES

with late():
    from score_jax import checkpoints, convert, parametrization
    from score_jax._files import sha256_of
    from score_jax.convert import assemble
    from score_jax.convert.files import published_file
    from score_jax.convert.pretrained import located
    from score_jax.data import Description
    from score_jax.sde import NoiseSchedule

    from . import presets, runs
    from .reports import dry_run
    from .run_config import Config, from_json, read_file, to_record


NOTE_FILE = "converted.json"

Source = Literal[
    "score_sde_pytorch", "score_sde_jax", "improved_diffusion", "guided_diffusion", "diffusers",
    "edm", "score_jax",
]  # fmt: skip
Target = Literal["diffusers", "score_sde_pytorch", "score_jax"]
OURS = "score_jax"  # releases of this library, which have their config


@dataclasses.dataclass(frozen=True)
class Args:
    """Make a run folder of published weights (--from), or a file of theirs of a run folder (--to).

    The folder has the given config and a new optimiser state, so training can continue from the
    weights too.
    """

    # File of the weights, for diffusers the folder, or the name of a release such as fashion_vp: read
    # with --from, made with --to.
    file: str
    # Run folder: made with --from, read with --to.
    workdir: str
    # Which program wrote the file.
    source: Annotated[Source | None, tyro.conf.arg(name="from")] = None
    # Which program is to read the file.
    to: Target | None = None
    # Preset of the network, its process and its data, or a JSON file of one: with --from, except for
    # releases of score_jax.
    config: str | None = None
    # The weights of the last step rather than their average, where there are both.
    raw: bool = False
    # For --to score_jax: the names of the classes, in the order of the labels.
    class_names: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.convert`."""
    args = cli.parse(Args, "experiments.convert", argv)
    check(args)
    if args.to is None:
        import_file(args)
    else:
        export_run(args)


def check(args: Args) -> None:
    """Raise ValueError for flags that do not fit."""
    if (args.source is None) == (args.to is None):
        raise ValueError("give --from, to read a file, or --to, to write one")
    ours = args.source == OURS
    if args.to is None and args.config is None and not ours:
        raise ValueError("--config is needed with --from: a preset, or a JSON file of a config")
    if (args.to is not None or ours) and args.config is not None:
        has = "a release" if ours else "a run folder"
        raise ValueError(f"--config is for --from: {has} has its config")
    if args.raw and ours:
        raise ValueError("--raw is for files that have an average too")
    if args.class_names and args.to != OURS:
        raise ValueError(f"--class-names is for --to {OURS}")
    if args.raw and args.to == "score_sde_pytorch":
        raise ValueError("--raw is not for --to score_sde_pytorch: its file has both weights")


def export_run(args: Args) -> None:
    """Write the weights of a run folder for another program."""
    path, workdir = pathlib.Path(args.file), pathlib.Path(args.workdir)
    runs.check_new("file", path)
    cli.start(
        args.workdir, extras={"weights": "--to diffusers" if args.to == "diffusers" else None}
    )
    run, params, step = runs.load(workdir)
    last = lambda: checkpoints.restore_params(workdir / runs.CHECKPOINTS, field="params")
    if args.to == "diffusers":
        convert.to_diffusers(path, run.ingredients, last() if args.raw else params, run.shape)
    elif args.to == OURS:
        convert.to_release(
            path, run.ingredients, last() if args.raw else params,
            named(run.source.description, args.class_names), step=step,
            notes={"config": to_record(run.config), "data": run.source.to_record()},
        )  # fmt: skip
        print(f"sha256 {sha256_of(path)}")
    else:
        convert.to_score_sde_pytorch(
            path, run.ingredients, last(), averages=params, step=step,
            decay=run.config.optim.ema_decay,
        )  # fmt: skip
    print(f"wrote {path}: {type(run.net).__name__} of step {step}, for {args.to}")


def named(data: Description, names: tuple[str, ...]) -> Description:
    """The description with these names of the classes; without any, as it is."""
    return dataclasses.replace(data, class_names=names) if names else data


def import_file(args: Args) -> None:
    """Make the run folder of a file."""
    assert args.source is not None
    workdir = pathlib.Path(args.workdir)
    runs.check_new("workdir", workdir)
    config = None if args.config is None else read_config(args.config)
    path = located(args.file) if args.source == OURS else pathlib.Path(args.file)
    if not path.exists():
        known = published_file(path, args.config)
        how = "" if known is None else f": download {known.source}"
        raise ValueError(f"--file {args.file!r} does not exist{how}")
    cli.start(extras={"weights": of_weights("--file", args.file)})
    if config is None:
        run, params, info = _release(path)
    else:
        run = runs.build(config)
        params, info = READERS[args.source](run, path, args.raw)
    if info.get("unwrapped"):
        print(f"taken off the weights: {', '.join(info['unwrapped'])}")
    # JSON and msgpack give numbers as Python's or NumPy's.
    step = int(info.get("step") or 0)
    runs.write(workdir, run, params, step, {NOTE_FILE: note(args, path)})
    print(
        f"wrote {workdir}: {type(run.net).__name__} with {dry_run.count(params):,} parameters "
        f"of step {step} from {path}"
    )


def read_config(name: str) -> Config:
    """A preset by its name, or the config in a JSON or YAML file; ValueError naming what is wrong."""
    path = pathlib.Path(name)
    return read_file(path) if path.suffix in SUFFIXES else presets.get(name)


def _release(path: pathlib.Path) -> tuple[runs.Run, Any, Any]:
    """The run, the parameters and the facts of a release."""
    _, params, info = convert.from_release(path)
    notes = info["notes"]
    if not {"config", "data"} <= set(notes):
        raise ValueError(f"{path} has no config of a run: load_pretrained loads it")
    record = notes["data"] | {"x": info["data"].to_record()}
    return runs.build(from_json(json.dumps(notes["config"])), record), params, info


def _score_sde(name: str) -> Callable[..., Any]:
    def reader(run: runs.Run, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
        size, read = max(run.shape[:2]), getattr(convert, name)
        _, params, info = read(path, run.net, run.sde, ema=not raw, size=size)
        return params, info

    return reader


def _openai(name: str) -> Callable[..., Any]:
    def reader(run: runs.Run, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
        _, params, info = getattr(convert, name)(path, run.net, run.sde, ema=not raw)
        if raw and not info:
            raise ValueError("--raw is for files that have an average too: choose the file instead")
        return params, info

    return reader


def _diffusers(run: runs.Run, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
    return _described(convert.from_diffusers(path, run.sde), run, path, raw)


def _edm(run: runs.Run, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
    return _described(convert.from_edm(path), run, path, raw)


def _described(found: Any, run: runs.Run, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
    """Parameters and facts of a file that describes its network, compared with the config."""
    if raw:
        raise ValueError("--raw is for files that have an average too")
    model, params, info = found
    net = info["module"]
    if type(net) is not type(run.net):
        raise ValueError(
            f"the network of {path} is a {type(net).__name__}, but the config's is a "
            f"{type(run.net).__name__}"
        )
    fields = [field.name for field in dataclasses.fields(net) if field.name not in assemble.FREE]
    pairs = [(name, getattr(net, name), getattr(run.net, name)) for name in fields]
    # At timesteps, where these files were trained, the two are the same.
    given, wanted = (
        parametrization.NOISE.name if kind is parametrization.TIMESTEP_NOISE else kind.name
        for kind in (model.parametrization, run.model.parametrization)
    )
    pairs.append(("parametrization", given, wanted))
    wrong = [f"{name} {theirs!r}, not {ours!r}" for name, theirs, ours in pairs if theirs != ours]
    wrong += _other_process(model.sde, run.sde)
    if wrong:
        raise ValueError(f"{path} does not fit the config: it has {'; '.join(wrong)}")
    return params, info


def _other_process(theirs: Any, ours: Any) -> list[str]:
    """Print the differences between the process of a file and that of the config."""
    if not isinstance(theirs, NoiseSchedule):
        return [] if theirs == ours else [f"the process {theirs}, not {ours}"]
    if not isinstance(ours, NoiseSchedule):
        return [f"a noise schedule, not the SDE {type(ours).__name__!r}"]
    a, b = theirs.betas, ours.betas
    if a.shape == b.shape and np.allclose(a, b, rtol=1e-4):
        return []
    return [f"another noise schedule of {len(a)} betas from {a[0]:g} to {a[-1]:g}"]


READERS: dict[str, Callable[[runs.Run, pathlib.Path, bool], tuple[Any, Any]]] = {
    "score_sde_pytorch": _score_sde("from_score_sde_pytorch"),
    "score_sde_jax": _score_sde("from_score_sde_jax"),
    "improved_diffusion": _openai("from_improved_diffusion"),
    "guided_diffusion": _openai("from_guided_diffusion"),
    "diffusers": _diffusers,
    "edm": _edm,
}


def note(args: Args, path: pathlib.Path) -> dict[str, Any]:
    """Where the weights are from."""
    made: dict[str, Any] = {"from": args.source, "file": str(path), "raw": args.raw}
    if path.is_file():
        made["sha256"] = sha256_of(path)
    return made


if __name__ == "__main__":
    cli.main(main)
