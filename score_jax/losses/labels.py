"""Class labels that are left out now and then, so that one network learns p(x | y) and p(x)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key


def drop_labels(key: Key[Array, ""], y: Any, *, rate: float, null_class: int) -> Any:
    """Class labels (b,), each replaced by `null_class` with probability `rate`.

    One network then learns p(x | y) and p(x), for classifier-free guidance (arXiv:2207.12598).
    """
    return jnp.where(jax.random.bernoulli(key, rate, y.shape), null_class, y)


def check_dropout(label_dropout: float, null_class: int | None) -> None:
    """Raise ValueError unless label_dropout is a rate, with a class of no label if it is not 0."""
    if not 0 <= label_dropout < 1:
        raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout!r}")
    if label_dropout > 0 and null_class is None:
        raise ValueError("null_class must be given with label_dropout: the class of no label")
