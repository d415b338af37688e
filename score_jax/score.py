"""Where networks and SDEs meet: a network with parameters becomes a score.

What a network returns is a `Parametrization`, what it is given of the time its noise input; see
`score_jax.parametrization`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax._check import check_array, check_function
from score_jax._math import as_time, bcast
from score_jax._renamed import renamed
from score_jax.parametrization import (
    NOISE,
    SCORE,
    SMALL,
    NoiseInput,
    Parametrization,
    Variance,
    check_model,
)
from score_jax.sde import bridge
from score_jax.types import (
    SDE,
    Apply,
    Clean,
    Data,
    Params,
    ScoreFn,
    ScoreOut,
    as_returned,
    ends_in_noise,
    score_out,
)


def split_output(
    value: Float[Array, "..."], x: Float[Array, "b *d"], learned: bool
) -> tuple[Float[Array, "b *d"], Float[Array, "b *d"] | None]:
    """(prediction, variance values), both of x's shape and dtype, the second None unless `learned`.

    Raises ValueError unless the network returned x's channels (the last axis), twice if `learned`.
    """
    channels = x.shape[-1]
    want = (*x.shape[:-1], channels * (2 if learned else 1))
    if value.shape != want:
        raise ValueError(
            f"the network returned shape {value.shape} for x of shape {x.shape}: a network with "
            f"{'a learned' if learned else 'a fixed'} variance must return {want[-1]} channels for "
            f"{channels}"
        )
    value = value.astype(x.dtype)
    return (value[..., :channels], value[..., channels:]) if learned else (value, None)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "arrays"],
    meta_fields=["sde", "apply", "noise_input", "parametrization", "variance", "options"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class NetworkScore:
    """A `ScoreFn` made by `score_fn`; a pytree, so that jitted functions take it as an argument.

    Its leaves are the parameters and the arrays among the keyword arguments; all else is static.
    """

    params: Params
    arrays: dict[str, Any]
    sde: SDE
    apply: Apply
    noise_input: NoiseInput
    parametrization: Parametrization
    variance: Variance | None
    options: tuple[tuple[str, Any], ...]

    def __call__(
        self, x: Float[Array, "b *d"], t: float | Float[Array, "..."]
    ) -> Float[Array, "b *d"] | ScoreOut:
        """The score at x (b, *d) and t, () or (b,).

        A `ScoreOut` if the variance is learned, or the process ends in pure noise.
        """
        check_array("x", x)
        t = as_time(t)
        given = jnp.broadcast_to(self.noise_input(self.sde, t), (x.shape[0],))
        inner = self.parametrization.to_input(self.sde, x, t)
        value = self.apply(self.params, inner, given, **self.arrays, **dict(self.options))
        learned = self.variance is not None and self.variance.learned
        value, values = split_output(value, x, learned)
        if self.parametrization is SCORE:
            score = value
        else:
            score = -self.parametrization.to_noise(self.sde, value, x, t) / bcast(
                self.sde.std(t), x
            )
        to_x0, clean = self.parametrization.to_x0, None
        if to_x0 is not None and ends_in_noise(self.sde):
            clean = Clean(to_x0(self.sde, value, x, t), score)
        return as_returned(ScoreOut(score, values, clean))


def score_fn(
    sde: SDE,
    apply: Apply,
    params: Params,
    *,
    noise_input: NoiseInput,
    parametrization: Parametrization = NOISE,
    variance: Variance | None = None,
    **kwargs: Any,
) -> NetworkScore:
    """Make a `ScoreFn` of a network: (x: (b, *d), t: () or (b,)) -> grad_x log p_t(x): (b, *d).

    `apply(params, x, noise_input (b,), **kwargs)` is the network (`module.apply`);
    `noise_input(sde, t)` is what it is given of the time and `parametrization` what it returns. With
    a learned `variance` the network returns twice the channels, and the score a `ScoreOut` with the
    second half; with an SDE that ends in pure noise, a `ScoreOut` with the mean of x0. `kwargs`, such as
    y=class labels, are closed over. One network evaluation per call.

    Raises ValueError for an argument of another kind and for a wrong shape of the output.

    >>> score = score_fn(VP(), net.apply, params, noise_input=TimeInput())
    >>> score(x, jnp.asarray(0.5))
    """
    check_model(sde, apply, noise_input, parametrization, variance)
    is_array = lambda leaf: isinstance(leaf, jax.Array | np.ndarray)
    arrays = {k: v for k, v in kwargs.items() if all(map(is_array, jax.tree.leaves(v)))}
    options = tuple((k, v) for k, v in kwargs.items() if k not in arrays)
    return NetworkScore(params, arrays, sde, apply, noise_input, parametrization, variance, options)


class Tweedie(NamedTuple):
    """Tweedie's formula x0 = (x + s^2 score) / m at a time: m and s^2, ready to multiply x (b, *d)."""

    m: Float[Array, "..."]
    s2: Float[Array, "..."]

    def x0(self, x: Float[Array, "b *d"], score: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        """The mean of x0 given x: (b, *d)."""
        return (x + self.s2 * score) / self.m

    def push(self, move: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        """What moves x0 by `move` if it is added to the score: (b, *d)."""
        return self.m / self.s2 * move

    def with_x0(
        self, out: ScoreOut, x0: Float[Array, "b *d"], wanted: Float[Array, "b *d"]
    ) -> ScoreOut:
        """The output whose mean of x0 is `wanted`, of one whose mean is x0: both (b, *d)."""
        score = out.score + self.push(wanted - x0)
        return out._replace(score=score, clean=None if out.clean is None else Clean(wanted, score))

    def moved(self, change: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        """How far x0 moves if `change` is added to the score, 0 at pure noise (m = 0): (b, *d)."""
        some = self.m > 0
        return jnp.where(some, self.s2 / jnp.where(some, self.m, 1), 0) * change


def tweedie_at(sde: SDE, x: Float[Array, "b *d"], t: float | Float[Array, "..."]) -> Tweedie:
    """The coefficients of Tweedie's formula at t, () or (b,), for data of the shape of x (b, *d)."""
    return Tweedie(bcast(sde.mean_coeff(t), x), bcast(jnp.square(sde.std(t)), x))


def denoise(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    t: float | Float[Array, "..."],
) -> Float[Array, "b *d"]:
    """The mean of x0 given x by Tweedie's formula: (x + s^2 score(x, t)) / m, shape of x.

    One evaluation of the score. Robbins 1956; arXiv:2011.13456 section "denoising". At pure noise
    (m = 0) the score must come with the mean of x0, as that of a network does.
    """
    return x0_of(sde, score_out(score, x, t), x, t)


def x0_of(
    sde: SDE, out: ScoreOut, x: Float[Array, "b *d"], t: float | Float[Array, "..."]
) -> Float[Array, "b *d"]:
    """The mean of x0 given x (b, *d) of an evaluated score: by Tweedie's formula, or as it says itself.

    Where the score was changed since, x0 moves with it; at pure noise, m = 0, no change of the score
    moves it.
    """
    if out.clean is None:
        return tweedie_at(sde, x, t).x0(x, out.score)
    if out.score is out.clean.score:
        return out.clean.x0
    return out.clean.x0 + tweedie_at(sde, x, t).moved(out.score - out.clean.score)


def from_denoiser(
    sde: SDE, denoiser: Callable[[Data, Float[Array, "..."]], Float[Array, "b *d"]]
) -> ScoreFn:
    """The score of a denoiser (x: (b, *d), t) -> x0: (m x0 - x) / s^2, with that x0 of its own.

    Also of a consistency function, for `samplers.consistency`.

    >>> score = from_denoiser(sde, data.consistency(sde, t0=0.002))
    """
    check_function("denoiser", denoiser, "a function (x, t) -> x0")

    def score(x: Float[Array, "b *d"], t: float | Float[Array, "..."]) -> ScoreOut:
        t = as_time(t)
        x0, at = denoiser(x, t), tweedie_at(sde, x, t)
        value = (at.m * x0 - x) / at.s2
        return ScoreOut(value, None, Clean(x0, value))

    return score


class Reverse(NamedTuple):
    """p(x(t_next) | x(t)): mean (b, *d), log_variance and the predicted x0, of the same shape."""

    mean: Float[Array, "b *d"]
    log_variance: Float[Array, "b *d"]
    x0: Float[Array, "b *d"]

    @property
    def variance(self) -> Float[Array, "b *d"]:
        """exp(log_variance)."""
        return jnp.exp(self.log_variance)


ReverseFn = Callable[..., Reverse]  # (x: (b, *d), t, t_next) -> Reverse


def reverse_moments(
    sde: SDE,
    x0: Float[Array, "b *d"],
    values: Float[Array, "b *d"] | None,
    x: Float[Array, "b *d"],
    t: float | Float[Array, "..."],
    t_next: float | Float[Array, "..."],
    *,
    variance: Variance,
    first: Float[Array | np.ndarray, " n"] | None = None,
) -> Reverse:
    """p(x(t_next) | x(t)) of a predicted x0, arXiv:2006.11239 eq. 6: the posterior's mean, Sigma.

    values: the network's second output for a learned `variance`, else None; t_next < t, () or (b,).
    The posterior's variance is 0 at data (t_next = 0). With `first`, the first two times (2,) of a
    grid from data, that of the second interval takes its place there, as in the published programs,
    and a fixed variance is the smaller one, which gives the decoder a better likelihood.
    """
    t, t_next = as_time(t), as_time(t_next)
    found = bridge(sde, t, t_next)
    small, large = found.small, found.large
    if first is not None:
        early, late = (0.0, first[0]) if len(first) < 2 else (first[0], first[1])
        small = jnp.where(t_next > 0, small, bridge(sde, as_time(late), as_time(early)).small)
        large = large if variance.learned else jnp.where(t_next > 0, large, small)
    log_variance = variance.log_variance(values, bcast(small, x), bcast(large, x))
    return Reverse(found.mean(x0, x), jnp.broadcast_to(log_variance, x.shape), x0)


def reverse_fn(
    sde: SDE,
    score: ScoreFn,
    *,
    variance: Variance = SMALL,
    clean: Callable[[Data], Data] | None = None,
    first: Float[Array | np.ndarray, " n"] | None = None,
) -> ReverseFn:
    """The reverse chain of a score: (x: (b, *d), t, t_next) -> `Reverse`, one evaluation per call.

    `clean(x0)` corrects the predicted x0 before the mean is made of it (the rules `static()` and
    `dynamic()` of `score_jax.samplers`); variance and first as in `reverse_moments`.

    Raises ValueError for a learned variance if the score returns none.

    >>> reverse = reverse_fn(model.sde, model.score(params), variance=LEARNED_RANGE, clean=static())
    """

    def reverse(x: Float[Array, "b *d"], t: Any, t_next: Any) -> Reverse:
        t = as_time(t)
        out = score_out(score, x, t)
        if variance.learned and out.variance is None:
            raise ValueError(
                f"variance={variance.name!r} needs a score that returns a learned variance, a ScoreOut"
            )
        x0 = x0_of(sde, out, x, t)
        x0 = x0 if clean is None else clean(x0)
        return reverse_moments(sde, x0, out.variance, x, t, t_next, variance=variance, first=first)

    return reverse


__getattr__ = renamed(__name__)
