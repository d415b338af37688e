"""Guidance on the digits, measured: classes as asked by scale, and halves completed by each method.

    python -m benchmarks.guidance --conditional runs/c --plain runs/x --out build/guidance
    python -m benchmarks.guidance --plain runs/x --scales --halves 100 --methods mmps dps

`runs/c` is a run of digits_vp_conditional, `runs/x` one of digits_vp with a classifier
(`experiments.train_classifier`). Judged by the classifier of `reports.features`, which sees no noise
and none of the networks. Writes results.json, guidance.png and completed.png.

Other images than digits are completed, too, as with released weights, and their class is taken to be that
of the nearest training image; networks with classes are given none:

    python -m experiments.convert --from score_jax --file fashion_vp --workdir runs/fashion_vp
    python -m benchmarks.guidance --plain runs/fashion_vp --scales --halves 32 --smc-halves 12
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import cli, runs
from experiments.config import GuidanceConfig, SampleConfig
from experiments.parts import guiding, sampling
from experiments.reports.features import FeatureSpace, feature_space, nearest_label
from experiments.runs import Run
from score_jax import inverse, metrics, viz
from score_jax.inverse.benchmark import survivors
from score_jax.samplers import ancestral, log_snr_grid

TITLES = {
    "as_asked": "classified as asked",
    "frechet": "Fréchet distance",
    "spread": "spread within a class",
}


@dataclasses.dataclass(frozen=True)
class Args:
    """Measure guidance and the methods of inverse problems on the digits."""

    # A run with hidden labels, and a run without labels that has a classifier ("": left out).
    conditional: str = ""
    plain: str = ""
    # A checkpoint of the conditional run that guides as the worse model.
    worse_step: int | None = None
    # Where to write.
    out: str = "build/guidance"
    # Samples a scale, and their steps of DPM-Solver++(2M).
    num: int = 500
    steps: int = 15
    # Scales of guidance (none: only the halves are completed).
    scales: tuple[float, ...] = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
    # Digits completed, the steps of ancestral sampling, equal in log-SNR, and the methods (default: all).
    halves: int = 150
    half_steps: int = 100
    methods: tuple[str, ...] = ()
    # Digits completed by twisted SMC with this many particles and steps, and the noise that it needs.
    smc_halves: int = 24
    particles: int = 32
    smc_steps: int = 50
    smc_noise: float = 0.1


def methods(run: Run, operator: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The methods that are compared, and their options."""
    examples = run.source.on_levels(run.source.examples(1_000, "train")["x"])
    stds = inverse.measured_stds(operator, examples)
    return {
        "pigdm": (inverse.pigdm, {"data_std": stds}),
        "mmps": (inverse.mmps, {}),
        "tmpd": (inverse.tmpd, {}),
        "daps": (inverse.daps, {"data_std": stds}),
        "ddrm": (inverse.ddrm, {}),
        "diffpir": (inverse.diffpir, {}),
        "projection": (inverse.projection, {"data_std": stds}),
        "replacement": (inverse.replacement, {}),
        "replacement, 3 corrections": (inverse.replacement, {"corrections": 3, "snr": 0.3}),
        "repaint, 10 resamplings": (inverse.repaint, {"resamplings": 10}),
        "dps": (inverse.dps, {"scale": 1.0}),
        "dps, scale 2": (inverse.dps, {"scale": 2.0}),
    }


def unlabelled(run: Run, num: int, workdir: pathlib.Path) -> dict[str, Any]:
    """What the network is given for `num` images of unknown class."""
    label = sampling.one_class(run, None, workdir)
    return sampling.labels(run, num, None if label is None else np.full(num, label))


def by_particles(run: Run, score: Any, truth: Any, mask: Any, args: Args) -> Any:
    """One draw of each of the first images by twisted SMC, of measurements with noise.

    NaN for an image whose particles all died.
    """
    noisy = inverse.measure(
        jax.random.key(5), inverse.Mask(mask), truth[: args.smc_halves], noise_std=args.smc_noise
    )
    examples = run.source.on_levels(run.source.examples(1_000, "train")["x"])
    out, alive = survivors(
        jax.random.key(6), run.sde, score, noisy, grid=log_snr_grid(run.sde, args.smc_steps),
        particles=args.particles, islands=1, chunk=4, progress=False,
        data_std=inverse.measured_stds(noisy.operator, examples),
    )  # fmt: skip
    x = np.full(np.shape(noisy.y), np.nan, np.float32)
    for i, found in zip(alive, out.found, strict=True):
        x[i] = found.draw(1, seed=i)[0]
    return x


def forms(workdir: pathlib.Path, args: Args) -> dict[str, dict[str, Any]]:
    """The forms of guidance of a run with hidden labels, and their flags beside the scale."""
    found: dict[str, dict[str, Any]] = {
        "classifier-free": {},
        "rescaled": {"guidance_rescale": 0.7},
        "projected": {"guidance_parallel": 0.0, "guidance_momentum": -0.5},
    }
    if args.worse_step is not None:
        worse = {"guidance_worse": str(workdir), "guidance_worse_step": args.worse_step}
        found["autoguidance"] = worse
    return found


def by_scale(workdir: pathlib.Path, args: Args, flags: dict[str, Any]) -> dict[str, Any]:
    """Share of samples classified as asked, Frechet distance, spread within a class, by scale."""
    run, params, _ = runs.load(workdir)
    space = feature_space(run)
    assert space.classify is not None
    config = SampleConfig(sampler="dpmpp_2m", steps=args.steps)
    y = np.arange(args.num) % 10
    rows: dict[str, Any] = {"classifier_accuracy": space.accuracy}
    for scale in args.scales:
        wanted = GuidanceConfig(guidance=scale, **flags)
        guide, both = guiding.make_guide(run, params, workdir, wanted)
        x = sampling.draw(
            run, both, jax.random.key(0), args.num, config, y=y, guide=guide, progress=False
        ).x
        raw = run.source.to_data(x)
        rows[f"{scale:g}"] = {
            "as_asked": float((space.classify(raw) == y).mean()),
            "frechet": float(
                metrics.frechet(space.features(raw), space.features(run.source.test.x))
            ),
            "spread": float(np.mean([x[y == k].std(axis=0).mean() for k in range(10)])),
        }
        print(workdir, flags, scale, rows[f"{scale:g}"], flush=True)
    return rows


def completed(workdir: pathlib.Path, args: Args, out: pathlib.Path) -> dict[str, Any]:
    """Accuracy and error of images whose lower half was completed, beside a fill by the mean."""
    run, params, _ = runs.load(workdir)
    classify = classifier(run, feature_space(run))
    test = run.source.examples(args.halves)
    truth, y = np.asarray(run.source.on_levels(test["x"]), np.float32), test.get("y")
    mask = np.indices(run.shape)[0] < run.shape[0] // 2
    measurement = inverse.measure(jax.random.key(5), inverse.Mask(mask), truth)
    mean = np.asarray(run.source.on_levels(run.source.examples(1_000, "train")["x"])).mean(axis=0)
    images = {"truth": truth, "filled by the mean": np.where(mask, truth, mean)}
    score = sampling.make_score(run, params, SampleConfig())
    chosen = methods(run, measurement.operator)
    given = unlabelled(run, len(truth), workdir)
    for name, (method, options) in chosen.items():
        if args.methods and name not in args.methods:
            continue
        images[name] = inverse.posterior_sample(
            jax.random.key(6), run.sde, score, measurement, method, options=options, y=given,
            grid=log_snr_grid(run.sde, args.half_steps), sampler=ancestral, chunk=args.halves,
            progress=False,
        ).x  # fmt: skip
        print(name, _judge(run, classify, images[name], truth, y), flush=True)
    if args.smc_halves:
        each = score(unlabelled(run, args.particles, workdir))
        images["smc"] = by_particles(run, each, truth, mask, args)
        print("smc", _judge(run, classify, images["smc"], truth, y), flush=True)
    few = min(12, *map(len, images.values()))
    rows = np.stack([np.nan_to_num(x[:few]) for x in images.values()])
    grid = viz.image_grid(rows.reshape(-1, *run.shape), columns=few, scale=max(1, 48 // len(mask)))
    viz.save_image(viz.labelled(grid, rows=list(images)), out / "completed.png")
    return {name: _judge(run, classify, x, truth, y) for name, x in images.items()}


def classifier(run: Run, space: FeatureSpace) -> Callable[[Any], np.ndarray] | None:
    """The classifier of the space, or by the nearest training image; None for data without labels."""
    if space.classify is not None or not run.source.num_classes:
        return space.classify
    train = run.source.examples(len(run.source.split("train")), "train")
    return nearest_label(space, space.features(train["x"]), train["y"])


def _judge(run: Run, classify: Any, x: Any, truth: Any, y: Any) -> dict[str, float]:
    """Error, and share of the right class, of the images that are finite."""
    alive = np.isfinite(x).all(axis=(1, 2, 3))
    half, left = run.shape[0] // 2, np.flatnonzero(alive)
    found = {"examples": len(x), "died": int((~alive).sum())}
    if not len(left):
        return found
    error = (x[left] - truth[left])[:, half:]
    found["rms_error"] = float(np.sqrt(np.mean(np.square(error))))
    if classify is not None:
        right = classify(run.source.to_data(x[left])) == y[left]
        found["accuracy"] = float(right.mean())
    return found


def draw_curves(results: dict[str, Any], path: pathlib.Path) -> None:
    """Share as asked and spread against the scale, a line a run."""
    figure = viz.new_figure(8, 3, dpi=110)
    axes = figure.subplots(1, 3)
    for name, rows in results.items():
        scales = [s for s in rows if s != "classifier_accuracy"]
        for axis, key in zip(axes, TITLES, strict=True):
            axis.plot([float(s) for s in scales], [rows[s][key] for s in scales], "o-", label=name)
            axis.set(xlabel="scale", title=TITLES[key])
            axis.grid(True, alpha=0.25)
    axes[0].legend(frameon=False)
    viz.save_image(viz.render(figure).quantize(64), path)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m benchmarks.guidance`."""
    args = cli.parse(Args, "benchmarks.guidance", argv)
    cli.start()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    curves, results = {}, {}
    if args.conditional and args.scales:
        folder = pathlib.Path(args.conditional)
        for name, flags in forms(folder, args).items():
            curves[name] = by_scale(folder, args, flags)
    if args.plain and args.scales:
        curves["classifier"] = by_scale(pathlib.Path(args.plain), args, {})
    if args.plain:
        results["completed"] = completed(pathlib.Path(args.plain), args, out)
    if curves:
        draw_curves(curves, out / "guidance.png")
    (out / "results.json").write_text(json.dumps(curves | results, indent=2) + "\n")


if __name__ == "__main__":
    cli.main(main)
