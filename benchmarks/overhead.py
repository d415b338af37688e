"""What a scan sampler costs beyond its network: wall time / (NFE x one jitted network call).

    python -m benchmarks.overhead [--steps 50] [--rounds 15] [--batch 64 1024]

For a small MLP in the plane and a U-Net of the size used for digits. The call is timed in a chain of
`--steps` calls, each fed the result of the one before and waited for at the end only; the sampler is one
compiled scan of as many evaluations. Rounds alternate, and the ratio is that of the least times; on a
busy machine only the second ratio, of processor time, can be trusted. Aims: 1.15 for the MLP, 1.05 for
the U-Net.
"""

import argparse
import functools
import time

from score_jax import _xla


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

    return {
        "euler_maruyama": (sm.euler_maruyama, 1),
        "ddim": (sm.ddim, 1),
        "ddim, eta 1": (functools.partial(sm.ddim, eta=1.0), 1),
        "heun": (sm.heun, 2),
        "dpmpp_2m": (sm.dpmpp_2m, 1),
        "unipc 3": (functools.partial(sm.unipc, order=3), 1),
    }


def compare(title, net, shape, args):
    """Print the ratio of every sampler for one network."""
    import jax
    import jax.numpy as jnp

    from score_jax import samplers as sm
    from score_jax import score as sc
    from score_jax.sde import VP

    sde, key = VP(), jax.random.key(0)
    x, label = jax.random.normal(key, shape), jnp.full(shape[:1], 500.0)
    params = jax.jit(net.init)(key, x[:1], label[:1])
    call = jax.jit(net.apply)

    def chained():
        y = x
        for _ in range(args.steps):
            y = call(params, y, label)
        return y

    runs = {}
    for name, (make, per_step) in samplers().items():

        @jax.jit
        def sample(key, x, params, make=make, n=args.steps // per_step):
            score = sc.score_fn(sde, net.apply, params, label=sc.label_time(), output=sc.NOISE)
            return sm.simulate(make(sde, score), key, x, sm.uniform_grid(sde, n)).x

        runs[name] = functools.partial(sample, key, x, params)
    for run in (chained, *runs.values()):
        seconds(run)  # compiles
    rounds = {name: [] for name in ("alone", *runs)}
    for _ in range(args.rounds):
        for name, run in (("alone", chained), *runs.items()):
            rounds[name].append(seconds(run))
    alone = [each / args.steps for each in least(rounds["alone"])]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(
        f"\n{title}, {size:,} parameters, x {shape}: a call takes {alone[0] * 1e3:.3f} ms, "
        f"{alone[1] * 1e3:.3f} of the processor; ratios of both:"
    )
    for name in runs:
        per_step = samplers()[name][1]
        evaluations = args.steps // per_step * per_step
        ratios = [a / evaluations / b for a, b in zip(least(rounds[name]), alone, strict=True)]
        print(f"{name:16} {ratios[0]:6.3f} {ratios[1]:6.3f}", flush=True)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--unet-batch", type=int, default=64)
    args = parser.parse_args()
    tuned = _xla.tune_cpu()
    import jax

    from score_jax.nets import MLP, NCSNpp

    print(f"jax {jax.__version__}, {jax.default_backend()}, compiler option set: {tuned}")
    for batch in args.batch:
        compare("MLP of 4 blocks of 256", MLP(width=256, num_blocks=4), (batch, 2), args)
    net = NCSNpp(32, (1, 2), 1, attention=(4,), dropout=0.0)
    compare("U-Net", net, (args.unet_batch, 8, 8, 1), args)


if __name__ == "__main__":
    main()
