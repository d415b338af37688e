"""Draw samples of a trained run: `python -m experiments.sample --workdir runs/x --num 64`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from score_jax._files import write_json, write_npz

from . import cli
from .config import SampleConfig
from .late import late

with late():
    import jax

    from . import runs
    from .parts import guiding, sampling
    from .reports import pictures
    from .runs import Run


@dataclasses.dataclass(frozen=True)
class Args:
    """Draw samples with a trained network; options left out are those of the run's config.

    The options of the sampler may also be written as in training, --sample.sampler for --sampler.
    """

    # Folder of a run made by experiments.train.
    workdir: str
    # How many samples.
    num: int = 64
    # Class to draw, for networks that are conditioned on it or guided (default: all in turn).
    label: Annotated[int | None, tyro.conf.arg(aliases=("--class",))] = None
    # Scale of the guidance towards the class: 1 is the class as it was learned, larger scales give
    # more typical and less diverse samples (default: no guidance).
    guidance: float | None = None
    # Interval of times with guidance, lowest and highest (default: all times).
    guidance_interval: tuple[float, float] | None = None
    # The source of the guidance: the network itself, trained with hidden labels (loss.label_dropout),
    # or the classifier of experiments.train_classifier; auto: the first that exists.
    guidance_by: Literal["auto", "free", "classifier"] = "auto"
    # Samples drawn at once; the pictures do not depend on it.
    chunk: int = 256
    # Seed of the noise.
    seed: int = 0
    # Where to write (default: WORKDIR/samples/SAMPLER).
    out: str | None = None
    # How samples are drawn.
    sample: Annotated[SampleConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=SampleConfig
    )


def parse(argv: Sequence[str] | None = None) -> Args:
    """Read the command line over the config of the run that it names."""
    args: Args = cli.parse_over_run(Args, "experiments.sample", argv)
    for name in ("num", "chunk"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.guidance is None and (args.guidance_interval or args.guidance_by != "auto"):
        raise ValueError("--guidance-interval and --guidance-by need --guidance, the scale")
    return args


def labels(args: Args, run: Run) -> np.ndarray | None:
    """Make the class of every sample, or None for all in turn."""
    if args.label is None:
        return None
    classes = run.source.num_classes if args.guidance is not None else run.num_classes
    if not classes:
        hint = " (with --guidance a classifier can guide it)" if run.source.num_classes else ""
        raise ValueError(f"--class given, but {args.workdir!r} was trained without classes{hint}")
    if not 0 <= args.label < classes:
        raise ValueError(f"--class must be in [0, {classes}), got {args.label}")
    return np.full(args.num, args.label)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.sample`."""
    args = parse(argv)
    cli.start()
    workdir, config = pathlib.Path(args.workdir), args.sample
    run, params, step = runs.load(workdir)
    key, y, guide = jax.random.key(args.seed), labels(args, run), None
    if args.guidance is not None:
        options: dict[str, Any] = {"scale": args.guidance, "interval": args.guidance_interval}
        guide, params = guiding.make_guide(run, params, workdir, by=args.guidance_by, **options)
    drawn = sampling.draw(run, params, key, args.num, config, y=y, guide=guide, chunk=args.chunk)
    out = pathlib.Path(args.out) if args.out else workdir / "samples" / config.sampler
    out.parent.mkdir(parents=True, exist_ok=True)
    write_npz(out.with_name(out.name + ".npz"), x=run.source.to_data(drawn.x))
    pictures.save_samples(run, drawn.x[:256], out.with_name(out.name + ".png"))
    facts = {
        "step": step,
        "num": args.num,
        "seed": args.seed,
        "label": args.label,
        "guidance": args.guidance,
        "guidance_interval": args.guidance_interval,
        "sample": dataclasses.asdict(config),
        "nfe": drawn.nfe,
        "seconds": drawn.seconds,
        "compile_seconds": drawn.compile_seconds,
        "devices": [device.device_kind for device in jax.local_devices()],
    }
    write_json(out.with_name(out.name + ".json"), facts)
    print(
        f"{args.num} samples of step {step} by {config.sampler}: {drawn.nfe:.0f} evaluations each, "
        f"{drawn.seconds:.1f} s (+ {drawn.compile_seconds:.1f} s to compile)\n"
        f"wrote {out}.npz, {out}.png and {out}.json"
    )


if __name__ == "__main__":
    cli.main(main)
