r"""Which timestep of a noise schedule each example is given: uniform, or by the size of the loss.

    (1)  p_i proportional to sqrt(mean of the last 10 squared losses at i)      arXiv:2102.09672 eq. 18
    (2)  p_i <- (1 - u) p_i + u / n,   u = 0.001
    (3)  weight 1 / (n p_i): the weighted mean loss keeps its expectation

(1) applies once every index has its ten losses; until then p is uniform. The state of an
`IndexSampler` is a part of `TrainState`: jitted, saved and restored with it.
`make_train_step(..., index_sampler=...)` draws from it and updates it with the losses of all devices,
so that every device has the same history.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from score_jax._check import check, check_count
from score_jax.types import IndexSampler

Drawn = Array  # (b,): indices, or weights


class LossHistory(NamedTuple):
    """The last losses at every index, in no particular order, and their number so far."""

    losses: Float[Array, "n history"]
    count: Int[Array, " n"]  # type: ignore[assignment]


def uniform_indices(n: int) -> IndexSampler:
    """Every one of n indices with the same probability and weight 1, without a state."""
    check_count(n=n)

    def draw(state: tuple[()], key: Key[Array, ""], b: int) -> tuple[Drawn, Drawn]:
        return jax.random.randint(key, (b,), 0, n), jnp.ones(b)

    return IndexSampler(tuple, draw, lambda state, index, losses: state)


def index_probabilities(state: LossHistory, *, uniform: float = 1e-3) -> Float[Array, " n"]:
    """p of eq. (1) and (2), (n,), uniform until every index has its history full."""
    n, history = state.losses.shape
    size = jnp.sqrt(jnp.mean(jnp.square(state.losses), axis=1))
    total = size.sum()
    ready = (state.count >= history).all() & (total > 0)
    even = jnp.full_like(size, 1 / n)
    p = jnp.where(ready, size / jnp.where(total > 0, total, 1), even)
    return jnp.where(ready, (1 - uniform) * p + uniform / n, even)


def record(state: LossHistory, index: Int[Array, " b"], losses: Float[Array, " b"]) -> LossHistory:
    """The history after b more losses at these indices, in this order; they replace the oldest.

    An index may come several times: the result is that of recording one after the other.
    """
    n, history = state.losses.shape
    same = index[:, None] == index[None, :]
    earlier = jnp.arange(index.shape[0])
    rank = (same & (earlier[None, :] < earlier[:, None])).sum(axis=1, dtype=jnp.int32)
    times = same.sum(axis=1, dtype=jnp.int32)
    slot = (state.count[index] + rank) % history
    # Only the last `history` losses of an index are kept, so no slot is written twice.
    row = jnp.where(rank >= times - history, index, n)
    kept = state.losses.at[row, slot].set(losses.astype(state.losses.dtype), mode="drop")
    return LossHistory(kept, state.count.at[index].add(1))


def loss_second_moment(n: int, *, history: int = 10, uniform: float = 1e-3) -> IndexSampler:
    """Draw indices in proportion to the root mean square of their last losses, eq. (1) to (3).

    For objectives whose losses differ by orders of magnitude over the schedule, such as the bound:
    the gradient's variance falls (arXiv:2102.09672 section 3.3).

    Raises ValueError unless n >= 1, history >= 1 and 0 < uniform <= 1.

    >>> sampler = loss_second_moment(1000)
    >>> step = make_train_step(loss, optimizer, index_sampler=sampler)
    >>> state = init_state(key, params, optimizer, index_sampler=sampler)
    """
    check_count(n=n, history=history)
    check("uniform", uniform, 0 < uniform <= 1, "in (0, 1]")

    def init() -> LossHistory:
        return LossHistory(jnp.zeros((n, history)), jnp.zeros(n, jnp.int32))

    def draw(state: LossHistory, key: Key[Array, ""], b: int) -> tuple[Drawn, Drawn]:
        p = index_probabilities(state, uniform=uniform)
        index = jax.random.categorical(key, jnp.log(p), shape=(b,)).astype(jnp.int32)
        return index, 1 / (n * p[index])

    return IndexSampler(init, draw, record)
