"""The figures of docs/gallery.md: `python -m benchmarks.gallery --workdir runs/fashion_vp`.

Distances of samples to the test split for several seeds, bits per dimension of some test images, guidance
by scale, and the training images nearest to samples. The label of a sample is taken to be that of the
nearest training image. Writes gallery.json, guidance.png and nearest.png.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import cli, runs
from experiments.config import GuidanceConfig
from experiments.evaluate import distances
from experiments.parts import guiding, sampling
from experiments.reports import bits
from experiments.reports.features import feature_space
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
    # Samples a seed, the seeds, and the steps of the run's sampler.
    num: int = 300
    seeds: int = 3
    steps: int = 20
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
    """Measure a run, and print and write what was found."""
    args = cli.parse(Args, "benchmarks.gallery", argv)
    workdir, out = pathlib.Path(args.workdir), pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    run, params, step = runs.load(workdir)
    config = dataclasses.replace(run.config.sample, steps=args.steps)
    space, test = feature_space(run), run.source.examples(args.test)
    train = run.source.examples(len(run.source.split("train")), "train")
    flat = space.features(train["x"])
    asked = np.arange(max(args.num, args.guided)) % run.num_classes
    results: dict[str, Any] = {"step": step, "args": dataclasses.asdict(args)}

    def labels(x: Any) -> np.ndarray:
        return np.asarray(train["y"])[metrics.nearest(space.features(x), flat)[1]]

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
    options = bits.Options(examples=args.bits, chunk=args.bits, tol=1e-3)
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
