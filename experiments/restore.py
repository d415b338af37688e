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
from .parts import outputs, rules, unused

with late():
    import jax
    import jax.numpy as jnp

    from score_jax import inverse, viz

    from . import runs
    from .parts import problems, samplers, sampling
    from .reports import credible, pictures
    from .runs import Run


@dataclasses.dataclass(frozen=True)
class Args:
    """Restore data: fill in what is missing, colour, enlarge or sharpen.

    Give what is to be restored by --images, or clean data by --truth or --test, which are damaged
    first and shown for comparison: pictures, or .npy and .zarr files for data of any shape. Options
    left out are those of the run's config.
    """

    # Folder of a run made by experiments.train.
    workdir: str
    # What was done to the data.
    task: Literal["inpaint", "colorize", "superres", "deblur"]
    # The data as they are, with a hole, grey, small or blurred: pictures, .npy or .zarr files.
    images: tuple[str, ...] = ()
    # Clean data, to be damaged here.
    truth: tuple[str, ...] = ()
    # Number of examples of the run's test split to use as clean data.
    test: int | None = None
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
    # The kind of noise: normal, poisson (counts), laplace (outliers), or rounded (normal noise, then
    # few grey levels). daps and dps use its likelihood, other methods normal noise of the same deviation.
    noise: Literal["normal", "poisson", "laplace", "rounded"] = "normal"
    # Standard deviation of the noise in the pictures, in units of the data's range (-1 to 1: 2); for
    # rounded that of the noise before rounding.
    noise_std: float = 0.0
    # For poisson: the mean count of the lightest value.
    photons: float = 100.0
    # For rounded: the distance of the grey levels, in the same units as --noise-std.
    step: float = 0.25
    # The method; docs/posterior.md explains the choice.
    method: Literal[
        "pigdm", "mmps", "tmpd", "projection", "daps", "ddrm", "diffpir", "dps", "replacement", "repaint"
    ] = "pigdm"  # fmt: skip
    # Restorations of each example.
    num: int = 4
    # Instead of restorations, write the mean, the standard deviation and a credible interval of every
    # entry over this number of draws of each example (0: write restorations).
    draws: int = 0
    # With --draws: the probability of the interval.
    interval: float = 0.9
    # With --draws: keep all draws, in OUT-draws.npy (examples, draws, ...).
    keep_draws: bool = False
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
    """What was measured of n examples: y (n, *out), an operator for each, and the truth or None.

    noise is None for normal noise, as in a `Measurement`.
    """

    y: np.ndarray
    operators: list[Any]
    noise_std: float
    noise: Any = None
    truth: np.ndarray | None = None

    def given(self, operator: Any, y: Any) -> Any:
        """The measurement of some examples that share an operator."""
        return inverse.Measurement(operator, y, self.noise_std, self.noise)

    def groups(self) -> list[tuple[Any, list[int]]]:
        """The distinct operators with the numbers of their examples."""
        found: dict[Any, tuple[Any, list[int]]] = {}
        for i, operator in enumerate(self.operators):
            mask = getattr(operator, "mask", None)
            found.setdefault(None if mask is None else mask.tobytes(), (operator, []))[1].append(i)
        return list(found.values())


# The options that each method and each task use.
METHODS: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("pigdm", "mmps", "tmpd", "projection", "daps", "ddrm", "diffpir"), ()
)
METHODS |= {"dps": ("scale",), "replacement": ("corrections",), "repaint": ("resamplings",)}
# Those that measure the spread of the training data.
WITH_DATA = ("pigdm", "projection", "daps")
NOISES = {
    "normal": ("noise_std",), "poisson": ("photons",), "laplace": ("noise_std",),
    "rounded": ("noise_std", "step"),
}  # fmt: skip
TASKS = {"inpaint": ("mask",), "colorize": (), "superres": ("factor",), "deblur": ("blur",)}


def check(args: Args, argv: Sequence[str] | None = None) -> None:
    """Raise ValueError for flags out of range, and for those that are not used."""
    rules.check_flags(args, num=1, chunk=1, factor=1, test=1)
    if not 0 < args.blur < float("inf"):
        raise ValueError(f"--blur must be finite and > 0, got {args.blur}")
    if not 0 <= args.noise_std < float("inf"):
        raise ValueError(f"--noise-std must be finite and at least 0, got {args.noise_std}")
    for name in ("photons", "step"):
        value = getattr(args, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name} must be finite and > 0, got {value}")
    if args.noise in ("laplace", "rounded") and not args.noise_std > 0:
        raise ValueError(f"--noise {args.noise} needs --noise-std, its standard deviation")
    if args.draws < 0 or args.draws == 1:
        raise ValueError(f"--draws must be 0 or at least 2, got {args.draws}")
    if not 0 < args.interval < 1:
        raise ValueError(f"--interval must be between 0 and 1, got {args.interval}")
    alone = dict.fromkeys(("interval", "keep_draws"), "a command without --draws")
    cli.check_unused(argv, {"num": "--draws"} if args.draws else alone)
    for flag, uses in (("method", METHODS), ("noise", NOISES), ("task", TASKS)):
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
    noise = problems.make_noise(
        args.noise, run, noise_std=args.noise_std, photons=args.photons, step=args.step
    )
    if truth is not None:
        whole = inverse.Mask(np.ones(shape, bool)) if operator is None else operator
        std = args.noise_std if noise is None else 0.0
        y = np.asarray(inverse.measure(key, whole, truth, noise_std=std, noise=noise).y)
    std = args.noise_std if noise is None else noise.std(jnp.asarray(y[np.isfinite(y)]))
    operators: list[Any]
    if operator is None:
        operators = [inverse.Mask(mask) for mask in problems.masks_of(args.mask, y, args.seed)]
    else:
        operators = [operator] * len(y)
    return Problem(y, operators, std, noise, truth)


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


class Drawing(NamedTuple):
    """What draws need besides the measurement: score, method, class or None, and keyword arguments."""

    score: Any
    method: Any
    label: int | None
    options: dict[str, Any]


def drawing(args: Args, run: Run, params: Any, problem: Problem) -> Drawing:
    """How the flags draw."""
    sampling.check_diffusion(run, "a posterior")
    sampling.check_times(run, args.sample)
    label = sampling.one_class(run, args.label, args.workdir)
    method, options = make_method(args, run, problem)
    score = sampling.make_score(run, params, args.sample)
    common = {
        "sampler": sampling.make_sampler(run, args.sample),
        "grid": samplers.make_grid(args.sample, run.sde, run.fitted),
        "options": options,
        "chunk": args.chunk,
        "together": args.sample.together,
    }
    return Drawing(score, method, label, common)


def restore(
    args: Args, run: Run, problem: Problem, how: Drawing
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Restorations in the network's range, some examples at a time: (numbers, (m, num, *d))."""
    each = max(1, args.chunk // args.num)
    for operator, members in problem.groups():
        for part in (members[i : i + each] for i in range(0, len(members), each)):
            n = len(part) * args.num
            y = None if how.label is None else np.full(n, how.label)
            every = np.repeat(problem.y[part], args.num, axis=0)
            out = inverse.posterior_sample(
                jax.random.key(args.seed),
                run.sde,
                how.score,
                problem.given(operator, every),
                how.method,
                first=part[0] * args.num,
                y=sampling.labels(run, n, y),
                **how.options,
            )
            yield part, out.x.reshape(len(part), args.num, *run.shape)


def summarise(
    args: Args, run: Run, problem: Problem, how: Drawing, store: Any = None
) -> Iterator[inverse.Summary]:
    """The summary of each example in the data's own units; `store` (n, draws, *d) gets the draws."""
    n = len(problem.y)
    labels = sampling.labels(run, n, None if how.label is None else np.full(n, how.label))
    tail = (1 - args.interval) / 2
    for i, operator in enumerate(problem.operators):
        yield inverse.posterior_summary(
            jax.random.fold_in(jax.random.key(args.seed), i),
            run.sde,
            how.score,
            problem.given(operator, problem.y[i : i + 1]),
            how.method,
            num=args.draws,
            quantiles=(tail, 1 - tail),
            store=None if store is None else store[i : i + 1],
            of=run.source.to_data,
            y=jax.tree.map(lambda v, i=i: v[i : i + 1], labels),
            **how.options,
        )


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
    if not viz.is_image(run.shape):
        whole = None if problem.truth is None else pictures.shown(run, problem.truth)[0]
        return viz.picture(pictures.shown(run, flat)[0], reference=whole)
    low, high = run.config.data.range
    middle = float(np.mean(x)) if run.source.levels is None else (low + high) / 2
    seen = seen_as(problem, run.shape, middle)[list(done), None]
    true = [] if problem.truth is None else [problem.truth[list(done), None]]
    rows = np.concatenate([seen, x, *true], axis=1)
    names = ["measured", *[f"restored {i + 1}" for i in range(x.shape[1])], *["truth"] * len(true)]
    values, limits = pictures.shown(run, rows.reshape(-1, *run.shape))
    values = values.reshape(rows.shape)
    return viz.named_grid(values, columns=names, rows=[str(i) for i in done], range=limits)


def residual(problem: Problem, x: np.ndarray, done: Sequence[int]) -> float:
    """Root mean square of y - A x over all examples."""
    total, count = 0.0, 0
    for one, i in zip(x, done, strict=True):
        given = problem.given(problem.operators[i], problem.y[i : i + 1])
        away = np.asarray(given.residual(jnp.asarray(one)[None]))
        total, count = total + float(np.sum(away**2)), count + away.size
    return float(np.sqrt(total / count))


def files(args: Args, out: pathlib.Path) -> list[pathlib.Path]:
    """The files to write; ValueError if one is there and not to be replaced."""
    draws = ["-draws.npy"] if args.keep_draws else []
    return outputs.files(out, (".png", ".npz", ".json", *draws), overwrite=args.overwrite)


def write_restorations(
    args: Args, paths: Sequence[pathlib.Path], run: Run, params: Any, step: int
) -> bool:
    """Draw and write restorations; True if an interrupt ended it."""
    problem = measured(args, run, jax.random.key(args.seed + 1))
    how = drawing(args, run, params, problem)
    png, npz, record = paths
    parts: list[tuple[list[int], np.ndarray]] = []
    interrupted = outputs.collect(restore(args, run, problem, how), parts)
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
    return interrupted


def write_summaries(
    args: Args, paths: Sequence[pathlib.Path], run: Run, params: Any, step: int
) -> bool:
    """Draw many times and write means, deviations and intervals; True if an interrupt ended it."""
    problem = measured(args, run, jax.random.key(args.seed + 1))
    how = drawing(args, run, params, problem)
    png, npz, record, *kept = paths
    npz.parent.mkdir(parents=True, exist_ok=True)
    parts: list[Any] = []
    with credible.draws_file(kept, run, (len(problem.y), args.draws)) as store:
        interrupted = outputs.collect(summarise(args, run, problem, how, store), parts)
        if store is not None:
            store[len(parts) :] = credible.nothing(store.dtype)
    found = credible.joined(parts)
    truth = None if problem.truth is None else problem.truth[: len(parts)]
    low, high = np.asarray(found.quantiles)
    write_npz(npz, mean=found.mean, std=found.std, low=low, high=high)
    written = [npz, record, *kept]
    if pictures.written(png, lambda: credible.draw(run, found, truth, args.interval)):
        written.insert(0, png)
    facts = {"step": step, **credible.facts(run, found, truth)}
    write_json(record, facts | dataclasses.asdict(args))
    ending = "" if truth is None else credible.comparison(facts, args.interval)
    print(
        f"{len(parts)} examples drawn {args.draws} times by {args.method}{ending}\n"
        f"wrote {outputs.listed(written)}"
    )
    return interrupted


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.restore`."""
    args = cli.parse_over_run(Args, "experiments.restore", argv)
    check(args, argv)
    workdir = pathlib.Path(args.workdir)
    out = pathlib.Path(args.out) if args.out else workdir / "restored" / args.task
    paths = files(args, out)
    reads = bool(args.test) or args.method in WITH_DATA
    cli.start(args.workdir, data=reads, pictures="the pictures of restorations")
    run, params, step = runs.load(workdir)
    sampling.check_sample(run, args.sample)
    write = write_summaries if args.draws else write_restorations
    if write(args, paths, run, params, step):
        raise KeyboardInterrupt


if __name__ == "__main__":
    cli.main(main)
