"""Optimisers: clipping, a rule of optax, weight decay without norms and biases, a warmed-up rate."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from score_jax._check import check


def warmed_up(
    learning_rate: float | Callable[[ArrayLike], ArrayLike], warmup: int
) -> Callable[[ArrayLike], Float[Array, ""]]:
    """The rate of update n = 0, 1, ...: rate(n) * min(1, (n + 1) / warmup).

    The peak is the learning rate itself. `learning_rate` is a number or an optax schedule.

    >>> warmed_up(2e-4, 1000)(999)
    Array(0.0002, dtype=float32)
    """
    check("warmup", warmup, warmup >= 0, "an integer >= 0")
    if not callable(learning_rate):
        ok = math.isfinite(learning_rate) and learning_rate > 0
        check("learning_rate", learning_rate, ok, "a finite number > 0 or a schedule")

    def schedule(n: Any) -> Float[Array, ""]:
        rate = learning_rate(n) if callable(learning_rate) else learning_rate
        n = jnp.asarray(n, jnp.float32)
        return jnp.asarray(rate, jnp.float32) * jnp.minimum(1.0, (n + 1) / max(warmup, 1))

    return schedule


def inverse_sqrt(learning_rate: float, reference: int) -> Callable[[ArrayLike], Float[Array, ""]]:
    """The rate of update n: learning_rate / sqrt(max(n / reference, 1)); arXiv:2312.02696.

    Raises ValueError unless reference >= 1.

    >>> inverse_sqrt(0.01, 1000)(4000)
    Array(0.005, dtype=float32)
    """
    check("reference", reference, reference >= 1, ">= 1")

    def schedule(n: Any) -> Float[Array, ""]:
        return learning_rate / jnp.sqrt(jnp.maximum(jnp.asarray(n, jnp.float32) / reference, 1))

    return schedule


def projected(
    optimizer: optax.GradientTransformation, project: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """The optimiser with its parameters projected after every update: params = project(params + u).

    The state of the optimiser stays as it is. Averages are of the projected parameters.

    >>> optimizer = projected(make_optimizer(), unit_directions)
    """

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params, **extra)
        moved = project(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, moved, params), state

    return optax.GradientTransformation(optimizer.init, update)


def _decayed(params: Any) -> Any:
    """Which leaves have weight decay: neither biases nor leaves of a norm."""

    def decayed(path: Any, leaf: Any) -> bool:
        return leaf.ndim > 1 and "norm" not in jax.tree_util.keystr(path).lower()

    return jax.tree_util.tree_map_with_path(decayed, params)


def make_optimizer(
    *,
    learning_rate: float | Callable[[ArrayLike], ArrayLike] = 2e-4,
    warmup: int = 0,
    grad_clip: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    rule: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Adam (AdamW with `weight_decay`) after clipping by the global norm, with linear warm-up.

    learning_rate: the peak, or an optax schedule n -> rate that the warm-up multiplies; warmup: the
    number of updates until the full rate; grad_clip: the largest Euclidean norm of all gradients
    together, None for no clipping; weight_decay: applied to leaves of two axes or more outside modules
    named as norms, so to neither biases nor norms (class-conditional norms have tables); rule:
    replaces Adam, and b1, b2 and eps are then not used: `optax.scale_by_lion(0.9, 0.99)` is Lion
    (arXiv:2302.06675).

    Raises ValueError naming the argument for values outside these ranges.

    >>> optimizer = make_optimizer(learning_rate=2e-4, warmup=5000, grad_clip=1.0)
    """
    if grad_clip is not None:
        check("grad_clip", grad_clip, grad_clip > 0, "> 0 or None")
    check("b1", b1, 0 <= b1 < 1, "in [0, 1)")
    check("b2", b2, 0 <= b2 < 1, "in [0, 1)")
    check("eps", eps, eps > 0, "> 0")
    check("weight_decay", weight_decay, weight_decay >= 0, ">= 0")
    clip = optax.identity() if grad_clip is None else optax.clip_by_global_norm(grad_clip)
    decay = optax.add_decayed_weights(weight_decay, _decayed) if weight_decay else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps) if rule is None else rule,
        decay,
        optax.scale_by_learning_rate(warmed_up(learning_rate, warmup)),
    )
