"""Error against network evaluations of all few-step solvers, on mixtures whose flow is known.

    python -m benchmarks.fewstep [--nfe 5 10 20 40 100] [--sdes vp subvp ve] [--data plane image]
                                 [--out fewstep.png]

Two mixtures of Gaussians, 5 components in the plane and 20 in 3x8x8, under VP, sub-VP and VE from t1 to
1e-3 in double precision; the error is the root mean square distance to the end of the probability flow
from the same latent (Dopri8 at 1e-9), over the 95 % of the samples that are nearest: a latent on the
border of two components may end in the other one, and would then be all that is seen. The evaluations
are a budget: a solver with two a step takes half as many steps. Prints for every problem the errors on
the uniform log-SNR grid, those after 20 evaluations on every grid and the best of them, and writes a
picture of the curves.
"""

import argparse
import functools
import itertools
import pathlib
import tempfile
import time

import numpy as np

T0 = 1e-3
JUDGED_AT = 20
KEPT = 0.95


def mixture(components, shape, seed):
    """(means, stds) of a mixture of equal weights: (k, *shape), (k,)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(components, *shape)) * 0.7, rng.uniform(0.1, 0.3, components)


def mixture_score(sde, means, stds):
    """The exact score of the mixture carried to t, for x of shape (b, *shape)."""
    import jax
    import jax.numpy as jnp

    flat, dim = jnp.asarray(means.reshape(len(means), -1)), means[0].size
    stds = jnp.asarray(stds)

    def score(x, t):
        m, s = sde.mean_coeff(t), sde.std(t)
        v = (m**2 * stds**2 + s**2)[None]
        away = x.reshape(x.shape[0], 1, dim) - m * flat[None]
        logs = -0.5 * jnp.square(away).sum(-1) / v - 0.5 * dim * jnp.log(v)
        share = jax.nn.softmax(logs, axis=1) / v
        return -(share[:, :, None] * away).sum(1).reshape(x.shape)

    return score


def solvers():
    """{name: (make(sde, score), evaluations a step)}."""
    from score_jax import samplers as sm

    part = functools.partial
    return {
        "DDIM": (sm.ddim, 1),
        "Heun": (sm.heun, 2),
        "DPM++ 2S": (sm.dpmpp_2s, 2),
        "DPM++ 2M": (sm.dpmpp_2m, 1),
        "DPM++ 2M, lower": (part(sm.dpmpp_2m, lower_at_end=True), 1),
        "DPM++ 3M": (sm.dpmpp_3m, 1),
        "DPM++ 3M, exact": (part(sm.dpmpp_3m, exact=True), 1),
        "DPM++ 3M, lower": (part(sm.dpmpp_3m, lower_at_end=True), 1),
        "UniPC 2, B1": (part(sm.unipc, b=sm.bh1), 1),
        "UniPC 2, B2": (sm.unipc, 1),
        "UniPC 2, lower": (part(sm.unipc, lower_at_end=True), 1),
        "UniPC 3": (part(sm.unipc, order=3), 1),
        "UniPC 3, lower": (part(sm.unipc, order=3, lower_at_end=True), 1),
    }


def grids():
    """{name: grid(sde, n)}."""
    from score_jax import samplers as sm

    made = {
        "log-SNR": sm.log_snr_grid,
        "Karras": sm.karras_grid,
        "quadratic": sm.quadratic_grid,
        "uniform": sm.uniform_grid,
    }
    return {name: functools.partial(make, t0=T0) for name, make in made.items()}


def runner(step):
    """run(x, grid): the loop of `simulate`, compiled once for all numbers of steps."""
    import jax
    import jax.numpy as jnp

    update = jax.jit(step.update)

    def run(x, grid):
        state, times = step.init(x, jnp.asarray(grid)), np.asarray(grid)
        key = jax.random.key(0)  # these solvers draw nothing
        for t, t_next in itertools.pairwise(times):
            out, state = update(key, x, t, t_next, state)
            x = out.x
        return x

    return run


def distance(x, exact):
    """Root mean square over the samples that are nearest, `KEPT` of all."""
    squares = np.square(np.asarray(x - exact)).reshape(len(x), -1).mean(1)
    return float(np.sqrt(np.sort(squares)[: round(KEPT * len(x))].mean()))


def measure(sde, score, shape, budgets):
    """{(solver, grid): {budget: error}}, and the evaluations of the reference.

    All budgets on the log-SNR grid, and the budget of the comparison on the other grids.
    """
    import diffrax
    import jax

    from score_jax import samplers as sm

    z = sde.prior_sample(jax.random.key(0), (64, *shape))
    tight = functools.partial(
        sm.probability_flow, sde, score, t_from=sde.t1, t_to=T0, rtol=1e-9, atol=1e-9,
        solver=diffrax.Dopri8(),
    )  # fmt: skip
    exact = jax.jit(tight)(z)
    errors = {}
    for name, (make, per_step) in solvers().items():
        run = runner(make(sde, score))
        for grid, times in grids().items():
            errors[name, grid] = {
                nfe: distance(run(z, times(sde, nfe // per_step)), exact.x)
                for nfe in (budgets if grid == "log-SNR" else [JUDGED_AT])
            }
    return errors, int(exact.nfe)


def report(title, errors, budgets):
    """Print the tables of one problem."""
    print(f"\n{title}: rms error after that many evaluations, log-SNR grid")
    print(f"{'':17}" + "".join(f"{nfe:>10}" for nfe in budgets))
    for name in solvers():
        print(f"{name:17}" + "".join(f"{errors[name, 'log-SNR'][n]:10.1e}" for n in budgets))
    print(f"after {JUDGED_AT} evaluations" + "".join(f"{grid:>12}" for grid in grids()))
    for name in solvers():
        print(f"{name:20}" + "".join(f"{errors[name, g][JUDGED_AT]:12.1e}" for g in grids()))
    solver, grid = min(errors, key=lambda pair: errors[pair][JUDGED_AT])
    print(f"best: {solver} on the {grid} grid, {errors[solver, grid][JUDGED_AT]:.1e}", flush=True)


def draw(path, results, budgets):
    """A panel a problem: error against evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5 * columns, 4 * rows), squeeze=False)
    for axis, (title, errors) in zip(axes.flat, results.items(), strict=False):
        for i, name in enumerate(solvers()):
            line = "-" if i < 10 else "--"
            curve = [errors[name, "log-SNR"][n] for n in budgets]
            axis.loglog(budgets, curve, line, marker=".", label=name)
        axis.set(title=title, xlabel="network evaluations", ylabel="rms error")
    axes.flat[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"\nwrote {path}")


def main():
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nfe", type=int, nargs="+", default=[6, 10, 14, 20, 30, 40, 60, 100])
    parser.add_argument("--sdes", nargs="+", default=["vp", "subvp", "ve"])
    parser.add_argument("--data", nargs="+", default=["plane", "image"])
    default = pathlib.Path(tempfile.gettempdir()) / "fewstep.png"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    args = parser.parse_args()
    args.nfe = sorted({*args.nfe, JUDGED_AT})
    import jax

    from score_jax.sde import VE, VP, SubVP

    sdes = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
    shapes = {"plane": (5, (2,)), "image": (20, (3, 8, 8))}
    results, start = {}, time.perf_counter()
    with jax.enable_x64(True):
        for data in args.data:
            components, shape = shapes[data]
            for name in args.sdes:
                score = mixture_score(sdes[name], *mixture(components, shape, seed=0))
                errors, cost = measure(sdes[name], score, shape, args.nfe)
                title = f"{name}, {'x'.join(map(str, shape))}"
                report(f"{title} (reference: {cost} evaluations)", errors, args.nfe)
                results[title] = errors
    draw(args.out, results, args.nfe)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
