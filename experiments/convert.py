"""Make a run folder of published weights, that sample and evaluate take like one trained here:

python -m experiments.convert --from score_sde_pytorch --file checkpoint_8.pth \
    --config cifar10_ncsnpp_continuous --workdir runs/ncsnpp
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from experiments import cli, presets, runs
from experiments.config import Config, from_json
from experiments.reports import dry_run
from score_jax import convert

NOTE_FILE = "converted.json"
# The predictions of diffusers by our names.
PREDICTS = {"epsilon": "noise", "sample": "x0", "v_prediction": "v"}
# Fields of a network that matter only at the start, in training or to the precision.
FREE = {"dropout", "init_scale", "fourier_scale", "dtype", "remat", "parent", "name"}

Source = Literal[
    "score_sde_pytorch", "score_sde_jax", "improved_diffusion", "guided_diffusion", "diffusers"
]


@dataclasses.dataclass(frozen=True)
class Args:
    """Make a run folder of published weights, for experiments.sample and experiments.evaluate.

    The folder's config is the one given, and the optimiser starts anew, so that training can go on
    from the weights too.
    """

    # Which program wrote them.
    source: Annotated[Source, tyro.conf.arg(name="from")]
    # The file, or for diffusers the folder.
    file: str
    # Preset of the network, its process and its data, or a JSON file of one.
    config: str
    # Folder to make.
    workdir: str
    # The weights of the last step rather than their average, where the file has both.
    raw: bool = False


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.convert`."""
    args = cli.parse(Args, "experiments.convert", argv)
    workdir = pathlib.Path(args.workdir)
    runs.check_new("workdir", workdir)
    config = read_config(args.config)
    exp = runs.build(config)
    path = pathlib.Path(args.file)
    if not path.exists():
        raise ValueError(f"--file {args.file!r} does not exist")
    cli.start()
    params, info = READERS[args.source](exp, path, args.raw)
    # JSON and msgpack give numbers as Python's or NumPy's.
    step = int(info.get("step") or 0)
    runs.write(workdir, exp, params, step, {NOTE_FILE: note(args, path)})
    print(
        f"wrote {workdir}: {config.net.kind} with {dry_run.count(params):,} parameters "
        f"of step {step} from {path}"
    )


def read_config(name: str) -> Config:
    """A preset by its name, or the config in a JSON file; ValueError naming what is wrong."""
    path = pathlib.Path(name)
    if path.suffix != ".json":
        return presets.get(name)
    if not path.is_file():
        raise ValueError(f"--config {name!r} is not a file")
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _score_sde(read: Callable[..., Any]) -> Callable[..., Any]:
    def reader(exp: runs.Experiment, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
        _, params, info = read(path, exp.net, exp.sde, ema=not raw, size=max(exp.shape[:2]))
        return params, info

    return reader


def _openai(read: Callable[..., Any]) -> Callable[..., Any]:
    def reader(exp: runs.Experiment, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
        if raw:
            raise ValueError("--raw is for files that have an average too: choose the file instead")
        return read(path, exp.net, exp.sde)[1:]

    return reader


def _diffusers(exp: runs.Experiment, path: pathlib.Path, raw: bool) -> tuple[Any, Any]:
    if raw:
        raise ValueError("--raw is for files that have an average too")
    _, params, info = convert.from_diffusers(path, exp.sde)
    net = info["module"]
    if type(net) is not type(exp.net):
        raise ValueError(
            f"the network of {path} is a {type(net).__name__}, but the config's is a "
            f"{type(exp.net).__name__}"
        )
    names = [field.name for field in dataclasses.fields(net) if field.name not in FREE]
    pairs = [(name, getattr(net, name), getattr(exp.net, name)) for name in names]
    sde = exp.config.sde
    pairs += [
        (name, info[name], getattr(sde, name))
        for name in ("sigma_min", "sigma_max", "beta_min", "beta_max")
        if name in info and hasattr(sde, name)
    ]
    wrong = [f"{name} {theirs!r}, not {ours!r}" for name, theirs, ours in pairs if theirs != ours]
    if "betas" in info:
        wrong += _other_table(exp, info)
    if wrong:
        raise ValueError(f"{path} does not fit the config: it has {'; '.join(wrong)}")
    return params, info


def _other_table(exp: runs.Experiment, info: Any) -> list[str]:
    """Say where the table of a file is not that of the config's process."""
    c: Any = exp.config.sde
    if exp.process.diffusion is not None:
        betas, predicts = exp.process.diffusion.betas, c.predicts
    elif c.kind == "vp" and c.levels is not None:
        betas = np.linspace(c.beta_min / c.levels, c.beta_max / c.levels, c.levels)
        predicts = exp.config.net.output
    else:
        return [f"a table of betas, not the SDE {c.kind!r}"]
    theirs = info["betas"]
    wrong = []
    if theirs.shape != np.shape(betas) or not np.allclose(theirs, betas, rtol=1e-4):
        wrong.append(f"another table of {len(theirs)} betas from {theirs[0]:g} to {theirs[-1]:g}")
    if PREDICTS.get(info["prediction_type"]) != predicts:
        wrong.append(f"prediction_type {info['prediction_type']!r}, not {predicts!r}")
    return wrong


READERS: dict[str, Callable[[runs.Experiment, pathlib.Path, bool], tuple[Any, Any]]] = {
    "score_sde_pytorch": _score_sde(convert.from_score_sde_pytorch),
    "score_sde_jax": _score_sde(convert.from_score_sde_jax),
    "improved_diffusion": _openai(convert.from_improved_diffusion),
    "guided_diffusion": _openai(convert.from_guided_diffusion),
    "diffusers": _diffusers,
}


def note(args: Args, path: pathlib.Path) -> dict[str, Any]:
    """Where the weights are from."""
    made: dict[str, Any] = {"from": args.source, "file": str(path), "raw": args.raw}
    if path.is_file():
        with path.open("rb") as file:
            made["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return made


if __name__ == "__main__":
    cli.main(main)
