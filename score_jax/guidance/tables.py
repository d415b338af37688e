"""Shim of guidance on the former tables of betas: remove at the end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.discrete import Diffusion, ReverseFn, at_index, q_posterior
from score_jax.guidance.classes import classifier_free
from score_jax.guidance.terms import check_weight
from score_jax.types import Apply, ScoreFn

Gradient = Callable[[Any, Any], Any]  # (x: (b, *d), i: () or (b,)) -> (b, *d)


def guided_mean(reverse: ReverseFn, gradient: Gradient) -> ReverseFn:
    """Eq. (1): the mean moved by the variance times the gradient; x0 stays as predicted.

    >>> step = table_ancestral(diffusion, guided_mean(reverse, gradient))
    """

    def guided(x: Any, i: Any, i_next: Any = None) -> Any:
        out = reverse(x, i, i_next)
        return out._replace(mean=out.mean + out.variance * gradient(x, i))

    return guided


def guided_noise(diffusion: Diffusion, reverse: ReverseFn, gradient: Gradient) -> ReverseFn:
    """Eq. (2): the predicted noise, hence x0 and mean, of the guided score.

    >>> step = table_ddim(diffusion, guided_noise(diffusion, reverse, gradient))
    """

    def guided(x: Any, i: Any, i_next: Any = None) -> Any:
        out = reverse(x, i, i_next)
        signal, std = at_index(diffusion, jnp.asarray(i), x)
        change = std**2 / signal * gradient(x, i)
        # The mean is linear in x0 and x: this is what a change of x0 alone does to it.
        moved, _ = q_posterior(diffusion, change, jnp.zeros_like(x), i, i_next)
        return out._replace(mean=out.mean + moved, x0=out.x0 + change)

    return guided


def classifier_free_doubled(
    maker: Callable[[Any], ScoreFn], y: Any, null: Any, *, scale: Any = 2.0, interval: Any = None
) -> ScoreFn:
    """Shim of `classifier_free(..., both=...)`."""
    none = jnp.full_like(jnp.asarray(y), null)
    both = maker(jnp.concatenate([jnp.asarray(y), none]))
    return classifier_free(maker(y), maker(none), both=both, scale=scale, interval=interval)


def classifier_free_apply(apply: Apply, null: int, *, scale: float = 2.0) -> Apply:
    """A network's apply with y=, guided inside: for tables of betas and all that takes an apply.

    One call with twice the batch. What the network predicts is mixed, which is the same for noise,
    score, x0 and v; of one that returns twice the channels of x (a learned variance) the second half
    is the conditional's.

    Raises ValueError for a bad scale, and, when called, without y.

    >>> reverse = reverse_fn(diffusion, classifier_free_apply(net.apply, 10, scale=2.0), params, y=y)
    """
    check_weight("scale", scale)

    def guided(params: Any, x: Any, label: Any, y: Any = None, **kwargs: Any) -> Any:
        if y is None:
            raise ValueError("classifier-free guidance needs class labels y, got none")
        # Whatever has one entry an example goes twice; numbers and keys stay.
        twice = lambda a: jnp.concatenate([a, a]) if _of_batch(a, x) else a
        labels = jnp.concatenate([jnp.asarray(y), jnp.full_like(jnp.asarray(y), null)])
        value = apply(params, twice(x), twice(label), y=labels, **jax.tree.map(twice, kwargs))
        conditional, unconditional = jnp.split(value, 2)
        mixed = conditional + (scale - 1) * (conditional - unconditional)
        c = x.shape[-1]
        if conditional.shape[-1] == 2 * c:
            return jnp.concatenate([mixed[..., :c], conditional[..., c:]], axis=-1)
        return mixed

    return guided


def _of_batch(value: Any, x: Any) -> bool:
    return getattr(value, "ndim", 0) > 0 and value.shape[0] == x.shape[0]
