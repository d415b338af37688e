"""A function without the arrays that it closes over, for libraries that keep the functions they get."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.tree_util import Partial


def hoisted(function: Callable[..., Any], *args: Any) -> Partial:
    """`function`, traced at `args`, as a `Partial` whose arrays are its leaves.

    diffrax keeps its program and all that is static in it, which must not be a closure's arrays. From
    version 0.12 on, JAX stores those arrays in the traced function itself, so it is traced once more
    with arguments in their place; `equinox.filter_closure_convert` traces once, and keeps them.

    >>> import jax.numpy as jnp
    >>> weights = jnp.ones(3)
    >>> jax.tree.leaves(hoisted(lambda x: x * weights, jnp.zeros(3)))
    [Array([1., 1., 1.], dtype=float32)]
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)

    def with_arrays(arrays: Any, *args: Any) -> Any:
        return jax.core.eval_jaxpr(closed.jaxpr, arrays, *jax.tree.leaves(args))

    traced = jax.make_jaxpr(with_arrays)(closed.consts, *args)
    return Partial(partial(_call, traced, jax.tree.structure(shapes)), closed.consts)


def _call(traced: Any, structure: Any, arrays: Any, *args: Any) -> Any:
    leaves = (*arrays, *jax.tree.leaves(args))
    return jax.tree.unflatten(structure, jax.core.eval_jaxpr(traced.jaxpr, traced.consts, *leaves))
