"""The reverse chain: what a network predicts, which variance it takes, and p(x_next | x) of it.

Equations (3) and (4) of `score_jax.discrete`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax.discrete.table import Diffusion, bridge, check_index, q_posterior, read, where
from score_jax.types import Apply, Params


class Prediction(NamedTuple):
    """A kind of network output.

    to_x0(diffusion, value, x, i) -> x0 (b, *d); target(diffusion, x0, x, noise, i): what the best
    network that knew x0 would return.
    """

    name: str
    to_x0: Callable[[Any, Any, Any, Any], Any]
    target: Callable[[Any, Any, Any, Any, Any], Any]


def _noise_to_x0(diffusion: Diffusion, value: Any, x: Any, i: Any) -> Any:
    scale = read(np.sqrt(1 / diffusion.alpha_bar), i, x)
    return scale * x - read(np.sqrt(1 / diffusion.alpha_bar - 1), i, x) * value


def x0_to_noise(
    diffusion: Diffusion, x0: Float[Array, "b *d"], x: Float[Array, "b *d"], i: Any
) -> Float[Array, "b *d"]:
    """The unit noise in x if its data are x0: (x / sqrt(alpha_bar) - x0) / sqrt(1/alpha_bar - 1)."""
    scale = read(np.sqrt(1 / diffusion.alpha_bar), i, x)
    return (scale * x - x0) / read(np.sqrt(1 / diffusion.alpha_bar - 1), i, x)


def _v_to_x0(diffusion: Diffusion, value: Any, x: Any, i: Any) -> Any:
    signal = read(np.sqrt(diffusion.alpha_bar), i, x)
    return signal * x - read(np.sqrt(1 - diffusion.alpha_bar), i, x) * value


def _v_target(diffusion: Diffusion, x0: Any, x: Any, noise: Any, i: Any) -> Any:
    signal = read(np.sqrt(diffusion.alpha_bar), i, x)
    return signal * noise - read(np.sqrt(1 - diffusion.alpha_bar), i, x) * x0


def _previous_to_x0(diffusion: Diffusion, value: Any, x: Any, i: Any) -> Any:
    if diffusion.respaced:
        raise ValueError(
            "PREVIOUS predicts the step before in the table of training: sample it on that table "
            f"(a shorter grid is fine), not on a respaced one ({diffusion})"
        )
    ratio = diffusion.posterior_x_coef / diffusion.posterior_x0_coef
    return read(1 / diffusion.posterior_x0_coef, i, x) * value - read(ratio, i, x) * x


NOISE = Prediction("noise", _noise_to_x0, lambda diffusion, x0, x, noise, i: noise)
X0 = Prediction("x0", lambda diffusion, value, x, i: value, lambda diffusion, x0, x, noise, i: x0)
# v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0, arXiv:2202.00512.
V = Prediction("v", _v_to_x0, _v_target)
PREVIOUS = Prediction(
    "previous",
    _previous_to_x0,
    lambda diffusion, x0, x, noise, i: q_posterior(diffusion, x0, x, i)[0],
)
PREDICTIONS = (NOISE, X0, V, PREVIOUS)


class Variance(NamedTuple):
    """A kind of reverse variance: log_variance(values, small, large, first) -> log Sigma.

    learned: whether `values` is the second half of the network's channels (None otherwise); small
    and large: log beta~ and log beta; first: where the index is 0.
    """

    name: str
    learned: bool
    log_variance: Callable[[Any, Any, Any, Any], Any]


FIXED_SMALL = Variance("fixed_small", False, lambda values, small, large, first: small)
# At index 0 the smaller one, which gives the better likelihood of the decoder (authors' program).
FIXED_LARGE = Variance(
    "fixed_large", False, lambda values, small, large, first: jnp.where(first, small, large)
)
LEARNED = Variance("learned", True, lambda values, small, large, first: values)
LEARNED_RANGE = Variance(
    "learned_range",
    True,
    lambda values, small, large, first: small + (values + 1) / 2 * (large - small),
)
VARIANCES = (FIXED_SMALL, FIXED_LARGE, LEARNED, LEARNED_RANGE)


class Reverse(NamedTuple):
    """p(x_next | x): mean (b, *d), log_variance and the predicted x0, of the same shape."""

    mean: Any
    log_variance: Any
    x0: Any

    @property
    def variance(self) -> Any:
        """exp(log_variance)."""
        return jnp.exp(self.log_variance)


def split_output(value: Any, x: Float[Array, "b *d"], learned: bool) -> tuple[Any, Any]:
    """(prediction, variance values): both of x's shape, the second None unless `learned`.

    Raises ValueError unless the network returned x's channels (last axis), twice if `learned`.
    """
    channels = x.shape[-1]
    want = (*x.shape[:-1], channels * (2 if learned else 1))
    if value.shape != want:
        raise ValueError(
            f"a network with {'a learned' if learned else 'a fixed'} variance must return "
            f"{want[-1]} channels for {channels}, got shape {value.shape} for x {x.shape}"
        )
    value = value.astype(x.dtype)
    return (value[..., :channels], value[..., channels:]) if learned else (value, None)


def p_mean_var(
    diffusion: Diffusion,
    value: Float[Array, "..."],
    x: Float[Array, "b *d"],
    i: Any,
    *,
    i_next: Any = None,
    prediction: Prediction = NOISE,
    variance: Variance = LEARNED_RANGE,
    clean: Callable[[Any], Any] | None = None,
) -> Reverse:
    """p(x_next | x) of a network's output `value`, eq. (3) and (4).

    value is (b, *d), with twice the channels for a learned variance; i is () or (b,); i_next as in
    `q_posterior`; `clean(x0)` corrects the predicted x0 before the mean is made of it (the
    rules `static()` and `dynamic()` of `score_jax.samplers`), for every kind of prediction.

    Raises ValueError for a wrong number of channels or an index outside the table.

    >>> out = p_mean_var(diffusion, net.apply(params, x, label), x, i, clean=static())
    """
    found = bridge(diffusion, i, i_next, x)
    value, values = split_output(value, x, variance.learned)
    x0 = prediction.to_x0(diffusion, value, x, i)
    if clean is not None:
        x0 = clean(x0)
    first = where(jnp.asarray(i) == 0, x)
    log_variance = variance.log_variance(values, found.small, found.large, first)
    mean = found.c0 * x0 + found.c1 * x
    return Reverse(mean, jnp.broadcast_to(log_variance, x.shape), x0)


def label_index(diffusion: Diffusion, *, top: float | None = None) -> Callable[[Any], Any]:
    """What a network trained on a table is told: index -> the index in the original table.

    With `top` the index is rescaled to [0, top): 1000 for published Improved DDPM models, whatever
    their number of steps.
    """
    scale = 1.0 if top is None else top / diffusion.n_original

    def label(i: Any) -> Float[Array, "..."]:
        table = jnp.asarray(diffusion.index_map * scale, jnp.float32)
        return table[jnp.asarray(i)]

    return label


ReverseFn = Callable[..., Reverse]  # (x: (b, *d), i, i_next=None) -> Reverse


def reverse_fn(
    diffusion: Diffusion,
    apply: Apply,
    params: Params,
    *,
    label: Callable[[Any], Any] | None = None,
    prediction: Prediction = NOISE,
    variance: Variance = LEARNED_RANGE,
    clean: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> ReverseFn:
    """Make p(x_next | x) of a network: (x: (b, *d), i: () or (b,), i_next=None) -> `Reverse`.

    `apply(params, x, label, **kwargs)` is the network with labels (b,), `label(i)` what it is told
    (by default `label_index(diffusion)`). One network evaluation per call; see `p_mean_var`.

    >>> reverse = reverse_fn(diffusion, net.apply, params, clean=static(), y=classes)
    """
    tell = label_index(diffusion) if label is None else label

    def reverse(x: Float[Array, "b *d"], i: Any, i_next: Any = None) -> Reverse:
        i = check_index(diffusion, i)
        told = jnp.broadcast_to(tell(i), (x.shape[0],))
        return p_mean_var(
            diffusion, apply(params, x, told, **kwargs), x, i,
            i_next=i_next, prediction=prediction, variance=variance, clean=clean,
        )  # fmt: skip

    return reverse
