"""What the processes of a run tell each other: values of all, the value of the first, errors of any.

Every process must call these functions together, in one order. On one process they cost nothing.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

_T = TypeVar("_T")


def several_hosts() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the first host, which writes and reports."""
    return jax.process_index() == 0


def share_of(start: int, stop: int) -> range:
    """The consecutive part of the numbers start, ..., stop - 1 that falls to this host."""
    index, count, n = jax.process_index(), jax.process_count(), stop - start
    return range(start + n * index // count, start + n * (index + 1) // count)


def of_all(x: np.ndarray) -> Sequence[np.ndarray]:
    """The arrays of all hosts, which have one shape and type, in the order of the hosts.

    They are sent as bytes, because JAX would round float64 to float32.
    """
    x = np.ascontiguousarray(x)
    if not several_hosts():
        return [x]
    if not x.size:
        return [x] * jax.process_count()
    every = np.asarray(multihost_utils.process_allgather(x.reshape(-1).view(np.uint8)))
    return [np.frombuffer(row.tobytes(), x.dtype).reshape(x.shape) for row in every]


def rows_of_all(x: np.ndarray) -> np.ndarray:
    """The rows of all hosts, (n_0 + n_1 + ..., *d) of arrays (n_i, *d), one below the other."""
    sizes = [int(size[0]) for size in of_all(np.array([len(x)]))]
    fill = np.zeros((max(sizes) - len(x), *x.shape[1:]), x.dtype)
    every = of_all(np.concatenate([x, fill]))
    return np.concatenate([rows[:n] for rows, n in zip(every, sizes, strict=True)])


def values_of_all(value: Any) -> list[Any]:
    """The JSON values of all hosts, in the order of the hosts."""
    if not several_hosts():
        return [json.loads(json.dumps(value))]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = [int(size[0]) for size in of_all(np.array([len(text)]))]
    every = of_all(np.concatenate([text, np.zeros(max(sizes) - len(text), np.uint8)]))
    return [json.loads(row[:n].tobytes()) for row, n in zip(every, sizes, strict=True)]


def share(value: Any) -> Any:
    """The first host's JSON value, on every host.

    >>> plan = share({"step": 100} if is_first() else None)
    """
    return values_of_all(value if is_first() else None)[0]


# Errors that one host has for all, from the least to the most that prevents going on.
FAULTS: tuple[type[Exception], ...] = (ArithmeticError, ValueError, OSError)


def agreed(
    call: Callable[[], _T],
    *,
    only_first: bool = False,
    faults: tuple[type[Exception], ...] = FAULTS,
) -> Any:
    """The value of the call, unless it fails on any host: then every host raises.

    All raise one of `faults` (special kinds first), the last of those that occurred, with the message
    of the host that raised it. only_first: the first host alone calls it, and its JSON value is
    everybody's.
    """
    if not several_hosts():
        return call()
    value, error, kind = None, None, None
    if is_first() or not only_first:
        try:
            value = call()
        except faults as raised:
            error = raised
            kind = next(i for i, fault in enumerate(faults) if isinstance(raised, fault))
    said = values_of_all([kind, str(error), value if only_first else None])
    failed = [(found[0], host) for host, found in enumerate(said) if found[0] is not None]
    if not failed:
        return said[0][2] if only_first else value
    worst, host = max(failed, key=lambda f: (f[0], -f[1]))
    if host == jax.process_index() and error is not None:
        raise error
    raise faults[worst](f"host {host}: {said[host][1]}")


def first_rows(tree: Any) -> Any:
    """The first host's NumPy arrays, on every host. All hosts pass the same shapes."""
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))
