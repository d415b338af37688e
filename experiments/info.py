"""Tell what a run folder holds: `python -m experiments.info runs/x`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from . import cli
from .late import late
from .parts import describe, flags, run_folder
from .reports import terminal

with late():
    from score_jax import checkpoints

    from . import run_config, runs
    from .parts import origins
    from .reports import dry_run, pictures


@dataclasses.dataclass(frozen=True)
class Args:
    """Tell what a run folder holds: config, steps, loss, checkpoints, size, and what fits it."""

    # Folder of a run.
    workdir: Annotated[str, tyro.conf.Positional]
    # Columns of the loss curve.
    width: int = 60


def of_config(tree: dict[str, Any]) -> list[str]:
    """The nearest preset, and the fields that are others than there."""
    flat = describe.flat(tree)
    found: dict[str, dict[str, Any]] = {}
    for name in flags.presets():
        preset = describe.flat(flags.preset(name))
        found[name] = {k: v for k, v in flat.items() if k not in preset or preset[k] != v}
    name = min(found, key=lambda name: len(found[name]))
    changes = [f"{k}={v}" for k, v in found[name].items()]
    return [
        f"data {tree['data']['name']}, network {tree['net']['kind']}, process {tree['sde']['kind']}",
        f"config {name}" + (f", but {', '.join(changes)}" if changes else ""),
    ]


def of_loss(path: pathlib.Path, width: int) -> list[str]:
    """The last line of the metrics, and the loss as a curve."""
    rows = pictures.read_metrics(path) if path.is_file() else []
    rows = [row for row in rows if row.get("loss") is not None]
    if not rows:
        return ["no loss has been logged"]
    last = rows[-1]
    said = f"step {last['step']:,}: loss {last['loss']:.4g}"
    return [said, *terminal.curve([r["step"] for r in rows], [r["loss"] for r in rows], width)]


def of_checkpoints(folder: pathlib.Path) -> list[str]:
    """Every checkpoint: its step, whether its parameters are intact, its size."""
    if not folder.is_dir():
        return ["no checkpoints"]
    lines = []
    with checkpoints.open_checkpoints(folder, read_only=True) as store:
        best = store.best_step()
        for step in store.steps():
            size = dry_run.human(size_of(folder / f"step_{step:08d}"), "B")
            best_one = ", the best" if step == best else ""
            lines.append(f"checkpoint of step {step:,}: {size}, {health(store, step)}{best_one}")
    aside = len(list(folder.glob("damaged_*")))
    return [*lines, *([f"{aside} damaged checkpoints set aside"] if aside else [])]


def health(store: Any, step: int) -> str:
    """Whether the averaged parameters of a checkpoint agree with their checksums."""
    try:
        store.read(step, "ema_params")
    except (OSError, ValueError) as error:
        return f"DAMAGED: {' '.join(str(error).split())}"
    return "intact"


def size_of(folder: pathlib.Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fitting(tree: dict[str, Any], workdir: pathlib.Path) -> list[str]:
    """The commands that can be called on the run as it is."""
    schedule = tree["sde"]["kind"].endswith("Betas")
    classes = bool(tree["class_conditional"])
    options = {
        f"sample --workdir {workdir}{' --class 0' if classes else ''}": True,
        f"evaluate --workdir {workdir}": True,
        f"compare --workdir {workdir}": True,
        f"bounds --workdirs {workdir} --out {workdir / 'bounds'}": schedule,
        f"average --workdir {workdir}": (workdir / runs.SNAPSHOTS).is_dir(),
    }
    return [cli.program(command) for command, fits in options.items() if fits]


def report(workdir: pathlib.Path, width: int = 60) -> str:
    """Everything that the folder contains; raises ValueError if it holds no run."""
    config = runs.load_config(workdir)
    tree = run_config.to_record(config)
    checked, origin = of_checkpoints(workdir / runs.CHECKPOINTS), origins.read(workdir)
    ready = any("intact" in line for line in checked)
    parts = [
        [
            f"{workdir}: {dry_run.human(size_of(workdir), 'B')}",
            *of_config(tree),
            *([] if origin is None else origins.said(origin)),
        ],
        of_loss(workdir / runs.METRICS, width),
        [*checked, *([note] if (note := runs.edited(workdir, config)) else [])],
        fitting(tree, workdir) if ready else ["train it first: no other command fits it yet"],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.info`."""
    args = cli.parse(Args, "experiments.info", argv)
    if args.width < 10:
        raise ValueError(f"--width must be at least 10, got {args.width}")
    run_folder.check_run(args.workdir)
    print(report(pathlib.Path(args.workdir), args.width))


if __name__ == "__main__":
    cli.main(main)
