"""Train on digits, sample with two methods and evaluate: `make demo`."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_jax._files import write_json, write_text

from . import cli
from .late import late

with late():
    import jax

    from . import evaluate, presets, runs, train
    from .parts import results, sampling
    from .reports import pictures, tables
    from .run_config import Config


@dataclasses.dataclass(frozen=True)
class Args:
    """Train digits_vp on this machine, sample by predictor-corrector and by the ODE, evaluate."""

    # Folder of the run; a second call resumes it.
    workdir: str = "runs/demo"
    # Preset to show.
    config: str = cli.DEFAULT
    # Parameter updates (default: the preset's).
    steps: int | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.demo`."""
    args = cli.parse(Args, "experiments.demo", argv)
    config = presets.get(args.config)
    needs = {"plots": "the pictures of the demo", "metrics": "the evaluation of the demo"}
    cli.start(data=config.data, extras=needs)
    if args.steps is not None:
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, steps=args.steps)
        )
    workdir = pathlib.Path(args.workdir)
    seconds: dict[str, float] = {}
    clock = time.perf_counter()
    run, result = train.train(config, workdir)
    if result.interrupted:
        print("stopped; the same command goes on from the last checkpoint")
        return
    seconds["compile (training)"] = result.first_call_seconds
    seconds["train"] = time.perf_counter() - clock - result.first_call_seconds
    train.draw_curves(run, workdir)

    run, params, step = runs.load(workdir)
    drawn = {
        "pc": _draw(run, params, "pc", save_every=max(1, config.sample.steps // 50)),
        "ode": _draw(run, params, "ode", save_every=None),
    }
    seconds["compile (sampling)"] = sum(d.compile_seconds for d in drawn.values())
    seconds["sample"] = sum(d.seconds for d in drawn.values())
    if len(run.shape) > 1:
        real = run.source.from_data(jax.random.key(0), run.source.examples(64)["x"])
        panels = {
            "predictor-corrector": drawn["pc"].x,
            "probability-flow ODE": drawn["ode"].x,
            "real (test split)": real,
        }
        pictures.save_comparison(run, panels, workdir / "samples.png")
        pictures.save_strip(run, drawn["pc"].trajectory, workdir / "noise_to_digit.png")
    else:
        pictures.save_samples(run, drawn["pc"].x, workdir / "samples.png")

    clock = time.perf_counter()
    found = evaluate.evaluate(workdir, evaluate.Args(workdir=args.workdir, num=300, overwrite=True))
    seconds["evaluate"] = time.perf_counter() - clock
    text = _summary(config, step, found, drawn, seconds)
    write_text(workdir / "summary.txt", text)
    write_json(workdir / "seconds.json", seconds)
    print("\n" + text)
    print("Look at:")
    for name in ("samples.png", "noise_to_digit.png", "loss.png", "summary.txt"):
        if (workdir / name).exists():
            print(f"  {workdir / name}")


def _draw(run: Any, params: Any, sampler: Any, save_every: int | None) -> sampling.Drawn:
    results.say(f"drawing 64 examples by {sampler} ...")
    config = dataclasses.replace(run.config.sample, sampler=sampler)
    key = jax.random.key(run.config.seed + 2)
    return sampling.draw(run, params, key, 64, config, save_every=save_every)


def _summary(
    config: Config,
    step: int,
    found: dict[str, Any],
    drawn: dict[str, sampling.Drawn],
    seconds: dict[str, float],
) -> str:
    samplers = [["sampler (64 images)", "evaluations", "seconds", "compile s"]]
    for name, d in drawn.items():
        cells = [f"{d.nfe:.0f}", f"{d.seconds:.1f}", f"{d.compile_seconds:.1f}"]
        samplers.append([name, *cells])
    times = [["stage", "seconds"], *([k, f"{v:.1f}"] for k, v in seconds.items())]
    total = np.sum(list(seconds.values()))
    return (
        f"step {step} of {config.train.steps}\n{evaluate.report(found)}\n\n"
        f"{tables.table(samplers)}\n\n{tables.table([*times, ['in all', f'{total:.1f}']])}\n"
    )


if __name__ == "__main__":
    cli.main(main)
