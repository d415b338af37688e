"""Objectives side by side on the digits: what each trains in equal steps, by measures of none of them.

    python -m benchmarks.objectives --out build/objectives

Noise prediction, the same with the min-SNR weight, EDM and rectified flow, with one network, optimiser,
number of steps and size of batches. Every training seed has a run folder and resumes; a measured run is
not measured again. For all of them

    samples    from as many latents by DPM-Solver++(2M) on Karras' levels s/m from 80 to 0.012, the same
               for every process, with the final denoising among the evaluations
    distance   Frechet, of these to the test split in the features of a classifier
    bits       bits per dimension by the probability flow down to s/m = 0.001, of the same dequantised
               test examples

Writes objectives.json and objectives.md: mean and standard error over the training seeds.
"""

import dataclasses
import json
import os
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import cli, presets, runs, train
from experiments.config import LossConfig, OptimConfig, TrainConfig
from experiments.parts import sampling
from experiments.reports import bits, tables
from experiments.reports.features import feature_space
from experiments.run_config import Config
from score_jax import metrics
from score_jax._files import write_json
from score_jax.nets import NCSNpp
from score_jax.samplers import dpmpp_2m, sample
from score_jax.samplers.grids import karras_levels

HIGH, LOW = 80.0, 0.012  # the levels s/m of samples
LAST = 1e-3  # of training and of likelihoods
NAMES = {
    "noise": "noise prediction, VP",
    "min_snr": "the same, min-SNR weight",
    "edm": "EDM",
    "flow": "rectified flow",
}
MEASURED = "objectives.json"


@dataclasses.dataclass(frozen=True)
class Args:
    """Train the objectives on the digits and measure them."""

    # Folder of the run folders and the results.
    out: str = "build/objectives"
    # Training seeds.
    seeds: tuple[int, ...] = (0, 1, 2)
    # Objectives that are trained and measured.
    names: tuple[str, ...] = tuple(NAMES)
    # Updates of a run, and channels of the network.
    steps: int = 2_500
    channels: int = 16
    # Network evaluations a sample, and samples.
    nfe: tuple[int, ...] = (10, 20, 50)
    num: int = 1_000
    # Test examples of the bits per dimension (0: none), and the tolerance of the flow.
    examples: int = 100
    tol: float = 1e-4


def objectives(args: Args) -> dict[str, Config]:
    """The runs by objective: the presets with one network and one last noise level."""
    shared = {
        "net": NCSNpp(
            channels=args.channels, channel_mult=(1, 2), num_blocks=1, attention=(4,), dropout=0.0
        ),
        "optim": OptimConfig(),
        "train": TrainConfig(
            steps=args.steps, sample_every=args.steps, checkpoint_every=args.steps
        ),
    }
    preset = lambda name: dataclasses.replace(presets.get(name), **shared)
    # s/m at VP's t0 of 1e-5 is 0.001.
    vp = preset("digits_vp")
    flow = preset("digits_flow")
    flow_loss = dataclasses.replace(flow.loss, t0=LAST / (1 + LAST))
    return {
        "noise": vp,
        "min_snr": dataclasses.replace(vp, loss=LossConfig(weighting="min_snr")),
        "edm": preset("digits_edm"),
        "flow": dataclasses.replace(flow, loss=flow_loss),
    }


def grid_of(sde: Any, n: int) -> np.ndarray:
    """n steps of Karras' levels, the same for every process; the first time is its own t1."""
    levels = karras_levels(HIGH, LOW, n)
    times = np.array(sde.time_of_log_snr(np.asarray(-2 * np.log(levels), np.float32)))
    times[0] = sde.t1
    return times


def distances(run: Any, params: Any, args: Args) -> dict[str, float]:
    """Frechet distance to the test split by the number of evaluations."""
    space = feature_space(run)
    test = space.features(run.source.examples(10_000)["x"])
    score = sampling.make_score(run, params, run.config.sample)
    found = {}
    for nfe in args.nfe:
        out = sample(
            jax.random.key(run.config.seed), run.sde, score, (args.num, *run.shape),
            sampler=dpmpp_2m, grid=grid_of(run.sde, nfe - 1), y={}, progress=False,
        )  # fmt: skip
        assert set(out.nfe) == {nfe}
        found[str(nfe)] = float(metrics.frechet(space.features(run.source.to_data(out.x)), test))
    return found


def bits_of(run: Any, params: Any, args: Args) -> dict[str, float]:
    """Bits per dimension of the first test examples, and the evaluations of the flow."""
    options = bits.Options(examples=args.examples, chunk=args.examples, tol=args.tol)
    found = bits.by_flow(run, params, jax.random.key(0), options)
    return {"bits": found["mean"], "nfe": found["nfe"]}


def measured(name: str, config: Config, out: pathlib.Path, args: Args) -> dict[str, Any]:
    """Train a run and measure it, unless that is done: what its folder holds of it."""
    workdir = out / f"{name}_{config.seed}"
    asked = dataclasses.asdict(dataclasses.replace(args, out="", seeds=(), names=()))
    file = workdir / MEASURED
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if found["asked"] == json.loads(json.dumps(asked)):
            return found
    start = time.process_time()
    train.train(config, workdir, progress=False)
    trained = time.process_time()
    run, params, step = runs.load(workdir)
    found = {"asked": asked, "step": step, "distance": distances(run, params, args)}
    found["bits"] = bits_of(run, params, args) if args.examples else None
    seconds = {"train": trained - start, "measure": time.process_time() - trained}
    found["processor_seconds"] = {k: round(v, 1) for k, v in seconds.items()}
    write_json(file, found)
    return found


def baseline(config: Config, args: Args) -> float:
    """The distance of as many training examples to the test split, which no objective should beat."""
    run = runs.build(config)
    space = feature_space(run)
    real, test = (
        run.source.examples(n, s)["x"] for n, s in ((args.num, "train"), (10_000, "test"))
    )
    return float(metrics.frechet(space.features(real), space.features(test)))


def shown(values: Sequence[float]) -> str:
    """Mean and standard error over the training seeds."""
    found = bits.mean_stderr(np.asarray(values))
    error = "" if found["stderr"] is None else f" ± {found['stderr']:.3f}"
    return f"{found['mean']:.3f}{error}"


def report(result: dict[str, Any]) -> str:
    """The table of the results."""
    args, rows = result["args"], []
    head = ["objective", *(f"distance, {n} evaluations" for n in args["nfe"]), "bits/dim"]
    for name, found in result["runs"].items():
        cells = [shown([r["distance"][str(n)] for r in found]) for n in args["nfe"]]
        counted = [r["bits"]["bits"] for r in found if r["bits"]]
        rows.append([NAMES[name], *cells, shown(counted) if counted else "-"])
    rows.append(["training examples", *[f"{result['train_split']:.3f}"] * len(args["nfe"]), "-"])
    return tables.markdown([head, *rows]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m benchmarks.objectives`."""
    args = cli.parse(Args, "benchmarks.objectives", argv)
    cli.start()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Any]] = {name: [] for name in args.names}
    # Seed by seed, so that a run that is stopped leaves complete comparisons.
    for seed in args.seeds:
        for name in args.names:
            config = dataclasses.replace(objectives(args)[name], seed=seed)
            found[name].append(measured(name, config, out, args))
            print(name, seed, found[name][-1], flush=True)
    result = {
        "args": dataclasses.asdict(args),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, JAX {jax.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "train_split": baseline(objectives(args)["noise"], args),
        "runs": found,
    }
    write_json(out / "objectives.json", result)
    (out / "objectives.md").write_text(report(result), encoding="utf-8")
    print(report(result))


if __name__ == "__main__":
    cli.main(main)
