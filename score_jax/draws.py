"""What every example of a batch draws its randomness with, so that draws do not depend on devices.

A batch may carry a leaf `batch["draw"]`: a `Draw` with a key for every example and its place in the
whole batch. `make_train_step` puts it there. An example then draws the same numbers on whichever
device, host or microbatch it is. Where a batch has no such leaf, `draw_of` makes one from a key.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from score_jax.types import Batch


class Draw(NamedTuple):
    """The randomness of a batch of b examples, all leaves.

    key: typed keys (b,), one an example; place: float32 (b,), the place of the example in the whole
    batch of n, i / n in [0, 1), by which times are stratified over the batch.
    """

    key: Key[Array, " b"]
    place: Float[Array, " b"]

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
    return Draw(keys, index.astype(jnp.float32) / (b if total is None else total))


def draw_of(key: Key[Array, ""], batch: Batch) -> Draw:
    """The draw that a batch carries as its leaf "draw", or one made from the key."""
    if isinstance(batch, dict) and "draw" in batch:
        return batch["draw"]
    return number(key, jax.tree.leaves(batch)[0].shape[0])
