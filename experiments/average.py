"""An average of any length from a run's snapshots: `python -m experiments.average --workdir runs/x`."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax

from experiments import build as builder
from experiments import cli, train
from score_jax import checkpoints, training


@dataclasses.dataclass(frozen=True)
class Args:
    """Make the power-function average of another relative width, as a run folder of its own."""

    # Folder of a run trained with optim.power-averages and train.snapshot-every.
    workdir: str
    # Relative width of the average: the spread of its weights over the time of training.
    std: float = 0.1
    # The step it ends at; none: the last snapshot.
    step: int | None = None
    # Folder to write, which sample and evaluate take; none: WORKDIR/std_0.1 and so on.
    out: str | None = None


def average(args: Args) -> pathlib.Path:
    """Write the folder, with the average in the place of the EMA, and return it.

    Raises ValueError where the run has no such snapshots or the folder is there already.
    """
    workdir = pathlib.Path(args.workdir)
    config = cli.load_config(workdir)
    widths = {f"power_{w:g}": w for w in config.optim.power_averages}
    folder = workdir / train.SNAPSHOTS
    if not widths or not folder.is_dir():
        raise ValueError(
            f"workdir {args.workdir!r} has no snapshots: train with --optim.power-averages 0.05 0.1 "
            "--train.snapshot-every N"
        )
    out = pathlib.Path(args.out) if args.out else workdir / f"std_{args.std:g}"
    if (out / cli.CONFIG_FILE).exists():
        raise ValueError(f"out {str(out)!r} holds a run already")
    with checkpoints.open_checkpoints(folder, read_only=True) as store:
        last = store.latest_step() or 0
        step = last if args.step is None else args.step
        params = training.post_hoc(store, widths, training.Profile(step, args.std))
    exp = builder.build(config)
    state = train.initial_state(exp)
    made = _like(state.ema_params, params)
    state = dataclasses.replace(state, params=made, ema_params=made)
    cli.save_config(out, config)
    with checkpoints.open_checkpoints(out / train.CHECKPOINTS, keep=1) as store:
        store.save(step, state, extra=dataclasses.asdict(config))
    return out


def _like(tree: object, values: object) -> object:
    """The values in the structure of the tree, which has the same leaves in the same order."""
    return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(values))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.average`."""
    args = cli.parse(Args, "experiments.average", argv)
    train.start()
    print(f"averaged to a relative width of {args.std:g}: {average(args)}")


if __name__ == "__main__":
    cli.main(main)
