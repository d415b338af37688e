"""Draw samples of a trained run: `python -m experiments.sample --workdir runs/x --num 64`."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import jax
import numpy as np
import tyro

from experiments import cli, pictures, sampling, train
from experiments.build import Experiment
from experiments.configs import SampleConfig


@dataclasses.dataclass(frozen=True)
class Args:
    """Draw samples with a trained network; options left out are those of the run's config.

    The options of the sampler may also be written as in training, --sample.sampler for --sampler.
    """

    # Folder of a run made by experiments.train.
    workdir: str
    # How many samples.
    num: int = 64
    # Class to draw, for networks that are conditioned on it (default: all in turn).
    label: int | None = None
    # Samples drawn at once; the pictures do not depend on it.
    chunk: int = 256
    # Seed of the noise.
    seed: int = 0
    # Where to write (default: WORKDIR/samples/SAMPLER).
    out: str | None = None
    sample: Annotated[SampleConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=SampleConfig
    )


def parse(argv: Sequence[str] | None = None) -> Args:
    """Read the command line over the config of the run that it names."""
    given = list(sys.argv[1:] if argv is None else argv)
    parts = [p for a in given for p in (a.split("=", 1) if a.startswith("--") else [a])]
    parts = [re.sub(r"^--sample[.]", "--", p) for p in parts]
    folder = pathlib.Path(parts[parts.index("--workdir") + 1] if "--workdir" in parts[:-1] else "")
    # That a folder holds no run is said later.
    has_run = (folder / cli.CONFIG_FILE).is_file()
    args = tyro.cli(
        Args,
        args=parts,
        default=Args(str(folder), sample=cli.load_config(folder).sample) if has_run else None,
        prog="python -m experiments.sample",
        description=Args.__doc__,
    )
    assert args is not None
    for name in ("num", "chunk"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def labels(args: Args, exp: Experiment) -> np.ndarray | None:
    """Make the class of every sample, or None for all in turn."""
    if args.label is None:
        return None
    if not exp.num_classes:
        raise ValueError(f"--label given, but {args.workdir!r} was trained without classes")
    if not 0 <= args.label < exp.num_classes:
        raise ValueError(f"--label must be in [0, {exp.num_classes}), got {args.label}")
    return np.full(args.num, args.label)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.sample`."""
    args = parse(argv)
    train.start()
    workdir, config = pathlib.Path(args.workdir), args.sample
    exp, params, step = train.restore(workdir)
    key = jax.random.key(args.seed)
    drawn = sampling.draw(exp, params, key, args.num, config, y=labels(args, exp), chunk=args.chunk)
    out = pathlib.Path(args.out) if args.out else workdir / "samples" / config.sampler
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part.npz")
    np.savez(part, x=exp.to_data(drawn.x))
    part.replace(out.with_name(out.name + ".npz"))
    pictures.save_samples(exp, drawn.x[:256], out.with_name(out.name + ".png"))
    facts = {
        "step": step,
        "num": args.num,
        "seed": args.seed,
        "label": args.label,
        "sample": dataclasses.asdict(config),
        "nfe": drawn.nfe,
        "seconds": drawn.seconds,
        "compile_seconds": drawn.compile_seconds,
        "devices": [device.device_kind for device in jax.local_devices()],
    }
    cli.write_json(out.with_name(out.name + ".json"), facts)
    print(
        f"{args.num} samples of step {step} by {config.sampler}: {drawn.nfe:.0f} evaluations each, "
        f"{drawn.seconds:.1f} s (+ {drawn.compile_seconds:.1f} s to compile)\n"
        f"wrote {out}.npz, {out}.png and {out}.json"
    )


if __name__ == "__main__":
    cli.main(main)
