"""The sampler card of a run: `python -m experiments.compare --workdir runs/x --nfe 10 20 50`.

Every sampler draws from the same latents with about the same number of network evaluations. The command
writes compare.json (all numbers), compare.md (a table) and compare.png (two plots against evaluations):

    error      of deterministic samplers, root mean square to a fine solution of the probability flow
    distance   of the samples to the test split, mean and spread over repeated draws, and the distance
               of as many training examples, which no sampler is expected to beat
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import cli
from .config import SampleConfig
from .late import late
from .parts import fitted, rules, samplers
from .reports import tables

with late():
    import jax

    from score_jax import data, metrics, viz
    from score_jax.samplers import (
        Candidate,
        compare_samplers,
        flow,
        log_snr_grid,
        model_statistics,
        sample,
        step_costs,
    )

    from . import runs
    from .parts import sampling
    from .reports import cards, features
    from .reports.features import FeatureSpace, feature_space
    from .runs import Run


# Relative and absolute tolerances of the adaptive samplers: each gives a number of evaluations.
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# Of the fine solution that errors are measured against.
FINE = 1e-6
# Samples of the fitted grid, and the least steps of the fine solution whose times it and the statistics
# have; a fitted grid has at most as many.
FIT_SAMPLES, FINE_STEPS = 64, 64
# Not for few evaluations: Langevin dynamics alone, and the authors' tables, which have no short ones. Not
# for diffusion models: "consistency", which is the only one for consistency models.
LEFT_OUT = ("langevin", "song", "consistency")
# Distances as the card calls them.
NAMES = {"frechet": "Fréchet", "sliced_wasserstein": "sliced Wasserstein"}


@dataclasses.dataclass(frozen=True)
class Args:
    """Compare samplers on a trained run: error and sample distance against evaluations."""

    # Folder of a run made by experiments.train.
    workdir: str
    # Samples of a draw.
    num: int = 300
    # Draws whose distances are averaged; two or more give a spread.
    repeats: int = 2
    # Which samplers (default: all but "langevin" and "song", which need hundreds; "consistency" alone for
    # a consistency model; "dpm_solver_v3" where the run has model statistics).
    samplers: tuple[str, ...] = ()
    # Fit a grid to the network, compare it too, and write it to WORKDIR for --grid fitted of sample.
    fit_grid: bool = False
    # Number of samples, such as 1024, on which to measure the statistics of the model, which are written
    # to WORKDIR for --sampler dpm_solver_v3 (default: do not measure them).
    fit_statistics: int | None = None
    # Network evaluations a sample.
    nfe: tuple[int, ...] = (10, 20, 50, 100)
    # Samples drawn at once.
    chunk: int = 300
    # Seed of the latents and of all other noise.
    seed: int = 0
    # Where to write compare.json, .md and .png (default: WORKDIR).
    out: str | None = None
    # Write over files that are there.
    overwrite: bool = False


def candidates(
    run: Run, base: SampleConfig, name: str, args: Args, grid: Any = "usual"
) -> dict[str, Candidate]:
    """Make one sampler on a grid at all numbers of evaluations, or at all tolerances."""
    found = {}
    choice: Any = name
    named = dataclasses.replace(base, sampler=choice, grid=grid)
    sampling.check_times(run, named)
    if samplers.SAMPLERS[name].adaptive:
        configs = {
            f"tol {tol:g}": dataclasses.replace(named, rtol=tol, atol=tol) for tol in TOLERANCES
        }
    else:
        configs = {}
        for nfe in args.nfe:
            steps = samplers.steps_within(named, run.sde, nfe)
            configs[f"{steps} steps"] = dataclasses.replace(named, steps=steps)
    for how, c in configs.items():
        made, grid = (
            sampling.make_sampler(run, c),
            samplers.make_grid(c, run.sde, run.fitted),
        )
        found[how] = Candidate(made, grid, samplers.deterministic(c))
    return found


def usual(run: Run) -> tuple[str, ...]:
    """The samplers that are compared by default on a diffusion model."""
    known = samplers.SAMPLERS.items()
    ready = [name for name, k in known if not k.statistics or run.fitted.statistics]
    return tuple(name for name in ready if name not in LEFT_OUT)


def on_grids(names: Sequence[str], args: Args) -> list[tuple[str, str]]:
    """The samplers with the grids that they are compared on."""
    found = [(name, "usual") for name in names]
    if args.fit_grid:
        found += [(name, "fitted") for name in names if not samplers.SAMPLERS[name].adaptive]
    return found


def fine_steps(nfe: Sequence[int]) -> int:
    """Steps of the fine solution, from which a grid can be fitted for each of the evaluations."""
    return max(FINE_STEPS, *nfe)


def fit(run: Run, score: Any, base: SampleConfig, workdir: pathlib.Path, args: Args) -> Run:
    """Fit what the flags name to the network and write it to the run folder: the run with it."""
    # Other latents than those of the comparison.
    key = jax.random.fold_in(jax.random.key(args.seed), 1)
    grid = log_snr_grid(run.sde, fine_steps(args.nfe), t0=base.t0)

    def measured(measure: Callable[..., Any], num: int) -> Any:
        given = {"y": sampling.labels(run, num), "grid": grid, "chunk": args.chunk}
        return measure(key, run.sde, score, (num, *run.shape), **given)

    if args.fit_grid:
        sampling.check_diffusion(run, "--fit-grid")
        fitted.save_costs(workdir, measured(step_costs, min(args.num, FIT_SAMPLES)))
    if args.fit_statistics is not None:
        sampling.check_diffusion(run, "--fit-statistics")
        fitted.save_statistics(workdir, measured(model_statistics, args.fit_statistics))
    return dataclasses.replace(run, fitted=fitted.found_in(workdir))


def distances(run: Run, space: FeatureSpace) -> dict[str, Callable[[Any], float]]:
    """Make the distances of samples, in the network's range, to the test split."""
    test = space.features(run.source.examples(features.MOST_EXAMPLES)["x"])

    def measure(f: Callable[[Any, Any], float], x: Any) -> float:
        return f(space.features(run.source.to_data(x)), test)

    return {
        "frechet": functools.partial(measure, metrics.frechet),
        "sliced_wasserstein": functools.partial(measure, metrics.sliced_wasserstein),
    }


def compare(workdir: pathlib.Path, args: Args) -> dict[str, Any]:
    """Compare the samplers on a run folder: what compare.json holds."""
    run, params, step = runs.load(workdir)
    diffuses = run.model.parametrization.t0 is None
    base = dataclasses.replace(run.config.sample, grid="usual")
    sampling.check_times(run, base)
    key, shape = jax.random.key(args.seed), (args.num, *run.shape)
    score = sampling.make_score(run, params, base)
    options: dict[str, Any] = {"y": sampling.labels(run, args.num), "chunk": args.chunk}
    run = fit(run, score, base, workdir, args)
    names = args.samplers or (usual(run) if diffuses else ("consistency",))
    # Before all work, because a sampler may be refused.
    made = [
        (name if grid == "usual" else f"{name}, {grid}", candidates(run, base, name, args, grid))
        for name, grid in on_grids(names, args)
    ]
    ends = [run.sde.t1, base.t0]
    final = samplers.final_denoising(base.final_denoising)
    exact = None
    if diffuses:
        exact = sample(
            key, run.sde, score, shape,
            sampler=flow(rtol=FINE, atol=FINE, final_denoising=final), grid=ends, **options,
        )  # fmt: skip
    space = feature_space(run)
    far = distances(run, space)
    rows = []
    for label, tried in made:
        found = compare_samplers(
            key, run.sde, score, shape, tried,
            exact=None if exact is None else exact.x, distances=far, repeats=args.repeats, **options,
        )  # fmt: skip
        for row in found:
            rows.append({"sampler": label, "how": row.name, **as_dict(row)})
            print(" ".join(cells(rows[-1], list(far))), flush=True)
    train = run.source.split("train")
    index = np.random.default_rng(args.seed).permutation(len(train))[: args.num]
    real = run.source.from_data(jax.random.key(args.seed), data.take(train, index)["x"])
    return {
        "step": step,
        "num": args.num,
        "repeats": args.repeats,
        "seed": args.seed,
        "space": space.name,
        "fine": None if exact is None else {"tolerance": FINE, "nfe": float(exact.nfe.mean())},
        "train_split": {k: f(real) for k, f in far.items()},
        "rows": rows,
    }


def as_dict(row: Any) -> dict[str, Any]:
    """One row of the comparison as plain numbers, without its name."""
    far = {k: {"mean": v.mean, "std": v.std} for k, v in row.distances.items()}
    rest = {k: v for k, v in row._asdict().items() if k not in ("name", "distances")}
    return rest | {"distances": far}


def cells(row: dict[str, Any], far: Sequence[str]) -> list[str]:
    """One row of the comparison as text."""
    error = "" if row["error"] is None else f"{row['error']:.2g}"
    shown = []
    for name in far:
        d = row["distances"][name]
        shown.append(f"{d['mean']:.3g}" + ("" if d["std"] is None else f" ± {d['std']:.1g}"))
    return [row["sampler"], row["how"], f"{row['nfe']:.0f}", error, *shown, f"{row['seconds']:.1f}"]


def report(result: dict[str, Any]) -> str:
    """Set a comparison as a Markdown table."""
    far = list(result["train_split"])
    head = ["sampler", "", "evaluations", "error", *(n.replace("_", " ") for n in far), "seconds"]
    lines = [head, *(cells(row, far) for row in result["rows"])]
    real = [f"{result['train_split'][name]:.3g}" for name in far]
    lines.append(["train split", "", "", "", *real, ""])
    table = tables.markdown(lines)
    return (
        f"Step {result['step']}, {result['num']} samples a draw, {result['repeats']} draws. Error: "
        "root mean square to the probability flow from the same latent; distances: to the test "
        f"split (space: {result['space']}), mean ± standard deviation over the draws.\n\n{table}\n"
    )


def card(result: dict[str, Any]) -> Any:
    """Draw a comparison: errors and distances against evaluations."""
    far = next(iter(result["train_split"]))
    figure = viz.new_figure(11, 4.6, dpi=110)
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["sampler"] for row in result["rows"]))
    for i, name in enumerate(names):
        rows = sorted((r for r in result["rows"] if r["sampler"] == name), key=lambda r: r["nfe"])
        look = {
            "color": f"C{i % 10}",
            "marker": "osD^vP*X"[i % 8],
            "linestyle": ("-", "--", ":", "-.")[i // 10 % 4],
            "markersize": 5,
            "linewidth": 1.2,
        }
        nfe = [r["nfe"] for r in rows]
        if all(r["error"] is not None for r in rows):
            left.plot(nfe, [r["error"] for r in rows], **look)
        mean = [r["distances"][far]["mean"] for r in rows]
        std = [r["distances"][far]["std"] or 0 for r in rows]
        right.errorbar(nfe, mean, yerr=std, label=name, capsize=2, **look)
    real = result["train_split"][far]
    right.axhline(real, color="#868e96", linewidth=1, linestyle=":", label="training examples")
    left.set(ylabel="error from the same latent (rms)")
    right.set(ylabel=f"{NAMES.get(far, far)} distance to the test split")
    for axes in (left, right):
        axes.set(xlabel="network evaluations a sample", xscale="log", yscale="log")
        axes.grid(True, which="both", alpha=0.2)
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", frameon=False)
    # Few colours: the file stays small enough for documentation.
    return viz.render(figure).quantize(64)


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers: more of them where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.compare`."""
    args = cli.parse(Args, "experiments.compare", argv)
    rules.check_flags(args, num=2, repeats=1, chunk=1, fit_statistics=2)
    if not args.nfe or min(args.nfe) < 1:
        raise ValueError(f"--nfe must be numbers of at least 1, got {args.nfe}")
    samplers.check_names(args.samplers)
    workdir = pathlib.Path(args.workdir)
    out = workdir if args.out is None else pathlib.Path(args.out)
    cards.check(out, "compare", overwrite=args.overwrite)
    needs = {"metrics": "the distances of samples", "plots": "the sampler card"}
    cli.start(args.workdir, data=True, extras=needs)
    result = compare(workdir, args)
    cards.write(out, "compare", result, report(result), lambda: card(result))


if __name__ == "__main__":
    cli.main(main)
