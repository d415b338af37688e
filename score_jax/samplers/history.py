"""What a multistep method keeps of its earlier steps: the state of its `Step`."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from score_jax.types import Data, Grid, Scalar


class History(NamedTuple):
    """Earlier values of a multistep method, the newest first.

    i, n: steps done and steps of the whole run; values: predictions of x0 or of the noise, each of the
    shape of x; marks: a scalar for each value, either the place where it was taken or the length h of the
    interval that began there, as the method needs it.
    """

    i: Int[Array, ""]
    n: Int[Array, ""]
    values: tuple[Data, ...]
    marks: tuple[Scalar, ...]


def no_history(x: Data, grid: Grid, count: int) -> History:
    """The history before the first step, with room for `count` values, whose weights are zero."""
    one = jnp.ones((), grid.dtype)  # a length must not be zero
    n = jnp.asarray(grid.shape[0] - 1, jnp.int32)
    return History(jnp.zeros((), jnp.int32), n, (jnp.zeros_like(x),) * count, (one,) * count)


def remembered(past: History, value: Data, mark: Scalar) -> History:
    """The history with one more step, whose value replaces the oldest."""
    count = len(past.values)
    values, marks = (value, *past.values)[:count], (mark, *past.marks)[:count]
    return History(past.i + 1, past.n, values, marks)
