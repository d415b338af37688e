"""Compile a preset's program for a cluster that is not there, and say what it would cost.

    python -m benchmarks.scale --config vp_cifar10_ddpmpp_continuous --topology v5e:16x16 --mapping fsdp
    python -m benchmarks.scale --config digits_vp --topology v5e:4x4 --program sample
    python -m benchmarks.scale --config digits_vp --topology v5e:2x2 --table
    python -m benchmarks.scale --config digits_vp --topology h100:1x4x8 --mapping jit
    python -m benchmarks.scale --shares [PRESET ...]

The training step is that of `experiments.train`; `--program sample` compiles the sampler's scan and
`likelihood` the solve of the flow, each with the batch divided over the chips. JAX cannot compile pmap
for absent devices: it is compiled as shard_map of the same body. Nothing here ran: times are the least
that arithmetic, main memory or the links allow, by the chip's data sheet. Needs libtpu (`make libtpu`),
or for H100s the plugin and libraries of CUDA (`make cuda`), and, for large networks, 5 to 15 GB of memory
and many minutes.

XLA's cost model counts the body of a loop once, counts accesses to the chip's own memory as others, and
adds -1 second for some custom calls. Accesses to main memory are therefore counted from the compiled
text, with loops as often as they run. For GPUs it counts nothing, as the products are in NVIDIA's
libraries: they are counted from the text too. The memory that those libraries take beside is in the
temporaries.
"""

import argparse
import dataclasses
import math
import os
import time
from collections import Counter
from typing import Any, NamedTuple

from benchmarks import clusters
from benchmarks.compiled import Program
from experiments import cli

MAPPINGS = {"pmap": "shard_map", "shard_map": "shard_map", "jit": "jit", "fsdp": "jit"}


class Case(NamedTuple):
    """A compiled program, how its state lies, and what compiling took."""

    compiled: Any
    state: Any
    lies: Any
    chips: int
    hosts: int
    seconds: tuple[float, float]  # to lower, to compile


def config_of(args: argparse.Namespace, chips: int) -> Any:
    """The preset with a batch for the chips, one step a call."""
    import jax.numpy as jnp

    from experiments import presets

    config = presets.get(args.config)
    net: Any = config.net
    if args.dtype is not None:
        net = net.clone(dtype=jnp.dtype(args.dtype))
    once = dict.fromkeys(("steps_per_call", "log_every", "sample_every", "checkpoint_every"), 1)
    train = dataclasses.replace(
        config.train, batch_size=args.per_chip * chips // args.space, microbatches=1, **once,
        **({} if args.remat is None else {"remat": args.remat}),
    )  # fmt: skip
    shard = "fsdp" if args.mapping == "fsdp" else "none"
    mesh = dataclasses.replace(
        config.mesh, mapping=MAPPINGS[args.mapping], shard=shard, space=args.space
    )
    return dataclasses.replace(config, net=net, train=train, mesh=mesh)


def training_step(run: Any, devices: list[Any]) -> tuple[Any, Any, Any]:
    """(the lowered training step, the shapes of its state, how they lie)."""
    import jax

    from experiments.parts import mapping
    from experiments.reports import dry_run
    from score_jax import training

    lies = mapping.sharding_of(run, devices) or training.replicated(training.make_mesh(devices))
    step, state = mapping.mapped_step(run, devices), run.shapes
    one = lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype)  # one step a call
    batch = jax.tree.map(one, dry_run.batch_of(run))
    return clusters.lowered(step, state, batch, lies, scanned=True), state, lies


def _given(run: Any, n: int) -> dict[str, Any]:
    """The shapes of what the network is given for n examples."""
    import jax
    import jax.numpy as jnp

    if run.net_is_given_images or run.source.cond is not None:
        raise ValueError("networks that are conditioned on images or vectors: --program train only")
    return {"y": jax.ShapeDtypeStruct((n,), jnp.int32)} if run.num_classes else {}


def inference(run: Any, devices: list[Any], program: str) -> tuple[Any, Any, Any]:
    """(the lowered sampler or likelihood, the shapes of the parameters, how they lie)."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from experiments.parts import samplers, sampling
    from score_jax import likelihood, training

    c, n = run.config.sample, run.config.train.batch_size
    mesh = training.make_mesh(devices)
    lies = training.replicated(mesh)
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    at = lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)

    def solve(params: Any, key: Any, x: Any, given: Any) -> Any:
        score = sampling.make_score(run, params, c)(given)
        if program == "likelihood":
            return likelihood.log_likelihood(key, run.sde, score, x, t0=c.t0).logp
        sampler = sampling.make_sampler(run, c)
        return sampler.run(key, run.sde, score, x, jnp.asarray(samplers.make_grid(c, run.sde))).x

    params = run.shapes.params
    placed = jax.tree.map(lambda s: at(s, lies(s)), params)
    key = at(jax.eval_shape(lambda: jax.random.key(0)), lies(None))
    x = jax.ShapeDtypeStruct((n, *run.shape), jnp.float32, sharding=rows)
    given = jax.tree.map(lambda s: at(s, rows), _given(run, n))
    args = (placed, key, x, given)
    return clusters.lower(jax.jit(solve), args, devices[0]), params, lies


def compile_for(args: argparse.Namespace, topology: str) -> Case:
    """Lower and compile the program for a topology."""
    from experiments import runs

    devices = clusters.devices(topology)
    run = runs.build(config_of(args, len(devices)))
    clock = time.perf_counter()
    if args.program == "train":
        lowered, state, lies = training_step(run, devices)
    else:
        lowered, state, lies = inference(run, devices, args.program)
    lower = time.perf_counter() - clock
    compiled = lowered.compile()
    seconds = (lower, time.perf_counter() - clock - lower)
    hosts = len({device.process_index for device in devices})
    return Case(compiled, state, lies, len(devices), hosts, seconds)


class Bounds(NamedTuple):
    """The least milliseconds that each limit allows, and what they follow from."""

    arithmetic: float
    memory: float
    links: float
    accessed: float  # ms, by XLA's count of all accesses
    gflop: float
    passes: float  # in bfloat16, for a product
    gigabytes: float  # of main memory
    megabytes: float  # over the links
    once: bool  # whether the body of a loop counts once in gflop, as XLA counts it

    def __str__(self) -> str:
        """The least times, with the largest of them named."""
        limits = {
            "arithmetic": (
                self.arithmetic,
                f"{self.gflop:.1f} GFLOP in {self.passes:.2g} passes, loops {self.loops}",
            ),
            "main memory": (self.memory, f"{self.gigabytes:.2f} GB"),
            "links": (self.links, f"{self.megabytes:.0f} MB"),
        }
        each = ", ".join(f"{name} {ms:.2f} ({of})" for name, (ms, of) in limits.items())
        return f"least ms: {each}; {max(limits, key=lambda name: limits[name][0])} binds"

    @property
    def loops(self) -> str:
        """How the body of a loop counts in gflop."""
        return "once" if self.once else "as often as they run"


def bounds(case: Case, program: Program, chip: clusters.Chip) -> Bounds:
    """The roofline of a program."""
    cost = case.compiled.cost_analysis() or {}
    counted, accessed = cost.get("flops"), cost.get("bytes accessed", math.nan)
    flops = program.flops() if counted is None else counted
    passes, moved = program.passes(), sum(program.moved().values())
    sent = program.on_links()
    links = sent / chip.links
    if chip.network is not None and case.hosts > 1:
        # The devices of a host share what it sends to others.
        links = max(links, sent / (case.chips / case.hosts) / chip.network)
    return Bounds(
        flops * passes / chip.tflops / 1e9, moved / chip.bandwidth / 1e6, links / 1e6,
        accessed / chip.bandwidth / 1e6, flops / 1e9, passes, moved / 1e9, sent / 1e6,
        counted is not None,
    )  # fmt: skip


def _undivided(case: Case) -> list[str]:
    """The largest leaves that every device holds whole."""
    import jax

    found = [
        (leaf.size * leaf.dtype.itemsize, jax.tree_util.keystr(path))
        for path, leaf in jax.tree_util.tree_leaves_with_path(case.state)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        and case.lies(leaf).shard_shape(leaf.shape) == leaf.shape
    ]
    return [f"{name} {size / 1e3:.0f} kB" for size, name in sorted(found, reverse=True)[:4]]


def report(args: argparse.Namespace, topology: str, case: Case) -> str:
    """Print everything that is known of a program, and return its line of the table."""
    import jax

    from score_jax import training

    chip, program = clusters.chip_of(topology), Program(case.compiled.as_text())
    share, memory = training.share_of(case.state, case.lies), case.compiled.memory_analysis()
    found, cost = bounds(case, program, chip), case.compiled.cost_analysis() or {}
    print(f"{args.config}, {args.program}, {topology}: {case.chips} chips of {case.hosts} hosts, "
          f"{args.per_chip} examples a chip, {args.mapping}"
          + (" (compiled as shard_map of the same body)" if args.mapping == "pmap" else ""))  # fmt: skip
    print("seconds: {:.1f} to lower, {:.1f} to compile".format(*case.seconds))
    print(f"memory of a chip, MB: arguments {memory.argument_size_in_bytes / 1e6:.0f}, temporaries "
          f"{memory.temp_size_in_bytes / 1e6:.0f}, peak {memory.peak_memory_in_bytes / 1e6:.0f} of "
          f"{chip.memory * 1e3:.0f}")  # fmt: skip
    leaves = len(jax.tree.leaves(case.state))
    print(f"leaves aliased: {program.aliased} of {leaves}")
    print(f"state, MB: {share.whole / 1e6:.1f} whole, {share.held / 1e6:.1f} a chip, "
          f"{share.whole / share.pieces / 1e6:.1f} if divided evenly over {share.pieces}; "
          f"largest undivided: {'; '.join(_undivided(case))}")  # fmt: skip
    for (kind, dtype, inside), size in program.collectives().most_common():
        print(f"{kind} {dtype}: {size / 1e6:.2f} MB{', in a loop' if inside else ''}")
    products = program.products()
    print("products: " + ", ".join(f"{sum(v.values())} in {k}" for k, v in products.items()))
    for name, n in sorted(products.get("f32", {}).items()):
        print(f"  in f32: {name}" + (f" ({n})" if n > 1 else ""))
    operations = Counter(one.operation for _, one in program)
    print(f"copies {operations['copy']}, transposes {operations['transpose']}, "
          f"loops {sorted(map(str, program.loops().values()))}")  # fmt: skip
    print(found)
    if cost:
        print(_counted(found, cost, chip))
    return (
        f"| {case.chips} | {memory.peak_memory_in_bytes / 1e9:.2f} | {share.held / 1e6:.1f} | "
        f"{found.gflop:.0f} | {found.gigabytes:.2f} | {found.megabytes:.0f} | "
        f"{found.arithmetic:.2f} | {found.memory:.2f} | {found.links:.2f} |"
    )


def _counted(found: Bounds, cost: Any, chip: clusters.Chip) -> str:
    """What XLA itself counts and estimates."""
    own = cost.get("optimal_seconds", math.nan)
    own += math.ceil(max(-own, 0)) if math.isfinite(own) else 0  # -1 for some of the custom calls
    return (
        f"XLA counts {found.accessed * chip.bandwidth / 1e3:.2f} GB of accesses, those to the chip's "
        f"own memory among them ({found.accessed:.2f} ms at the rate of main memory); its estimate "
        f"without the -1 of custom calls: {1e3 * own:.2f} ms"
    )


HEAD = (
    "| chips | GB peak | state MB | GFLOP | GB moved | MB sent | "
    "arithmetic ms | memory ms | links ms |"
)


def shares(names: list[str]) -> None:
    """Print what a chip holds of the state of presets, by arithmetic on shapes."""
    import jax
    from jax.sharding import AbstractMesh

    from experiments import presets, runs
    from score_jax import training

    print("| preset | parameters | state MB | on 4 | 16 | 32 to 1,024 | times an even share |")
    print("|---" * 7 + "|")
    for name in names or presets.CONFIGS:
        state = runs.build(presets.get(name)).shapes
        found = [
            training.share_of(
                state, training.divided(AbstractMesh((training.division(state, n),), ("fsdp",)))
            )
            for n in (4, 16, 32)
        ]
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        held = " | ".join(f"{share.held / 1e6:.1f}" for share in found)
        print(f"| {name} | {count / 1e6:.1f} M | {found[0].whole / 1e6:.0f} | {held} | "
              f"{max(share.ratio for share in found):.2f} |", flush=True)  # fmt: skip


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="vp_cifar10_ddpmpp_continuous")
    parser.add_argument(
        "--topology",
        default="v5e:4x4",
        help="such as v5e:16x16, v5p:4x4x4, or h100:1x4x8, slices x hosts x GPUs of a host",
    )
    parser.add_argument("--mapping", choices=list(MAPPINGS), default="fsdp")
    parser.add_argument("--program", choices=["train", "sample", "likelihood"], default="train")
    parser.add_argument("--per-chip", type=int, default=8, help="examples for each chip")
    parser.add_argument("--space", type=int, default=1, help="chips that share every image")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the network")
    parser.add_argument("--remat", choices=["none", "blocks", "full"])
    parser.add_argument("--table", action="store_true", help="over 4, 16, 64 and 256 chips")
    parser.add_argument(
        "--shares",
        nargs="*",
        metavar="PRESET",
        help="what a chip holds of a state; compiles nothing",
    )
    parser.add_argument("--text", help="write the compiled text to this file")
    args = parser.parse_args(argv)
    if args.space > 1 and (args.program != "train" or args.mapping not in ("jit", "fsdp")):
        parser.error("--space is for --program train with --mapping jit or fsdp")
    return args


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m benchmarks.scale`."""
    args = parsed(argv)
    # The error checks of adaptive solvers are callbacks of the host, which cannot be compiled ahead.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    clusters.prepare(args.topology)
    if args.shares is not None:
        shares(args.shares)
        return
    try:
        name = args.topology.partition(":")[0]
        clusters.chip_of(args.topology)
        sizes = (
            [f"{name}:{size}" for size in clusters.SIZES[name]] if args.table else [args.topology]
        )
        lines = [HEAD, "|---" * 9 + "|"]
        for topology in sizes:
            case = compile_for(args, topology)
            lines.append(report(args, topology, case))
            if args.text:
                with open(args.text, "w", encoding="utf-8") as file:
                    file.write(case.compiled.as_text())
        print("\n".join(lines))
    except clusters.NotInstalled as error:
        print(f"skipped: {error}")


if __name__ == "__main__":
    cli.main(main)
