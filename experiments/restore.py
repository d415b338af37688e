"""Restore images with a trained run: `--workdir runs/x --task inpaint --mask center --images a.png`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from score_jax._files import write_json, write_npz

from . import cli
from .config import SampleConfig
from .late import late

with late():
    import jax
    import jax.numpy as jnp
    from PIL import Image

    from score_jax import inverse, viz

    from . import runs
    from .parts import samplers, sampling
    from .runs import Run


MASKS = ("center", "border", "left", "right", "top", "bottom", "random")


@dataclasses.dataclass(frozen=True)
class Args:
    """Restore images: fill in what is missing, colour, enlarge or sharpen.

    Give the pictures to restore by --images, or clean ones by --truth or --test, which are damaged
    first and shown for comparison. Options left out are those of the run's config.
    """

    # Folder of a run made by experiments.train.
    workdir: str
    # What was done to the images.
    task: Literal["inpaint", "colorize", "superres", "deblur"]
    # The pictures as they are: with a hole, grey, small or blurred.
    images: tuple[str, ...] = ()
    # Clean pictures, to be damaged here.
    truth: tuple[str, ...] = ()
    # Number of images of the run's test split to use as clean pictures.
    test: int = 0
    # For inpaint, what is missing: the middle, all but the middle, a half, half of the pixels at
    # random, or the black part of a picture of the same size.
    mask: str = "center"
    # For superres: the factor between the sizes of the result and the picture.
    factor: int = 2
    # For deblur: standard deviation of the blur in pixels.
    blur: float = 0.8
    # Standard deviation of the noise in the pictures, in units of the data's range (-1 to 1: 2).
    noise_std: float = 0.0
    # The method; docs/guidance.md explains the choice.
    method: Literal["pigdm", "projection", "dps", "replacement", "repaint"] = "pigdm"
    # Restorations of each image.
    num: int = 4
    # Class of the images, for networks that are conditioned on it (default: unknown).
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
    # How samples are drawn.
    sample: Annotated[SampleConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=SampleConfig
    )


def check(args: Args) -> None:
    """Raise ValueError for flags out of range."""
    for name, least in (("num", 1), ("chunk", 1), ("factor", 1), ("test", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    if not args.blur > 0:
        raise ValueError(f"--blur must be > 0, got {args.blur}")


def read_image(path: str, shape: tuple[int, ...], range: tuple[float, float]) -> np.ndarray:
    """Read a picture into the data's range; ValueError unless it is of this shape (h, w, 1 or 3)."""
    with Image.open(path) as image:
        colours = {"1": 1, "L": 1, "I": 1, "I;16": 1, "RGB": 3, "P": 3}.get(image.mode)
        if colours != shape[-1]:
            wanted = "grey" if shape[-1] == 1 else "colour (RGB)"
            raise ValueError(f"image {path!r} must be {wanted}, got mode {image.mode}")
        if (image.height, image.width) != shape[:2]:
            raise ValueError(
                f"image {path!r} must have {shape[0]} x {shape[1]} pixels (height x width), got "
                f"{image.height} x {image.width}"
            )
        top = 65535 if image.mode in ("I", "I;16") else 255
        mode = {"P": "RGB", "1": "L"}.get(image.mode)
        pixels = np.asarray(image if mode is None else image.convert(mode), np.float32)
    return (range[0] + (range[1] - range[0]) * pixels / top).reshape(shape)


def known_pixels(args: Args, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of an inpainting task, True where pixels are known: (h, w, c)."""
    h, w, c = shape
    rows, columns = np.indices((h, w))
    middle = (abs(rows - (h - 1) / 2) < h / 4) & (abs(columns - (w - 1) / 2) < w / 4)
    masks = {
        "center": lambda: ~middle,
        "border": lambda: middle,
        "left": lambda: columns >= w / 2,
        "right": lambda: columns < w / 2,
        "top": lambda: rows >= h / 2,
        "bottom": lambda: rows < h / 2,
        "random": lambda: np.random.default_rng(args.seed).random((h, w)) < 0.5,
    }
    if args.mask in masks:
        known = masks[args.mask]()
    elif pathlib.Path(args.mask).is_file():
        with Image.open(args.mask) as image:
            known = np.asarray(image.convert("L")) > 127
        if known.shape != (h, w):
            raise ValueError(
                f"--mask {args.mask!r} must have {h} x {w} pixels (height x width), got "
                f"{known.shape[0]} x {known.shape[1]}"
            )
    else:
        raise ValueError(f"--mask must be one of {', '.join(MASKS)} or a file, got {args.mask!r}")
    return np.repeat(known[:, :, None], c, axis=2)


def make_operator(args: Args, shape: tuple[int, ...]) -> inverse.Operator:
    """The operator of a task on images (h, w, c); ValueError if they do not match."""
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise ValueError(f"restore is for images, and this run has examples of shape {shape}")
    if args.task == "colorize" and shape[-1] == 1:
        raise ValueError("--task colorize needs a run on colour images, and this one's are grey")
    size = min(2 * int(np.ceil(3 * args.blur)) + 1, *shape[:2])
    operator = {
        "inpaint": lambda: inverse.Mask(known_pixels(args, shape)),
        "colorize": lambda: inverse.grayscale(shape[-1]),
        "superres": lambda: inverse.BlockAverage(args.factor),
        "deblur": lambda: inverse.Blur(inverse.gaussian_kernel(size, args.blur)),
    }[args.task]()
    operator.out_shape(shape)
    return operator


def measured(args: Args, run: Run, key: Any) -> tuple[inverse.Measurement, Any]:
    """(the measurements, the truth or None) of the images that the flags name."""
    given = {"--images": args.images, "--truth": args.truth, "--test": args.test}
    if sum(bool(v) for v in given.values()) != 1:
        raise ValueError("give the images by exactly one of --images, --truth and --test")
    operator = make_operator(args, run.shape)
    low, high = run.config.data.range
    if args.images:
        out = operator.out_shape(run.shape)
        y = np.stack([read_image(path, out, (low, high)) for path in args.images])
        return inverse.Measurement(operator, y, args.noise_std), None
    if args.test:
        if args.test > len(run.source.test):
            raise ValueError(f"--test must be at most {len(run.source.test)}, got {args.test}")
        truth = np.asarray(run.source.on_levels(run.source.examples(args.test)["x"]), np.float32)
    else:
        truth = np.stack([read_image(path, run.shape, (low, high)) for path in args.truth])
    return inverse.measure(key, operator, truth, noise_std=args.noise_std), truth


def data_stds(run: Run, operator: Any) -> tuple[float, ...]:
    """Standard deviations of the data of a run in the measured directions."""
    return inverse.measured_stds(
        operator, run.source.on_levels(run.source.examples(1_000, "train")["x"])
    )


def make_method(args: Args, run: Run, operator: Any) -> tuple[Any, dict[str, Any]]:
    """The method of a name, and its options."""
    # Made on demand, because only two of them need the data.
    known: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
        "pigdm": lambda: (inverse.pigdm, {"data_std": data_stds(run, operator)}),
        "projection": lambda: (inverse.projection, {"data_std": data_stds(run, operator)}),
        "dps": lambda: (inverse.dps, {"scale": args.scale}),
        "replacement": lambda: (inverse.replacement, {"corrections": args.corrections}),
        "repaint": lambda: (inverse.repaint, {"resamplings": args.resamplings}),
    }
    return known[args.method]()


def _label(args: Args, run: Run) -> int | None:
    """The class that the network is given; that of hidden labels if it is unknown."""
    if not run.num_classes:
        if args.label is not None:
            raise ValueError(f"--class given, but {args.workdir!r} was trained without classes")
        return None
    if args.label is None:
        if run.null_class is None:
            raise ValueError(f"{args.workdir!r} was trained with classes: give --class")
        return run.null_class
    if not 0 <= args.label < run.num_classes:
        raise ValueError(f"--class must be in [0, {run.num_classes}), got {args.label}")
    return args.label


def restore(args: Args, run: Run, params: Any, measurement: inverse.Measurement) -> np.ndarray:
    """Restorations in the network's range: (images, num, h, w, c)."""
    sampling.check_times(run, args.sample)
    label, n = _label(args, run), len(measurement.y)
    method, options = make_method(args, run, measurement.operator)
    score = sampling.make_score(run, params, args.sample)
    every = np.repeat(np.asarray(measurement.y), args.num, axis=0)
    y = None if label is None else np.full(n * args.num, label)
    out = inverse.posterior_sample(
        jax.random.key(args.seed),
        run.sde,
        score,
        inverse.Measurement(measurement.operator, every, measurement.noise_std),
        method,
        sampler=samplers.make(args.sample, run.model.variance),
        grid=samplers.make_grid(args.sample, run.sde),
        options=options,
        chunk=args.chunk,
        together=args.sample.together,
        y=sampling.labels(run, n * args.num, y),
    )
    if not np.isfinite(out.x).all():
        raise FloatingPointError(f"method {args.method!r} returned values that are not finite")
    return out.x.reshape(n, args.num, *run.shape)


def as_picture(measurement: inverse.Measurement, shape: tuple[int, ...], middle: float) -> Any:
    """The measurements as images of the full size (b, h, w, c)."""
    y = np.asarray(measurement.y)
    if isinstance(measurement.operator, inverse.Mask):
        return np.where(np.asarray(measurement.operator.mask)[None], y, middle)
    for axis in (1, 2):
        y = np.repeat(y, shape[axis - 1] // y.shape[axis], axis=axis)
    return np.repeat(y, shape[-1] // y.shape[-1], axis=-1)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.restore`."""
    args = cli.parse_over_run(Args, "experiments.restore", argv)
    check(args)
    cli.start()
    workdir = pathlib.Path(args.workdir)
    run, params, step = runs.load(workdir)
    measurement, truth = measured(args, run, jax.random.key(args.seed + 1))
    x = restore(args, run, params, measurement)
    low, high = run.config.data.range
    seen = as_picture(measurement, run.shape, (low + high) / 2)
    parts = [seen[:, None], x] + ([] if truth is None else [truth[:, None]])
    rows = np.concatenate(parts, axis=1)
    picture = viz.image_grid(
        rows.reshape(-1, *run.shape),
        range=(low, high),
        columns=rows.shape[1],
        scale=max(1, 96 // run.shape[0]),
    )  # fmt: skip
    out = pathlib.Path(args.out) if args.out else workdir / "restored" / args.task
    out.parent.mkdir(parents=True, exist_ok=True)
    viz.save_image(picture, out.with_name(out.name + ".png"))
    raw = run.source.to_data(x.reshape(-1, *run.shape)).reshape(x.shape)
    write_npz(out.with_name(out.name + ".npz"), x=raw)
    flat = jnp.asarray(x[:, 0])
    facts = {"step": step, "residual": float(jnp.sqrt(jnp.mean(measurement.residual(flat) ** 2)))}
    if truth is not None:
        facts["rms_error"] = float(np.sqrt(np.mean((x - truth[:, None]) ** 2)))
    write_json(out.with_name(out.name + ".json"), facts | dataclasses.asdict(args))
    distance = "" if truth is None else f", {facts['rms_error']:.3f} from the truth"
    print(
        f"{len(x)} images restored {args.num} times by {args.method}: {facts['residual']:.2g} (rms) "
        f"from the measurements{distance}\nwrote {out}.png, {out}.npz and {out}.json"
    )


if __name__ == "__main__":
    cli.main(main)
