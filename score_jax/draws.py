"""What every example of a batch draws its randomness with, so that draws do not depend on devices.

A batch may carry a leaf `batch["draw"]`: a `Draw` with a key for every example and its place in the
whole batch. `make_train_step` puts it there. An example then draws the same numbers on whichever
device, host or microbatch it is. Where a batch has no such leaf, `draw_of` makes one from a key.

Layers that draw an array for all examples of a batch at once, as dropout does, receive a key from
`row_key`. It is of an implementation of its own, "rows": entry p of example i is a word of the block

    (1)  threefry(pair, (i, p // 2))          https://doi.org/10.1145/2063384.2063405

which does not depend on the other examples that are drawn with it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.random as extended
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Key, UInt32

from score_jax.types import Batch


class Draw(NamedTuple):
    """The randomness of a batch of b examples, all leaves.

    key: typed keys (b,), one an example; place: float32 (b,), the place of the example in the whole
    batch of n, i / n in [0, 1), by which times are stratified over the batch; row: int32 (b,), the
    number i itself.
    """

    key: Key[Array, " b"]
    place: Float[Array, " b"]
    row: Int[Array, " b"]

    def fold(self, purpose: int) -> "Draw":
        """The draw for another purpose: independent keys at the same places."""
        return self._replace(key=jax.vmap(lambda key: jax.random.fold_in(key, purpose))(self.key))

    def each(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(key, *its entry of args)` for every example, stacked: (b, ...).

        >>> z = draw.fold(1).each(lambda key: jax.random.normal(key, x.shape[1:]))
        """
        return jax.vmap(function)(self.key, *args)


def number(
    key: Key[Array, ""], b: int, *, first: int | Integer[Array, ""] = 0, total: int | None = None
) -> Draw:
    """The draw of examples first, ..., first + b - 1 of a whole batch of `total` (default b).

    The same key gives the same draw to an example, however the batch is divided.

    >>> number(jax.random.key(0), 4).place
    Array([0.  , 0.25, 0.5 , 0.75], dtype=float32)
    """
    index = first + jnp.arange(b, dtype=jnp.int32)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    return Draw(keys, index.astype(jnp.float32) / (b if total is None else total), index)


def draw_of(key: Key[Array, ""], batch: Batch) -> Draw:
    """The draw that a batch carries as its leaf "draw", or one made from the key."""
    if isinstance(batch, dict) and "draw" in batch:
        return batch["draw"]
    return number(key, jax.tree.leaves(batch)[0].shape[0])


# The data of a key of the implementation "rows": the two words of a threefry key, the index of the first
# example, and the distance between the indices of two examples.
_WORDS = 4


def _inner(data: UInt32[Array, " w"]) -> Key[Array, ""]:
    return jax.random.wrap_key_data(data[:2], impl="threefry2x32")


def _seed(seed: Integer[Array, ""]) -> UInt32[Array, " w"]:
    pair = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
    return jnp.concatenate([pair, jnp.asarray([0, 1], jnp.uint32)])


def _split(data: UInt32[Array, " w"], shape: tuple[int, ...]) -> UInt32[Array, "*n w"]:
    pairs = jax.random.key_data(jax.random.split(_inner(data), shape))
    place = jnp.broadcast_to(data[2:], (*shape, 2))
    return jnp.concatenate([pairs, place], axis=-1)


def _fold(data: UInt32[Array, " w"], number: Integer[Array, ""]) -> UInt32[Array, " w"]:
    pair = jax.random.key_data(jax.random.fold_in(_inner(data), number))
    return jnp.concatenate([pair, data[2:]])


def _bits(data: UInt32[Array, " w"], width: int, shape: tuple[int, ...]) -> Array:
    """Eq. (1) for entries of `width` bits: the first axis has the examples."""
    if width > 32:
        high, low = (_bits(_fold(data, jnp.uint32(i)), 32, shape) for i in (0, 1))
        return high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)
    rows, *inner = shape or (1,)
    last = inner[-1] if inner else 1
    pairs = (rows, *inner[:-1], (last + 1) // 2)
    count = lambda axis: jax.lax.broadcasted_iota(jnp.uint32, pairs, axis)
    example = data[2] + data[3] * count(0)
    places = [math.prod(pairs[axis + 1 :]) for axis in range(1, len(pairs))]
    place = sum(
        (count(i) * jnp.uint32(n) for i, n in enumerate(places, 1)), jnp.zeros_like(example)
    )
    blocks = extended.threefry2x32_p.bind(data[0], data[1], example, place)
    words = jnp.concatenate(blocks, axis=-1)[..., :last].reshape(shape)
    return words.astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width])


_ROWS = extended.define_prng_impl(
    key_shape=(_WORDS,), seed=_seed, split=_split, random_bits=_bits,
    fold_in=_fold,  # type: ignore[arg-type]  # JAX gives it an array, too
    name="rows", tag="rows",
)  # fmt: skip


def row_key(key: Key[Array, ""], draw: Draw) -> Key[Array, ""]:
    """A key with which an array (b, ...) of a whole batch is drawn, whichever part of it is here.

    Row j of what is drawn belongs to the example of draw.row[j] and does not depend on the other rows.
    The rows must be evenly spaced, as those of `number` and of microbatches are. `key` must be the
    same for the whole batch.

    >>> mask = jax.random.bernoulli(row_key(key, draw_of(key, batch)), 0.9, batch["x"].shape)
    """
    first = draw.row[:1].astype(jnp.uint32)
    second = draw.row[1:2].astype(jnp.uint32)
    apart = second - first if len(draw.row) > 1 else jnp.ones((1,), jnp.uint32)
    words = jnp.concatenate([jax.random.bits(key, (2,), jnp.uint32), first, apart])
    return jax.random.wrap_key_data(words, impl=_ROWS)
