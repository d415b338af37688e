"""The solvers of the probability flow: error against evaluations, and wall time against scipy's RK45.

    python -m benchmarks.ode_solvers [--workdir RUN] [--png benchmarks/ode_solvers.png] [--parts ...]

`curves` solves mixtures in 2 and 192 (3x8x8) dimensions under VP, sub-VP and VE over ladders of
tolerances, in double precision against a reference of tolerance 1e-12, and prints how many evaluations
each solver needs for an error as a share of scipy's; `digits` does so for the trained network of
`--workdir`, in single precision. `wall` times solves of equal error, interleaved, as ratios to scipy,
and the overhead: a solve's time over its evaluations times one jitted call of the score. All errors
are root mean squares over batch and dimensions, for VE as for the others in units of the data.
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

from benchmarks.fewstep import runner
from score_jax import samplers as sm
from score_jax import viz
from score_jax.parametrization import LogSigmaInput, TimeInput
from score_jax.sde import VE, VP, SubVP, reverse_drift

SDES = {"vp": (VP(), 1e-3), "subvp": (SubVP(), 1e-3), "ve": (VE(), 1e-5)}
LADDER = 10.0 ** -np.arange(1.5, 6.6, 0.25)
TARGETS = (1e-2, 1e-3, 1e-4, 1e-5)
# Of the mixtures: batch, shape, components, spread of their means, their std.
PROBLEMS = {"2-d": (128, (2,), 5, 1.5, 0.3), "3x8x8": (48, (3, 8, 8), 20, 1.0, 0.5)}


def mixture_score(sde, dim, k, spread, std, seed, dtype):
    """The score of k isotropic Gaussians, in closed form by matrix products."""
    rng = np.random.default_rng(seed)
    means = jnp.asarray(rng.normal(size=(k, dim)) * spread, dtype)
    var = jnp.asarray(std**2 * (0.3 + rng.random(k)), dtype)
    logw = jnp.log(jnp.asarray((w := rng.random(k) + 0.2) / w.sum(), dtype))

    def score(x, t):
        flat = x.reshape(x.shape[0], -1)
        m, s = sde.mean_coeff(t), sde.std(t)
        total = m * m * var + s * s
        # Differences, not the expanded square: exact where x is large.
        apart = flat[:, None, :] - (m * means)[None]
        logs = (logw - 0.5 * dim * jnp.log(total))[None]
        logs = logs - 0.5 * jnp.square(apart).sum(-1) / total[None]
        share = jax.nn.softmax(logs, axis=1) / total[None]
        return -(share[:, :, None] * apart).sum(1).reshape(x.shape)

    return score


def scipy_solver(sde, score, t_from, t_to):
    """RK45 in plain t with the same jitted field: solve(x, tol) -> (x, evaluations)."""
    field = jax.jit(lambda x, t: reverse_drift(sde, score, x, t, ode=True))

    def solve(x, tol):
        shape, dtype = x.shape, np.asarray(x).dtype

        def rhs(t, y):
            y = jnp.asarray(y.reshape(shape), dtype)
            return np.asarray(field(y, jnp.asarray(t, dtype))).ravel()

        start = np.asarray(x, np.float64).ravel()
        out = solve_ivp(rhs, (t_from, t_to), start, method="RK45", rtol=tol, atol=tol)
        return out.y[:, -1].reshape(shape), out.nfev

    return solve


def adaptive_solvers(sde, score, t_from, t_to, *, all_of_them=True):
    """name -> solve(x, tol) -> (x, evaluations), each jitted with the tolerance as an argument."""
    import diffrax

    ends = {"t_from": t_from, "t_to": t_to}

    def jitted(function, **options):
        @jax.jit
        def run(x, tol):
            out = function(sde, score, x, rtol=tol, atol=tol, **ends, **options)
            return out.x, out.nfe

        return run

    solvers = {"multistep": jitted(sm.adaptive_multistep)}
    kinds = {"dopri5": diffrax.Dopri5()}
    if all_of_them:
        kinds |= {"tsit5": diffrax.Tsit5(), "dopri8": diffrax.Dopri8()}
    for name, solver in kinds.items():
        solvers[f"{name} t"] = jitted(sm.probability_flow, solver=solver)
        if all_of_them:
            solvers[f"{name} log"] = jitted(
                sm.probability_flow, solver=solver, coordinate=sm.IN_LOG_NOISE
            )
    return solvers


def fixed_curve(make, sde, score, x, t_to, counts=(10, 20, 40, 80)):
    """(states, evaluations) of a solver of one evaluation a step on uniform log-SNR grids."""
    run = runner(make(sde, score))
    return [(np.asarray(run(x, sm.log_snr_grid(sde, n, t0=t_to))), n) for n in counts]


def reference(sde, score, x, t_from, t_to, tol):
    import diffrax

    solve = jax.jit(
        lambda x: sm.probability_flow(
            sde, score, x, t_from=t_from, t_to=t_to, rtol=tol, atol=tol,
            solver=diffrax.Dopri8(), coordinate=sm.IN_LOG_NOISE, max_steps=16_384,
        ).x
    )  # fmt: skip
    return np.asarray(solve(x))


def rms(x, truth):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64) - truth))))


def needed(curve, error):
    """Evaluations for an error, interpolated in the logarithms; only what no costlier solve spoils."""
    nfe, errors = np.array(sorted(curve), float).T
    worst = np.maximum.accumulate(errors[::-1])[::-1]
    if not worst[-1] <= error <= worst[0]:
        return np.nan
    return float(np.exp(np.interp(-np.log(error), -np.log(worst), np.log(nfe))))


def curves_of(sde, score, x, t_from, t_to, ladder, ref_tol, fixed=True, everything=True):
    """name -> [(evaluations, error)] over the ladder."""
    truth = reference(sde, score, x, t_from, t_to, ref_tol)
    solvers = {"scipy": scipy_solver(sde, score, t_from, t_to)}
    solvers |= adaptive_solvers(sde, score, t_from, t_to, all_of_them=everything)
    curves = {}
    for name, solve in solvers.items():
        outs = [solve(x, float(tol)) for tol in ladder]
        curves[name] = [(int(n), rms(out, truth)) for out, n in outs]
    if fixed:
        makers = {
            "unipc-3": functools.partial(sm.unipc, order=3),
            "dpm++3m": sm.dpmpp_3m,
        }
        for name, make in makers.items():
            outs = fixed_curve(make, sde, score, x, t_to)
            curves[name] = [(n, rms(out, truth)) for out, n in outs]
    return curves


def print_curves(title, curves, targets=TARGETS):
    base = [needed(curves["scipy"], e) for e in targets]
    print(f"\n{title}: evaluations of scipy, then shares of them, at errors {targets}")
    print("  scipy        " + "  ".join(f"{n:6.0f}" for n in base))
    for name, curve in curves.items():
        if name != "scipy":
            shares = [needed(curve, e) / n for e, n in zip(targets, base, strict=True)]
            print(f"  {name:12s} " + "  ".join(f"{s:6.2f}" for s in shares), flush=True)


def curves(problems):
    """All curves on mixtures, in double precision."""
    made = {}
    with jax.enable_x64(True):
        for label, (batch, shape, k, spread, std) in problems.items():
            for name, (sde, t0) in SDES.items():
                dim = int(np.prod(shape))
                score = mixture_score(sde, dim, k, spread, std, 1, jnp.float64)
                rng = np.random.default_rng(5)
                x = jnp.asarray(rng.normal(size=(batch, *shape)) * float(sde.prior_std))
                made[f"{label} {name}"] = curves_of(sde, score, x, sde.t1, t0, LADDER, 1e-12)
                print_curves(f"{label} {name}", made[f"{label} {name}"])
    return made


def digits(workdir, batch=16):
    """Curves on a trained network, in single precision."""
    from experiments.runs import load as restore

    exp, params, step = restore(pathlib.Path(workdir))
    score, sde, t0 = exp.score(params), exp.sde, 1e-3
    x = sde.prior_sample(jax.random.key(3), (batch, *exp.shape))
    ladder = 10.0 ** -np.arange(1.5, 5.1, 0.5)
    made = curves_of(sde, score, x, sde.t1, t0, ladder, 1e-6, everything=False)
    print_curves(f"digits, {step} steps of training", made, (1e-2, 1e-3, 1e-4))
    return {"digits": made}


def trained_mlp(sde, label, steps, batch=1024):
    """A 4x256 MLP taught for so many steps on a mixture in two dimensions: a ScoreFn.

    Told t * 999 as DDPM's networks are, its flow wiggles with sines of 999 t: after 500 steps its noise
    does so by 1e-2. Told log(s/m) / 4, as EDM's are, it is smooth.
    """
    import flax.linen as nn
    import optax

    from score_jax.score import score_fn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, label):
            wave = label[:, None] * jnp.exp(-jnp.arange(8.0))[None]
            h = jnp.concatenate([x, jnp.sin(wave), jnp.cos(wave)], axis=1)
            for _ in range(4):
                h = nn.silu(nn.Dense(256)(h))
            return nn.Dense(2)(h)

    net = Net()
    means = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2)) * 1.5, jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    params = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 2)), jnp.ones(1))

    def loss(params, key):
        which, data, noise, times = jax.random.split(key, 4)
        x0 = means[jax.random.randint(which, (batch,), 0, 5)]
        x0 = x0 + 0.3 * jax.random.normal(data, x0.shape)
        t = jax.random.uniform(times, (batch,), minval=1e-3, maxval=1.0)
        z = jax.random.normal(noise, x0.shape)
        x = sde.mean_coeff(t)[:, None] * x0 + sde.std(t)[:, None] * z
        return jnp.mean(jnp.square(net.apply(params, x, label(sde, t)) - z))

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            grads = jax.grad(loss)(params, key)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(1), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return score_fn(sde, net.apply, train(params), noise_input=label)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def wall_of(label, sde, score, x, t_to, targets, rounds):
    """Times at equal error as ratios to scipy's, and over evaluations times one call."""
    truth = reference(sde, score, x, sde.t1, t_to, 3e-4 * min(targets))
    solvers = {"scipy": scipy_solver(sde, score, sde.t1, t_to)}
    solvers |= adaptive_solvers(sde, score, sde.t1, t_to, all_of_them=False)
    call = jax.jit(score)
    t = jnp.asarray(0.3)
    found = {}
    for name, solve in solvers.items():
        found[name] = []
        for tol in 10.0 ** -np.arange(1.5, 6.1, 0.25):
            out, n = jax.block_until_ready(solve(x, float(tol)))
            found[name].append((int(n), rms(out, truth), float(tol)))
            if all(error < min(targets) for _, error, _ in found[name][-2:]):
                break
    for target in targets:
        chosen = {}
        for name, tried in found.items():
            good = [one for one in tried if one[1] <= target]
            if good:
                chosen[name] = min(good)
        if len(chosen) < len(solvers):
            print(f"{label}: an error of {target} is not reached by {set(solvers) - set(chosen)}")
            continue
        times = {name: [] for name in chosen}
        times["call"] = []
        for _ in range(rounds):
            for name, (_, _, tol) in chosen.items():
                run = functools.partial(solvers[name], x, tol)
                times[name].append(seconds(lambda run=run: jax.block_until_ready(run()[0])))
            many = lambda: [jax.block_until_ready(call(x, t)) for _ in range(20)]
            times["call"].append(seconds(many) / 20)
        for name, (nfe, error, _) in chosen.items():
            ratio = np.median(np.array(times[name]) / np.array(times["scipy"]))
            over = np.median(np.array(times[name]) / np.array(times["call"])) / nfe
            # Least times suffer least from what else the machine does.
            least = min(times[name])
            print(
                f"{label:12s} error {target:.0e} {name:10s} nfe {nfe:4d} error {error:.1e}"
                f" time/scipy {ratio:.2f} (least {least / min(times['scipy']):.2f})"
                f" time/(nfe call) {over:.2f} (least {least / min(times['call']) / nfe:.2f})",
                flush=True,
            )


def wall(rounds, mlp_steps):
    """Wall times on a closed-form mixture and an MLP, batch 1024 in two dimensions."""
    sde = VP()
    x = jnp.asarray(np.random.default_rng(5).normal(size=(1024, 2)), jnp.float32)
    score = mixture_score(sde, 2, 5, 1.5, 0.3, 1, jnp.float32)
    wall_of("mixture", sde, score, x, 1e-3, (1e-3, 1e-4), rounds)
    smooth = trained_mlp(sde, LogSigmaInput(), mlp_steps)
    rough = trained_mlp(sde, TimeInput(), mlp_steps)
    wall_of("mlp, log(s/m)/4", sde, smooth, x, 1e-3, (1e-3, 1e-4), rounds)
    wall_of("mlp, 999 t", sde, rough, x, 1e-3, (1e-2,), rounds)


def draw(made, path):
    """A picture: one panel a problem."""
    columns = 3
    rows = -(-len(made) // columns)
    figure = viz.new_figure(14, 3.8 * rows, dpi=80)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (title, solved) in zip(axes.flat, made.items(), strict=False):
        for name, curve in solved.items():
            nfe, errors = np.array(sorted(curve), float).T
            wide = 2.5 if name in ("multistep", "scipy") else 1
            axis.loglog(nfe, errors, marker=".", linewidth=wide, label=name)
        axis.set(title=title, xlabel="evaluations", ylabel="rms error")
        axis.grid(True, which="both", alpha=0.2)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right center")
    # Few colours: the file stays small enough for documentation.
    viz.save_image(viz.render(figure).quantize(64), path)
    print(f"drawn: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default=None, help="a trained run, for the part `digits`")
    parser.add_argument("--png", default=None, help="where to draw the curves")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mlp-steps", type=int, default=5_000, help="how long the MLPs are taught")
    parser.add_argument("--parts", nargs="*", default=["curves", "digits", "wall"])
    parser.add_argument("--data", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, jax {jax.__version__}")
    made = {}
    if "wall" in args.parts:
        wall(args.rounds, args.mlp_steps)
    if "curves" in args.parts:
        made |= curves({name: PROBLEMS[name] for name in args.data})
    if "digits" in args.parts and args.workdir:
        made |= digits(args.workdir)
    if args.png and made:
        draw(made, args.png)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
