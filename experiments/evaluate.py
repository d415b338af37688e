"""Evaluate a trained run: `python -m experiments.evaluate --workdir runs/x`.

Without networks: held-out loss, bits per dimension, and distances of samples to the test split. With
--inception, --dinov2 or --features: metrics of samples by their features, FID among them. What is
computed is written part by part, and a part that fails leaves its reason.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro

from . import cli
from .config import SampleConfig
from .late import late
from .parts import feature_networks, outputs, samplers
from .parts.feature_networks import NetworkConfig
from .reports import bits, tables
from .reports.sample_metrics import PICTURE, MetricConfig

with late():
    import jax

    from score_jax import metrics, training
    from score_jax._hosts import agreed

    from . import runs
    from .parts import sampling
    from .parts.results import Results, lines_of_missing, number, with_error
    from .reports import features, measuring
    from .reports.features import FeatureSpace, feature_space
    from .reports.gaussian import gaussian
    from .reports.held_out import held_out_loss
    from .runs import Run


RESULT_FILE = "evaluation.json"
BPD_FILE = "bits_per_dim.json"
METRICS_FILE = "metrics.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(bits.Options):
    """Held-out loss, bits per dimension and sample distance of a run; or FID and its relatives."""

    # Folder of a run made by experiments.train (with --samples it may be left out).
    workdir: str = ""
    # Only bits per dimension: no loss, no samples.
    bpd: bool = False
    # Samples drawn for the distance (0: none; with --samples, default: all of them).
    num: int | None = None
    # Sampler (default: that of the run's config).
    sampler: str | None = None
    # Steps of the fixed-step samplers.
    steps: int | None = None
    # Seed of all noise.
    seed: int = 0
    # Samples to measure instead of new ones: a folder of images or of experiments.sample, a zip,
    # .npy or .npz.
    samples: str | None = None
    # What samples are compared with by their features: a file of statistics (mu and sigma, as published
    # or by experiments.statistics), or images as for --samples (default: the run's training split).
    reference: str | None = None
    # Where metrics of features are written (default: WORKDIR/metrics.json).
    out: str | None = None
    # Write over the results that are there.
    overwrite: bool = False
    # The networks whose features are compared.
    network: tyro.conf.OmitArgPrefixes[NetworkConfig] = dataclasses.field(
        default_factory=NetworkConfig
    )
    metric: tyro.conf.OmitArgPrefixes[MetricConfig] = dataclasses.field(
        default_factory=MetricConfig
    )
    # The processes of a run on several hosts.
    hosts: cli.HostsConfig = dataclasses.field(default_factory=cli.HostsConfig)

    @property
    def by_features(self) -> bool:
        """Whether samples are measured by the features of networks."""
        return self.network.given

    @property
    def result(self) -> pathlib.Path:
        """The file of the results."""
        if self.by_features and self.out is not None:
            return pathlib.Path(self.out)
        name = METRICS_FILE if self.by_features else BPD_FILE if self.bpd else RESULT_FILE
        return pathlib.Path(self.workdir) / name

    def check_free(self) -> None:
        """Raise ValueError if results are there that are not to be replaced."""
        copies = [self.result.with_name(PICTURE)] if self.metric.memorization else []
        out = "" if self.out is None else self.out
        outputs.free([self.result, *copies], overwrite=self.overwrite, out=out)

    def check(self) -> None:
        """Raise ValueError naming the first flag with an invalid value."""
        super().check()
        if self.num is not None and (self.num < 0 or self.num == 1):
            raise ValueError(f"--num must be 0 or at least 2, got {self.num}")
        if self.bpd and not self.draws:
            raise ValueError("--draws must be at least 1 with --bpd, got 0")
        samplers.check_names(() if self.sampler is None else (self.sampler,))
        self.network.check()
        self.metric.check(self.network)
        for name in ("samples", "reference"):
            if getattr(self, name) is not None and not self.by_features:
                raise ValueError(
                    f"--{name} needs a network that gives features: "
                    f"{feature_networks.need_inception('FID')}; or --dinov2 FILE, or --features "
                    "package.module:function"
                )
        if not self.workdir and (self.samples is None or self.reference is None):
            raise ValueError("--workdir is needed, unless --samples and --reference are given")
        if not self.workdir and self.metric.memorization:
            raise ValueError(
                "--memorization needs --workdir, the run whose training data are meant"
            )
        if self.by_features and self.num == 0:
            raise ValueError("--num must be at least 2 for metrics of features, got 0")

    def sample_config(self, run: Run) -> SampleConfig:
        """The sampler of the run with that of the flags."""
        given = {k: v for k in ("sampler", "steps") if (v := getattr(self, k)) is not None}
        return dataclasses.replace(run.config.sample, **given)


def distances(space: FeatureSpace, x: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Distances between two sets of raw data in the feature space."""
    a, b = space.features(x), space.features(test)
    return {
        "frechet": float(metrics.frechet(a, b)),
        "kid": float(metrics.kid(a, b)),
        "sliced_wasserstein": float(metrics.sliced_wasserstein(a, b)),
    }


def evaluate(workdir: pathlib.Path, args: Args) -> dict[str, Any]:
    """Evaluate a run folder; the result is also written to its evaluation.json, part by part."""
    return _evaluate(workdir, args).as_dict()


def _evaluate(workdir: pathlib.Path, args: Args) -> Results:
    run, params, step = agreed(lambda: runs.load(workdir))
    keys = jax.random.split(jax.random.key(args.seed), 5)
    if bits.by_bound(run) and args.draws:
        outputs.free(bits.files(workdir), overwrite=args.overwrite)
    path = workdir / args.result.name
    results = Results(path, {"step": step, "test_examples": len(run.source.test)})
    num = 1_000 if args.num is None else args.num
    unmeasured = bits.without_likelihood(run, args)
    if args.draws and (args.bpd or not unmeasured):
        bits.check_run(run, args)
    if not args.bpd:
        loss = lambda: held_out_loss(run, params, keys[1], draws=8, chunk=args.chunk)
        results.part("loss", "held-out loss", loss)
    if args.draws and unmeasured:
        results.values["no_bits_per_dim"] = f"no bits per dimension: {unmeasured}"
    elif args.draws:
        measured = lambda: bits.measure(run, params, keys[3], args, workdir)
        results.part(bits.unit(run), "bits per dimension", measured)
    if num and not args.bpd:
        try:
            features.check_dimensions(run)
        except ValueError as error:
            results.leave_out("distance", str(error))
        else:
            measured = lambda: _distance(run, params, keys, args, num)
            results.part("distance", "distances of samples to the test split", measured)
    results.write()
    return results


def _distance(run: Run, params: Any, keys: Any, args: Args, num: int) -> dict[str, Any]:
    """Compare samples, a fitted Gaussian and the training data with the test split."""
    space, config = feature_space(run), args.sample_config(run)
    drawn = sampling.draw(run, params, keys[4], num, config, devices=jax.devices())
    test = run.source.examples(features.MOST_EXAMPLES)["x"]
    compare = lambda x: distances(space, x, test)
    plain = gaussian(run, keys[0])
    result: dict[str, Any] = {
        "space": space.name,
        "classifier_accuracy": space.accuracy,
        "num": num,
        "sampler": config.sampler,
        "nfe": drawn.nfe,
        "seconds": drawn.seconds,
        "model": compare(run.source.to_data(drawn.x)),
        "train_split": compare(run.source.examples(num, "train")["x"]),
        "gaussian": None,
    }
    if plain is not None:
        baseline = plain.sample(args.seed, num, run.shape)
        result["gaussian"] = compare(run.source.to_data(baseline))
    if run.num_classes and space.classify is not None:
        asked = np.arange(num) % run.num_classes
        right = float((space.classify(run.source.to_data(drawn.x)) == asked).mean())
        result["classified_as_asked"] = right
    return result


def report(result: dict[str, Any]) -> str:
    """Set the result of `evaluate` as a short table."""
    lines = []
    if "loss" in result:
        lines += [f"held-out loss {number(result['loss'], '.4f')} (step {result['step']})", ""]
    rows = [["", "model", "Gaussian", "train split"]]
    units = ("bits_per_dim", "bits_per_dim_of_density")
    counted = next((u for u in units if result.get(u) is not None), None)
    if counted:
        b = result[counted]
        rows.append(
            [counted.replace("_", " "), with_error(b["model"]), with_error(b["gaussian"]), ""]
        )
        if "bound" in b:
            rows.append(["variational bound", with_error(b["bound"]), "", ""])
    d = result.get("distance")
    if d:
        for name in ("frechet", "kid", "sliced_wasserstein"):
            cells = [number((d[k] or {}).get(name)) for k in ("model", "gaussian", "train_split")]
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
    if d:
        lines.append(f"distances: {d['num']} samples, by the features of: {d['space']}")
        if "classified_as_asked" in d:
            lines.append(f"classified as asked: {d['classified_as_asked']:.1%}")
    return "\n".join([*lines, *lines_of_missing(result)])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.evaluate`."""
    args = cli.parse(Args, "experiments.evaluate", argv)
    args.check()
    args.check_free()
    given = args.samples is not None and args.reference is not None
    needs = {"metrics": None if args.by_features else "the comparison of samples"}
    workdirs = [args.workdir] if args.workdir else []
    cli.start(*workdirs, hosts=args.hosts, options=args, data=not given, extras=needs)
    if args.by_features:
        results = measuring.measure(args)
        text = measuring.report(results.as_dict())
    else:
        results = _evaluate(pathlib.Path(args.workdir), args)
        text = report(results.as_dict())
    if training.is_first():
        print(text)
        print(f"wrote {results.path}")
    results.check()


if __name__ == "__main__":
    cli.main(main)
