"""Log-likelihoods: evaluations and wall time against the authors' way, at equal error.

    python -m benchmarks.likelihood [--workdir RUN] [--rounds 5] [--batch 16] [--parts ...]

The authors' way (arXiv:2011.13456, their likelihood.py): scipy's RK45 on the host in float64, and at
every stage two calls of the network on the device, one for the drift and one for the divergence,
which is a gradient in reverse mode; every call carries the state to the device and back. Ours is
`log_likelihood`: one call gives both, and the whole solve is one compiled program. Same network,
same probe, same x. An error is the root mean square over the batch of log p's distance to a solve at
a tighter tolerance, in nats a dimension; for each tolerance of theirs, ours is the loosest that makes
no larger error, found by steps of a quarter of a decade.

`stages` times one stage of each kind, `solves` the solves, for a small trained MLP in the plane and
for the network of `--workdir`; `coordinates` prints the evaluations for errors, in plain time, in the
angle arctan(s/m) and in log(s/m), of mixtures with a known score and of those networks.
"""

import argparse
import functools
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.ode_solvers import mixture_score, needed, trained_mlp
from experiments import cli
from score_jax import likelihood as lk
from score_jax import samplers as sm
from score_jax.parametrization import TimeInput
from score_jax.sde import VE, VP, SubVP, reverse_drift

PARTS = ("stages", "solves", "coordinates")
LADDER = 10.0 ** -np.arange(1.5, 6.1, 0.25)


def rms(logp, truth, dim):
    """Root mean square error in nats a dimension."""
    return float(np.sqrt(np.mean(np.square(np.asarray(logp, np.float64) - truth)))) / dim


def two_calls(sde, score, probe):
    """Their drift and divergence, jitted apart: drift(x, t) and divergence(x, t)."""

    def drift(x, t):
        return reverse_drift(sde, score, x, t, ode=True)

    def divergence(x, t):
        gradient = jax.grad(lambda v: jnp.sum(drift(v, t) * probe))(x)
        return jnp.sum((gradient * probe).reshape(x.shape[0], -1), axis=1)

    return jax.jit(drift), jax.jit(divergence)


def authors_solver(sde, score, probe, t0):
    """solve(x, tol) -> (log p (b,), evaluations of the network)."""
    drift, divergence = two_calls(sde, score, probe)
    prior_logp = jax.jit(sde.prior_logp)

    def solve(x, tol):
        shape, b = x.shape, x.shape[0]

        def rhs(t, y):
            state, time_ = jnp.asarray(y[:-b].reshape(shape), x.dtype), jnp.asarray(t, x.dtype)
            change = np.asarray(drift(state, time_), np.float64).ravel()
            return np.r_[change, np.asarray(divergence(state, time_), np.float64)]

        start = np.r_[np.asarray(x, np.float64).ravel(), np.zeros(b)]
        out = solve_ivp(rhs, (t0, sde.t1), start, method="RK45", rtol=tol, atol=tol)
        z = jnp.asarray(out.y[:-b, -1].reshape(shape), x.dtype)
        return np.asarray(prior_logp(z)) + out.y[-b:, -1], 2 * out.nfev

    return solve


def our_solver(sde, score, probe, t0, **options):
    """solve(x, tol) -> (log p (b,), evaluations), jitted with the tolerance as an argument."""
    given = lk.Divergence(lambda key, x: probe[None], exact=False)

    @jax.jit
    def run(x, tol):
        out = lk.log_likelihood(
            jax.random.key(0), sde, score, x, t0=t0, divergence=given, rtol=tol, atol=tol, **options
        )
        return out.logp, out.nfe

    return run


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(functions, rounds):
    """Seconds of each function in turn, `rounds` times: {name: (rounds,)}; each was compiled."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return {name: np.array(v) for name, v in times.items()}


def stages(label, sde, score, x, probe, rounds, repeats=10):
    """One stage: drift alone, drift and divergence in one call, and in their two calls."""
    drift, divergence = two_calls(sde, score, probe)
    flow = lambda t: lambda v: reverse_drift(sde, score, v, t, ode=True)
    jvp = jax.jit(lambda x, t: jax.jvp(flow(t), (x,), (probe,)))
    t = jnp.asarray(0.3, x.dtype)
    calls = {
        "drift": lambda: drift(x, t),
        "one call": lambda: jvp(x, t),
        "two calls": lambda: (drift(x, t), divergence(x, t)),
    }

    def many(call):
        return lambda: [jax.block_until_ready(call()) for _ in range(repeats)]

    functions = {name: many(call) for name, call in calls.items()}
    interleaved(functions, 1)
    times = interleaved(functions, rounds)
    base = np.median(times["drift"]) / repeats
    shares = ", ".join(
        f"{name} {np.median(times[name] / times['drift']):.2f}"
        for name in ("one call", "two calls")
    )
    print(f"{label:8s} stage: drift {1e3 * base:.2f} ms; in its units: {shares}", flush=True)


def solves(label, sde, score, x, probe, t0, tolerances, rounds):
    """Evaluations and seconds for the error that theirs makes at each of their tolerances."""
    dim = int(np.prod(x.shape[1:]))
    theirs = authors_solver(sde, score, probe, t0)
    ours = our_solver(sde, score, probe, t0, coordinate=sm.IN_ANGLE)
    tight = np.asarray(ours(x, 1e-6)[0], np.float64)
    for tol in tolerances:
        logp, n_theirs = theirs(x, tol)
        error = rms(logp, tight, dim)
        for chosen in tol * 10.0 ** np.arange(1, -1.1, -0.25):
            logp, n = ours(x, float(chosen))
            n, own = int(n), rms(logp, tight, dim)
            if own <= error:
                break
        else:
            print(f"{label:8s} tol {tol:.0e}: their error {error:.1e} is at single precision's end")
            continue
        run = functools.partial(ours, x, float(chosen))
        calls = {
            "ours": lambda run=run: jax.block_until_ready(run()),
            "theirs": functools.partial(theirs, x, tol),
        }
        times = interleaved(calls, rounds)
        ratio = np.median(times["ours"] / times["theirs"])
        print(
            f"{label:8s} tol {tol:.0e}: theirs {n_theirs} evaluations, "
            f"{np.median(times['theirs']):.3f} s, error {error:.1e}; ours (tol {chosen:.0e}) {n}, "
            f"{np.median(times['ours']):.3f} s, {own:.1e}; ratios {n / n_theirs:.2f} of evaluations, "
            f"{ratio:.2f} of time",
            flush=True,
        )


def coordinates(label, sde, score, x, probe, t0, ref_tol, targets):
    """Evaluations that each coordinate needs for errors."""
    dim = int(np.prod(x.shape[1:]))
    kinds = {"t": sm.IN_TIME, "angle": sm.IN_ANGLE, "log(s/m)": sm.IN_LOG_NOISE}
    runs = {
        name: our_solver(sde, score, probe, t0, coordinate=c, max_steps=16_384)
        for name, c in kinds.items()
    }
    truth = np.asarray(runs["t"](x, ref_tol)[0], np.float64)
    for name, run in runs.items():
        outs = [run(x, float(tol)) for tol in LADDER]
        curve = [(int(n), rms(logp, truth, dim)) for logp, n in outs]
        counts = [needed(curve, e) for e in targets]
        print(f"{label:16s} {name:9s} " + "  ".join(f"{n:6.0f}" for n in counts), flush=True)


def on_mixtures(targets):
    """`coordinates` on mixtures in the plane and in 3x8x8, in double precision."""
    sdes = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 50.0)}
    with jax.enable_x64(True):
        for shape, k, spread, std in (((2,), 5, 1.5, 0.3), ((3, 8, 8), 20, 1.0, 0.5)):
            for name, sde in sdes.items():
                score = mixture_score(sde, int(np.prod(shape)), k, spread, std, 1, jnp.float64)
                rng = np.random.default_rng(5)
                x = jnp.asarray(rng.normal(size=(32, *shape)) * 0.5)
                probe = jnp.asarray(rng.choice([-1.0, 1.0], size=x.shape))
                label = f"{len(x)}x{'x'.join(map(str, shape))} {name}"
                coordinates(label, sde, score, x, probe, 1e-5, 1e-10, targets)


def networks(workdir, batch):
    """label -> (sde, score, x, probe, t0): an MLP, and the network of a run folder."""
    rng = np.random.default_rng(0)
    made = {}
    x = jnp.asarray(rng.normal(size=(16 * batch, 2)), jnp.float32)
    made["mlp"] = VP(), trained_mlp(VP(), TimeInput(), 500), x, 1e-3
    if workdir is not None:
        from experiments.runs import load as restore

        exp, params, _ = restore(pathlib.Path(workdir))
        x = exp.source.from_data(jax.random.key(0), exp.source.examples(batch)["x"])
        made["network"] = exp.sde, exp.score(params), x, exp.config.loss.t0
    for label, (sde, score, x, t0) in made.items():
        probe = jnp.asarray(rng.choice([-1.0, 1.0], size=x.shape), jnp.float32)
        made[label] = sde, score, x, probe, t0
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default=None, help="a trained run without classes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--parts", nargs="*", default=PARTS)
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, jax {jax.__version__}")
    made = networks(args.workdir, args.batch)
    targets = (1e-2, 1e-3, 1e-4)
    if "coordinates" in args.parts:
        print(f"evaluations for errors of {targets} nats a dimension")
        on_mixtures(targets)
    for label, (sde, score, x, probe, t0) in made.items():
        if "stages" in args.parts:
            stages(label, sde, score, x, probe, args.rounds)
        if "solves" in args.parts:
            solves(label, sde, score, x, probe, t0, (1e-3, 1e-4), args.rounds)
        if "coordinates" in args.parts:
            coordinates(label, sde, score, x, probe, t0, 1e-6, targets[:2])
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    cli.main(main)
