r"""Classifier guidance of the reverse chain of a table of betas: ReverseFn -> ReverseFn.

With g = scale grad log p(y | x) at index i, two forms of arXiv:2105.05233:

    (1)  mean + Sigma g                       its algorithm 1, for ancestral sampling
    (2)  eps - sqrt(1 - alpha_bar) g          its algorithm 2, for DDIM; the mean follows from the new x0

(2) is the guided score at x, as `guide` has it; (1) the same to first order in the size of a step.
Over the SDE of a table, `from_betas` with `table_score`, `guide` serves as everywhere else.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.discrete import Diffusion, ReverseFn, at_index, q_posterior

Gradient = Callable[[Any, Any], Any]  # (x: (b, *d), i: () or (b,)) -> (b, *d)


def gradient_of(logp: Callable[[Any, Any], Any], scale: float = 1.0) -> Gradient:
    """The gradient of a log-likelihood (x, i) -> (b,), times `scale`: by one backward pass.

    >>> classifier = lambda x, i: net.apply(params, x, jnp.broadcast_to(tell(i), x.shape[:1]))
    >>> gradient = gradient_of(class_logp(classifier, 7), scale=2.0)
    """
    return lambda x, i: scale * jax.grad(lambda x: logp(x, i).sum())(x)


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
