"""Training steps a second of published networks on one accelerator: float32, TF32, bfloat16.

    python -m benchmarks.gpu_train [--nets ddpmpp ncsnpp] [--batch 128] [--peaks 67 495 989] [--torch]
    python -m benchmarks.gpu_train --nets unet2d --torch      beside diffusers' own program
    python -m benchmarks.gpu_train --tiny          tries the program itself, on any machine

The published networks (VP DDPM++ and VE NCSN++, continuous, 32 x 32 x 3, dropout as published; unet2d:
diffusers' UNet2DModel of its script for unconditional images, 64 x 64 x 3) with all that their presets
have inside the step (Adam, clipping, EMA, dequantisation, flips), `steps_per_call` steps as one program,
random data, no reading of files. Prints steps/s and examples/s (median of the rounds), FLOP of a step as
XLA counts them before compiling (it cannot see into the vendor's kernels after), model FLOP utilisation
against `--peaks` (dense TFLOP/s in float32, TF32 and bfloat16; the default is NVIDIA's data sheet for an
H100 SXM), the utilisation that those and `--bandwidth` (GB/s) allow the compiled program, whose accesses
to main memory are counted in its text as `benchmarks.scale` counts them, which part of that was reached,
and memory: by XLA's analysis, and the peak that the device reports. --torch adds the same networks in
PyTorch (`benchmarks.nets_torch`; unet2d: diffusers' own, with the same weights), eager and by
`torch.compile`, with Adam, clipping and EMA.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time

from benchmarks.compiled import Program
from experiments import cli

PRESETS = {
    "ddpmpp": "vp_cifar10_ddpmpp_continuous", "ncsnpp": "ve_cifar10_ncsnpp_continuous",
    "unet2d": "iddpm_unet2d_64",
}  # fmt: skip
# name -> (precision of float32 products, dtype of the network)
PRECISIONS = {
    "float32": ("highest", "float32"),
    "TF32": ("tensorfloat32", "float32"),
    "bfloat16": ("tensorfloat32", "bfloat16"),
}


def config_of(name, dtype, args):
    """The published preset at this batch and precision."""
    import jax.numpy as jnp

    from experiments import presets

    config = presets.get(PRESETS[name])
    net = config.net.clone(dtype={"bfloat16": jnp.bfloat16}.get(dtype))
    if args.tiny:
        # The shapes stay those of the preset, the network does not.
        net = net.clone(channels=32, num_blocks=1, channel_mult=(1, 1))
    train = dataclasses.replace(
        config.train, batch_size=args.batch, steps_per_call=args.steps_per_call,
        steps=args.steps_per_call * 10, log_every=args.steps_per_call,
        sample_every=args.steps_per_call, checkpoint_every=args.steps_per_call,
        remat=args.remat,
    )  # fmt: skip
    return dataclasses.replace(config, net=net, train=train)


def measure(name, precision, args):
    """One line of the table."""
    import jax
    import numpy as np

    from experiments import runs
    from experiments.reports import dry_run
    from score_jax import training

    matmul, dtype = PRECISIONS[precision]
    with jax.default_matmul_precision(matmul):
        run = runs.build(config_of(name, dtype, args))
        state = runs.initial_state(run)
        step = runs.make_step(run)
        mapped = training.jit_step(training.scan_steps(step, args.steps_per_call))
        rng = np.random.default_rng(0)
        batch = {"x": rng.integers(0, 256, (args.batch, *run.shape), np.uint8)}
        placed = jax.device_put(mapped.place([batch] * args.steps_per_call))
        clock = time.perf_counter()
        compiled = mapped.program.lower(state, placed).compile()
        seconds = time.perf_counter() - clock
        _, lowered = dry_run.lower(run, lambda key: runs.initial_state(run, key))
        flops = (lowered.cost_analysis() or {}).get("flops") or float("nan")
        held = compiled.memory_analysis()
        state = mapped.enter(state)
        state, metrics = jax.block_until_ready(compiled(state, placed))
        rates = []
        for _ in range(args.rounds):
            clock = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled(state, placed))
            rates.append(args.steps_per_call / (time.perf_counter() - clock))
    assert bool(np.isfinite(metrics["loss"]).all()), "the loss is not finite"
    rate = statistics.median(rates)
    peak = dict(zip(PRECISIONS, args.peaks, strict=True))[precision] * 1e12
    moved = sum(Program(compiled.as_text()).moved().values()) / args.steps_per_call
    reached = rate * flops / peak
    allowed = min(1, flops / peak / (moved / (args.bandwidth * 1e9)))
    device = jax.local_devices()[0].memory_stats() or {}
    used = device.get("peak_bytes_in_use")
    print(
        f"| {name} | {precision} | {rate:.2f} | {rate * args.batch:.0f} | {flops / 1e9:.1f} | "
        f"{moved / 1e9:.2f} | {100 * reached:.2f} % | {100 * allowed:.0f} % | "
        f"{100 * reached / allowed:.1f} % | "
        f"{(held.argument_size_in_bytes + held.temp_size_in_bytes) / 2**30:.2f} | "
        f"{'?' if used is None else f'{used / 2**30:.2f}'} | {seconds:.0f} |",
        flush=True,
    )


def same_in_torch(run):
    """(the network as a torch module, how it, or what torch.compile makes of it, is called)."""
    import jax

    from benchmarks.nets_torch import filled, torch_network
    from score_jax import convert, nets

    if not isinstance(run.net, nets.UNet):
        net = run.net.clone(sigmas=None)
        return torch_network(net, filled(net)), lambda net, x, given: net(x, given, train=True)
    import diffusers

    with tempfile.TemporaryDirectory() as home:
        params = run.init_params(jax.random.key(0))
        convert.to_diffusers(f"{home}/net", run.ingredients, params, run.shape)
        network = diffusers.UNet2DModel.from_pretrained(f"{home}/net/unet")
    # Half of the outputs are the variance.
    return network.train(), lambda net, x, given: net(x, given).sample[:, : x.shape[1]]


def torch_rate(name, precision, compiled, args):
    """Steps a second of the same network in PyTorch, with Adam, clipping and EMA."""
    import jax
    import torch

    from experiments import runs

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = True
    run = runs.build(config_of(name, None, args))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        network, call = same_in_torch(run)
    network = network.to(device)
    weights = list(network.parameters())
    averages = [w.detach().clone() for w in weights]
    optimizer = torch.optim.Adam(weights, lr=2e-4, fused=device.type == "cuda")
    used = torch.compile(network) if compiled else network
    h, w, c = run.shape
    x = torch.randn(args.batch, c, h, w, device=device)
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def step():
        noise, given = torch.randn_like(x), 1 + 40 * torch.rand(args.batch, device=device)
        with half:
            out = call(used, x + noise, given)
        torch.square(out.float() - noise).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(averages, [w.detach() for w in weights], 1e-4)

    def steps():
        clock = time.perf_counter()
        for _ in range(args.steps_per_call):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return args.steps_per_call / (time.perf_counter() - clock)

    steps()
    return statistics.median(steps() for _ in range(args.rounds))


def measure_torch(name, precision, args):
    """Print the rates of PyTorch."""
    for compiled in (False, True):
        rate = torch_rate(name, precision, compiled, args)
        kind = "torch.compile" if compiled else "PyTorch"
        print(
            f"| {name}, {kind} | {precision} | {rate:.2f} | {rate * args.batch:.0f} |", flush=True
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS)
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps-per-call", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--remat", choices=["none", "blocks", "full"], default="none")
    parser.add_argument("--peaks", nargs=3, type=float, default=[66.9, 494.7, 989.4])
    parser.add_argument("--bandwidth", type=float, default=3350)
    parser.add_argument("--torch", action="store_true", help="PyTorch on the same card")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.batch, args.steps_per_call, args.rounds = 4, 2, 2

    import jax

    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {args.batch}")
    print("| network | precision | steps/s | examples/s | GFLOP a step | GB a step | MFU | allowed | of it | GiB, XLA | GiB, peak | s to compile |")  # noqa: E501  # fmt: skip
    print("|---" * 12 + "|")
    for name in args.nets:
        for precision in args.precisions:
            measure(name, precision, args)
            if args.torch:
                measure_torch(name, precision, args)


if __name__ == "__main__":
    cli.main(main)
