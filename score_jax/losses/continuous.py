r"""Training objectives, each a `Loss`: (params, key, batch) -> (scalar, metrics).

Denoising score matching (Vincent 2011; arXiv:2011.13456 eq. 7) with x = m(t) x0 + s(t) z:

    (1)  L = E_t E_z [ w(t) || s(t) score(x, t) + z ||^2 ]

in units of the unit noise z, so w = 1 is the "noise weighting" lambda(t) = s(t)^2 of the paper, and
w = g(t)^2 / s(t)^2 is lambda(t) = g(t)^2, with which (1) bounds the negative log-likelihood
(arXiv:2101.09258 theorem 1).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_jax._math import batch_mean, batch_sum, bcast
from score_jax.losses.labels import check_dropout, drop_labels
from score_jax.score import NOISE, Output
from score_jax.types import (
    SDE,
    Apply,
    Batch,
    Loss,
    Metrics,
    Params,
    drawn_for,
    dropout_streams,
    rows_of,
)

_LABEL_STREAM = 0x1AB1  # of the keys, apart from the devices' own

Weighting = Callable[[SDE, Any], Any]
TimeSampler = Callable[[Any, int, float, float], Any]


def uniform_times(key: Key[Array, ""], n: int, t0: float, t1: float) -> Float[Array, " n"]:
    """Draw n independent times, uniform on [t0, t1)."""
    return jax.random.uniform(key, (n,), minval=t0, maxval=t1)


def stratified_times(key: Key[Array, ""], n: int, t0: float, t1: float) -> Float[Array, " n"]:
    """Draw n times, one in each n-th of [t0, t1): each is uniform, their mean varies far less.

    One shared offset (Kingma et al. 2021, arXiv:2107.00630 appendix I.1), in random order so that a
    time is not tied to a place in the batch.
    """
    offset_key, order_key = jax.random.split(key)
    u = (jax.random.uniform(offset_key) + jnp.arange(n)) / n
    u = jnp.minimum(u, 1 - jnp.finfo(u.dtype).eps)
    return t0 + (t1 - t0) * jax.random.permutation(order_key, u)


def noise_weighting(sde: SDE, t: Any) -> Any:
    """w(t) = 1 in eq. (1): lambda(t) = s(t)^2, the default of arXiv:2011.13456."""
    return jnp.ones_like(t)


def likelihood_weighting(sde: SDE, t: Any) -> Any:
    """w(t) = g(t)^2 / s(t)^2 in eq. (1): lambda(t) = g(t)^2, for likelihood (arXiv:2101.09258)."""
    return jnp.square(sde.diffusion(t) / sde.std(t))


def mean_reduction(squares: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """Mean over the entries of an example."""
    return batch_mean(squares)


def half_sum_reduction(squares: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """One half of the sum over the entries of an example, as the likelihood bound has it."""
    return 0.5 * batch_sum(squares)


def dsm_per_example(
    sde: SDE,
    apply: Apply,
    params: Params,
    x0: Float[Array, "b *d"],
    t: Float[Array, " b"],
    z: Float[Array, "b *d"],
    *,
    label: Callable[[Any], Any],
    output: Output = NOISE,
    weighting: Weighting = noise_weighting,
    reduction: Callable[[Any], Any] = mean_reduction,
    **kwargs: Any,
) -> Float[Array, " b"]:
    """Eq. (1) of this module for given times t (b,) and unit noise z (b, *d): (b,).

    The loss that `dsm_loss` averages; use it to compare with reference numbers.
    """
    mean, std = sde.marginal(x0, t)
    s = bcast(std, x0)
    x = mean + s * z
    value = apply(params, x, label(t), **kwargs).astype(x.dtype)
    z_hat = output.to_noise(sde, value, x, t)
    return weighting(sde, t) * reduction(jnp.square(z_hat - z))


def dsm_loss(
    sde: SDE,
    apply: Apply,
    *,
    label: Callable[[Any], Any],
    output: Output = NOISE,
    weighting: Weighting = noise_weighting,
    reduction: Callable[[Any], Any] = mean_reduction,
    times: TimeSampler = stratified_times,
    t0: float = 1e-5,
    label_dropout: float = 0.0,
    null_class: int | None = None,
    train: bool = True,
) -> Loss:
    """Continuous denoising score matching, eq. (1) of this module, as a `Loss`.

    The batch is a dict with "x" (b, *d), floating, and optionally "y" (b,), class labels, which are
    passed to the network as y=, in training replaced by `null_class` with probability
    `label_dropout` (`score_jax.guidance.classifier_free` needs a network that knows both). `t0` is
    the smallest time; with `train` the network gets train=True and a key for dropout. Metrics: "loss".
    Draws follow the rows that the batch carries (`score_jax.types.Rows`), if any, and then do not
    depend on the devices.

    Raises ValueError unless 0 < t0 < t1, for a dropout without null class and, when traced, for
    integer data (scale and dequantise them first).

    >>> loss = dsm_loss(VP(), net.apply, label=label_time())
    >>> value, metrics = loss(params, jax.random.key(0), {"x": x0})
    """
    if not 0 < t0 < sde.t1:
        raise ValueError(f"t0 must be in (0, t1={sde.t1}), got {t0!r}")
    check_dropout(label_dropout, null_class)

    def loss(params: Params, key: Key[Array, ""], batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        x0 = batch["x"]
        if not jnp.issubdtype(x0.dtype, jnp.floating):
            raise ValueError(
                f'batch["x"] must be floating, got {x0.dtype}: scale and dequantise integers first'
            )
        rows = rows_of(key, batch)
        t_key, z_key, dropout_key = jax.random.split(rows.key, 3)
        t = rows.shared(lambda key, n: times(key, n, t0, sde.t1), t_key)
        z = rows.each(lambda key: jax.random.normal(key, x0.shape[1:], x0.dtype), z_key)
        kwargs: dict[str, Any] = {"y": batch["y"]} if "y" in batch else {}
        if train and label_dropout:
            # A key of its own, so that the noise is the same with and without.
            label_key = jax.random.fold_in(dropout_key, _LABEL_STREAM)
            drop = partial(drop_labels, rate=label_dropout, null_class=int(null_class or 0))
            kwargs["y"] = rows.each(drop, label_key, kwargs["y"])
        if train:
            kwargs |= {"train": True, "rngs": dropout_streams(rows, dropout_key)}
        with drawn_for(rows):
            per_example = dsm_per_example(
                sde, apply, params, x0, t, z,
                label=label, output=output, weighting=weighting, reduction=reduction, **kwargs,
            )  # fmt: skip
        value = per_example.mean()
        return value, {"loss": value}

    return loss
