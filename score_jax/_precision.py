"""Full precision where a result is a number to be believed, on every platform."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
T = TypeVar("T")


def exact_products(function: Callable[P, T]) -> Callable[P, T]:
    """The function with full precision of its float32 products, unless the caller has chosen another.

    By default a TPU multiplies float32 as bfloat16 and a GPU as TF32, at most 3 decimal digits. The
    choice of the caller is `jax.default_matmul_precision`, where the function is traced. What the
    function calls while it is traced is covered, such as the network in a score.

    >>> solve = exact_products(solve)
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if getattr(jax.config, "jax_default_matmul_precision", None) is not None:
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run
