"""Bits per dimension of a run's data: by the flow, by the SDE's bound, and by a plain Gaussian."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from typing import Any, Literal

import numpy as np

from score_jax._files import write_npz

from ..late import late
from ..parts import rules

with late():
    import jax
    import jax.numpy as jnp

    from score_jax import data, likelihood, losses, parametrization, samplers, training
    from score_jax._batched import in_chunks
    from score_jax.samplers import static
    from score_jax.sde import schedule_grid, spaced_indices
    from score_jax.types import Params, PRNGKey

    from ..parts.sampling import check_diffusion
    from ..runs import Run
    from . import curves, pictures
    from .gaussian import densities, gaussian


Split = Literal["test", "train"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How bits per dimension are measured."""

    # The split of the data.
    split: Split = "test"
    # The number of its examples that are used, from the first on (default: all).
    examples: int | None = None
    # Dequantisation draws per example (0: no likelihood).
    draws: int = 1
    # Join the draws by the tighter, importance-weighted bound.
    importance: bool = False
    # Tolerance of the likelihood's ODE.
    tol: float = 1e-4
    # How the density at t0 counts for the data at 0: as it is (ignore), by a step from t0 to 0, which
    # makes a bound (tweedie), or with a correction to first order, which makes none (offset).
    gap: Literal["ignore", "tweedie", "offset"] = "ignore"
    # Hutchinson probes of the divergence, which is exact in few dimensions.
    probes: int = 1
    # Compute the SDE's variational bound too, by this number of draws of time (0: none).
    bound: int = 0
    # On a noise schedule: steps of the bound (default: all timesteps).
    bound_steps: int | None = None
    # Examples handled at once.
    chunk: int = 300
    # Accept a network that was trained on data without dequantisation.
    allow_undequantised: bool = False

    def check(self) -> None:
        """Raise ValueError naming the first flag with an invalid value."""
        rules.check_flags(self, draws=0, chunk=1, probes=1, bound=0)
        if self.examples is not None and self.examples < 1:
            raise ValueError(f"--examples must be at least 1, got {self.examples}")
        if not (math.isfinite(self.tol) and self.tol > 0):
            raise ValueError(f"--tol must be finite and > 0, got {self.tol}")
        if self.bound_steps is not None and self.bound_steps < 1:
            raise ValueError(f"--bound-steps must be at least 1, got {self.bound_steps}")


def examples_of(run: Run, args: Options) -> Any:
    """The examples of the split that are measured."""
    found = run.source.split(args.split)
    if args.examples is None or args.examples >= len(found):
        return found
    return data.Subset(found, np.arange(args.examples))


# Flags of the flow's likelihood, which the bound of a noise schedule does not use.
_OF_THE_FLOW = ("importance", "tol", "gap", "probes", "bound")


def unit(run: Run) -> str:
    """Name of the quantity: bits of integers, or of a density if the data have no levels."""
    return "bits_per_dim" if run.source.levels else "bits_per_dim_of_density"


def in_bits(run: Run, logp: Any) -> np.ndarray:
    """Bits per dimension of log-densities in nats; of the data's own units without levels."""
    if run.source.levels is None:
        return -(np.asarray(logp) + run.source.log_det) / (math.prod(run.shape) * math.log(2))
    return np.asarray(
        likelihood.bits_per_dim(
            jnp.asarray(logp), run.shape, levels=run.source.levels, range=run.config.data.range
        )
    )


def mean_stderr(values: np.ndarray) -> dict[str, Any]:
    """Mean of (n,), and its standard error over the examples, None for one example."""
    spread = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "stderr": spread}


def by_flow(run: Run, params: Params, key: PRNGKey, args: Options) -> dict[str, Any]:
    """Bits per dimension by the probability flow: mean, standard error and cost."""
    return _over(run, _estimate, params, key, args)


def _estimate(run: Run, args: Options, key: Any, params: Any, x: Any, y: Any) -> Any:
    small = math.prod(run.shape) <= likelihood.EXACT_UP_TO
    divergence = None if small else likelihood.hutchinson(args.probes)
    gap = getattr(likelihood, args.gap.upper())
    return likelihood.log_likelihood(
        key, run.sde, run.score(params, **y), x, t0=run.config.loss.t0, gap=gap,
        divergence=divergence, rtol=args.tol, atol=args.tol,
    )  # fmt: skip


def _bound(run: Run, args: Options, key: Any, params: Any, x: Any, y: Any) -> Any:
    return likelihood.variational_bound(
        key, run.sde, run.score(params, **y), x, t0=run.config.loss.t0, draws=args.bound
    )


def _over(run: Run, estimate: Any, params: Any, key: Any, args: Options) -> dict[str, Any]:
    check_diffusion(run, "a likelihood")
    try:
        out = likelihood.over_dataset(
            key,
            functools.partial(estimate, run, args),
            examples_of(run, args),
            y=run.source.given,
            prepare=run.source.from_data,
            params=params,
            draws=args.draws,
            chunk=args.chunk,
            devices=jax.devices(),
        )
    except samplers.SolverError as error:
        raise ValueError(
            f"the likelihood's ODE is not solved at --tol {args.tol}: choose a larger one, or see "
            f"whether the score is finite ({error})"
        ) from None
    joined = likelihood.mean_over_draws(jnp.asarray(out.logp), importance=args.importance)
    return mean_stderr(in_bits(run, joined)) | {
        "nfe": float(out.nfe.mean()),
        "seconds": out.seconds,
        "compile_seconds": out.compile_seconds,
    }


def schedule_terms(
    run: Run, params: Params, key: PRNGKey, args: Options
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """The bound of every example of a split, on a run's noise schedule: (indices, parts, costs).

    indices (steps,), increasing; parts: total and prior (n,), terms, x0_mse and noise_mse (n, steps),
    means over the draws.
    """
    examples, model, source = examples_of(run, args), run.model, run.source
    steps = min(args.bound_steps or run.sde.n, run.sde.n)
    indices = np.array(spaced_indices(run.sde.n, steps))
    clean = None if source.levels is None else static(*run.config.data.range)
    n = len(examples)

    def take(index: np.ndarray) -> Any:
        batch = data.take(examples, index % n)
        return {"x": batch["x"], "given": source.given(batch)}

    def function(shared: Any, index: Any, part: Any) -> Any:
        key, params = shared
        return losses.schedule_bound(
            jax.random.fold_in(key, index[0]),
            run.sde,
            run.score(params, **part["given"]),
            source.on_levels(part["x"]),
            variance=parametrization.SMALL if model.variance is None else model.variance,
            grid=schedule_grid(run.sde, indices),
            decoder=run.decoder,
            clean=clean,
        )._asdict()

    done = in_chunks(
        function, (key, params), take, n * args.draws,
        chunk=args.chunk, devices=jax.devices(), desc="bound",
    )  # fmt: skip
    parts = {
        name: v.reshape(args.draws, n, *v.shape[1:]).mean(axis=0) for name, v in done.out.items()
    }
    # Of standardised data the last term, and so the sum, is in the data's own units.
    units = source.log_det / (math.prod(run.shape) * math.log(2)) if source.levels is None else 0.0
    parts["total"] = parts["total"] - units
    parts["terms"] = parts["terms"] - units * (np.arange(len(indices)) == 0)
    costs = {
        "nfe": float(len(indices)),
        "seconds": done.seconds,
        "compile_seconds": done.compile_seconds,
    }
    return indices, parts, costs


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a run's bound: the terms of all examples, the learned variance, and the curves."""
    curve = [f"bound_{name}.png" for name in curves.PARTS]
    return [folder / name for name in ("bound.npz", "learned_variance.png", *curve)]


def measure_schedule(
    run: Run, params: Params, key: PRNGKey, args: Options, folder: pathlib.Path
) -> dict[str, Any]:
    """Bits per dimension of a split by the bound of a noise schedule; its curves go to the folder."""
    bound_key, picture_key = jax.random.split(key)
    indices, parts, costs = schedule_terms(run, params, bound_key, args)
    curve = {name: parts[name].mean(axis=0) for name in curves.PARTS}
    if training.is_first():
        write_npz(files(folder)[0], index=indices, **parts)
        _draw_curves(run, params, picture_key, (indices, curve), folder)
    return {
        "split": args.split,
        "examples": len(parts["total"]),
        "draws": args.draws,
        "levels": run.source.levels,
        "steps": len(indices),
        "model": mean_stderr(parts["total"]) | costs,
        "prior": mean_stderr(parts["prior"]),
        "terms": mean_stderr(parts["terms"].sum(axis=1)),
        "reconstruction": mean_stderr(parts["terms"][:, 0]),
        "x0_mse": float(curve["x0_mse"].mean()),
        "noise_mse": float(curve["noise_mse"].mean()),
        "gaussian": _gaussian(run, key, args),
    }


def _draw_curves(
    run: Run, params: Params, key: PRNGKey, curve: tuple[Any, Any], folder: pathlib.Path
) -> None:
    """Pictures of the bound's parts over the schedule, and of a variance that is learned."""
    indices, parts = curve
    _, variance, *pngs = files(folder)
    for path, (name, label) in zip(pngs, curves.PARTS.items(), strict=True):
        lines = {name: (run.sde.times[indices], parts[name])}
        pictures.written(path, functools.partial(curves.along_the_schedule, lines, label))
    if run.config.learns_variance and not run.num_classes and run.source.cond is None:
        x0 = run.source.on_levels(run.source.examples(64)["x"])
        draw = functools.partial(curves.learned_variance, run.model, params, key, x0)
        pictures.written(variance, draw)


def by_bound(run: Run) -> bool:
    """Whether a run was trained for the bound of a noise schedule, by which it is then measured."""
    return run.config.loss.objective != "dsm"


def _gaussian(run: Run, key: Any, args: Options) -> dict[str, Any] | None:
    """Bits per dimension of the same data under a plain Gaussian; None for large examples."""
    fit_key, plain_key = jax.random.split(jax.random.fold_in(key, 1))
    plain = gaussian(run, fit_key)
    if plain is None:
        return None
    examples = examples_of(run, args)
    draws = [
        np.concatenate([plain.logp(x) for x in densities(run, k, examples)])
        for k in jax.random.split(plain_key, args.draws)
    ]
    return mean_stderr(in_bits(run, np.mean(draws, axis=0)))


def without_likelihood(run: Run, args: Options) -> str | None:
    """Why there are no bits per dimension of a run, or None where there are."""
    if run.config.data.missing == "mask":
        return "the data have missing entries, and a likelihood needs all of them"
    if never_dequantised(run, args):
        return (
            "trained on grey levels that were never dequantised (--allow-undequantised measures them "
            "all the same)"
        )
    return None


def never_dequantised(run: Run, args: Options) -> bool:
    """Whether a run on an SDE was trained on plain grey levels, which have no density."""
    bare = bool(run.source.levels) and not run.config.data.dequantize
    return not by_bound(run) and bare and not args.allow_undequantised


def check_run(run: Run, args: Options) -> None:
    """Raise ValueError where the flags do not fit the run."""
    if run.config.data.missing == "mask":
        raise ValueError(f"no bits per dimension: {without_likelihood(run, args)}")
    if by_bound(run):
        defaults = {f.name: f.default for f in dataclasses.fields(Options)}
        given = [name for name in _OF_THE_FLOW if getattr(args, name) != defaults[name]]
        if given:
            raise ValueError(
                f"--{given[0]} is for runs on an SDE; a run with loss.objective "
                f"{run.config.loss.objective!r} is measured by its own bound, with --draws, "
                "--bound-steps and --chunk"
            )
        return
    if args.bound_steps is not None:
        raise ValueError(
            "--bound-steps needs a run on a noise schedule, trained by its own objective"
        )
    if never_dequantised(run, args):
        raise ValueError(
            "the run was trained on grey levels that were never dequantised (data.dequantize is "
            "false), so its density between them is arbitrary; --allow-undequantised measures it "
            "nevertheless, --draws 0 omits likelihoods"
        )


def measure(run: Run, params: Any, key: Any, args: Options, folder: pathlib.Path) -> dict[str, Any]:
    """Bits per dimension of a whole split: of the model, its bound if asked, and a Gaussian."""
    check_run(run, args)
    if by_bound(run):
        return measure_schedule(run, params, key, args, folder)
    model_key, bound_key = jax.random.split(key)
    result: dict[str, Any] = {
        "split": args.split,
        "examples": len(examples_of(run, args)),
        "draws": args.draws,
        "levels": run.source.levels,
        "t0": run.config.loss.t0,
        "gap": args.gap,
        "tol": args.tol,
        "probes": args.probes,
        "importance_weighted": args.importance,
        "model": by_flow(run, params, model_key, args),
    }
    if args.bound:
        result["bound"] = _over(run, _bound, params, bound_key, args)
    result["gaussian"] = _gaussian(run, key, args)
    return result
