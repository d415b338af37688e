"""One test of decision 8: training steps cost the same inside `lax.scan` as outside of it.

    python -m benchmarks.convolution_in_scan [--batch 64] [--channels 32] [--modes] [--untuned]

Prints the milliseconds of a training step (gradient and Adam) of a small U-Net alone and in a scan of
`--steps`, and of single convolutions beside XLA's own. The exit code is 1 if the scan costs more than
1.5 times as much per step as the loop. Times are the least of `--repeat` rounds.
"""

import argparse
import sys
import time

from score_jax import runtime

LIMIT = 1.5


def least_ms(f, *args, repeat):
    """Milliseconds of f(*args), compiled, least of some rounds; and seconds of compiling."""
    import jax

    start = time.perf_counter()
    compiled = jax.jit(f).lower(*args).compile()
    compiling = time.perf_counter() - start
    jax.block_until_ready(compiled(*args))
    rounds = []
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        rounds.append(time.perf_counter() - start)
    return min(rounds) * 1e3, compiling


def network_step(net, batch):
    """((carry, key) -> (carry, loss), carry, key): one step of Adam on zeros, and where it starts."""
    import jax
    import jax.numpy as jnp
    import optax

    x, label = jnp.ones((batch, 8, 8, 1)), jnp.linspace(1.0, 999.0, batch)
    optimizer = optax.adam(1e-3)
    params = jax.jit(net.init)(jax.random.key(0), x[:1], label[:1])

    def loss(params, key):
        noise = jax.random.normal(key, x.shape)
        out = net.apply(params, x + noise, label)
        return jnp.mean(jnp.square(out - noise))

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    return step, (params, optimizer.init(params)), jax.random.key(1)


def compare_network(args):
    """Print one line for the network and return scan / alone."""
    import jax

    from score_jax.nets import NCSNpp

    net = NCSNpp(args.channels, tuple(args.mult), args.blocks, attention=(4,), dropout=0.0)
    step, carry, key = network_step(net, args.batch)
    alone, seconds = least_ms(step, carry, key, repeat=args.repeat * args.steps)
    keys = jax.random.split(key, args.steps)
    scan = lambda carry, keys: jax.lax.scan(step, carry, keys)
    looped, scan_seconds = least_ms(scan, carry, keys, repeat=args.repeat)
    size = sum(leaf.size for leaf in jax.tree.leaves(carry[0]))
    print(
        f"network ({size:,} parameters, batch {args.batch}), "
        f"a training step: alone {alone:.1f} ms, "
        f"scanned {looped / args.steps:.1f} ms a step; compiled in {seconds:.1f} and "
        f"{scan_seconds:.1f} s",
        flush=True,
    )
    return looped / args.steps / alone


def xlas(x, w, padding, stride=1, dilation=1):
    """The convolution without rules of ours."""
    from jax import lax

    return lax.conv_general_dilated(
        x, w, (stride,) * 2, (padding,) * 2, (dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def compare_forms(args):
    """Print the gradient and the tangent of every form of convolution in a scan, ours and XLA's."""
    import jax
    import jax.numpy as jnp

    from score_jax.nets.convolution import conv

    c = args.channels
    x = jax.random.normal(jax.random.key(0), (args.batch, 8, 8, c))
    w = jax.random.normal(jax.random.key(1), (3, 3, c, c))
    forms = {
        "3x3": {"padding": (1, 1)},
        "3x3 stride 2": {"padding": (0, 1), "stride": 2},
        "3x3 dilated": {"padding": (2, 2), "dilation": 2},
    }
    for name, fields in forms.items():

        def scans(conv, fields=fields):
            loss = lambda x, w: jnp.sum(jnp.square(conv(x, w, **fields)))
            tangent = lambda x: jax.jvp(lambda x: loss(x, w), (x,), (x,))[1]

            def step(carry, _):
                dx, dw = jax.grad(loss, (0, 1))(*carry)
                return (carry[0] - 1e-6 * dx, carry[1] - 1e-6 * dw), None

            pushed = lambda x, _: (x * (1 + 1e-12 * tangent(x)), None)
            return (
                lambda x, w: jax.lax.scan(step, (x, w), None, length=3)[0],
                lambda x, w: jax.lax.scan(pushed, x, None, length=3)[0],
            )

        rows = [
            [least_ms(scan, x, w, repeat=args.repeat)[0] / 3 for scan in scans(form)]
            for form in (conv, xlas)
        ]
        for kind, ours, own in zip(("gradient", "tangent"), *rows, strict=True):
            print(f"{kind:8} of {name:12} in a scan: ours {ours:8.2f} ms, XLA's {own:8.2f} ms")


def steps_of(net, shape):
    """(steps (params, x) -> the same of training, guidance and likelihood, params, x)."""
    import jax
    import jax.numpy as jnp

    x, noise_input = jnp.ones(shape), jnp.linspace(1.0, 999.0, shape[0])
    params = jax.jit(net.init)(jax.random.key(0), x, noise_input)
    call = lambda p, x: net.apply(p, x, noise_input)
    loss = lambda p, x: jnp.square(call(p, x)).sum()
    less = lambda tree, change: jax.tree.map(lambda v, g: v - 1e-6 * g, tree, change)
    tangent = lambda p, x: sum(jax.jvp(lambda x: call(p, x), (x,), (x,)))
    steps = {
        "training": lambda p, x: (less(p, jax.grad(loss)(p, x)), x),
        "guidance": lambda p, x: (p, less(x, jax.grad(loss, 1)(p, x))),
        "likelihood": lambda p, x: (p, less(x, tangent(p, x))),
    }
    return steps, params, x


def compare_modes(args):
    """Print the milliseconds of a scanned step of training, guidance and likelihood of three networks."""
    import jax

    from score_jax.nets import NCSNpp, SeriesUNet, UNet

    volume = UNet(
        channels=16, channel_mult=(1, 2), num_blocks=1, attention_factors=(), groups=8, dims=3
    )
    for name, net, shape in (
        ("image", NCSNpp(32, (1, 2), 1, attention=(4,), dropout=0.0), (64, 8, 8, 1)),
        ("series", SeriesUNet(32, (1, 2)), (32, 64, 3)),
        ("volume", volume, (4, 4, 8, 8, 2)),
    ):
        steps, params, x = steps_of(net, shape)
        for mode, step in steps.items():
            one = lambda carry, _, step=step: (step(*carry), None)
            scan = lambda p, x, one=one: jax.lax.scan(one, (p, x), None, length=args.steps)[0]
            ms, _ = least_ms(scan, params, x, repeat=args.repeat)
            print(f"{mode:10} of a network for {name:6}: {ms / args.steps:7.1f} ms per step")


def main():
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--mult", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--untuned", action="store_true", help="without the compiler option")
    parser.add_argument("--modes", action="store_true", help="training, guidance and likelihood")
    parser.add_argument("--no-forms", action="store_true", help="only the network")
    args = parser.parse_args()
    tuned = not args.untuned and runtime.tune_cpu()

    import jax

    print(f"jax {jax.__version__}, {jax.default_backend()}, compiler option set: {tuned}")
    if not args.no_forms:
        compare_forms(args)
    if args.modes:
        compare_modes(args)
    ratio = compare_network(args)
    print(f"scanned / alone = {ratio:.2f} (at most {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
