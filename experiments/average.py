"""An average of any length from a run's snapshots: `python -m experiments.average --workdir runs/x`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from . import cli
from .late import late

with late():
    from score_jax import checkpoints, training

    from . import runs


NOTE_FILE = "averaged.json"


@dataclasses.dataclass(frozen=True)
class Args:
    """Make a run folder with the power-function average of another relative width."""

    # Folder of a run trained with optim.power-averages and train.snapshot-every.
    workdir: str
    # Relative width of the average: the spread of its weights over the time of training.
    std: float = 0.1
    # Step at which the average ends (none: that of the last snapshot).
    step: int | None = None
    # Folder to write, which sample and evaluate accept (none: WORKDIR/std_0.1 and so on).
    out: str | None = None


def average(args: Args) -> pathlib.Path:
    """Write the folder, whole or not at all, with the average as its weights, and return it.

    Raises ValueError if the run has no such snapshots or the folder exists.
    """
    workdir = pathlib.Path(args.workdir)
    config = runs.load_config(workdir)
    widths = {f"power_{w:g}": w for w in config.optim.power_averages}
    folder = workdir / runs.SNAPSHOTS
    if not widths or not folder.is_dir():
        raise ValueError(
            f"workdir {args.workdir!r} has no snapshots: train with --optim.power-averages 0.05 0.1 "
            "--train.snapshot-every N"
        )
    out = pathlib.Path(args.out) if args.out else workdir / f"std_{args.std:g}"
    runs.check_new("out", out)
    with checkpoints.open_checkpoints(folder, read_only=True) as store:
        steps = store.steps()
        last = max(steps, default=0)
        step = last if args.step is None else args.step
        if steps and not steps[0] <= step <= last:
            raise ValueError(f"step must be in [{steps[0]}, {last}], the snapshots, got {step}")
        params = training.post_hoc(store, widths, training.Profile(step, args.std))
    made = {"from": str(workdir), "std": args.std, "step": step, "widths": list(widths.values())}
    runs.write(out, runs.build(config, runs.load_record(workdir)), params, step, {NOTE_FILE: made})
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.average`."""
    args = cli.parse(Args, "experiments.average", argv)
    cli.start(args.workdir)
    print(f"averaged to a relative width of {args.std:g}: {average(args)}")


if __name__ == "__main__":
    cli.main(main)
