"""The figures of docs/gallery.md: `python -m benchmarks.gallery --workdir RUN [--parts samplers]`.

samplers    samples of every sampler from the same noise: samplers.png and samplers.json
measured    distances of samples to the test split for several seeds, guidance by scale, the training
            images nearest to samples, and bits per dimension: gallery.json, guidance.png and nearest.png;
            the label of a sample is taken to be that of the nearest training image
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from experiments import cli, runs
from experiments.compare import usual
from experiments.config import GuidanceConfig
from experiments.evaluate import distances
from experiments.parts import guiding, samplers, sampling
from experiments.reports import bits
from experiments.reports.features import feature_space, nearest_label
from score_jax import metrics, viz
from score_jax._files import write_json

NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)


@dataclasses.dataclass(frozen=True)
class Args:
    """Measure a class-conditional run with hidden labels on small images."""

    # Folder of the run.
    workdir: str
    # Where to write.
    out: str = "build/gallery"
    # What to make.
    parts: tuple[Literal["samplers", "measured"], ...] = ("samplers", "measured")
    # Evaluations of each sampler that has a number of steps, and the tolerance of the adaptive ones.
    nfe: int = 30
    tol: float = 1e-2
    # Samples a seed, and the seeds.
    num: int = 300
    seeds: int = 3
    # Samples a scale of guidance; 0 draws without labels.
    guided: int = 200
    scales: tuple[float, ...] = (0.0, 2.0, 4.0)
    # Test images whose bits per dimension are measured.
    bits: int = 300
    # Test images that samples are compared with.
    test: int = 2_000


def with_error(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds, and its standard error."""
    return bits.mean_stderr(np.asarray(values))


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and measure a run, and print and write what was found."""
    args = cli.parse(Args, "benchmarks.gallery", argv)
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    if "samplers" in args.parts:
        by_sampler(args)
    if "measured" in args.parts:
        measure(args)


def by_sampler(args: Args) -> None:
    """Draw a sample of every class from the same noise by every sampler."""
    out = pathlib.Path(args.out)
    run, params, step = runs.load(pathlib.Path(args.workdir))
    num = run.num_classes or len(NAMES)
    rows: dict[str, np.ndarray] = {}
    evaluations: dict[str, float] = {}
    for name in usual(run):
        choice: Any = name
        named = dataclasses.replace(
            run.config.sample, sampler=choice, grid="usual", rtol=args.tol, atol=args.tol
        )
        if not samplers.known(named).adaptive:
            steps = samplers.steps_within(named, run.sde, args.nfe)
            named = dataclasses.replace(named, steps=steps)
        found = sampling.draw(run, params, jax.random.key(0), num, named, progress=False)
        rows[f"{name}, {found.nfe:.0f}"] = run.source.to_data(found.x)
        evaluations[name] = found.nfe
        print(
            f"{name}: {found.nfe:.1f} evaluations, {found.compile_seconds:.0f} s to compile",
            flush=True,
        )
        columns = NAMES if num == len(NAMES) else ()
        draw(out / "samplers.png", list(rows.values()), list(rows), columns)
        write_json(out / "samplers.json", {"step": step, "evaluations": evaluations})


def measure(args: Args) -> None:
    """Measure the samples of a run."""
    workdir, out = pathlib.Path(args.workdir), pathlib.Path(args.out)
    run, params, step = runs.load(workdir)
    config = run.config.sample
    space, test = feature_space(run), run.source.examples(args.test)
    train = run.source.examples(len(run.source.split("train")), "train")
    flat = space.features(train["x"])
    labels = nearest_label(space, flat, train["y"])
    asked = np.arange(max(args.num, args.guided)) % run.num_classes
    results: dict[str, Any] = {"step": step, "args": dataclasses.asdict(args)}

    def measured(x: Any) -> dict[str, float]:
        right = float((labels(x) == asked[: len(x)]).mean())
        return distances(space, x, test["x"]) | {"as_asked": right}

    def note(name: str, value: Any) -> None:
        results[name] = value
        print(name, json.dumps(value), flush=True)
        write_json(out / "gallery.json", results)

    note("nearest_label_right_on_test", float((labels(test["x"]) == test["y"]).mean()))
    drawn = []
    for seed in range(args.seeds):
        found = sampling.draw(run, params, jax.random.key(seed), args.num, config)
        drawn.append(run.source.to_data(found.x))
    rows = [measured(x) for x in drawn]
    note("model", {name: with_error([row[name] for row in rows]) for name in rows[0]})
    note("train_split", distances(space, train["x"][: args.num], test["x"]))
    copies = metrics.memorization(
        space.features(drawn[0]), flat, space.features(test["x"][: args.num])
    )
    held_out = metrics.nearest(space.features(test["x"][: args.num]), flat)[0]
    medians = (float(np.median(values)) for values in (copies.distance, held_out))
    note("nearest_training_image", dict(zip(("samples", "test"), medians, strict=True)))
    closest = np.argsort(copies.distance)[:10]
    pairs = [drawn[0][closest], train["x"][copies.where[closest]]]
    draw(out / "nearest.png", pairs, ["sample", "nearest"])

    shown = {1.0: drawn[0]}
    for scale in args.scales:
        guide, both = guiding.make_guide(run, params, workdir, GuidanceConfig(guidance=scale))
        key = jax.random.key(0)
        x = sampling.draw(run, both, key, args.guided, config, guide=guide).x
        shown[scale] = run.source.to_data(x)
    shown = dict(sorted(shown.items()))
    note("guidance", {f"{s:g}": measured(x[: args.guided]) for s, x in shown.items()})
    draw(out / "guidance.png", [x[:10] for x in shown.values()], [f"{s:g}" for s in shown], NAMES)
    options = bits.Options(examples=args.bits, chunk=args.bits)
    note("bits_per_dim", bits.by_flow(run, params, jax.random.key(3), options))


def draw(
    path: pathlib.Path, rows: list[np.ndarray], names: list[str], columns: Sequence[str] = ()
) -> None:
    """Draw rows of grey levels from 0 to 255 with their names."""
    x = np.concatenate(rows).astype(np.float32)
    grid = viz.image_grid(x, range=(0.0, 255.0), columns=len(rows[0]), scale=2)
    viz.save_image(viz.labelled(grid, rows=names, columns=columns), path)


if __name__ == "__main__":
    cli.main(main)
