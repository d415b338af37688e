"""Bits per dimension of a run's data: by the flow, by the SDE's bound, and by a plain Gaussian."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.build import Experiment
from score_jax import likelihood

GAPS = {"ignore": likelihood.IGNORE, "tweedie": likelihood.TWEEDIE, "offset": likelihood.OFFSET}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How bits per dimension are measured."""

    # Which data they are of.
    split: Literal["test", "train"] = "test"
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
    # Examples handled at once.
    chunk: int = 300


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
    joined = likelihood.mean_over_draws(jnp.asarray(out.logp), importance=args.importance)
    return mean_stderr(in_bits(exp, joined)) | {
        "nfe": float(out.nfe.mean()),
        "seconds": out.seconds,
        "compile_seconds": out.compile_seconds,
    }


def measure(exp: Experiment, params: Any, key: Any, args: Options) -> dict[str, Any]:
    """Bits per dimension of a whole split: of the model, its bound if asked, and a Gaussian."""
    model_key, bound_key, plain_key, fit_key = jax.random.split(key, 4)
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
    x = getattr(exp, args.split).x
    plain = Gaussian(exp, fit_key)
    draws = [exp.from_data(k, x) for k in jax.random.split(plain_key, args.draws)]
    logp = np.stack([plain.logp(np.asarray(d, np.float64)) for d in draws])
    result["gaussian"] = mean_stderr(in_bits(exp, logp.mean(axis=0)))
    return result


class Gaussian:
    """The plain baseline: a normal distribution with the mean and covariance of the training data."""

    def __init__(self, exp: Experiment, key: Any):
        x = np.asarray(exp.from_data(key, exp.train.x), np.float64).reshape(len(exp.train.x), -1)
        self.mean = x.mean(axis=0)
        self.chol = np.linalg.cholesky(np.cov(x, rowvar=False))

    def logp(self, x: np.ndarray) -> np.ndarray:
        """Log density in nats: (n, *d) -> (n,)."""
        z = np.linalg.solve(self.chol, (x.reshape(len(x), -1) - self.mean).T)
        constant = 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -constant - np.log(np.diag(self.chol)).sum() - 0.5 * (z**2).sum(axis=0)

    def sample(self, seed: int, n: int, shape: tuple[int, ...]) -> np.ndarray:
        """Draw n samples."""
        z = np.random.default_rng(seed).normal(size=(n, len(self.mean)))
        return (self.mean + z @ self.chol.T).reshape(n, *shape).astype(np.float32)
