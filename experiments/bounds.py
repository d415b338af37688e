"""Compare the bounds of runs on noise schedules: `python -m experiments.bounds --workdirs A B --out DIR`.

The table and the curves of arXiv:2102.09672, section 3: bits per dimension with their parts, the terms
of the bound and the errors of x0 and of the noise at each time. Runs that differ only in their seed
are one row. `--gradient` adds the gain of importance-sampled indices: the variance of the bound's
gradient with uniform indices, divided by that with the indices that the run has learned to draw.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_jax._files import write_json, write_text

from . import cli
from .late import late
from .parts import outputs, rules
from .reports import bits, tables

with late():
    import jax
    import jax.numpy as jnp

    from score_jax import checkpoints, losses, viz

    from . import runs
    from .reports import curves
    from .run_config import Config
    from .runs import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """Table and curves of the variational bound of several runs on noise schedules."""

    # Folders of runs made by experiments.train.
    workdirs: tuple[str, ...]
    # Where bounds.json, bounds.md and the pictures go.
    out: str
    # The split of the data.
    split: bits.Split = "test"
    # Draws of the noise to average.
    draws: int = 1
    # Steps of the bound (default: all timesteps).
    bound_steps: int | None = None
    # Draws of the gradient, for its variance (0: not measured).
    gradient: int = 0
    # Examples handled at once.
    chunk: int = 300
    # Seed of all noise.
    seed: int = 0
    # Write over files that are there.
    overwrite: bool = False


def measure(
    run: Run, params: Any, folder: pathlib.Path, args: Args
) -> tuple[Any, dict[str, np.ndarray]]:
    """(times, parts) of one run: total and prior (n,), the rest (n, steps)."""
    if not bits.by_bound(run):
        raise ValueError(
            f"--workdirs: {str(folder)!r} is not a run on a noise schedule, trained by its own objective"
        )
    options = bits.Options(
        split=args.split, draws=args.draws, bound_steps=args.bound_steps, chunk=args.chunk
    )
    indices, parts, _ = bits.schedule_terms(run, params, jax.random.key(args.seed), options)
    return run.sde.times[indices], parts


def gradient_factor(run: Run, folder: pathlib.Path, args: Args) -> float | None:
    """Variance of the gradient with uniform indices over that with learned ones; None without."""
    learned = run.index_sampler
    if learned is None or not args.gradient:
        return None
    template = jax.eval_shape(lambda: runs.initial_state(run))
    with checkpoints.open_checkpoints(folder / runs.CHECKPOINTS, read_only=True) as store:
        found = store.restore_latest(template)
    assert found is not None
    state = found.state
    prepare_key, key = jax.random.split(jax.random.key(args.seed))
    b = run.config.train.batch_size
    raw = jax.tree.map(jnp.asarray, run.source.examples(b, "train"))
    batch = run.source.prepare(prepare_key, raw)
    even = losses.uniform_indices(run.sde.n)
    # The loss of training, with dropout.
    spread = [
        curves.gradient_variance(
            run.loss, state.ema_params, batch, sampler, s, key, draws=args.gradient
        )
        for sampler, s in ((even, even.init()), (learned, state.index_sampler))
    ]
    return spread[0] / spread[1]


def grouped(folders: Sequence[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    """Folders whose configs differ only in the seed, by the name of the first."""
    found: list[tuple[Config, list[pathlib.Path]]] = []
    for folder in folders:
        config = dataclasses.replace(runs.load_config(folder), seed=0)
        same = next((group for known, group in found if known == config), None)
        if same is None:
            found.append((config, [folder]))
        else:
            same.append(folder)
    return {group[0].name: group for _, group in found}


def row(
    name: str, parts: Sequence[dict[str, np.ndarray]], factors: Sequence[Any]
) -> dict[str, Any]:
    """One row of the table: of every seed the mean over the split, and their mean."""
    each = [bits.mean_stderr(p["total"]) for p in parts]
    mean = lambda values: float(np.mean([np.mean(v) for v in values]))
    totals = [e["mean"] for e in each]
    return {
        "name": name,
        "seeds": len(parts),
        "bits_per_dim": mean(totals),
        "by_seed": each,
        "between_seeds": float(np.std(totals, ddof=1)) if len(totals) > 1 else None,
        "prior": mean([p["prior"] for p in parts]),
        "reconstruction": mean([p["terms"][:, 0] for p in parts]),
        "x0_mse": mean([p["x0_mse"] for p in parts]),
        "noise_mse": mean([p["noise_mse"] for p in parts]),
        "gradient_factors": [f for f in factors if f is not None],
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    heads = ["run", "bits/dim of each seed", "mean", "prior", "last term", "x0 MSE", "noise MSE"]
    heads.append("gradient's variance")
    lines = [heads]
    for r in rows:
        seeds = ", ".join(f"{e['mean']:.3f} ± {e['stderr']:.3f}" for e in r["by_seed"])
        numbers = [
            f"{r['bits_per_dim']:.3f}", f"{r['prior']:.1e}", f"{r['reconstruction']:.3f}",
            f"{r['x0_mse']:.4f}", f"{r['noise_mse']:.4f}",
        ]  # fmt: skip
        factors = ", ".join(f"÷ {f:.3g}" for f in r["gradient_factors"])
        lines.append([r["name"], seeds, *numbers, factors])
    return tables.markdown(lines) + "\n"


def written(args: Args) -> list[pathlib.Path]:
    """The files that the command writes."""
    pictures = [f"{part}.png" for part in curves.PARTS]
    return [pathlib.Path(args.out) / name for name in ("bounds.json", "bounds.md", *pictures)]


def compare(args: Args) -> list[dict[str, Any]]:
    """Measure all runs, and write bounds.json, bounds.md and a picture of every part to `args.out`."""
    groups = grouped([pathlib.Path(w) for w in args.workdirs])
    rows: list[dict[str, Any]] = []
    lines: dict[str, dict[str, Any]] = {part: {} for part in curves.PARTS}
    for name, folders in groups.items():
        measured, factors = [], []
        for folder in folders:
            run, params, _ = runs.load(folder)
            measured.append(measure(run, params, folder, args))
            factors.append(gradient_factor(run, folder, args))
        rows.append(row(name, [parts for _, parts in measured], factors))
        times = measured[0][0]
        for part in curves.PARTS:
            lines[part][name] = (
                times,
                np.mean([p[part].mean(axis=0) for _, p in measured], axis=0),
            )
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for part, label in curves.PARTS.items():
        viz.save_image(curves.along_the_schedule(lines[part], label), out / f"{part}.png")
    write_json(out / "bounds.json", rows)
    write_text(out / "bounds.md", markdown(rows))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.bounds`."""
    args = cli.parse(Args, "experiments.bounds", argv)
    if not args.workdirs:
        raise ValueError("--workdirs must name at least one run")
    rules.check_flags(args, draws=1, gradient=0, chunk=1)
    outputs.free(written(args), overwrite=args.overwrite, out=args.out)
    cli.start(*args.workdirs, data=True, extras={"plots": "the curves"})
    print(markdown(compare(args)), end="")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    cli.main(main)
