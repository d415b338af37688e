"""The cost of a run, without its data and without a step: `experiments.train --dry-run`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from score_jax import training

from .. import runs
from ..parts import mapping
from ..runs import Run


def count(tree: Any) -> int:
    """Number of entries in a tree of arrays or their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def size(tree: Any) -> int:
    """Bytes of a tree of arrays or their shapes; keys are not counted."""
    leaves = [v for v in jax.tree.leaves(tree) if not jnp.issubdtype(v.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(v.shape) * v.dtype.itemsize for v in leaves)


def human(value: float, unit: str) -> str:
    """`12.3 GB`: a number with a decimal prefix."""
    power = 0
    while abs(value) >= 1000 and power < 6:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {' kMGTPE'[power].strip()}{unit}"


def batch_of(run: Run) -> dict[str, Any]:
    """The shapes of a batch of a run."""
    n, cond = run.config.train.batch_size, run.source.cond
    batch = {"x": jax.ShapeDtypeStruct((n, *run.shape), run.source.description.dtype)}
    if cond is not None:
        batch["cond"] = jax.ShapeDtypeStruct((n, *cond.shape), cond.dtype)
    if run.num_classes:
        batch["y"] = jax.ShapeDtypeStruct((n,), jnp.int32)
    return batch


def lower(run: Run, make_state: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Trace one training step on one device: (shapes of the state, the lowered program)."""
    state = jax.eval_shape(make_state, jax.random.key(0))
    return state, jax.jit(runs.make_step(run)).lower(state, batch_of(run))


def flops_of(run: Run) -> float | None:
    """FLOP of one step of the whole batch, counted before the compiler's work; None if unknown."""
    _, lowered = lower(run, lambda key: runs.initial_state(run, key))
    return (lowered.cost_analysis() or {}).get("flops")


def share_note(run: Run) -> list[str]:
    """A line that says what each device holds of a state that is divided over the devices."""
    lies = mapping.sharding_of(run, jax.devices())
    found = None if lies is None else training.share_of(run.shapes, lies)
    if found is None or found.held == found.whole:
        return []
    return [
        f"state of {human(found.whole, 'B')} divided over {found.pieces} of "
        f"{len(jax.devices())} devices: each holds {human(found.held, 'B')}, "
        f"{found.ratio:.2f} times an even share"
    ]


def _on_the_mesh(run: Run, state: Any, lies: training.ShardingOf) -> None:
    """Print the memory of each device, the state replicated and as it lies, by XLA's analysis."""
    mesh = lies(jnp.zeros(())).mesh
    rows = NamedSharding(mesh, PartitionSpec(training.rows_of(mesh)))
    for name, lie in (("replicated", training.replicated(mesh)), ("divided", lies)):
        placed = jax.tree.map(
            lambda s, lie=lie: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=lie(s)), state
        )
        batch = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=rows), batch_of(run)
        )
        program = training.global_step(runs.make_step(run), sharding_of=lie).program
        memory = program.lower(placed, batch).compile().memory_analysis()
        if memory is not None:
            print(
                f"state {name} over {mesh.size} devices: each holds "
                f"{human(memory.argument_size_in_bytes, 'B')} and "
                f"{human(memory.temp_size_in_bytes, 'B')} for intermediate values",
                flush=True,
            )


def report(run: Run, make_state: Callable[[Any], Any]) -> None:
    """Print parameters, state, FLOPs and, after compiling for this machine, memory of one step."""
    c = run.config.train
    state, lowered = lower(run, make_state)
    print(
        f"{type(run.net).__name__}: {count(state.params):,} parameters\n"
        f"state (parameters, EMA, optimiser): {human(size(state), 'B')}",
        flush=True,
    )
    flops = (lowered.cost_analysis() or {}).get("flops")
    if flops:
        print(
            f"one step of {c.batch_size} examples of shape {run.shape}: {human(flops, 'FLOP')} "
            f"(counted before the compiler's work; {c.steps:,} steps: "
            f"{human(flops * c.steps, 'FLOP')})",
            flush=True,
        )
    memory = lowered.compile().memory_analysis()
    if memory is not None:
        platform = jax.devices()[0].platform
        held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        print(
            f"memory of one step on one {platform}: {human(held, 'B')}, "
            f"of it {human(memory.temp_size_in_bytes, 'B')} for intermediate values"
        )
    lies = mapping.sharding_of(run, jax.devices())
    if lies is not None:
        print("".join(f"{line}\n" for line in share_note(run)), end="")
        _on_the_mesh(run, state, lies)
