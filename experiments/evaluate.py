"""Evaluate a trained run on held-out data: `python -m experiments.evaluate --workdir runs/x`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_jax._files import write_json

from . import cli
from .late import late
from .parts import samplers
from .reports import bits, tables

with late():
    import jax

    from score_jax import metrics

    from . import runs
    from .parts import sampling
    from .reports.features import FeatureSpace, feature_space
    from .reports.gaussian import gaussian
    from .reports.held_out import held_out_loss
    from .runs import Run


RESULT_FILE = "evaluation.json"
BPD_FILE = "bits_per_dim.json"
MOST = 10_000  # test examples that samples are compared with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(bits.Options):
    """Held-out loss, bits per dimension and sample distance of a run and of a fitted Gaussian."""

    # Folder of a run made by experiments.train.
    workdir: str
    # Only bits per dimension: no loss, no samples.
    bpd: bool = False
    # Samples drawn for the distance (0: none).
    num: int = 1_000
    # Sampler (default: that of the run's config).
    sampler: str | None = None
    # Steps of the fixed-step samplers.
    steps: int | None = None
    # Seed of all noise.
    seed: int = 0


def distances(space: FeatureSpace, x: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Distances between two sets of raw data in the feature space."""
    a, b = space.features(x), space.features(test)
    return {
        "frechet": float(metrics.frechet(a, b)),
        "kid": float(metrics.kid(a, b)),
        "sliced_wasserstein": float(metrics.sliced_wasserstein(a, b)),
    }


def evaluate(workdir: pathlib.Path, args: Args) -> dict[str, Any]:
    """Evaluate a run folder; the result is also written to its evaluation.json."""
    run, params, step = runs.load(workdir)
    keys = jax.random.split(jax.random.key(args.seed), 5)
    result: dict[str, Any] = {"step": step, "test_examples": len(run.source.test)}
    if not args.bpd:
        result["loss"] = held_out_loss(run, params, keys[1], draws=8, chunk=args.chunk)
    if args.draws and not args.bpd and bits.never_dequantised(run, args):
        result["no_bits_per_dim"] = (
            "no bits per dimension: trained on grey levels that were never dequantised "
            "(--allow-undequantised measures them all the same)"
        )
    elif args.draws:
        result[bits.unit(run)] = bits.measure(run, params, keys[3], args, workdir)
    if args.num and not args.bpd:
        result["distance"] = _distance(run, params, keys, args)
    write_json(workdir / (BPD_FILE if args.bpd else RESULT_FILE), result)
    return result


def _distance(run: Run, params: Any, keys: Any, args: Args) -> dict[str, Any]:
    """Compare samples, a fitted Gaussian and the training data with the test split."""
    space = feature_space(run.source.train, run.source.test)
    given = {k: v for k in ("sampler", "steps") if (v := getattr(args, k)) is not None}
    config = dataclasses.replace(run.config.sample, **given)
    drawn = sampling.draw(run, params, keys[4], args.num, config)
    test = run.source.examples(MOST)["x"]
    compare = lambda x: distances(space, x, test)
    plain = gaussian(run, keys[0])
    result: dict[str, Any] = {
        "space": space.name,
        "classifier_accuracy": space.accuracy,
        "num": args.num,
        "sampler": config.sampler,
        "nfe": drawn.nfe,
        "seconds": drawn.seconds,
        "model": compare(run.source.to_data(drawn.x)),
        "train_split": compare(run.source.examples(args.num, "train")["x"]),
    }
    if plain is not None:
        baseline = plain.sample(args.seed, args.num, run.shape)
        result["gaussian"] = compare(run.source.to_data(baseline))
    if run.num_classes and space.classify is not None:
        asked = np.arange(args.num) % run.num_classes
        right = float((space.classify(run.source.to_data(drawn.x)) == asked).mean())
        result["classified_as_asked"] = right
    return result


def report(result: dict[str, Any]) -> str:
    """Set the result of `evaluate` as a short table."""
    lines = []
    if "loss" in result:
        lines += [f"held-out loss {result['loss']:.4f} (step {result['step']})", ""]
    rows = [["", "model", "Gaussian", "train split"]]
    counted = next((u for u in ("bits_per_dim", "bits_per_dim_of_density") if u in result), None)
    if counted:
        b = result[counted]
        show = lambda k: f"{b[k]['mean']:.3f} ± {b[k]['stderr']:.3f}" if b[k] else ""
        rows.append([counted.replace("_", " "), show("model"), show("gaussian"), ""])
        if "bound" in b:
            rows.append(["variational bound", show("bound"), "", ""])
    if "distance" in result:
        d = result["distance"]
        for name in ("frechet", "kid", "sliced_wasserstein"):
            of = lambda k, name=name: f"{d[k][name]:.4g}" if k in d else ""
            cells = [of(k) for k in ("model", "gaussian", "train_split")]
            rows.append([f"{name.replace('_', ' ')} to test", *cells])
    if len(rows) > 1:
        lines.append(tables.table(rows))
    if counted:
        b = result[counted]
        lines.append(
            f"{b['split']} split, {b['examples']} examples, {b['draws']} draw(s): "
            f"{b['model']['nfe']:.0f} evaluations each, {b['model']['seconds']:.1f} s "
            f"(+ {b['model']['compile_seconds']:.1f} s to compile)"
        )
    if "no_bits_per_dim" in result:
        lines.append(result["no_bits_per_dim"])
    if "classified_as_asked" in result.get("distance", {}):
        lines.append(f"classified as asked: {result['distance']['classified_as_asked']:.1%}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.evaluate`."""
    args = cli.parse(Args, "experiments.evaluate", argv)
    args.check()
    if args.num < 0 or args.num == 1:
        raise ValueError(f"--num must be 0 or at least 2, got {args.num}")
    if args.bpd and not args.draws:
        raise ValueError("--draws must be at least 1 with --bpd, got 0")
    samplers.check_names(() if args.sampler is None else (args.sampler,))
    cli.start()
    workdir = pathlib.Path(args.workdir)
    result = evaluate(workdir, args)
    print(report(result))
    print(f"wrote {workdir / (BPD_FILE if args.bpd else RESULT_FILE)}")


if __name__ == "__main__":
    cli.main(main)
