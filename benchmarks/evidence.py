"""How often the error of an evidence holds the truth: `python -m benchmarks.evidence`.

The data are normal, of deviations from 0.15 to 1.5 in random directions, and the first half of the
entries is measured with noise. For a linear score the mean of the estimates Z of `twisted_smc` is known
for every grid, so that the error of the grid does not count. An error holds it where two errors reach it.
The table has the shares of the plain error (the largest of the spreads and of what follows from the
ancestors) and of the error that `twisted_smc` returns, which is widened for lost ancestors and refused
below six, by the effective number of ancestors a system (docs/adr/0032). Writes evidence.json.
"""

import dataclasses
import itertools
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from score_jax import VP, analytic, inverse
from score_jax._files import write_json
from score_jax.inverse.ancestry import FAMILIES, evidence_error
from score_jax.inverse.twisting import isotropic, move
from score_jax.samplers import log_snr_grid

LEFT = (1.0, FAMILIES, 10.0, 20.0, np.inf)  # ancestors a system: the rows of the table
KNOWN = 0.5  # the error above which `twisted_smc` warns
LEAST = 2  # particles an entry: fewer are not measured


@dataclasses.dataclass(frozen=True)
class Args:
    """Measure how often two errors of an evidence reach the truth, for normal data."""

    # Entries of x0, half of them measured.
    entries: tuple[int, ...] = (8, 32)
    # Standard deviations of the noise.
    noise: tuple[float, ...] = (0.3, 0.1)
    # Particles a system, and systems.
    particles: tuple[int, ...] = (16, 64, 256)
    systems: tuple[int, ...] = (1, 4)
    # Measurements of each combination.
    num: int = 200
    # Steps of the grid.
    steps: int = 25
    # Where to write.
    out: str = "build/evidence"


def chain(sde: Any, prior: Any, grid: Any, std: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (n,) and covariance (n, n) of the x0 that the moves without y give on this grid."""
    score, n = prior.score(sde), prior.mean.size
    times = jnp.append(jnp.asarray(grid), 0)
    points = jnp.concatenate([jnp.zeros((1, n)), jnp.eye(n)])
    nothing = inverse.Measurement(inverse.Mask(np.ones(n, bool)), jnp.zeros_like(points), 1.0)

    def one(t: Any, t_next: Any) -> tuple[Any, Any]:
        guess = isotropic(sde, score, nothing, None, jnp.asarray([std]), np.inf, points, t)
        guess = guess._replace(wanted=guess.x0)
        still = move(sde, guess, points, t, t_next, jnp.zeros_like(points))[0]
        noisy = move(sde, guess, points, t, t_next, jnp.ones_like(points))[0]
        return still, (noisy - still)[0, 0]

    moves = jax.jit(jax.vmap(one))(times[:-1], times[1:])
    mean, cov = np.zeros(n), float(sde.prior_std) ** 2 * np.eye(n)
    for still, s in zip(*(np.asarray(v, np.float64) for v in moves), strict=True):
        a = (still[1:] - still[:1]).T
        mean, cov = a @ mean + still[0], a @ cov @ a.T + s**2 * np.eye(n)
    return mean, cov


def estimates(args: Args, n: int, noise: float, particles: int, systems: int) -> np.ndarray:
    """Of each measurement: systems, ancestors, Z over its mean, the plain error and the returned one."""
    rng = np.random.default_rng(n)
    turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
    variances = np.geomspace(0.15, 1.5, n) ** 2
    cov, std = turn @ np.diag(variances) @ turn.T, float(np.sqrt(variances.mean()))
    sde, prior = VP(), analytic.gaussian(np.zeros(n), cov)
    grid, mask, k = log_snr_grid(sde, args.steps), np.arange(n) < n // 2, n // 2
    x0 = rng.multivariate_normal(np.zeros(n), cov, args.num).astype(np.float32)
    y = inverse.measure(jax.random.key(n), inverse.Mask(mask), x0, noise_std=noise)
    with warnings.catch_warnings():  # of few particles, which are the subject
        warnings.filterwarnings("ignore", "too few particles", UserWarning)
        out = inverse.twisted_smc(
            jax.random.key(n + 1), sde, prior.score(sde), y, grid=grid, particles=particles,
            islands=systems, data_std=std, chunk=200, progress=False,
        )  # fmt: skip
    mean, cov = chain(sde, prior, grid, std)
    seen, away = cov[:k, :k] + noise**2 * np.eye(k), np.asarray(y.y)[:, :k] - mean[:k]
    squares = np.einsum("bi,ij,bj->b", away, np.linalg.inv(seen), away, optimize=True)
    exact = -0.5 * (squares + np.linalg.slogdet(2 * np.pi * seen)[1])
    rows = []
    for one, want, v, left in zip(out.found, exact, out.variances, out.ancestors, strict=True):
        logs = np.logaddexp.reduce(one.log_weights.reshape(systems, particles), axis=1)
        plain = evidence_error(logs, v, np.full(systems, particles), particles)
        z = np.exp(one.log_evidence - want)
        rows.append((systems, left.mean(), z, plain, one.error))
    return np.array(rows)


def shares(rows: np.ndarray) -> dict[str, float]:
    """What `rows` of `estimates` say of both errors."""
    _, left, z, plain, error = rows.T
    held = lambda e: abs(z - 1) <= 2 * e * z
    share = lambda v: float(v.mean()) if len(v) else np.nan
    finite, known = np.isfinite(error), error <= KNOWN
    rms = lambda v: np.sqrt(np.mean(np.square(v)))
    return {
        "measurements": len(rows),
        "ancestors": share(left),
        "plain": share(held(plain)),
        "refused": share(~finite),
        "widened": share(held(error)[finite]),
        "known": share(known),
        "held_where_known": share(held(error)[known]),
        "mean_of_z": share(z),
        "error_over_rms": float(rms(error[finite]) / rms(z[finite] - 1))
        if finite.any()
        else np.nan,
    }


def by_ancestors(rows: np.ndarray, systems: int) -> dict[str, dict[str, float]]:
    """`shares` by the ancestors that are left, and of all."""
    mine = rows[rows[:, 0] == systems]
    part = lambda low, high: mine[(mine[:, 1] >= low) & (mine[:, 1] < high)]
    found = {f"{low:g} to {high:g}": part(low, high) for low, high in itertools.pairwise(LEFT)}
    return {name: shares(v) for name, v in (found | {"all": mine}).items() if len(v)}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m benchmarks.evidence`."""
    args = cli.parse(Args, "benchmarks.evidence", argv)
    cli.start()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    every, combinations = [], {}
    for n in args.entries:
        for noise in args.noise:
            for particles in (p for p in args.particles if p >= LEAST * n):
                for systems in args.systems:
                    every.append(estimates(args, n, noise, particles, systems))
                    name = f"{n} entries, noise {noise:g}, {particles} particles, {systems} systems"
                    combinations[name] = shares(every[-1])
                    print(name, _text(combinations[name]), flush=True)
    rows = np.concatenate(every)
    tables = {f"{systems} systems": by_ancestors(rows, systems) for systems in args.systems}
    for systems, table in tables.items():
        for name, found in table.items():
            print(f"{systems}, ancestors {name}:", _text(found))
    write_json(out / "evidence.json", tables | {"combinations": combinations})


def _text(found: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in found.items())


if __name__ == "__main__":
    cli.main(main)
