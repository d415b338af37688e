"""The leaves of a state on their way to a file and back: names, checksums, keys, shapes."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Layout = Mapping[str, Mapping[str, Any]]  # {name of a leaf: {"shape", "dtype", "crc32"}}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def named(tree: Any) -> dict[str, Any]:
    """The leaves in order, by readable names such as "params/params/Dense_0/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


def crc(leaf: Any) -> int:
    """CRC-32 of the bytes of an array."""
    flat = np.ascontiguousarray(np.asarray(leaf)).reshape(-1)
    return zlib.crc32(flat.view(np.uint8).data)


def layout(raw: Any) -> dict[str, dict[str, Any]]:
    """Shape, dtype and checksum of every leaf, by name."""
    return {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "crc32": crc(leaf)}
        for name, leaf in named(raw).items()
    }


def to_raw(leaf: Any) -> Any:
    """What is written for a leaf: the words of a typed key, a buffer that only the save owns."""
    if _is_key(leaf):
        words = jax.random.key_data(leaf)
        # One of several processes may write a numpy array, but not an array of JAX.
        return words if jax.process_count() == 1 else np.asarray(words)
    if not isinstance(leaf, jax.Array):
        return np.array(leaf)
    # On a CPU the host "copy" of a background save is a view, which a donated step could overwrite.
    on_cpu = all(device.platform == "cpu" for device in leaf.devices())
    return jnp.copy(leaf) if on_cpu else leaf


def raw_shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding (by default the first local device) in which a leaf is read."""
    shaped = jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)
    if _is_key(leaf):
        shaped = jax.eval_shape(jax.random.key_data, shaped)
    sharding = None if _is_key(leaf) else getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(shaped.shape, shaped.dtype, sharding=sharding)


def from_raw(template: Any, raw: Any) -> Any:
    """The leaf as the template has it: words become a typed key again."""
    if not _is_key(template):
        return raw
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


def nested(saved: Layout, field: str) -> Any:
    """The nested dict of shapes whose leaves have the saved names under `field`."""
    tree: dict[str, Any] = {}
    for name, leaf in saved.items():
        *parents, last = name.split("/")[1:]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]))
    if not tree:
        raise ValueError(f"the checkpoint has no leaves under {field!r}")
    return tree
