"""Restore data with a trained run: `--workdir runs/x --task inpaint --mask center --images a.png`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from score_jax._files import write_json, write_npz

from . import cli
from .config import SampleConfig
from .late import late
from .parts import outputs, unused

with late():
    import jax
    import jax.numpy as jnp

    from score_jax import inverse, viz

    from . import runs
    from .parts import problems, samplers, sampling
    from .reports import pictures
    from .runs import Run


@dataclasses.dataclass(frozen=True)
class Args:
    """Restore data: fill in what is missing, colour, enlarge or sharpen.

    Give what is to be restored by --images, or clean data by --truth or --test, which are damaged
    first and shown for comparison: pictures, or .npy files for data of any shape. Options left out are
    those of the run's config.
    """

    # Folder of a run made by experiments.train.
    workdir: str
    # What was done to the data.
    task: Literal["inpaint", "colorize", "superres", "deblur"]
    # The data as they are, with a hole, grey, small or blurred: pictures or .npy files.
    images: tuple[str, ...] = ()
    # Clean data, to be damaged here.
    truth: tuple[str, ...] = ()
    # Number of examples of the run's test split to use as clean data.
    test: int = 0
    # For inpaint, what is missing: the middle (center), all but the middle (border), a half (left,
    # right, top, bottom), half of the places at random, the NaN of .npy files (nan), or the transparent
    # or else black part of a picture of the same size. One for all, or one for each example.
    mask: tuple[str, ...] = ("center",)
    # Crop the middle of pictures of other sizes and resize it, instead of refusing them.
    resize: bool = False
    # For superres: the factor between the sizes of the result and the picture.
    factor: int = 2
    # For deblur: standard deviation of the blur in pixels.
    blur: float = 0.8
    # Standard deviation of the noise in the pictures, in units of the data's range (-1 to 1: 2).
    noise_std: float = 0.0
    # The method; docs/posterior.md explains the choice.
    method: Literal[
        "pigdm", "mmps", "tmpd", "projection", "daps", "ddrm", "diffpir", "dps", "replacement", "repaint"
    ] = "pigdm"  # fmt: skip
    # Restorations of each example.
    num: int = 4
    # Class of the data, for networks that are conditioned on it (default: unknown).
    label: Annotated[int | None, tyro.conf.arg(aliases=("--class",))] = None
    # For dps: its step size.
    scale: float = 0.5
    # For replacement: Langevin moves a step.
    corrections: int = 1
    # For repaint: repetitions of every step.
    resamplings: int = 5
    # Samples drawn at once; the pictures do not depend on it.
    chunk: int = 256
    # Seed of the noise.
    seed: int = 0
    # Where to write (default: WORKDIR/restored/TASK).
    out: str | None = None
    # Write over files that are there.
    overwrite: bool = False
    # How samples are drawn.
    sample: Annotated[SampleConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=SampleConfig
    )


class Problem(NamedTuple):
    """What was measured of n examples: y (n, *out), an operator for each, and the truth or None."""

    y: np.ndarray
    operators: list[Any]
    noise_std: float
    truth: np.ndarray | None = None

    def groups(self) -> list[tuple[Any, list[int]]]:
        """The distinct operators with the numbers of their examples."""
        found: dict[Any, tuple[Any, list[int]]] = {}
        for i, operator in enumerate(self.operators):
            mask = getattr(operator, "mask", None)
            found.setdefault(None if mask is None else mask.tobytes(), (operator, []))[1].append(i)
        return list(found.values())


# The options that each method and each task use.
METHODS = {"pigdm": (), "projection": (), "dps": ("scale",)}
METHODS |= {"replacement": ("corrections",), "repaint": ("resamplings",)}
TASKS = {"inpaint": ("mask",), "colorize": (), "superres": ("factor",), "deblur": ("blur",)}


def check(args: Args, argv: Sequence[str] | None = None) -> None:
    """Raise ValueError for flags out of range, and for those that are not used."""
    for name, least in (("num", 1), ("chunk", 1), ("factor", 1), ("test", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    if not 0 < args.blur < float("inf"):
        raise ValueError(f"--blur must be finite and > 0, got {args.blur}")
    if not 0 <= args.noise_std < float("inf"):
        raise ValueError(f"--noise-std must be finite and at least 0, got {args.noise_std}")
    for flag, uses in (("method", METHODS), ("task", TASKS)):
        cli.check_unused(argv, unused.of_choice(f"--{flag}", getattr(args, flag), uses))
    given = {"--images": args.images, "--truth": args.truth, "--test": args.test}
    if sum(bool(v) for v in given.values()) != 1:
        raise ValueError("give the data by exactly one of --images, --truth and --test")


def measured(args: Args, run: Run, key: Any) -> Problem:
    """The measurements of the data that the flags name."""
    shape = run.shape
    operator = problems.make_operator(args.task, shape, factor=args.factor, blur=args.blur)
    read = lambda paths, shape, what: problems.read_examples(
        run, paths, shape, what, resize=args.resize
    )
    truth = None
    if args.images:
        y = read(args.images, shape if operator is None else operator.out_shape(shape), "image")
    elif args.test:
        if args.test > len(run.source.test):
            raise ValueError(f"--test must be at most {len(run.source.test)}, got {args.test}")
        truth = np.asarray(run.source.on_levels(run.source.examples(args.test)["x"]), np.float32)
    else:
        truth = read(args.truth, shape, "truth")
    if truth is not None:
        whole = inverse.Mask(np.ones(shape, bool)) if operator is None else operator
        y = np.asarray(inverse.measure(key, whole, truth, noise_std=args.noise_std).y)
    if operator is not None:
        return Problem(y, [operator] * len(y), args.noise_std, truth)
    masks = problems.masks_of(args.mask, y, args.seed)
    return Problem(y, [inverse.Mask(mask) for mask in masks], args.noise_std, truth)


def make_method(args: Args, run: Run, problem: Problem) -> tuple[Any, dict[str, Any]]:
    """The method of a name, and its options."""

    def stds() -> dict[str, Any]:
        # Of several masks those of the whole data, so that one program serves all of them.
        several = len(problem.groups()) > 1
        operator = inverse.Mask(np.ones(run.shape, bool)) if several else problem.operators[0]
        examples = run.source.on_levels(run.source.examples(1_000, "train")["x"])
        return {"data_std": inverse.measured_stds(operator, examples)}

    # Made on demand, because only some of them need the data.
    known: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
        "pigdm": lambda: (inverse.pigdm, stds()),
        "projection": lambda: (inverse.projection, stds()),
        "mmps": lambda: (inverse.mmps, {}),
        "tmpd": lambda: (inverse.tmpd, {}),
        "daps": lambda: (inverse.daps, stds()),
        "ddrm": lambda: (inverse.ddrm, {}),
        "diffpir": lambda: (inverse.diffpir, {}),
        "dps": lambda: (inverse.dps, {"scale": args.scale}),
        "replacement": lambda: (inverse.replacement, {"corrections": args.corrections}),
        "repaint": lambda: (inverse.repaint, {"resamplings": args.resamplings}),
    }
    return known[args.method]()


def restore(
    args: Args, run: Run, params: Any, problem: Problem
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Restorations in the network's range, some examples at a time: (numbers, (m, num, *d))."""
    sampling.check_times(run, args.sample)
    label = sampling.one_class(run, args.label, args.workdir)
    method, options = make_method(args, run, problem)
    score = sampling.make_score(run, params, args.sample)
    each = max(1, args.chunk // args.num)
    for operator, members in problem.groups():
        for part in (members[i : i + each] for i in range(0, len(members), each)):
            n = len(part) * args.num
            y = None if label is None else np.full(n, label)
            every = np.repeat(problem.y[part], args.num, axis=0)
            out = inverse.posterior_sample(
                jax.random.key(args.seed),
                run.sde,
                score,
                inverse.Measurement(operator, every, problem.noise_std),
                method,
                sampler=samplers.make(args.sample, run.model.variance),
                grid=samplers.make_grid(args.sample, run.sde),
                options=options,
                chunk=args.chunk,
                together=args.sample.together,
                first=part[0] * args.num,
                y=sampling.labels(run, n, y),
            )
            yield part, out.x.reshape(len(part), args.num, *run.shape)


def seen_as(problem: Problem, shape: tuple[int, ...], middle: float) -> np.ndarray:
    """The measurements as examples of the full size (n, *d), with hidden entries of one value."""
    found = []
    for y, operator in zip(problem.y, problem.operators, strict=True):
        if isinstance(operator, inverse.Mask):
            found.append(np.where(operator.mask, y, middle))
            continue
        for axis, size in enumerate(shape):
            y = np.repeat(y, size // y.shape[axis], axis=axis)
        found.append(y)
    return np.stack(found)


def draw(run: Run, problem: Problem, x: np.ndarray, done: Sequence[int]) -> Any:
    """A row for each example: as measured, restored, and the truth."""
    flat = x.reshape(-1, *run.shape)
    if len(run.shape) < 2 or (len(run.shape) == 2 and run.shape[1] <= 8):
        whole = None if problem.truth is None else pictures.shown(run, problem.truth)[0]
        return viz.picture(pictures.shown(run, flat)[0], reference=whole)
    low, high = run.config.data.range
    middle = float(np.mean(x)) if run.source.levels is None else (low + high) / 2
    seen = seen_as(problem, run.shape, middle)[list(done), None]
    true = [] if problem.truth is None else [problem.truth[list(done), None]]
    rows = np.concatenate([seen, x, *true], axis=1)
    names = ["measured", *[f"restored {i + 1}" for i in range(x.shape[1])], *["truth"] * len(true)]
    values, limits = pictures.shown(run, rows.reshape(-1, *run.shape))
    images = viz.as_images(values)
    known = viz.value_range(images) if limits is None else limits
    grid = viz.image_grid(images, range=known, columns=rows.shape[1], scale=None)
    picture = viz.labelled(grid, columns=names, rows=[str(i) for i in done])
    return viz.with_bar(picture, known) if limits is None else picture


def residual(problem: Problem, x: np.ndarray, done: Sequence[int]) -> float:
    """Root mean square of y - A x over all examples."""
    total, count = 0.0, 0
    for one, i in zip(x, done, strict=True):
        given = inverse.Measurement(problem.operators[i], problem.y[i : i + 1], problem.noise_std)
        away = np.asarray(given.residual(jnp.asarray(one)[None]))
        total, count = total + float(np.sum(away**2)), count + away.size
    return float(np.sqrt(total / count))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.restore`."""
    args = cli.parse_over_run(Args, "experiments.restore", argv)
    check(args, argv)
    workdir = pathlib.Path(args.workdir)
    out = pathlib.Path(args.out) if args.out else workdir / "restored" / args.task
    cli.needs("plots", "the pictures")
    cli.start(args.workdir)
    run, params, step = runs.load(workdir)
    sampling.check_sample(run, args.sample)
    problem = measured(args, run, jax.random.key(args.seed + 1))
    sampling.one_class(run, args.label, args.workdir)
    png, npz, record = outputs.files(out, (".png", ".npz", ".json"), overwrite=args.overwrite)
    parts: list[tuple[list[int], np.ndarray]] = []
    interrupted = outputs.collect(restore(args, run, params, problem), parts)
    done = np.concatenate([part for part, _ in parts])
    order = np.argsort(done)
    done, x = done[order], np.concatenate([found for _, found in parts])[order]
    npz.parent.mkdir(parents=True, exist_ok=True)
    raw = run.source.to_data(x.reshape(-1, *run.shape)).reshape(x.shape)
    write_npz(npz, x=raw, number=done)
    written = [npz, record]
    if pictures.written(png, lambda: draw(run, problem, x, done.tolist())):
        written.insert(0, png)
    facts = {"step": step, "residual": residual(problem, x[:, 0], done.tolist())}
    if problem.truth is not None:
        facts["rms_error"] = float(np.sqrt(np.mean((x - problem.truth[done, None]) ** 2)))
    write_json(record, facts | dataclasses.asdict(args))
    distance = "" if problem.truth is None else f", {facts['rms_error']:.3f} from the truth"
    print(
        f"{len(x)} examples restored {args.num} times by {args.method}: {facts['residual']:.2g} (rms) "
        f"from the measurements{distance}\nwrote {outputs.listed(written)}"
    )
    if interrupted:
        raise KeyboardInterrupt


if __name__ == "__main__":
    cli.main(main)
