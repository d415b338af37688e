"""What a sampler costs beyond its network: wall time / (NFE x one jitted network call).

    python -m benchmarks.overhead [--steps 50] [--rounds 7] [--batch 64 1024] [--unet-batch 64]

For a small MLP in the plane and a U-Net of the size used for digits (a fifth of the steps). The call is
timed in a chain of `--steps` calls, each with the result of the one before and a wait only at the end;
a sampler is one compiled scan of as many evaluations, or an adaptive solve of the probability flow with
what it needs for a tolerance of 1e-5. Rounds alternate, and the ratio is that of the least times; on a
busy machine only the second ratio, of processor time, can be trusted. Aims: 1.15 for the MLP and for the
adaptive solvers, 1.05 for scans of the U-Net.
"""

import argparse
import functools
import os
import time

from score_jax import runtime


def seconds(f):
    """(wall time, processor time of all threads) of f(), finished."""
    import jax

    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(f())
    return time.perf_counter() - wall, time.process_time() - processor


def least(rounds):
    """The least wall time and the least processor time of the rounds."""
    return tuple(min(column) for column in zip(*rounds, strict=True))


def samplers():
    """{name: (make(sde, score), evaluations a step)}: with and without memory and noise."""
    from score_jax import samplers as sm

    def corrected(sde, score):
        return sm.chain(sm.langevin(sde, score), sm.reverse_diffusion(sde, score))

    return {
        "euler_maruyama": (sm.euler_maruyama, 1),
        "pc": (corrected, 2),
        "ddim, eta 1": (functools.partial(sm.ddim, eta=1.0), 1),
        "heun": (sm.heun, 2),
        "dpmpp_2m": (sm.dpmpp_2m, 1),
        "unipc 3": (functools.partial(sm.unipc, order=3), 1),
    }


def solvers():
    """{name: solve(sde, score, x, ...)}: the adaptive ones."""
    from score_jax import samplers as sm

    return {"ode": sm.probability_flow, "adaptive": sm.adaptive_multistep}


def compare(title, net, shape, steps, rounds):
    """Print the ratio of every sampler for one network."""
    import jax
    import jax.numpy as jnp

    from score_jax import samplers as sm
    from score_jax import score as sc
    from score_jax.parametrization import TimeInput
    from score_jax.sde import VP

    sde, key = VP(), jax.random.key(0)
    x, label = jax.random.normal(key, shape), jnp.full(shape[:1], 500.0)
    params = jax.jit(net.init)(key, x[:1], label[:1])
    call = jax.jit(net.apply)
    score_of = lambda params: sc.score_fn(sde, net.apply, params, noise_input=TimeInput())

    def chained():
        y = x
        for _ in range(steps):
            y = call(params, y, label)
        return y

    runs, costs = {}, {}
    for name, (make, per_step) in samplers().items():

        @jax.jit
        def sample(key, x, params, make=make, n=steps // per_step):
            grid = sm.uniform_grid(sde, n)
            return sm.simulate(key, make(sde, score_of(params)), x, grid).x

        runs[name] = functools.partial(sample, key, x, params)
        costs[name] = steps // per_step * per_step
    for name, solve in solvers().items():

        @jax.jit
        def solved(x, params, solve=solve):
            out = solve(sde, score_of(params), x, t_from=1.0, t_to=1e-3)
            return out.x, out.nfe

        runs[name] = functools.partial(solved, x, params)
        costs[name] = int(runs[name]()[1])
    for run in (chained, *runs.values()):
        seconds(run)  # compiles
    times = {name: [] for name in ("alone", *runs)}
    for _ in range(rounds):
        for name, run in (("alone", chained), *runs.items()):
            times[name].append(seconds(run))
    alone = [each / steps for each in least(times["alone"])]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"\n{title}, {size:,} parameters, x {shape}: a call takes {alone[0] * 1e3:.3f} ms, "
        f"{alone[1] * 1e3:.3f} of the processor; evaluations, ratios of both:"
    )
    for name, cost in costs.items():
        ratios = [a / cost / b for a, b in zip(least(times[name]), alone, strict=True)]
        print(f"{name:16} {cost:4d} {ratios[0]:6.3f} {ratios[1]:6.3f}", flush=True)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, nargs="*", default=[64, 1024])
    parser.add_argument("--unet-batch", type=int, default=64)
    args = parser.parse_args()
    tuned = runtime.tune_cpu()
    import jax

    from score_jax.nets import MLP, NCSNpp

    print(
        f"jax {jax.__version__}, {jax.default_backend()}, compiler option set: {tuned}, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for batch in args.batch:
        title, net = "MLP of 4 blocks of 256", MLP(width=256, num_blocks=4)
        compare(title, net, (batch, 2), args.steps, args.rounds)
    if args.unet_batch:
        net = NCSNpp(32, (1, 2), 1, attention=(4,), dropout=0.0)
        shape = (args.unet_batch, 8, 8, 1)
        compare("U-Net", net, shape, max(2, args.steps // 5), args.rounds)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
