"""Bits per dimension of a run's data: by the flow, by the SDE's bound, and by a plain Gaussian."""

import dataclasses
import functools
import math
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.covariance import ledoit_wolf

from experiments.parts import samplers
from experiments.parts.networks import learns_variance
from experiments.reports import curves
from experiments.runs import Experiment
from score_jax import likelihood, losses, viz
from score_jax._batched import in_chunks
from score_jax._files import write_npz
from score_jax.samplers import static

Split = Literal["test", "train"]
GAPS = {"ignore": likelihood.IGNORE, "tweedie": likelihood.TWEEDIE, "offset": likelihood.OFFSET}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How bits per dimension are measured."""

    # Which data they are of.
    split: Split = "test"
    # Dequantisation draws per example (0: no likelihood).
    draws: int = 1
    # Join the draws by the tighter, importance-weighted bound.
    importance: bool = False
    # Tolerance of the likelihood's ODE.
    tol: float = 1e-4
    # How the density at t0 stands for that of the data at 0.
    gap: Literal["ignore", "tweedie", "offset"] = "ignore"
    # Hutchinson probes of the divergence (few dimensions: it is exact).
    probes: int = 1
    # Also the SDE's variational bound, by so many draws of time (0: not).
    bound: int = 0
    # On a beta table: steps of the table that the bound is taken over (default: all of them).
    bound_steps: int | None = None
    # Examples handled at once.
    chunk: int = 300
    # Also for a network that was trained on data without dequantisation.
    allow_undequantised: bool = False

    def check(self) -> None:
        """Raise ValueError naming the first flag whose value makes no sense."""
        for name, least in (("draws", 0), ("chunk", 1), ("probes", 1), ("bound", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}, got {getattr(self, name)}")
        if not (math.isfinite(self.tol) and self.tol > 0):
            raise ValueError(f"--tol must be finite and > 0, got {self.tol}")
        if self.bound_steps is not None and self.bound_steps < 1:
            raise ValueError(f"--bound-steps must be at least 1, got {self.bound_steps}")


# What says how the flow's likelihood is computed, which a beta table's bound does not need.
_OF_THE_FLOW = ("importance", "tol", "gap", "probes", "bound")


def unit(exp: Experiment) -> str:
    """Name of what is counted: bits of integers, or of a density where data have no levels."""
    return "bits_per_dim" if exp.levels else "bits_per_dim_of_density"


def in_bits(exp: Experiment, logp: Any) -> np.ndarray:
    """Bits per dimension of log-densities in nats; of the data's own units without levels."""
    if exp.levels is None:
        return -np.asarray(logp) / (math.prod(exp.shape) * math.log(2))
    return np.asarray(
        likelihood.bits_per_dim(
            jnp.asarray(logp), exp.shape, levels=exp.levels, range=exp.config.data.range
        )
    )


def mean_stderr(values: np.ndarray) -> dict[str, float]:
    """Mean of (n,), and its standard error over the examples."""
    spread = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return {"mean": float(values.mean()), "stderr": spread}


def _estimate(exp: Experiment, args: Options, key: Any, params: Any, x: Any, y: Any) -> Any:
    small = math.prod(exp.shape) <= likelihood.EXACT_UP_TO
    divergence = None if small else likelihood.hutchinson(args.probes)
    return likelihood.log_likelihood(
        key, exp.sde, exp.score_fn(params, y), x, t0=exp.config.sde.t0, gap=GAPS[args.gap],
        divergence=divergence, rtol=args.tol, atol=args.tol,
    )  # fmt: skip


def _bound(exp: Experiment, args: Options, key: Any, params: Any, x: Any, y: Any) -> Any:
    return likelihood.variational_bound(
        key, exp.sde, exp.score_fn(params, y), x, t0=exp.config.sde.t0, draws=args.bound
    )


def _over(exp: Experiment, estimate: Any, params: Any, key: Any, args: Options) -> dict[str, Any]:
    data = getattr(exp, args.split)
    try:
        out = likelihood.over_dataset(
            key,
            functools.partial(estimate, exp, args),
            data.x,
            y=data.y if exp.num_classes else None,
            prepare=exp.from_data,
            params=params,
            draws=args.draws,
            chunk=args.chunk,
        )
    except (RuntimeError, ValueError) as error:
        # What diffrax says, in the middle of a long message of the device.
        if "maximum number of solver steps" not in str(error):
            raise
        raise ValueError(
            f"the likelihood's ODE is not solved within its largest number of steps at --tol "
            f"{args.tol}: choose a larger one, or see whether the score is finite"
        ) from None
    joined = likelihood.mean_over_draws(jnp.asarray(out.logp), importance=args.importance)
    return mean_stderr(in_bits(exp, joined)) | {
        "nfe": float(out.nfe.mean()),
        "seconds": out.seconds,
        "compile_seconds": out.compile_seconds,
    }


def table_terms(
    exp: Experiment, params: Any, key: Any, args: Options
) -> tuple[Any, dict[str, np.ndarray], dict[str, float]]:
    """The bound of every example of a split, on a run's beta table: (table, parts, costs).

    parts: total and prior (n,), terms, x0_mse and noise_mse (n, steps), means over the draws.
    """
    process, data = exp.process, getattr(exp, args.split)
    table = samplers.table_of(process.diffusion, args.bound_steps)
    grid = np.asarray(table.times[::-1])
    low, high = exp.config.data.range
    clean = None if exp.levels is None else static(low, high)
    n = len(data.x)

    def take(index: np.ndarray) -> Any:
        part = {"x": data.x[index % n]}
        return part | ({"y": data.y[index % n]} if exp.num_classes else {})

    def function(shared: Any, index: Any, part: Any) -> Any:
        base, params = shared
        model = process.make_model(exp.net.apply)
        return losses.schedule_bound(
            jax.random.fold_in(base, index[0]), model.sde, model.score(params, part.get("y")),
            exp.on_levels(part["x"]), variance=model.variance, grid=jnp.asarray(grid),
            decoder=process.decoder, clean=clean,
        )._asdict()  # fmt: skip

    done = in_chunks(function, (key, params), take, n * args.draws, chunk=args.chunk, desc="bound")
    parts = {
        name: v.reshape(args.draws, n, *v.shape[1:]).mean(axis=0) for name, v in done.out.items()
    }
    costs = {
        "nfe": float(table.n),
        "seconds": done.seconds,
        "compile_seconds": done.compile_seconds,
    }
    return table, parts, costs


def measure_table(
    exp: Experiment, params: Any, key: Any, args: Options, folder: pathlib.Path
) -> dict[str, Any]:
    """Bits per dimension of a split by the bound of a beta table; its curves go to the folder."""
    bound_key, picture_key = jax.random.split(key)
    table, parts, costs = table_terms(exp, params, bound_key, args)
    curve = {name: parts[name].mean(axis=0) for name in curves.PARTS}
    write_npz(folder / "bound.npz", index=table.index_map, **parts)
    for name, label in curves.PARTS.items():
        picture = curves.along_the_table({name: (table.times, curve[name])}, label)
        viz.save_image(picture, folder / f"bound_{name}.png")
    if learns_variance(exp.config) and not exp.num_classes:
        assert exp.process.make_reverse is not None
        reverse = exp.process.make_reverse(table, exp.net.apply, params, {}, None)
        x0 = exp.on_levels(exp.test.x[:64])
        picture = curves.learned_variance(table, reverse, picture_key, x0)
        viz.save_image(picture, folder / "learned_variance.png")
    return {
        "split": args.split,
        "examples": len(parts["total"]),
        "draws": args.draws,
        "levels": exp.levels,
        "steps": table.n,
        "model": mean_stderr(parts["total"]) | costs,
        "prior": mean_stderr(parts["prior"]),
        "terms": mean_stderr(parts["terms"].sum(axis=1)),
        "reconstruction": mean_stderr(parts["terms"][:, 0]),
        "x0_mse": float(curve["x0_mse"].mean()),
        "noise_mse": float(curve["noise_mse"].mean()),
        "gaussian": _gaussian(exp, key, args),
    }


def _gaussian(exp: Experiment, key: Any, args: Options) -> dict[str, float]:
    """Bits per dimension of the same data under a plain Gaussian, dequantised."""
    fit_key, plain_key = jax.random.split(jax.random.fold_in(key, 1))
    x = getattr(exp, args.split).x
    plain = Gaussian(exp, fit_key)
    draws = [exp.from_data(k, x) for k in jax.random.split(plain_key, args.draws)]
    logp = np.stack([plain.logp(np.asarray(d, np.float64)) for d in draws])
    return mean_stderr(in_bits(exp, logp.mean(axis=0)))


def never_dequantised(exp: Experiment, args: Options) -> bool:
    """Whether a run on an SDE learned bare grey levels, which have no density, and none is asked for."""
    bare = bool(exp.levels) and not exp.config.data.dequantize
    return exp.process.diffusion is None and bare and not args.allow_undequantised


def _check_run(exp: Experiment, args: Options) -> None:
    """Raise ValueError where the flags do not fit the run."""
    if exp.process.diffusion is not None:
        defaults = {f.name: f.default for f in dataclasses.fields(Options)}
        given = [name for name in _OF_THE_FLOW if getattr(args, name) != defaults[name]]
        if given:
            raise ValueError(
                f"--{given[0]} is for runs on an SDE; that of a beta table (sde.kind 'diffusion') is "
                "judged by its own bound, with --draws, --bound-steps and --chunk"
            )
        return
    if args.bound_steps is not None:
        raise ValueError("--bound-steps needs a run on a beta table (sde.kind 'diffusion')")
    if never_dequantised(exp, args):
        raise ValueError(
            "the run was trained on grey levels that were never dequantised (data.dequantize is "
            "false): it knows nothing of the density between them; --allow-undequantised measures "
            "it all the same, --draws 0 leaves likelihoods out"
        )


def measure(
    exp: Experiment, params: Any, key: Any, args: Options, folder: pathlib.Path
) -> dict[str, Any]:
    """Bits per dimension of a whole split: of the model, its bound if asked, and a Gaussian."""
    _check_run(exp, args)
    if exp.process.diffusion is not None:
        return measure_table(exp, params, key, args, folder)
    model_key, bound_key = jax.random.split(key)
    result: dict[str, Any] = {
        "split": args.split,
        "examples": len(getattr(exp, args.split).x),
        "draws": args.draws,
        "levels": exp.levels,
        "t0": exp.config.sde.t0,
        "gap": args.gap,
        "tol": args.tol,
        "probes": args.probes,
        "importance_weighted": args.importance,
        "model": _over(exp, _estimate, params, model_key, args),
    }
    if args.bound:
        result["bound"] = _over(exp, _bound, params, bound_key, args)
    result["gaussian"] = _gaussian(exp, key, args)
    return result


class Gaussian:
    """The plain baseline: a normal distribution with the mean and covariance of the training data.

    With fewer examples than dimensions the covariance is shrunk towards a multiple of the identity
    (Ledoit & Wolf 2004): that of the data has no inverse then.
    """

    def __init__(self, exp: Experiment, key: Any):
        x = np.asarray(exp.from_data(key, exp.train.x), np.float64).reshape(len(exp.train.x), -1)
        self.mean = x.mean(axis=0)
        full = len(x) > x.shape[1]
        self.chol = np.linalg.cholesky(np.cov(x, rowvar=False) if full else ledoit_wolf(x)[0])

    def logp(self, x: np.ndarray) -> np.ndarray:
        """Log density in nats: (n, *d) -> (n,)."""
        z = np.linalg.solve(self.chol, (x.reshape(len(x), -1) - self.mean).T)
        constant = 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -constant - np.log(np.diag(self.chol)).sum() - 0.5 * (z**2).sum(axis=0)

    def sample(self, seed: int, n: int, shape: tuple[int, ...]) -> np.ndarray:
        """Draw n samples."""
        z = np.random.default_rng(seed).normal(size=(n, len(self.mean)))
        return (self.mean + z @ self.chol.T).reshape(n, *shape).astype(np.float32)
