"""Compare posterior samplers with exact posteriors: `--problems two_modes --methods pigdm mmps`.

The priors are known, so the posterior of every measurement is too. For every problem, noise level,
method and number of evaluations, the draws are compared with the posterior; the first line of each
problem has exact draws, whose distances are those of finite samples. The command writes posterior.json
(all numbers), posterior.md (a table) and posterior.png (the posterior card).

A method of your own, a function (sde, score, measurement) -> Conditional in an importable module, is
compared by `--method package.module:function`. `--check-adjoint package.module:operator --shape 64 64 1`
says whether the adjoint of an operator of your own is one, and compares nothing.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import cli
from .config import DataConfig
from .late import late
from .parts import rules

with late():
    import jax

    from score_jax import VP, inverse, viz
    from score_jax.inverse import benchmark

    from .parts import posteriors
    from .parts.named import object_named
    from .reports import cards, tables


# Columns of the report, and their heads.
FIGURES = {
    "sliced_wasserstein": "sliced W",
    "frechet": "Fréchet",
    "mean_error": "mean",
    "std_ratio": "std ratio",
    "std_error": "std",
    "weights_error": "weights",
    "residual": "residual",
    "evidence": "Z / exact Z",
    "sbc": "SBC",
    "tarp": "TARP",
    "calibration": "p",
}
# Of the card, with the value of a perfect sampler where that is not the smallest.
SHOWN: dict[str, float | None] = {
    "sliced_wasserstein": None, "mean_error": None, "std_ratio": 1.0, "weights_error": None, "tarp": None,
}  # fmt: skip
LOGARITHMIC = ("sliced_wasserstein", "mean_error")
LONG = {
    "sliced_wasserstein": "sliced Wasserstein / std",
    "mean_error": "error of the mean / std",
    "std_ratio": "std / exact std",
    "weights_error": "error of the mode weights",
    "tarp": "miscalibration (TARP)",
}


@dataclasses.dataclass(frozen=True)
class Args:
    """Compare posterior samplers with exact posteriors: distance, mode weights, calibration, time."""

    # Priors and operators: two_modes, mixture, digits_half, digits_small, digits_blur, fashion_half,
    # fashion_small, field, magnitude.
    problems: tuple[str, ...] = ("two_modes", "mixture", "digits_half")
    # Methods (default: all); docs/posterior.md explains them.
    methods: tuple[str, ...] = ()
    # A method of your own, as package.module:function; may be given more than once.
    method: tuple[str, ...] = ()
    # Check the adjoint of a linear operator of your own, package.module:operator, and do nothing else.
    check_adjoint: str | None = None
    # The shape of an example for --check-adjoint.
    shape: tuple[int, ...] = ()
    # Standard deviations of the noise of the measurement.
    noise: tuple[float, ...] = (0.1,)
    # Evaluations of the score for each draw.
    nfe: tuple[int, ...] = (100,)
    # Draws of each posterior.
    num: int = 128
    # Measurements, each with its own posterior; two or more give the errors.
    repeats: int = 24
    # Seed of the measurements and of the draws.
    seed: int = 0
    # Results of earlier runs (posterior.json) that go into the same table and card, first.
    join: tuple[str, ...] = ()
    # The noise levels that the card shows (default: all).
    card_noise: tuple[float, ...] = ()
    # Write a short posterior.json: without settings, ranks, coverage levels and seconds, figures rounded.
    brief: bool = False
    # Folder of the results.
    out: str = "runs/posterior"
    # Write over files that are there.
    overwrite: bool = False


def check(args: Args) -> None:
    """Raise ValueError for flags out of range."""
    if bool(args.shape) != (args.check_adjoint is not None):
        raise ValueError("--check-adjoint needs --shape, the shape of an example, and only it does")
    if args.shape and min(args.shape) < 1:
        raise ValueError(f"--shape must be numbers of at least 1, got {args.shape}")
    rules.check_flags(args, num=2, repeats=2)
    if not args.problems and not args.join:
        raise ValueError("--problems must name at least one, unless --join has results")
    if not args.nfe or min(args.nfe) < 2:
        raise ValueError(f"--nfe must be numbers of at least 2, got {args.nfe}")
    shown = {row["noise_std"] for row in joined(args.join)} | set(
        args.noise if args.problems else ()
    )
    if not set(args.card_noise) <= shown:
        raise ValueError(f"--card-noise must be some of {sorted(shown)}, got {args.card_noise}")
    if not args.noise or min(args.noise) < 0:
        raise ValueError(f"--noise must be numbers of at least 0, got {args.noise}")


def joined(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of earlier results, equal ones once; ValueError naming a file that holds none."""
    found = []
    for path in paths:
        try:
            rows = json.loads(pathlib.Path(path).read_text())["rows"]
            found += [row | {"draws": int(row["draws"])} for row in rows]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(
                f"--join {path!r} holds no results of this command: {error!r}"
            ) from None
    return [row for i, row in enumerate(found) if row not in found[:i]]


def in_brief(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its figures alone, of four digits."""
    figures = {
        name: {key: float(f"{number:.4g}") for key, number in figure.items()}
        for name, figure in row["figures"].items()
    }
    kept = {key: row[key] for key in row if key not in ("ranks", "levels", "seconds")}
    return kept | {"figures": figures}


def as_row(found: benchmark.Comparison, draws: int) -> dict[str, Any]:
    """One line of the comparison as plain numbers."""
    figures = {k: {"value": v.value, "error": v.error} for k, v in found.figures.items()}
    return {
        "measurements": len(found.levels),
        "draws": draws,
        "nfe": found.nfe,
        "seconds": found.seconds,
        "nonfinite": found.nonfinite,
        "figures": figures,
        "ranks": found.ranks.round(4).tolist(),
        "levels": found.levels.round(4).tolist(),
    }


class Label(NamedTuple):
    """A line of the comparison."""

    method: str
    nfe: int

    def __str__(self) -> str:
        return f"{self.method} with {self.nfe} evaluations"


def run(args: Args) -> dict[str, Any]:
    """Compare the methods on the problems: what posterior.json holds.

    Methods that are not for a problem are named on stderr; ValueError if none is for any.
    """
    methods = posteriors.chosen(args.methods, args.method)
    sde, rows = VP(), joined(args.join)
    compared = 0
    left_out: list[str] = []
    key = jax.random.key(args.seed)
    for name in args.problems:
        for noise in args.noise:
            problem = posteriors.problem(name, noise)
            posed = benchmark.pose(key, problem, repeats=args.repeats, num=args.num)
            drawers = {
                Label(method, nfe): make(problem, nfe)
                for method, make in methods.items()
                for nfe in args.nfe
            }
            with warnings.catch_warnings(record=True) as warned:  # of what is left out
                warnings.simplefilter("always", UserWarning)
                found = benchmark.compare(
                    jax.random.fold_in(key, 1), sde, posed, drawers, num=args.num
                )
            left_out += [f"{name}, noise {noise:g}: {one.message}" for one in warned]
            compared += len(found) - 1
            error = max(reference.error for reference in posed.references)
            for label, comparison in found.items():
                method = label.method if isinstance(label, Label) else label
                head = {"problem": name, "noise_std": noise, "method": method}
                rows.append(head | as_row(comparison, args.num) | {"reference_error": error})
                print("  ".join(cells(rows[-1])), flush=True)
    if args.problems and not compared:
        raise ValueError(f"no method is for these problems: {'; '.join(left_out)}")
    print(*left_out, sep="\n", end="\n" if left_out else "", file=sys.stderr)
    if args.brief:
        return {"rows": [in_brief(row) for row in rows]}
    return {"settings": dataclasses.asdict(args), "rows": rows}


def as_text(name: str, found: dict[str, float]) -> str:
    """A figure with its error; a p-value alone."""
    if name == "calibration":
        return f"{found['value']:.2f}" if found["value"] >= 0.005 else "< 0.005"
    return f"{found['value']:.2f} ± {found['error']:.2f}"


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the comparison as text."""
    shown = []
    for name in FIGURES:
        found = row["figures"].get(name)
        shown.append("" if found is None else as_text(name, found))
    nfe = f"{row['nfe']:.0f}" if row["nfe"] else ""
    seconds = f"{row['seconds']:.2f}" if row.get("seconds") else ""
    if row["nonfinite"]:
        seconds += f" ({100 * row['nonfinite']:.0f} % not finite)"
    return [row["method"], nfe, *shown, seconds]


def _groups(result: dict[str, Any]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The rows of each problem and noise level."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault((row["problem"], row["noise_std"]), []).append(row)
    return found


def report(result: dict[str, Any]) -> str:
    """Set a comparison as Markdown tables, one a problem and noise level."""
    parts = [
        "Values have their standard errors. Their unit is the standard deviation of the posterior, and "
        "that of the noise for the residual. SBC and TARP are the distances of ranks and of coverage to "
        "uniform. p is the p-value of all ranks and levels being uniform; it is below 0.05 for 5 % of "
        "exact samplers. Z is the estimate of p(y)."
    ]
    for (problem, noise), rows in _groups(result).items():
        error = rows[0]["reference_error"]
        known = f", reference known to {error:.2g} standard deviations" if error else ""
        head = ["method", "evaluations", *FIGURES.values(), "seconds"]
        lines = _filled([head, *map(cells, rows)])
        many = f"{rows[0]['measurements']} measurements, {rows[0]['draws']} draws each"
        parts.append(
            f"### {problem}, noise {noise:g}\n\n{many}{known}.\n\n{tables.markdown(lines)}"
        )
    return "\n\n".join(parts) + "\n"


def _filled(lines: list[list[str]]) -> list[list[str]]:
    """A table, the first line its head, without columns that are empty."""
    kept = [any(column[1:]) for column in zip(*lines, strict=True)]
    return [[cell for cell, keep in zip(line, kept, strict=True) if keep] for line in lines]


def card(result: dict[str, Any], noise_stds: Sequence[float] = ()) -> Any:
    """Draw the posterior card, of these noise levels: a row a problem, a column a figure."""
    groups = {k: v for k, v in _groups(result).items() if not noise_stds or k[1] in noise_stds}
    named = [list(dict.fromkeys(row["method"] for row in rows)) for rows in groups.values()]
    budgets = sorted({float(f"{row['nfe']:.1g}") for row in result["rows"] if row["nfe"]})
    tall = [0.6 + 0.21 * len(names) for names in named]
    figure = viz.new_figure(13, sum(tall) + 0.5, dpi=100)
    ratios = {"height_ratios": tall}
    axes = figure.subplots(len(groups), len(SHOWN), squeeze=False, gridspec_kw=ratios)
    for i, (((problem, noise), rows), names) in enumerate(zip(groups.items(), named, strict=True)):
        for panel, (name, ideal) in zip(axes[i], SHOWN.items(), strict=True):
            for row in rows:
                _mark(panel, row, name, names.index(row["method"]), budgets)
            exact = rows[0]["figures"].get(name)
            at = ideal if ideal is not None else exact and exact["value"]
            if at is not None:
                panel.axvline(at, color="#868e96", linewidth=1, linestyle=":")
            panel.set(ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)))
            panel.set_yticklabels(names if panel is axes[i][0] else [], fontsize=8)
            panel.grid(True, axis="y", alpha=0.25)
            if name in LOGARITHMIC and exact is not None:
                panel.set_xscale("log", subs=(2, 5))
                for which in ("major", "minor"):
                    getattr(panel.xaxis, f"set_{which}_formatter")("{x:g}")
            panel.tick_params(axis="x", which="both", labelsize=7)
            panel.set_visible(any(name in row["figures"] for row in rows))
            if i == 0:
                panel.set_title(LONG[name], fontsize=9)
        axes[i][0].set_ylabel(f"{problem}, noise {noise:g}", fontsize=9)
    return viz.render(figure).quantize(64)


def _mark(panel: Any, row: dict[str, Any], name: str, place: int, budgets: list[float]) -> None:
    """One figure of one line of the comparison, with its error; budgets have their own markers."""
    found = row["figures"].get(name)
    if found is None:
        return
    nearest = min(range(len(budgets)), default=0, key=lambda i: abs(budgets[i] - row["nfe"]))
    low = max(found["value"] - 2 * found["error"], 0.2 * found["value"])
    panel.plot([low, found["value"] + 2 * found["error"]], [place, place], color="#a5b4c8", lw=2)
    exact = place == 0
    marker = "|" if exact else "osD^"[nearest % 4]
    panel.plot(found["value"], place, marker, color="#212529" if exact else f"C{nearest}", ms=5)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.posterior`."""
    args = cli.parse(Args, "experiments.posterior", argv)
    check(args)
    if args.check_adjoint is not None:
        operator = object_named("--check-adjoint", args.check_adjoint, "operator")
        apart = inverse.check_adjoint(operator, args.shape)
        print(f"{args.check_adjoint}: linear, and its adjoint is one, to {apart:.1g}")
        return
    posteriors.chosen(args.methods, args.method)
    for name in args.problems:
        posteriors.lookup(name, posteriors.PROBLEMS, "problem")
    out = pathlib.Path(args.out)
    cards.check(out, "posterior", overwrite=args.overwrite)
    digits = any(name.startswith("digits") for name in args.problems)
    data = DataConfig("digits") if digits else False
    cli.start(data=data, extras={"plots": "the posterior card"})
    result = run(args)
    picture = lambda: card(result, args.card_noise)
    cards.write(out, "posterior", result, report(result), picture)


if __name__ == "__main__":
    cli.main(main)
