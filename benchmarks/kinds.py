"""Milliseconds by kind of operation, in JAX and in PyTorch: used by `benchmarks.nets_torch`.

Both libraries have a profiler that writes how long each of its operations ran. XLA fuses operations of
several kinds; a fusion counts as the first of the kinds below that is in it. Operations of several
threads may overlap, so that a sum can exceed the wall time.
"""

import pathlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable

from benchmarks.compiled import Instruction, Program

KINDS = ("convolutions", "products", "random bits", "sums and norms", "copies", "elementwise")
# What runs others, which are listed too.
_OUTER = {"while", "call", "conditional"}
_MOVES = {
    "copy", "transpose", "concatenate", "slice", "pad", "reverse", "broadcast", "bitcast", "parameter",
    "constant", "dynamic-slice", "dynamic-update-slice", "iota", "reshape", "tuple",
    "get-tuple-element",
}  # fmt: skip
_TORCH = {
    "convolutions": r"conv",
    "products": r"(add|b|ba)?(mm|dot)(_|$)|linear",
    "copies": r"copy|clone|cat|pad|contiguous|zero|fill|empty|to$|slice|upsample|resize|view|reshape",
    "random bits": r"rand|normal|uniform|bernoulli|dropout",
    "sums and norms": r"norm|sum|mean|softmax",
}


def of_torch(name: str) -> str:
    """The kind of an operator of PyTorch, such as aten::group_norm."""
    name = name.rpartition("::")[2]
    # "native_group_norm" holds "norm", and so does "normal_": the random ones come first.
    for kind in ("convolutions", "random bits", "products", "sums and norms", "copies"):
        found = (
            re.match(_TORCH[kind], name) if kind == "products" else re.search(_TORCH[kind], name)
        )
        if found:
            return kind
    return "elementwise"


def of_program(program: Program) -> dict[str, str]:
    """{instruction of a compiled program: its kind}, without those that only run others."""

    def inside(one: Instruction) -> set[str]:
        held = [two for name in one.called for two in program.computations.get(name, [])]
        return {one.operation}.union(*map(inside, held))

    def kind(one: Instruction) -> str:
        operations = inside(one)
        library = one.operation == "custom-call" and "conv" in one.attributes
        if "convolution" in operations or library:
            return "convolutions"
        if "dot" in operations:
            return "products"
        if re.search("threefry|random_bits|shift", one.source) or "xor" in operations:
            return "random bits"
        if "reduce" in operations or "reduce-window" in operations:
            return "sums and norms"
        return "copies" if operations - {"fusion"} <= _MOVES else "elementwise"

    return {one.name: kind(one) for _, one in program if one.operation not in _OUTER}


def spent_jax(run: Callable[[], object], text: str) -> Counter[str]:
    """{kind: ms} of one run of a program that is compiled already; `text` is its compiled text."""
    import jax

    kinds, found = of_program(Program(text)), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        path = next(pathlib.Path(folder).rglob("*.xplane.pb"))
        data = jax.profiler.ProfileData.from_file(str(path))
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in kinds and "hlo_op" in dict(event.stats):
                    found[kinds[event.name]] += event.duration_ns / 1e6
    return found


def spent_torch(run: Callable[[], object]) -> Counter[str]:
    """{kind: ms} of one run."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    found = Counter[str]()
    for one in profile.key_averages():
        found[of_torch(one.key)] += one.self_cpu_time_total / 1e3
    return found


def table(sides: dict[str, list[Counter[str]]]) -> str:
    """A line for each kind: the least milliseconds of the runs of each side."""
    lines = [f"{'ms':16s}" + "".join(f"{side:>12s}" for side in sides)]
    least = lambda runs, kind: min(run[kind] for run in runs)
    for kind in KINDS:
        each = "".join(f"{least(runs, kind):12.1f}" for runs in sides.values())
        lines.append(f"{kind:16s}{each}")
    total = "".join(f"{min(run.total() for run in runs):12.1f}" for runs in sides.values())
    return "\n".join([*lines, f"{'all':16s}{total}"])
