"""Work on many examples: in chunks, over all devices, each of which runs for itself, with a bar."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

_AXIS = "examples"


class Spread(NamedTuple):
    """What `in_chunks` returns: a tree of NumPy arrays (n, ...), and its seconds."""

    out: Any
    seconds: float
    compile_seconds: float


@functools.lru_cache(maxsize=4)
def _mapped(function: Callable[[Any, Any, Any], Any], mesh: Mesh) -> Any:
    """The jitted map of a function over a mesh; the same object again, so as to compile once."""
    everywhere, divided = PartitionSpec(), PartitionSpec(_AXIS)
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(everywhere, divided, divided),
            out_specs=divided,
            # Loops of adaptive solvers start from values that are the same everywhere.
            check_vma=False,
        )
    )


def in_chunks(
    function: Callable[[Any, Any, Any], Any],
    shared: Any,
    take: Callable[[np.ndarray], Any],
    n: int,
    *,
    chunk: int,
    devices: Sequence[Any] | None = None,
    progress: bool | None = None,
    desc: str = "examples",
) -> Spread:
    """Run `function(shared, index, part)` on all of n examples, `chunk` at a time: `Spread`.

    index (c,) are the numbers of the examples of a chunk that fall to one device, `part` what
    `take(index)` gives for them, a tree of arrays (c, ...), and `shared` is the same everywhere. The
    function returns a tree of arrays (c, ...). Nothing passes between devices, so loops may take as
    long as each needs. The last chunk is filled up with the first examples, and cut.

    Raises ValueError for a chunk or number of examples below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if n < 1:
        raise ValueError(f"there must be at least one example, got {n}")
    devices = jax.local_devices() if devices is None else list(devices)
    chunk = -(-min(chunk, n) // len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), (_AXIS,))
    everywhere, divided = PartitionSpec(), PartitionSpec(_AXIS)
    run = _mapped(function, mesh)
    shared = jax.device_put(shared, NamedSharding(mesh, everywhere))

    def inputs(start: int) -> Any:
        index = (start + np.arange(chunk)) % n
        part = (index.astype(np.uint32), take(index))
        return jax.device_put(part, NamedSharding(mesh, divided))

    clock = time.perf_counter()
    compiled = run.lower(shared, *inputs(0)).compile()
    compile_seconds = time.perf_counter() - clock
    clock = time.perf_counter()
    found = []
    hidden = None if progress is None else not progress
    with tqdm(total=n, desc=desc, unit="example", disable=hidden) as bar:
        for start in range(0, n, chunk):
            found.append(jax.tree.map(np.asarray, compiled(shared, *inputs(start))))
            bar.update(min(chunk, n - start))
    out = jax.tree.map(lambda *each: np.concatenate(each)[:n], *found)
    return Spread(out, time.perf_counter() - clock, compile_seconds)
