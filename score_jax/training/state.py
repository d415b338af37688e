"""The state that training carries from step to step, and its start."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from score_jax.types import IndexSampler, Params, PRNGKey

_FIELDS = ("step", "params", "ema_params", "opt_state", "key")  # of every state
_OPTIONAL = ("index_sampler", "averages")  # no node where they are None, as in older states


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class TrainState:
    """All that training carries from one step to the next; the leaves of every field are arrays.

    step: int32 (), steps done; params: Linen variables; ema_params: their average, float32;
    opt_state: of the optimiser; key: typed, constant during the run (each step folds its number into
    it); index_sampler: the state of the `IndexSampler`, None without one; averages: further averages
    of the parameters by name, None without any.
    """

    step: Any
    params: Params
    ema_params: Params
    opt_state: Any
    key: Any
    index_sampler: Any = None
    averages: Any = None

    def tree_flatten_with_keys(self) -> tuple[Any, tuple[str, ...]]:
        """The fields. An optional field that is None has no node, as in states of older versions."""
        there = [n for n in _OPTIONAL if getattr(self, n) is not None]
        names = (*_FIELDS, *there)
        return [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], children: Any) -> "TrainState":
        """The state with these fields."""
        return cls(**dict(zip(names, children, strict=True)))

    def where(self, finite: Bool[Array, ""], old: "TrainState") -> "TrainState":
        """This state if `finite`, else the old one with the number and the key of this one.

        An entry of this state that is not finite is taken from the old one in any case.
        """

        def keep(new: Array, old: Array) -> Array:
            if _is_key(new):
                return new
            floats = jnp.issubdtype(new.dtype, jnp.floating)
            return jnp.where(finite & jnp.isfinite(new) if floats else finite, new, old)

        return replace(jax.tree.map(keep, self, old), step=self.step)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def init_state(
    key: PRNGKey,
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    index_sampler: IndexSampler | None = None,
    averages: Sequence[str] = (),
) -> TrainState:
    """The state before the first step. Averages start at the parameters, in float32.

    `index_sampler` and the names of `averages` must be those given to `make_train_step`.

    >>> state = init_state(jax.random.key(0), module.init(init_key, x, label), optimizer)
    """

    # A copy, because a donated state must not hold one buffer twice.
    def average() -> Params:
        return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)

    drawn = None if index_sampler is None else index_sampler.init()
    more = {name: average() for name in averages} or None
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, average(), optimizer.init(params), key, drawn, more)
