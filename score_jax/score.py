r"""Where networks and SDEs meet: what a network returns becomes a score.

With x = m x0 + s z (m = mean_coeff(t), s = std(t), z unit noise) a network may predict

    noise         z                   score = -z / s
    score         -z / s
    scaled score  s * score = -z
    denoised      x0 = (x - s z) / m
    v             m z - s x0          (Salimans & Ho 2022, arXiv:2202.00512; needs m^2 + s^2 > 0)

Each is a linear function of z given (x, m, s): an `Output` record holds the map to z and back, so
any two are joined by `convert`. What the network is *told* of the time is a label: `label_time`
(t * 999, VP and sub-VP) or `label_std` (sigma(t), VE), or any function of t.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._math import as_time, bcast
from score_jax.types import SDE, Apply, Params, ScoreFn, score_at


class Output(NamedTuple):
    """A parametrisation: `to_noise(value, x, m, s)`, `from_noise(z, x, m, s)`; m, s fit x."""

    name: str
    to_noise: Callable[[Any, Any, Any, Any], Any]
    from_noise: Callable[[Any, Any, Any, Any], Any]


NOISE = Output("noise", lambda value, x, m, s: value, lambda z, x, m, s: z)
SCORE = Output("score", lambda value, x, m, s: -s * value, lambda z, x, m, s: -z / s)
SCALED_SCORE = Output("scaled_score", lambda value, x, m, s: -value, lambda z, x, m, s: -z)
DENOISED = Output(
    "denoised", lambda value, x, m, s: (x - m * value) / s, lambda z, x, m, s: (x - s * z) / m
)
# From x = m x0 + s z and v = m z - s x0: m v + s x = (m^2 + s^2) z.
V = Output(
    "v",
    lambda value, x, m, s: (m * value + s * x) / (m * m + s * s),
    lambda z, x, m, s: ((m * m + s * s) * z - s * x) / m,
)
OUTPUTS = (NOISE, SCORE, SCALED_SCORE, DENOISED, V)


def convert(
    value: Float[Array, "b *d"],
    source: Output,
    target: Output,
    x: Float[Array, "b *d"],
    m: Float[Array, "..."],
    s: Float[Array, "..."],
) -> Float[Array, "b *d"]:
    """Turn a prediction of one kind into another, at x = m x0 + s z.

    value and x are (b, *d), m and s scalars or (b,).

    >>> x0_hat = convert(z_hat, NOISE, DENOISED, x, sde.mean_coeff(t), sde.std(t))
    """
    m, s = bcast(as_time(m), x), bcast(as_time(s), x)
    return target.from_noise(source.to_noise(value, x, m, s), x, m, s)


def label_time(scale: float = 999.0) -> Callable[[Any], Any]:
    """Label t * scale: what VP and sub-VP networks are told (arXiv:2011.13456, authors' code)."""

    def label(t: Any) -> Any:
        return t * scale

    return label


def label_std(sde: SDE) -> Callable[[Any], Any]:
    """Label sigma(t) = std(t): what VE networks trained in continuous time are told."""

    def label(t: Any) -> Any:
        return sde.std(t)

    return label


def score_fn(
    sde: SDE,
    apply: Apply,
    params: Params,
    *,
    label: Callable[[Any], Any],
    output: Output = NOISE,
    **kwargs: Any,
) -> ScoreFn:
    """Make a `ScoreFn` of a network: (x: (b, *d), t: () or (b,)) -> grad_x log p_t(x): (b, *d).

    `apply(params, x, label, **kwargs)` is the network (`module.apply`) with label (b,); `label`
    maps t to what the network is told, `output` says what it returns. `kwargs`, such as y=class
    labels, are closed over: samplers never see them. One network evaluation per call.

    >>> score = score_fn(VP(), net.apply, params, label=label_time(), output=NOISE)
    >>> score(x, jnp.asarray(0.5))
    """
    if not isinstance(output, Output):
        raise ValueError(f"output must be one of {[o.name for o in OUTPUTS]}, got {output!r}")

    def score(x: Float[Array, "b *d"], t: float | Float[Array, "..."]) -> Float[Array, "b *d"]:
        t = as_time(t)
        told = jnp.broadcast_to(label(t), (x.shape[0],))
        value = apply(params, x, told, **kwargs)
        if value.shape != x.shape:
            raise ValueError(f"the network returned shape {value.shape} for x of shape {x.shape}")
        m, s = sde.mean_coeff(t), sde.std(t)
        return convert(value.astype(x.dtype), output, SCORE, x, m, s)

    return score


def denoise(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    t: float | Float[Array, "..."],
) -> Float[Array, "b *d"]:
    """The mean of x0 given x by Tweedie's formula: (x + s^2 score(x, t)) / m, shape of x.

    One evaluation of the score. Robbins 1956; arXiv:2011.13456 section "denoising".
    """
    s2 = jnp.square(sde.std(t))
    return (x + bcast(s2, x) * score_at(score, x, t)) / bcast(sde.mean_coeff(t), x)
