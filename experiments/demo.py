"""Draw by released weights, train on digits, sample in several ways and evaluate: `make demo`."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from score_jax._files import write_json, write_text

from . import cli
from .config import GuidanceConfig
from .late import late

with late():
    import jax

    from score_jax import samplers, viz
    from score_jax.convert import find_release, from_release

    from . import evaluate, presets, runs, train
    from .parts import guiding, results, sampling
    from .reports import pictures, tables
    from .run_config import Config

SHOWN = "mnist5k_vp"
RELEASE = "fashion_vp"  # trained before, and drawn first
ROWS = 8  # of a picture; with classes each column has one of them
SCALE = 2.0  # of the guidance, where the network was trained for it
# Samples for the distances, and test images for the bits per dimension: enough for a first look.
NUM, EXAMPLES, CHUNK = 300, 100, 25
STEPS = 60  # of the predictor-corrector at least


@dataclasses.dataclass(frozen=True)
class Args:
    """Train on digits on this machine, sample by the predictor-corrector and the ODE, and evaluate."""

    # Folder of the run; a second call resumes it.
    workdir: str = "runs/demo"
    # Preset to show.
    config: str = SHOWN
    # Parameter updates (default: the preset's).
    steps: int | None = None


class Clock:
    """The seconds of every stage, in the order of the stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what the body takes, without what it has added itself."""
        clock, before = time.perf_counter(), sum(self.seconds.values())
        yield
        own = sum(self.seconds.values()) - before
        self.add(name, time.perf_counter() - clock - own)

    def add(self, name: str, seconds: float) -> None:
        """Add to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


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
    workdir, clock = pathlib.Path(args.workdir), Clock()
    with clock.stage("draw by trained weights"):
        draw_release(workdir)
    with clock.stage("train"):
        run, result = train.train(config, workdir)
        clock.add("compile (training)", result.first_call_seconds)
    if result.interrupted:
        print("stopped; the same command goes on from the last checkpoint")
        return
    train.draw_curves(run, workdir)

    run, params, step = runs.load(workdir)
    drawn = draw(run, params, workdir)
    clock.add("compile (sampling)", sum(d.compile_seconds for d in drawn.values()))
    clock.add("sample", sum(d.seconds for d in drawn.values()))
    save_pictures(run, drawn, workdir)

    with clock.stage("evaluate"):
        measured = evaluate.Args(
            workdir=args.workdir, num=NUM, examples=EXAMPLES, chunk=CHUNK, overwrite=True
        )
        found = evaluate.evaluate(workdir, measured)
    text = summary(config, step, found, drawn, clock.seconds)
    write_text(workdir / "summary.txt", text)
    write_json(workdir / "seconds.json", clock.seconds)
    print("\n" + text)
    print("Look at:")
    for name in ("clothes.png", "samples.png", "noise_to_digit.png", "loss.png", "summary.txt"):
        if (workdir / name).exists():
            print(f"  {workdir / name}")


def draw_release(workdir: pathlib.Path) -> None:
    """Draw clothes by weights that were trained before, if they are there: a picture at once."""
    found = find_release(RELEASE)
    if found is None:
        return
    results.say(f"drawing clothes by the weights {found}, which were trained before ...")
    model, params, info = from_release(found)
    score = jax.tree_util.Partial(lambda params, y: model.score(params, y), params)
    y = np.arange(30, dtype=np.int32) % info["data"].num_classes
    out = samplers.sample(
        jax.random.key(0), model.sde, score, (len(y), *info["shape"]), sampler=samplers.ancestral,
        grid=samplers.uniform_grid(model.sde, 40), y=y,
    )  # fmt: skip
    path = workdir / "clothes.png"
    if pictures.written(path, lambda: viz.picture(out.x, range=(-1, 1), columns=10)):
        results.say(f"wrote {path}; now a network is trained on digits from the start")


def draw(run: Any, params: Any, workdir: pathlib.Path) -> dict[str, sampling.Drawn]:
    """Samples by the predictor-corrector and by the ODE, and with guidance: by their names."""
    steps = max(STEPS, run.config.sample.steps)
    every = max(1, steps // 50)
    found = {
        "predictor-corrector": _draw(run, params, "pc", steps=steps, save_every=every),
        "probability-flow ODE": _draw(run, params, "ode"),
    }
    if run.null_class is not None:
        config = GuidanceConfig(guidance=SCALE)
        guide, both = guiding.make_guide(run, params, workdir, config)
        found[f"ODE, guidance {SCALE:g}"] = _draw(run, both, "ode", guide=guide)
    return found


def _draw(
    run: Any, params: Any, sampler: Any, *, steps: int | None = None, **options: Any
) -> sampling.Drawn:
    num = ROWS * _columns(run)
    guided = " with guidance" if options.get("guide") else ""
    results.say(f"drawing {num} examples by {sampler}{guided} ...")
    c = run.config.sample
    config = dataclasses.replace(c, sampler=sampler, grid="usual", steps=steps or c.steps)
    key = jax.random.key(run.config.seed + 2)
    return sampling.draw(run, params, key, num, config, **options)


def _columns(run: Any) -> int:
    return run.num_classes or ROWS


def save_pictures(run: Any, drawn: dict[str, sampling.Drawn], workdir: pathlib.Path) -> None:
    """Draw the samples beside real examples, and the way of some of them from noise."""
    first = next(iter(drawn.values()))
    if len(run.shape) > 1:
        panels = {name: d.x for name, d in drawn.items()} | {"real (test split)": _real(run)}
        pictures.save_comparison(run, panels, workdir / "samples.png", columns=_columns(run))
        pictures.save_strip(run, first.trajectory, workdir / "noise_to_digit.png")
    else:
        pictures.save_samples(run, first.x, workdir / "samples.png")


def _real(run: Any) -> Any:
    """Test examples as densities, with classes in turn if the network is conditioned on them."""
    columns = _columns(run)
    examples = run.source.examples(64 * columns)
    order = np.arange(len(examples["x"]))
    if run.num_classes:
        labels = np.asarray(examples["y"])
        order = np.stack([order[labels == y][:ROWS] for y in range(columns)], axis=1).ravel()
    return run.source.from_data(jax.random.key(0), examples["x"][order[: ROWS * columns]])


def summary(
    config: Config,
    step: int,
    found: dict[str, Any],
    drawn: dict[str, sampling.Drawn],
    seconds: dict[str, float],
) -> str:
    """What was measured, and how long everything took."""
    num = len(next(iter(drawn.values())).x)
    rows = [[f"sampler ({num} examples)", "evaluations", "seconds", "compile s"]]
    for name, d in drawn.items():
        rows.append([name, f"{d.nfe:.0f}", f"{d.seconds:.1f}", f"{d.compile_seconds:.1f}"])
    times = [["stage", "seconds"], *([k, f"{v:.1f}"] for k, v in seconds.items())]
    total = np.sum(list(seconds.values()))
    return (
        f"step {step} of {config.train.steps}\n{evaluate.report(found)}\n\n"
        f"{tables.table(rows)}\n\n{tables.table([*times, ['in all', f'{total:.1f}']])}\n"
    )


if __name__ == "__main__":
    cli.main(main)
