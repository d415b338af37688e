"""Images a second of CIFAR-10-size samplers on one accelerator: float32, TF32, bfloat16.

    python -m benchmarks.gpu_sample [--nets ddpmpp ncsnpp] [--num 256] [--pc-steps 1000] [--steps 20]
    python -m benchmarks.gpu_sample --tiny          tries the program itself, on any machine

The published networks (as `benchmarks.gpu_train`) with random parameters, which cost what trained ones
do: the predictor-corrector of the preset with `--pc-steps` steps, and DPM-Solver++ of order 2 with
`--steps`. Prints images/s and network evaluations/s of the whole batch without compiling (median of the
rounds), and the seconds to compile.
"""

import argparse
import dataclasses
import statistics

from benchmarks.gpu_train import PRECISIONS, PRESETS, config_of
from experiments import cli


def measure(name, precision, sampler, args):
    """One line of the table."""
    import jax

    from experiments import runs
    from experiments.parts import sampling

    matmul, dtype = PRECISIONS[precision]
    with jax.default_matmul_precision(matmul):
        run = runs.build(config_of(name, dtype, args))
        params = run.init_params(jax.random.key(0))
        steps = args.pc_steps if sampler == "pc" else args.steps
        config = dataclasses.replace(
            run.config.sample, sampler=sampler, grid="usual", corrector="langevin", corrector_steps=1,
            predictor="reverse_diffusion", steps=steps,
        )  # fmt: skip
        draw = lambda seed: sampling.draw(
            run, params, jax.random.key(seed), args.num, config, chunk=args.num, progress=False
        )
        first = draw(0)
        seconds = statistics.median(draw(seed).seconds for seed in range(1, args.rounds + 1))
    print(
        f"| {name} | {sampler}, {steps} steps | {precision} | {args.num / seconds:.2f} | "
        f"{first.nfe / seconds:.1f} | {first.compile_seconds:.0f} |",
        flush=True,
    )


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS)
    )
    parser.add_argument("--num", type=int, default=256, help="images of a batch")
    parser.add_argument("--pc-steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.num, args.pc_steps, args.steps, args.rounds = 2, 2, 2, 1
    args.batch, args.steps_per_call, args.remat = args.num, 1, "none"

    import jax

    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {args.num} images")
    print("| network | sampler | precision | images/s | evaluations/s | s to compile |")
    print("|---|---|---|---|---|---|")
    for name in args.nets:
        for precision in args.precisions:
            for sampler in ("pc", "dpmpp_2m"):
                measure(name, precision, sampler, args)


if __name__ == "__main__":
    cli.main(main)
