"""One runner for work on many examples: in chunks, over all devices, each on its own.

It serves sampling, likelihoods, losses and features. Programs are kept by `jax.jit`, and arrays are
their arguments. A function without arguments for its arrays, such as a closure over parameters, has
them as constants of its program, so that program is kept only for as long as the function lives.
"""

import inspect
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from tqdm import tqdm

from score_jax._check import check_count
from score_jax._failures import SolverError, named_failures
from score_jax._hosts import FAULTS, agreed, rows_of_all, share_of, values_of_all

AXIS = "examples"  # of devices, for functions that gather over them
_EVERYWHERE, _DIVIDED = PartitionSpec(), PartitionSpec(AXIS)

# function -> its jitted program, which refers to the function by weak references only.
_programs: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class Batched(NamedTuple):
    """The result of `in_chunks`: a tree of NumPy arrays (n, ...), and its seconds."""

    out: Any
    seconds: float
    compile_seconds: float


class _Static(NamedTuple):
    """A tree without its arrays, hashable; its functions are weak references."""

    leaves: tuple[Any, ...]
    structure: Any


class _Open(NamedTuple):
    """A `Partial` of a closure, with the closure as a leaf."""

    func: Any
    args: Any
    keywords: Any


def _opened(tree: Any) -> Any:
    def closure(v: Any) -> bool:
        found = isinstance(v, Partial) and isinstance(v.func, FunctionType)
        return found and v.func.__closure__ is not None

    opened = lambda v: _Open(v.func, *_opened((v.args, v.keywords))) if closure(v) else v
    return jax.tree.map(opened, tree, is_leaf=closure)


def _closed(tree: Any) -> Any:
    is_open = lambda v: isinstance(v, _Open)
    closed = lambda v: Partial(v.func, *_closed(v.args), **_closed(v.keywords)) if is_open(v) else v
    return jax.tree.map(closed, tree, is_leaf=is_open)


def _weak(leaf: Any) -> Any:
    if not callable(leaf):
        return leaf
    return weakref.WeakMethod(leaf) if inspect.ismethod(leaf) else weakref.ref(leaf)


def _run(static: _Static, mesh: Mesh, arrays: list[Any], index: Any, part: Any) -> Any:
    """Every device runs its own part and waits for no other."""

    def local(arrays: list[Any], index: Any, part: Any) -> Any:
        rest = [leaf() if isinstance(leaf, weakref.ref) else leaf for leaf in static.leaves]
        shared, function = _closed(jax.tree.unflatten(static.structure, eqx.combine(arrays, rest)))
        return function(shared, index, part)

    # Loops of adaptive solvers start from values that are the same on all devices: no check of axes.
    specs = (_EVERYWHERE, _DIVIDED, _DIVIDED)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_DIVIDED, check_vma=False)
    return mapped(arrays, index, part)


def program(
    function: Callable[[Any, Any, Any], Any], shared: Any, mesh: Mesh
) -> tuple[Any, tuple[Any, ...]]:
    """The jitted program of `function(shared, index, part)` over a mesh, and its first arguments."""
    leaves, structure = jax.tree.flatten(_opened((shared, function)))
    arrays, rest = eqx.partition(leaves, eqx.is_array)
    arrays = jax.device_put(arrays, NamedSharding(mesh, _EVERYWHERE))
    try:
        static = _Static(tuple(map(_weak, rest)), structure)
        hash(static)
    except TypeError:  # an object of the user's that cannot be compared: compiled for this call
        return jax.jit(partial(_run, _Static(tuple(rest), structure), mesh)), (arrays,)
    owner = next(filter(callable, rest))
    owner = getattr(owner, "__self__", owner)
    if owner not in _programs:
        # A `partial` of its own, because JAX keeps programs by the function: they die with the owner.
        _programs[owner] = jax.jit(partial(_run), static_argnums=(0, 1))
    return _programs[owner], (static, mesh, arrays)


def in_chunks(
    function: Callable[[Any, Any, Any], Any],
    shared: Any,
    take: Callable[[np.ndarray], Any],
    n: int,
    *,
    chunk: int,
    devices: Sequence[jax.Device] | None = None,
    progress: bool | None = None,
    desc: str = "example",
) -> Batched:
    """Run `function(shared, index, part)` on all of n examples, `chunk` at a time: `Batched`.

    index (c,) holds the numbers of the examples of a chunk that fall to one device, part is
    `take(index)`, a tree of arrays (c, ...), and the function returns a tree of arrays (c, ...). The
    last chunk is filled up with the numbers from n on, whose results are dropped. `shared` is the same
    on all devices: a tree whose arrays are arguments of the program, while everything else in it,
    such as functions and records, selects the program. No device waits for another within a chunk,
    unless the function gathers over `AXIS`.

    devices: those of this process by default. With those of several hosts, all of them call this
    together: each computes its consecutive share of the examples, `chunk` at a time over all hosts, and
    gets the whole result; an error on one of them is raised on all.

    compile_seconds is the time to trace and compile the program, about 0 where that was done before;
    seconds is the time from the first dispatch to the last result.

    Raises ValueError for a chunk or number of examples below 1, or no devices, and SolverError where a
    check inside the program fails.
    """
    check_count(chunk=chunk)
    if n < 1:
        raise ValueError(f"there must be at least one example, got {n}")
    devices = jax.local_devices() if devices is None else list(devices)
    if not devices:
        raise ValueError("devices must hold at least one device, got none")
    hosts = {device.process_index for device in devices}
    options: dict[str, Any] = {"progress": progress, "desc": desc}
    if len(hosts) == 1:
        return _part(function, shared, take, range(n), chunk=chunk, devices=devices, **options)
    mine, own = share_of(0, n), [d for d in devices if d.process_index == jax.process_index()]
    # A host without a share computes an example all the same, for the shapes of its result.
    part, chunk = mine if len(mine) else range(1), -(-chunk // len(hosts))
    run = lambda: _part(function, shared, take, part, chunk=chunk, devices=own, **options)
    done = agreed(run, faults=(SolverError, *FAULTS))
    out = jax.tree.map(lambda rows: rows_of_all(rows[: len(mine)]), done.out)
    seconds, compiling = np.max(values_of_all(list(done[1:])), axis=0)
    return Batched(out, float(seconds), float(compiling))


def _part(
    function: Callable[[Any, Any, Any], Any],
    shared: Any,
    take: Callable[[np.ndarray], Any],
    numbers: range,
    *,
    chunk: int,
    devices: Sequence[jax.Device],
    progress: bool | None,
    desc: str,
) -> Batched:
    """`in_chunks` for the examples of consecutive numbers, on devices of this host."""
    n = len(numbers)
    chunk = -(-min(chunk, n) // len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), (AXIS,))
    clock = time.perf_counter()
    run, arguments = program(function, shared, mesh)

    def part_from(start: int) -> Any:
        index = numbers.start + start + np.arange(chunk)
        part = (index.astype(np.uint32), take(index))
        return jax.device_put(part, NamedSharding(mesh, _DIVIDED))

    first = part_from(0)
    hidden = None if progress is None else not progress
    # Compiled apart from the first call, because on CPUs that call may return only when it is done.
    # The call takes the program from JAX's cache.
    run.lower(*arguments, *first).compile()
    compile_seconds = time.perf_counter() - clock
    clock, found = time.perf_counter(), []
    with named_failures(), tqdm(total=n, desc=desc, unit=desc, disable=hidden) as bar:
        running = run(*arguments, *first)
        del first
        for start in range(0, n, chunk):
            # Each chunk is fetched while the next one is computed.
            ahead = run(*arguments, *part_from(start + chunk)) if start + chunk < n else None
            found.append(jax.tree.map(np.asarray, running))
            running = ahead
            bar.update(min(chunk, n - start))
    out = jax.tree.map(lambda *each: np.concatenate(each)[:n], *found)
    return Batched(out, time.perf_counter() - clock, compile_seconds)
