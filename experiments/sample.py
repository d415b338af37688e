"""Draw samples of a trained run: `python -m experiments.sample --workdir runs/x --num 64`.

With --format they are written to a folder chunk by chunk, on all hosts, and a command that was killed
continues.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from score_jax._files import write_json, write_npz

from . import cli
from .config import GuidanceConfig, SampleConfig
from .late import late
from .parts import outputs
from .parts.folders import Format

with late():
    import jax

    from score_jax import training
    from score_jax._hosts import agreed

    from . import runs
    from .parts import drawing, guiding, samplers, sampling, singles
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
    # For networks that are conditioned on a vector or a field: a .npy file of them, one a sample, in the
    # data's own units (default: those of test examples that the run keeps).
    cond: str | None = None
    # Samples drawn at once, and written at once with --format; the samples do not depend on it.
    chunk: int = 256
    # Seed of the noise; with it, sample number i is always the same.
    seed: int = 0
    # Where to write (default: WORKDIR/samples/SAMPLER).
    out: str | None = None
    # Write all samples to the folder --out, where the same command continues after a kill: PNG files,
    # one zip of them, .npy shards, or one .npz with arr_0 (as ADM's evaluator reads it). Default: a
    # picture and an .npz of one call.
    format: Format | None = None
    # Numbers of the samples to draw, a PNG each in the folder --out with labels.json, such as 0-63 or
    # 3,7,20-29; sample number i of a seed is always the same.
    seeds: str | None = None
    # Also write the way of the first samples from noise to data: OUT.gif or OUT.mp4.
    film: Literal["gif", "mp4"] | None = None
    # Precision of the network's computation; none: as it was trained.
    precision: Literal["float32", "bfloat16"] | None = None
    # Write over files that are there.
    overwrite: bool = False
    # How samples are guided.
    guide: Annotated[GuidanceConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=GuidanceConfig
    )
    # The processes of a run on several hosts.
    hosts: cli.HostsConfig = dataclasses.field(default_factory=cli.HostsConfig)
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
    if args.seeds is not None and args.format is not None:
        raise ValueError("--seeds writes PNG files by itself: give it without --format")
    if args.film is not None and (args.format is not None or args.seeds is not None):
        raise ValueError("--film is for samples of one call: give it without --format and --seeds")
    return args


def labels(args: Args, run: Run) -> np.ndarray | None:
    """Make the class of every sample, or None for all in turn."""
    if args.label is None:
        return None
    by_worse = args.guide.guidance_worse is not None
    guided = args.guide.guidance is not None and not by_worse
    classes = run.source.num_classes if guided else run.num_classes
    if not classes:
        hint = " (with --guidance a classifier can guide it)" if run.source.num_classes else ""
        raise ValueError(f"--class given, but {args.workdir!r} was trained without classes{hint}")
    if not 0 <= args.label < classes:
        raise ValueError(f"--class must be in [0, {classes}), got {args.label}")
    return np.full(args.num if args.seeds is None else len(singles.numbers(args.seeds)), args.label)


def conditions(args: Args) -> np.ndarray | None:
    """The vectors or fields of --cond."""
    if args.cond is None:
        return None
    try:
        found: np.ndarray = np.load(args.cond, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"--cond {args.cond!r} cannot be read as an array: {error}") from None
    if not found.size or found.ndim < 2:
        raise ValueError(f"--cond must hold an array (m, *d), m >= 1, got shape {found.shape}")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.sample`."""
    args = parse(argv)
    film = "--film mp4" if args.film == "mp4" else None
    drawn = args.seeds is None and args.format is None
    pictures_of = "the pictures of samples" if drawn else None
    workdir = pathlib.Path(args.workdir)
    out = pathlib.Path(args.out) if args.out else workdir / "samples" / args.sample.sampler
    if drawn:
        files(args, out)
    cli.start(
        args.workdir, hosts=args.hosts, options=args, pictures=pictures_of, extras={"video": film}
    )
    run, params, step = agreed(lambda: runs.load(workdir))
    run = runs.in_precision(run, args.precision)
    sampling.check_sample(run, args.sample)
    y, guide, own = labels(args, run), None, params
    if args.guide.guidance is not None:
        guide, params = guiding.make_guide(run, params, workdir, args.guide)
        guide.sampler(sampling.make_sampler(run, args.sample))  # an error before all work
    plan = drawing.Plan(
        run, params, jax.random.key(args.seed), args.num, args.sample,
        sampling.classes(run, args.num, y, guide), guide, args.chunk, conditions(args),
    )  # fmt: skip
    facts = settings(args, step)
    if args.seeds is not None:
        written = singles.write(plan, out, singles.numbers(args.seeds), y, overwrite=args.overwrite)
        if training.is_first():
            print(f"wrote {len(written)} samples to {out}")
    elif args.format is None:
        preview(plan, args, out, facts)
    else:
        # The weights of the run; with a classifier, those of its own are not part of them.
        to_folder(plan, out, args.format, facts | {"weights": drawing.fingerprint(own)})


def settings(args: Args, step: int) -> dict[str, Any]:
    """What decides the samples, as JSON."""
    guided = {
        "label": args.label,
        "cond": args.cond,
        "precision": args.precision,
    }
    return drawing.settings(step, args.seed, args.sample) | guided | dataclasses.asdict(args.guide)


def files(args: Args, out: pathlib.Path) -> list[pathlib.Path]:
    """The files of a preview; ValueError if one is there and not to be replaced."""
    endings = [".npz", ".png", ".json", *([] if args.film is None else [f".{args.film}"])]
    return outputs.files(out, endings, overwrite=args.overwrite)


def preview(plan: drawing.Plan, args: Args, out: pathlib.Path, facts: dict[str, Any]) -> None:
    """Draw the samples; write OUT.npz in the data's own units, with labels, OUT.png and OUT.json.

    After an interrupt those that were drawn are written.
    """
    run, num = plan.run, plan.num
    names = lambda: list(map(str, files(args, out)))
    npz, png, record, *film = map(pathlib.Path, agreed(names, only_first=True))
    if film:
        check_film(plan)
    found: list[tuple[int, sampling.Drawn]] = []
    chunks = range(-(-num // plan.chunk))
    with drawing.Progress(num) as progress:
        drawn_chunks = drawing.draw_chunks(plan, chunks, progress, jax.devices())
        interrupted = outputs.collect(drawn_chunks, found)
    x, cost = np.concatenate([drawn.x for _, drawn in found]), drawing.Cost()
    for _, drawn in found:
        cost = cost.plus(drawn)
    way = None if not film or interrupted else trajectory(plan)
    if not training.is_first():
        return
    npz.parent.mkdir(parents=True, exist_ok=True)
    labels = {} if plan.y is None else {"y": plan.y[: len(x)]}
    write_npz(npz, x=run.source.to_data(x), **labels)
    write_json(record, facts | {"num": len(x)} | cost.as_dict())
    written = [npz, *([png] if pictures.save_samples(run, x[:256], png) else []), record]
    if way is not None and pictures.save_animation(run, way, film[0]):
        written += film
    print(
        f"{len(x)} samples of step {facts['step']} by {plan.config.sampler}: "
        f"{cost.nfe / cost.num:.0f} evaluations each, {cost.seconds:.1f} s "
        f"(+ {cost.compile_seconds:.1f} s to compile)\nwrote {outputs.listed(written)}"
    )
    if interrupted:
        raise KeyboardInterrupt


def check_film(plan: drawing.Plan) -> None:
    """Raise ValueError where there is no way to show: an adaptive sampler, or data of one axis."""
    if samplers.SAMPLERS[plan.config.sampler].adaptive:
        raise ValueError(f"--film needs a sampler with fixed steps, got {plan.config.sampler!r}")
    if len(plan.run.shape) < 2:
        raise ValueError(f"--film needs data of two or more axes, got shape {plan.run.shape}")


def trajectory(plan: drawing.Plan) -> np.ndarray:
    """The states of the first samples on their way from noise to data: (k, n, *d)."""
    num = min(plan.num, 36)
    options: dict[str, Any] = {"y": None if plan.y is None else plan.y[:num], "guide": plan.guide}
    every = max(1, plan.config.steps // pictures.FRAMES)
    drawn = sampling.draw(
        plan.run,
        plan.params,
        plan.key,
        num,
        plan.config,
        save_every=every,
        progress=False,
        devices=jax.devices(),
        **options,
    )
    assert drawn.trajectory is not None
    return drawn.trajectory


def to_folder(plan: drawing.Plan, out: pathlib.Path, format: Format, facts: dict[str, Any]) -> None:
    """Draw the samples that the folder lacks, on all hosts, and write its records."""
    cost, written = drawing.fill(drawing.folder_of(plan, out, format, facts), plan)
    if training.is_first():
        print(
            f"{plan.num:,} samples of step {facts['step']} by {plan.config.sampler}, {cost.num:,} of "
            f"them drawn now: {cost.seconds:.1f} s (+ {cost.compile_seconds:.1f} s to compile)\n"
            f"wrote {', '.join(map(str, written))}"
        )


if __name__ == "__main__":
    cli.main(main)
