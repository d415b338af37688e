r"""Guidance towards a class: by a classifier of noisy data, or by a network that knows both.

    classifier       score(x, t) + scale grad log p_t(y | x)                       arXiv:2105.05233
    classifier-free  score(x, t) + scale (score(x, t | y) - score(x, t))           arXiv:2207.12598

Scale 1 is the exact conditional of either, 0 the unconditional; larger scales sharpen p(y | x) to its
power, which makes samples surer and less diverse. (arXiv:2207.12598 counts from the conditional: its
w is scale - 1.) Guidance at the middle times alone does it better (arXiv:2404.07724): `interval`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax._math import as_time, bcast
from score_jax.guidance.terms import (
    Interval,
    LogLikelihood,
    Weight,
    check_interval,
    check_weight,
    guide,
    inside,
    on_x,
    weight_at,
)
from score_jax.types import SDE, Apply, Params, ScoreFn

Classifier = Callable[[Any, Any], Any]  # (x: (b, *d), t: () or (b,)) -> logits (b, classes)


def classifier_fn(
    apply: Apply, params: Params, *, label: Callable[[Any], Any], **kwargs: Any
) -> Classifier:
    """A network that knows noise levels as a function (x (b, *d), t) -> logits (b, classes).

    `label` maps t to what the network is told, as in `score_jax.score.score_fn`.

    >>> classifier = classifier_fn(net.apply, params, label=label_time())
    """

    def classifier(x: Any, t: Any) -> Any:
        told = jnp.broadcast_to(label(as_time(t)), (x.shape[0],))
        return apply(params, x, told, **kwargs)

    return classifier


def check_classes(y: Any, num_classes: int) -> None:
    """Raise ValueError unless y are integers in [0, num_classes), where their values are known."""
    y = jnp.asarray(y) if isinstance(y, jax.core.Tracer) else np.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"y must be integer class labels, got dtype {y.dtype}")
    if isinstance(y, np.ndarray) and y.size and not (y.min() >= 0 and y.max() < num_classes):
        wrong = y.min() if y.min() < 0 else y.max()
        raise ValueError(f"y must be in [0, {num_classes}), got {wrong}")


def class_logp(classifier: Classifier, y: Any, *, temperature: float = 1.0) -> LogLikelihood:
    """The log-probability of the class y, () or (b,), at a temperature: (x, t) -> (b,).

    The logits are divided by the temperature: above 1 the classifier is less sure, and its gradient
    reaches further. Raises ValueError unless temperature > 0, and, when called, for labels that the
    classifier does not have.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature!r}")

    def logp(x: Any, t: Any) -> Any:
        logits = classifier(x, t)
        if logits.ndim != 2 or logits.shape[0] != x.shape[0]:
            raise ValueError(
                f"a classifier must return logits (b, classes) for b={x.shape[0]}, got shape "
                f"{logits.shape}"
            )
        check_classes(y, logits.shape[1])
        which = jnp.broadcast_to(jnp.asarray(y), (x.shape[0],))
        logs = jax.nn.log_softmax(logits / temperature, axis=1)
        return jnp.take_along_axis(logs, which[:, None], axis=1)[:, 0]

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


def _mixed(conditional: Any, unconditional: Any, scale: Any) -> Any:
    """The conditional itself at scale 1, to the bit."""
    return conditional + (scale - 1) * (conditional - unconditional)


def _free(both: Any, conditional: ScoreFn, scale: Weight, interval: Interval) -> ScoreFn:
    check_weight("scale", scale)
    check_interval(interval)

    def mixed(x: Any, t: Any) -> Any:
        weight = jnp.where(inside(interval, t), weight_at(scale, t), 1)
        with_label, without = both(x, t)
        return _mixed(with_label, without, bcast(weight, x))

    def guided(x: Any, t: Any) -> Any:
        t = as_time(t)
        if interval is None or t.ndim:
            return mixed(x, t)
        return jax.lax.cond(inside(interval, t), mixed, conditional, x, t)

    return guided


def classifier_free(
    conditional: ScoreFn,
    unconditional: ScoreFn,
    *,
    scale: Weight = 2.0,
    interval: Interval = None,
) -> ScoreFn:
    """The score guided by the difference of two: unconditional + scale (conditional - unconditional).

    The two may be one network with and without its labels, or two networks. `scale` is a number or a
    function of t; outside `interval` it is 1, and the unconditional is not evaluated. Two
    evaluations a call, where samplers count one.

    Raises ValueError for a bad scale or interval.

    >>> maker = lambda y: score_fn(sde, net.apply, params, label=label_time(), y=y)
    >>> guided = classifier_free(maker(y), maker(jnp.full_like(y, 10)), scale=2.0, interval=(0.1, 0.8))
    """
    both = lambda x, t: (conditional(x, t), unconditional(x, t))
    return _free(both, conditional, scale, interval)


def classifier_free_doubled(
    maker: Callable[[Any], ScoreFn],
    y: Any,
    null: Any,
    *,
    scale: Weight = 2.0,
    interval: Interval = None,
) -> ScoreFn:
    """`classifier_free` of one network in one call with twice the batch.

    `maker(y)` is the score for labels y (b,), `null` the label that stands for none. Faster where
    the batch is small for the machine, and twice the memory.

    >>> guided = classifier_free_doubled(maker, y, 10, scale=2.0)
    """

    def both(x: Any, t: Any) -> Any:
        labels = jnp.concatenate([jnp.asarray(y), jnp.full_like(jnp.asarray(y), null)])
        times = jnp.concatenate([t, t]) if t.ndim else t
        return jnp.split(maker(labels)(jnp.concatenate([x, x]), times), 2)

    return _free(both, maker(y), scale, interval)


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
        mixed = _mixed(conditional, unconditional, scale)
        c = x.shape[-1]
        if conditional.shape[-1] == 2 * c:
            return jnp.concatenate([mixed[..., :c], conditional[..., c:]], axis=-1)
        return mixed

    return guided


def _of_batch(value: Any, x: Any) -> bool:
    return getattr(value, "ndim", 0) > 0 and value.shape[0] == x.shape[0]
