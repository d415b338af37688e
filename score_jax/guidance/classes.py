r"""Guidance towards a class by a classifier of noisy data (arXiv:2105.05233).

    score(x, t) + scale grad log p_t(y | x)

Scale 1 is the exact conditional, 0 the unconditional; larger scales raise p(y | x) to a power, which
makes samples less diverse. Guidance at the middle times alone keeps more diversity (arXiv:2404.07724):
`interval`. `score_jax.guidance.differences` guides without a classifier.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check, check_classes, plain
from score_jax._math import as_time
from score_jax.guidance.terms import (
    Interval,
    LogLikelihood,
    Weight,
    check_weight,
    guide,
    on_x,
)
from score_jax.parametrization import NoiseInput
from score_jax.types import (
    SDE,
    Apply,
    Data,
    Params,
    PerExample,
    ScoreFn,
    Time,
    TimeLike,
)

# (x: (b, *d), t: () or (b,)) -> logits (b, classes)
Classifier = Callable[[Data, Time], Float[Array, "b classes"]]


def classifier_fn(
    sde: SDE, apply: Apply, params: Params, *, noise_input: NoiseInput, **kwargs: Any
) -> Classifier:
    """A network of noisy data as a function (x (b, *d), t) -> logits (b, classes).

    `noise_input(sde, t)` is what the network is given of the time, as in `score_jax.score.score_fn`.

    >>> classifier = classifier_fn(sde, net.apply, params, noise_input=TimeInput())
    """

    def classifier(x: Data, t: TimeLike) -> Float[Array, "b c"]:
        given = jnp.broadcast_to(noise_input(sde, as_time(t)), (x.shape[0],))
        return apply(params, x, given, **kwargs)

    return classifier


def class_logp(classifier: Classifier, y: Any, *, temperature: float = 1.0) -> LogLikelihood:
    """The log-probability of the class y, () or (b,), at a temperature: (x, t) -> (b,).

    The logits are divided by the temperature: above 1 the probabilities are more even, and the gradient
    reaches further. A label outside the classes of the classifier is an error where its value is known;
    inside a compiled program it counts as no class, of log-probability 0.

    Raises ValueError unless temperature > 0, and, when called, for such labels.
    """
    temperature = plain(temperature)
    check("temperature", temperature, temperature > 0, "> 0")

    def logp(x: Data, t: Time) -> PerExample:
        logits = classifier(x, t)
        if logits.ndim != 2 or logits.shape[0] != x.shape[0]:
            raise ValueError(
                f"a classifier must return logits (b, classes) for b={x.shape[0]}, got shape "
                f"{logits.shape}"
            )
        check_classes(y, logits.shape[1])
        which = jnp.broadcast_to(jnp.asarray(y), (x.shape[0],))
        inside = (which >= 0) & (which < logits.shape[1])
        logs = jax.nn.log_softmax(logits / temperature, axis=1)
        found = jnp.take_along_axis(logs, jnp.where(inside, which, 0)[:, None], axis=1)[:, 0]
        return jnp.where(inside, found, 0)

    return logp


def classifier_guidance(
    sde: SDE,
    score: ScoreFn,
    classifier: Classifier,
    y: Any,
    *,
    scale: Weight = 1.0,
    interval: Interval = None,
    temperature: float = 1.0,
) -> ScoreFn:
    """The score of the class y, () or (b,): one evaluation of score and classifier, one backward.

    `scale` is a number or a function of t; outside `interval` the classifier is not evaluated.
    Raises ValueError for a bad scale, interval or temperature, and for labels out of range.

    >>> guided = classifier_guidance(sde, score, classifier, 7, scale=2.0)
    """
    check_weight("scale", scale)
    logp = class_logp(classifier, y, temperature=temperature)
    return guide(sde, score, on_x(logp, weight=scale, interval=interval))
