"""The state that training carries, its start, and what draws the indices of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from score_jax.types import Params

_FIELDS = ("step", "params", "ema_params", "opt_state", "key")  # of every state
_OPTIONAL = ("index_sampler", "averages")  # no node where they are None, as in older states


@runtime_checkable
class IndexSampler(Protocol):
    """What draws the index of every example: `score_jax.losses.IndexSampler` has the words."""

    @property
    def init(self) -> Callable[[], Any]:
        """() -> state."""
        ...

    @property
    def draw(self) -> Callable[[Any, Any, int], tuple[Any, Any]]:
        """(state, key, b) -> (index (b,), weight (b,))."""
        ...

    @property
    def update(self) -> Callable[[Any, Any, Any], Any]:
        """(state, index, losses) -> state."""
        ...


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class TrainState:
    """All that training carries from one step to the next; every field holds only arrays.

    step: int32 (), steps done; params: Linen variables; ema_params: their average, float32;
    opt_state: of the optimiser; key: typed, the same during the whole run (steps fold their number
    into it); index_sampler: what the sampler of indices has learned (`score_jax.losses`), None
    without one; averages: further averages of the parameters by name, None without any.
    """

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any
    key: Any
    index_sampler: Any = None
    averages: Any = None

    def tree_flatten_with_keys(self) -> tuple[Any, tuple[str, ...]]:
        """The fields; no node for what is not there, as in states saved before there was such."""
        there = [n for n in _OPTIONAL if getattr(self, n) is not None]
        names = (*_FIELDS, *there)
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], children: Any) -> "TrainState":
        """The state of these fields."""
        return cls(**dict(zip(names, children, strict=True)))


def init_state(
    key: Key[Array, ""],
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    index_sampler: IndexSampler | None = None,
    averages: Sequence[str] = (),
) -> TrainState:
    """The state before the first step. Averages start at the parameters, in float32.

    `index_sampler` and the names `averages` are those that the step is made with, if any.

    >>> state = init_state(jax.random.key(0), module.init(init_key, x, label), optimizer)
    """

    # Its own buffers: a donated state must not hold one buffer twice.
    def average() -> Params:
        return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)

    drawn = None if index_sampler is None else index_sampler.init()
    more = {name: average() for name in averages} or None
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, average(), optimizer.init(params), key, drawn, more)
