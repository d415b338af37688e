"""The leaves of a state on their way to a file and back: names, checksums, keys, shapes."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# {name of a leaf: {"shape", "dtype", and "sum64", or "crc32" in format 1}}
CRC, SUM = "crc32", "sum64"
Layout = Mapping[str, Mapping[str, Any]]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def named(tree: Any) -> dict[str, Any]:
    """The leaves in order, by readable names such as "params/params/Dense_0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def crc(leaf: Any) -> int:
    """CRC-32 of the bytes of an array, the checksum of format 1."""
    flat = np.ascontiguousarray(np.asarray(leaf)).reshape(-1)
    return zlib.crc32(flat.view(np.uint8).data)


_BLOCK = 2**16  # entries that are summed at once, so that they stay in the cache of the processor
_MASK = 2**64 - 1


@functools.lru_cache(maxsize=256)
def _weights(axis: int, start: int, stop: int) -> np.ndarray:
    """An odd 64-bit number for each place start, ..., stop - 1 of an axis (splitmix64)."""
    with np.errstate(over="ignore"):
        z = np.arange(start + 1, stop + 1, dtype=np.uint64) + np.uint64(axis << 40)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) | np.uint64(1)


def _bits(part: np.ndarray) -> np.ndarray:
    """The entries as unsigned integers of at most 32 bits, larger ones on a new last axis."""
    size = part.dtype.itemsize
    word = min(size, 4)
    bits = np.ascontiguousarray(part).reshape(-1).view(f"u{word}")
    return bits.reshape((*part.shape, size // 4) if size > 4 else part.shape)


def partial_sum(part: np.ndarray, start: Sequence[int]) -> int:
    """The share of a part of an array in its checksum; `start` is the place of its first entry.

    sum of b(i) k_0(i_0) k_1(i_1) ... modulo 2^64, where b(i) are the bits of entry i and k_a(j) a fixed
    odd number for place j of axis a. The shares of the parts of an array, however it is divided, add up
    to the sum of the whole. One changed entry always changes it, because an odd number has an inverse.
    """
    bits = _bits(part)
    starts = [*start, *[0] * (bits.ndim - len(start))]
    found = bits.reshape(-1) if bits.ndim else bits.reshape(1)
    for axis in reversed(range(bits.ndim)):
        n = bits.shape[axis]
        weights, rows = _weights(axis, starts[axis], starts[axis] + n), found.reshape(-1, n)
        sums, many = np.zeros(len(rows), np.uint64), max(1, _BLOCK // max(n, 1))
        for i in range(0, len(rows), many):
            np.einsum(
                "ij,j->i", rows[i : i + many].astype(np.uint64), weights, out=sums[i : i + many]
            )
        found = sums
    return int(found.astype(np.uint64).sum()) & _MASK


def is_local(leaf: Any) -> bool:
    """Whether this process has all of an array."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def local_sum(leaf: Any) -> int:
    """The share of this process in the checksum of an array: of its devices, each part once."""
    if not isinstance(leaf, jax.Array):
        return partial_sum(np.asarray(leaf), ())
    own = (shard for shard in leaf.addressable_shards if shard.replica_id == 0)
    starts = lambda shard: [place.start or 0 for place in shard.index]
    return sum(partial_sum(np.asarray(s.data), starts(s)) for s in own) & _MASK


def layout(raw: Any, sums: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Shape, dtype and checksum of every leaf, by name."""
    return {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), SUM: f"{sums[name]:016x}"}
        for name, leaf in named(raw).items()
    }


def to_raw(leaf: Any) -> Any:
    """What is written for a leaf: the words of a typed key, a buffer that only the save owns.

    A NumPy array is copied by Orbax, before it returns from the call.
    """
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not isinstance(leaf, jax.Array) or (jax.process_count() > 1 and leaf.is_fully_addressable):
        # One of several processes writes what all hold, as a NumPy array, or Orbax refuses it.
        return np.asarray(leaf)
    # On a CPU the host "copy" of a background save is a view, which a donated step could overwrite.
    on_cpu = all(device.platform == "cpu" for device in leaf.devices())
    return _copy(leaf) if on_cpu else leaf


def _copy(leaf: Any) -> Any:
    """The same array in other buffers; no process takes part in the copies of another."""
    if leaf.is_fully_addressable:
        return jnp.copy(leaf)
    parts = [jnp.copy(shard.data) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)


def raw_shape(leaf: Any, *, whole: bool = False) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding (with `whole`, and by default, our first device) to read a leaf in."""
    shaped = jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)
    if _is_key(leaf):
        shaped = jax.eval_shape(jax.random.key_data, shaped)
    sharding = None if whole or _is_key(leaf) else getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(shaped.shape, shaped.dtype, sharding=sharding)


def from_raw(template: Any, raw: Any) -> Any:
    """The leaf as the template has it: words become a typed key again, and it lies where it should."""
    if not _is_key(template):
        sharding = getattr(template, "sharding", None)
        if sharding is None or raw.sharding.is_equivalent_to(sharding, raw.ndim):
            return raw
        host = np.asarray(raw)
        return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), template)
    return jax.random.wrap_key_data(raw, impl=found[0])


def check_layout(abstract: Any, saved: Layout, where: str) -> None:
    """Raise ValueError that names the first leaf in which the template and the file differ."""
    wanted = named(abstract)
    for name, leaf in wanted.items():
        if name not in saved:
            raise ValueError(f"{where} has no leaf {name!r} of the template")
        shape, dtype = tuple(saved[name]["shape"]), saved[name]["dtype"]
        if (shape, dtype) != (leaf.shape, str(leaf.dtype)):
            raise ValueError(
                f"leaf {name!r} of {where} is {dtype}{list(shape)}, but the template has "
                f"{leaf.dtype}{list(leaf.shape)}"
            )
    extra = sorted(set(saved) - set(wanted))
    if extra:
        raise ValueError(f"{where} has the leaf {extra[0]!r}, which the template lacks")


def nested(saved: Layout) -> dict[str, Any]:
    """The nested dicts of shapes whose leaves have the saved names."""
    tree: dict[str, Any] = {}
    for name, leaf in saved.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))
    return tree
