"""Judge a trained run on held-out data: `python -m experiments.evaluate --workdir runs/x`."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import cli, sampling, train
from experiments.build import Experiment
from experiments.features import FeatureSpace, feature_space
from score_jax import likelihood, metrics


@dataclasses.dataclass(frozen=True)
class Args:
    """Held-out loss, bits per dimension and sample distance of a run, beside a fitted Gaussian."""

    # Folder of a run made by experiments.train.
    workdir: str
    # Samples drawn for the distance (0: none).
    num: int = 1_000
    # Sampler (default: that of the run's config).
    sampler: Literal["pc", "ode", "em"] | None = None
    # Steps of the fixed-step samplers.
    steps: int | None = None
    # Dequantisation draws per image for bits per dimension (0: no likelihood).
    draws: int = 1
    # Tolerance of the likelihood's ODE.
    tol: float = 1e-4
    # Examples handled at once.
    chunk: int = 300
    # Seed of all noise.
    seed: int = 0


def held_out_loss(exp: Experiment, params: Any, key: Any, draws: int = 8) -> float:
    """Mean loss over the whole test split, over `draws` draws of times and noise."""

    @jax.jit
    def one(k: Any, batch: Any) -> Any:
        prepare_key, loss_key = jax.random.split(k)
        return exp.test_loss(params, loss_key, exp.prepare(prepare_key, batch))[0]

    batch = {"x": jnp.asarray(exp.test.x)}
    if exp.test.y is not None:
        batch["y"] = jnp.asarray(exp.test.y)
    return float(np.mean([one(jax.random.fold_in(key, i), batch) for i in range(draws)]))


def bits(exp: Experiment, logp: Any) -> np.ndarray:
    """Bits per dimension of log-densities in nats; of the data's own units without levels."""
    if exp.levels is None:
        return -np.asarray(logp) / (math.prod(exp.shape) * math.log(2))
    return np.asarray(
        likelihood.bits_per_dim(
            jnp.asarray(logp), exp.shape, levels=exp.levels, range=exp.config.data.range
        )
    )


def mean_stderr(values: np.ndarray) -> dict[str, float]:
    """Mean over examples of (n, draws), and its standard error over the examples."""
    per_example = values.mean(axis=1)
    return {
        "mean": float(per_example.mean()),
        "stderr": float(per_example.std(ddof=1) / math.sqrt(len(per_example))),
    }


def model_bits(exp: Experiment, params: Any, key: Any, args: Args) -> dict[str, float]:
    """Bits per dimension of the whole test split by the probability-flow ODE."""
    n = len(exp.test.x)
    chunk = min(args.chunk, n)

    @jax.jit
    def one(k: Any, x: Any, y: Any) -> Any:
        prepare_key, probe_key = jax.random.split(k)
        return likelihood.log_likelihood(
            probe_key, exp.sde, exp.score_fn(params, y), exp.from_data(prepare_key, x),
            t0=exp.config.sde.t0, rtol=args.tol, atol=args.tol,
        )  # fmt: skip

    out, nfes, start = np.zeros((n, args.draws)), [], time.perf_counter()
    places = [(d, i) for d in range(args.draws) for i in range(0, n, chunk)]
    for d, i in tqdm(places, desc="likelihood", unit="chunk"):
        # The last chunk is filled up with the first images, so that one program is compiled.
        index = np.arange(i, i + chunk) % n
        y = jnp.asarray(exp.test.y[index]) if exp.num_classes and exp.test.y is not None else None
        result = one(jax.random.fold_in(jax.random.fold_in(key, d), i), exp.test.x[index], y)
        take = min(chunk, n - i)
        out[i : i + take, d] = bits(exp, result.logp)[:take]
        nfes.append(float(np.mean(result.nfe)))
    seconds = time.perf_counter() - start
    return mean_stderr(out) | {"nfe": float(np.mean(nfes)), "seconds": seconds}


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


def distances(space: FeatureSpace, x: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Distances between two sets of raw data in the feature space."""
    a, b = space.features(x), space.features(test)
    return {
        "frechet": float(metrics.frechet(a, b)),
        "kid": float(metrics.kid(a, b)),
        "sliced_wasserstein": float(metrics.sliced_wasserstein(a, b)),
    }


def evaluate(workdir: pathlib.Path, args: Args) -> dict[str, Any]:
    """Evaluate a run folder; the result is also written to its evaluation.json."""
    exp, params, step = train.restore(workdir)
    keys = jax.random.split(jax.random.key(args.seed), 5)
    space = feature_space(exp.train, exp.test)
    gaussian = Gaussian(exp, keys[0])
    result: dict[str, Any] = {"step": step, "test_examples": len(exp.test.x)}
    result["loss"] = held_out_loss(exp, params, keys[1])
    if args.draws:
        x = np.stack([exp.from_data(k, exp.test.x) for k in jax.random.split(keys[2], args.draws)])
        logp = np.stack([gaussian.logp(np.asarray(d, np.float64)) for d in x], axis=1)
        unit = "bits_per_dim" if exp.levels else "bits_per_dim_of_density"
        result[unit] = {
            "model": model_bits(exp, params, keys[3], args),
            "gaussian": mean_stderr(bits(exp, logp)),
            "levels": exp.levels,
        }
    if args.num:
        given = {k: v for k in ("sampler", "steps") if (v := getattr(args, k)) is not None}
        config = dataclasses.replace(exp.config.sample, **given)
        drawn = sampling.draw(exp, params, keys[4], args.num, config)
        compare = lambda x: distances(space, x, exp.test.x)
        baseline = gaussian.sample(args.seed, args.num, exp.shape)
        result["distance"] = {
            "space": space.name,
            "classifier_accuracy": space.accuracy,
            "num": args.num,
            "sampler": config.sampler,
            "nfe": drawn.nfe,
            "seconds": drawn.seconds,
            "model": compare(exp.to_data(drawn.x)),
            "gaussian": compare(exp.to_data(baseline)),
            "train_split": compare(exp.train.x[: args.num]),
        }
        if exp.num_classes and space.classify is not None:
            asked = np.arange(args.num) % exp.num_classes
            right = float((space.classify(exp.to_data(drawn.x)) == asked).mean())
            result["distance"]["classified_as_asked"] = right
    cli.write_json(workdir / "evaluation.json", result)
    return result


def report(result: dict[str, Any]) -> str:
    """Set the result of `evaluate` as a short table."""
    lines = [f"held-out loss {result['loss']:.4f} (step {result['step']})", ""]
    rows = [["", "model", "Gaussian", "train split"]]
    for unit in ("bits_per_dim", "bits_per_dim_of_density"):
        if unit in result:
            b = result[unit]
            cells = [f"{b[k]['mean']:.3f} ± {b[k]['stderr']:.3f}" for k in ("model", "gaussian")]
            rows.append([unit.replace("_", " "), *cells, ""])
    if "distance" in result:
        d = result["distance"]
        for name in ("frechet", "kid", "sliced_wasserstein"):
            cells = [f"{d[k][name]:.4g}" for k in ("model", "gaussian", "train_split")]
            rows.append([f"{name.replace('_', ' ')} to test", *cells])
    if len(rows) > 1:
        lines.append(cli.table(rows))
    if "classified_as_asked" in result.get("distance", {}):
        lines.append(f"classified as asked: {result['distance']['classified_as_asked']:.1%}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.evaluate`."""
    args = cli.parse(Args, "experiments.evaluate", argv)
    for name, least in (("num", 0), ("draws", 0), ("chunk", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    if args.num == 1:
        raise ValueError("--num must be 0 or at least 2, got 1")
    train.start()
    workdir = pathlib.Path(args.workdir)
    result = evaluate(workdir, args)
    print(report(result))
    print(f"wrote {workdir / 'evaluation.json'}")


if __name__ == "__main__":
    cli.main(main)
