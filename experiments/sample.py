"""Draw samples of a trained run: `python -m experiments.sample --workdir runs/x --num 64`."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from experiments import cli, pictures, sampling, train


@dataclasses.dataclass(frozen=True)
class Args:
    """Draw samples with a trained network; options left out are those of the run's config."""

    # Folder of a run made by experiments.train.
    workdir: str
    # Predictor-corrector, probability-flow ODE, or Euler-Maruyama.
    sampler: Literal["pc", "ode", "em"] | None = None
    # How many samples.
    num: int = 64
    # Steps of the fixed-step samplers.
    steps: int | None = None
    # Signal-to-noise ratio of the corrector.
    snr: float | None = None
    # Tolerances of the ODE solver.
    rtol: float | None = None
    atol: float | None = None
    # Class to draw, for networks that are conditioned on it (default: all in turn).
    label: int | None = None
    # Samples drawn at once.
    chunk: int = 256
    # Seed of the noise.
    seed: int = 0
    # Where to write (default: WORKDIR/samples/SAMPLER).
    out: str | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.sample`."""
    args = cli.parse(Args, "experiments.sample", argv)
    for name in ("num", "chunk"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    train.start()
    workdir = pathlib.Path(args.workdir)
    exp, params, step = train.restore(workdir)
    given = {
        name: getattr(args, name)
        for name in ("sampler", "steps", "snr", "rtol", "atol")
        if getattr(args, name) is not None
    }
    config = dataclasses.replace(exp.config.sample, **given)
    y = None
    if args.label is not None:
        if not exp.num_classes:
            raise ValueError(f"--label given, but {str(workdir)!r} was trained without classes")
        if not 0 <= args.label < exp.num_classes:
            raise ValueError(f"--label must be in [0, {exp.num_classes}), got {args.label}")
        y = np.full(args.num, args.label)
    drawn = sampling.draw(
        exp, params, jax.random.key(args.seed), args.num, config, y=y, chunk=args.chunk
    )
    out = pathlib.Path(args.out) if args.out else workdir / "samples" / config.sampler
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part.npz")
    np.savez(part, x=exp.to_data(drawn.x))
    part.replace(out.with_name(out.name + ".npz"))
    pictures.save_samples(exp, drawn.x[:256], out.with_name(out.name + ".png"))
    print(
        f"{args.num} samples of step {step} by {config.sampler}: {drawn.nfe:.0f} evaluations each, "
        f"{drawn.seconds:.1f} s (+ {drawn.compile_seconds:.1f} s to compile)\n"
        f"wrote {out}.npz and {out}.png"
    )


if __name__ == "__main__":
    cli.main(main)
