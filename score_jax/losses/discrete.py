r"""Training objectives on a table of betas: simple, variational bound, hybrid.

The bound on -log p(x0) is a sum over the table, in bits per dimension (arXiv:2102.09672 eq. 4-7):

    (1)  L_prior = KL(q(x_N | x0) || N(0, I))
    (2)  L_i     = KL(q(x_prev | x, x0) || p(x_prev | x)),   i > 0           `bound_term`
    (3)  L_0     = -log p(x0 | x_1), a Gaussian cut into the cells of the grey levels

and the objectives, for an index i drawn uniformly or with a weight 1/(N p_i),

    simple       w_i ||target - prediction||^2 / d                      arXiv:2006.11239 eq. 14
    variational  N L_i: an unbiased estimate of L_0 + ... + L_{N-1}
    hybrid       simple + 1e-3 N L_i, the mean held constant in L_i     arXiv:2102.09672 eq. 16

An `Objective` maps a `Sample` to losses (b,) and what they are made of; `discrete_loss` makes a
`Loss` of it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from score_jax._math import batch_mean
from score_jax.discrete import (
    FIXED_LARGE,
    LEARNED_RANGE,
    NOISE,
    Diffusion,
    Prediction,
    Reverse,
    Variance,
    label_index,
    p_mean_var,
    q_posterior,
    q_sample,
    split_output,
)
from score_jax.losses.labels import check_dropout, drop_labels
from score_jax.types import Apply, Batch, Loss, Metrics, Params, drawn_for, dropout_streams, rows_of

Decoder = Callable[[Any, Any, Any], Any]  # (x0, mean, log_variance) -> log p in nats, shape of x0
LogMass = Callable[[Any, Any], Any]  # (lower, upper) -> log of a unit Gaussian's mass in between
StepWeighting = Callable[[Diffusion, Any], Any]  # (diffusion, i: (b,)) -> (b,)

_FAR = 1e3  # standard deviations: the edge of an open cell


class Sample(NamedTuple):
    """What an objective sees: the table, a network's output at x, and where x came from."""

    diffusion: Any
    value: Any
    x0: Any
    x: Any
    noise: Any
    i: Any


Objective = Callable[[Sample], tuple[Any, dict[str, Any]]]


def gaussian_kl(mean1: Any, log_variance1: Any, mean2: Any, log_variance2: Any) -> Any:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))) of every entry, in nats."""
    gap = log_variance1 - log_variance2
    # expm1(gap) - gap: nothing is lost where the variances nearly agree.
    spread = jnp.expm1(gap) - gap
    return 0.5 * (spread + jnp.square(mean1 - mean2) * jnp.exp(-log_variance2))


def _tanh(u: Any) -> Any:
    """tanh to the last digit near 1, where the mass of a far cell is a difference of such digits.

    XLA's own is off by some; published bounds then differ in their fifth digit.
    """
    size = jnp.minimum(jnp.where(u < 0, -u, u), 20)
    small = jnp.expm1(2 * jnp.minimum(size, 0.5))
    value = jnp.where(size > 0.5, 1 - 2 / (jnp.exp(2 * size) + 1), small / (small + 2))
    return jnp.where(u < 0, -value, value)


def tanh_log_mass(lower: Any, upper: Any) -> Any:
    """log of the mass in [lower, upper] of the distribution that published models are judged by.

    Its cumulative function is (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, within 3e-4 of the
    normal one, and the mass is not taken below 1e-12 (Ho et al. 2020, authors' program).
    """

    def cdf(z: Any) -> Any:
        return 0.5 * (1 + _tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    return jnp.log(jnp.maximum(cdf(upper) - cdf(lower), 1e-12))


def normal_log_mass(lower: Any, upper: Any) -> Any:
    """log of the normal mass in [lower, upper], exact far into both tails."""
    # By symmetry both ends are brought to the left, where the cumulative function keeps its digits.
    right = lower + upper > 0
    lower, upper = jnp.where(right, -upper, lower), jnp.where(right, -lower, upper)
    a, b = jax.scipy.special.log_ndtr(lower), jax.scipy.special.log_ndtr(upper)
    return b + jnp.log(-jnp.expm1(jnp.minimum(a - b, -1e-7)))


def discretized_gaussian(
    levels: int = 256, *, low: float = -1.0, high: float = 1.0, log_mass: LogMass = tanh_log_mass
) -> Decoder:
    """A decoder for data on `levels` equal levels from low to high: a Gaussian's mass in their cells.

    The first and the last cell reach to infinity, so the masses sum to one. arXiv:2006.11239
    eq. 13.

    Raises ValueError unless levels >= 2 and low < high.

    >>> decoder = discretized_gaussian(17)
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels!r}")
    if not low < high:
        raise ValueError(f"low must be below high, got {low=}, {high=}")
    half = 0.5 * (high - low) / (levels - 1)

    def logp(x0: Any, mean: Any, log_variance: Any) -> Any:
        scale = jnp.exp(-0.5 * log_variance)
        lower, upper = scale * (x0 - mean - half), scale * (x0 - mean + half)
        # A level may be off by rounding, not by an eighth of a cell.
        first, last = x0 < low + half / 4, x0 > high - half / 4
        return log_mass(
            jnp.where(first, jnp.minimum(upper, 0) - _FAR, lower),
            jnp.where(last, jnp.maximum(lower, 0) + _FAR, upper),
        )

    return logp


def density_decoder(x0: Any, mean: Any, log_variance: Any) -> Any:
    """A decoder for continuous data: the log density of every entry, in nats."""
    square = jnp.square(x0 - mean) * jnp.exp(-log_variance)
    return -0.5 * (math.log(2 * math.pi) + log_variance + square)


_DECODER = discretized_gaussian()


def bound_term(
    diffusion: Diffusion,
    reverse: Reverse,
    x0: Float[Array, "b *d"],
    x: Float[Array, "b *d"],
    i: Any,
    *,
    decoder: Decoder = _DECODER,
) -> Float[Array, " b"]:
    """One term of the bound, eq. (2) or (3), in bits per dimension: (b,).

    `reverse` is p(x_prev | x) (`p_mean_var`), i its index, () or (b,).
    """
    mean, log_variance = q_posterior(diffusion, x0, x, i)
    kl = batch_mean(gaussian_kl(mean, log_variance, reverse.mean, reverse.log_variance))
    nll = -batch_mean(decoder(x0, reverse.mean, reverse.log_variance))
    return jnp.where(jnp.asarray(i) == 0, nll, kl) / math.log(2.0)


def per_step(weights: Any) -> StepWeighting:
    """The weighting of a table of weights (n,), one for each index.

    Raises ValueError unless there is one finite weight >= 0 per step.
    """
    values = np.asarray(weights, np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"weights must be finite and >= 0, got {weights!r}")

    def weighting(diffusion: Diffusion, i: Any) -> Any:
        if values.shape != (diffusion.n,):
            raise ValueError(
                f"weights must have one entry for each of {diffusion.n} steps, got {values.shape}"
            )
        return jnp.asarray(values, jnp.float32)[i]

    return weighting


def simple(
    *,
    prediction: Prediction = NOISE,
    variance: Variance = FIXED_LARGE,
    weighting: StepWeighting | None = None,
) -> Objective:
    """The mean squared error of what the network predicts: (b,), with "mse".

    A network with a learned `variance` has the second half of its channels ignored.
    """

    def objective(s: Sample) -> tuple[Any, dict[str, Any]]:
        value, _ = split_output(s.value, s.x, variance.learned)
        target = prediction.target(s.diffusion, s.x0, s.x, s.noise, s.i)
        mse = batch_mean(jnp.square(target - value))
        return (mse if weighting is None else weighting(s.diffusion, s.i) * mse), {"mse": mse}

    return objective


def variational(
    *,
    prediction: Prediction = NOISE,
    variance: Variance = LEARNED_RANGE,
    decoder: Decoder = _DECODER,
    rescaled: bool = True,
) -> Objective:
    """N L_i in bits per dimension, or L_i alone unless `rescaled`: (b,), with "vlb" = N L_i.

    Its mean over uniform i (or with weights 1/(N p_i)) is the bound less its prior term.
    """

    def objective(s: Sample) -> tuple[Any, dict[str, Any]]:
        reverse = p_mean_var(
            s.diffusion, s.value, s.x, s.i, prediction=prediction, variance=variance
        )
        term = bound_term(s.diffusion, reverse, s.x0, s.x, s.i, decoder=decoder)
        vlb = s.diffusion.n * term
        return (vlb if rescaled else term), {"vlb": vlb}

    return objective


def hybrid(
    *,
    weight: float = 1e-3,
    prediction: Prediction = NOISE,
    variance: Variance = LEARNED_RANGE,
    decoder: Decoder = _DECODER,
    weighting: StepWeighting | None = None,
) -> Objective:
    """simple + weight N L_i, where L_i teaches the variance alone: (b,), with "mse" and "vlb".

    arXiv:2102.09672 eq. 16 with its weight 1e-3 (the authors' "rescaled" loss; weight=1/N is theirs
    without rescaling). Needs a variance that is learned.

    Raises ValueError unless weight > 0 and the variance is learned.
    """
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"weight must be > 0, got {weight!r}")
    if not variance.learned:
        raise ValueError(f"variance must be a learned one, got {variance.name!r}")
    squares = simple(prediction=prediction, variance=variance, weighting=weighting)
    bound = variational(prediction=prediction, variance=variance, decoder=decoder)

    def objective(s: Sample) -> tuple[Any, dict[str, Any]]:
        value, values = split_output(s.value, s.x, learned=True)
        held = jnp.concatenate([jax.lax.stop_gradient(value), values], axis=-1)
        error, terms = squares(s)
        vlb, more = bound(s._replace(value=held))
        return error + weight * vlb, terms | more

    return objective


def discrete_loss(
    diffusion: Diffusion,
    apply: Apply,
    objective: Objective,
    *,
    label: Callable[[Any], Any] | None = None,
    label_dropout: float = 0.0,
    null_class: int | None = None,
    train: bool = True,
) -> Loss:
    """An objective on a table as a `Loss`.

    The batch is a dict with "x" (b, *d), floating, and optionally "y" (b,), class labels, dropped
    to `null_class` with probability `label_dropout` in training, and "low_res", a smaller image that
    a network for super-resolution is given. Indices are uniform, unless the
    batch has "index" (b,) and "weight" (b,) from an `IndexSampler` (`make_train_step` puts them
    there); the metrics then have "per_example", the losses (b,) before weighting. `label(i)` is
    what the network is told (by default `label_index(diffusion)`). Other metrics: "loss" and the
    parts of the objective ("mse", "vlb").

    Raises ValueError for a dropout without null class and, when traced, for integer data.

    >>> loss = discrete_loss(cosine(1000), net.apply, hybrid(decoder=discretized_gaussian(17)))
    """
    check_dropout(label_dropout, null_class)
    tell = label_index(diffusion) if label is None else label

    def loss(params: Params, key: Key[Array, ""], batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        x0 = batch["x"]
        if not jnp.issubdtype(x0.dtype, jnp.floating):
            raise ValueError(
                f'batch["x"] must be floating, got {x0.dtype}: scale integers to levels first'
            )
        rows = rows_of(key, batch)
        index_key, noise_key, dropout_key, label_key = jax.random.split(rows.key, 4)
        sampled = "index" in batch
        shape = x0.shape[:1]
        draw = lambda key, b: jax.random.randint(key, (b,), 0, diffusion.n)
        i = batch["index"] if sampled else rows.shared(draw, index_key)
        noise = rows.each(lambda k: jax.random.normal(k, x0.shape[1:], x0.dtype), noise_key)
        x = q_sample(diffusion, x0, i, noise)
        kwargs: dict[str, Any] = {k: batch[k] for k in ("low_res",) if k in batch}
        if "y" in batch:
            y = batch["y"]
            if train and label_dropout:
                assert null_class is not None
                drop = partial(drop_labels, rate=label_dropout, null_class=null_class)
                y = rows.each(drop, label_key, y)
            kwargs["y"] = y
        if train:
            kwargs |= {"train": True, "rngs": dropout_streams(rows, dropout_key)}
        with drawn_for(rows):
            value = apply(params, x, tell(i), **kwargs)
        per_example, parts = objective(Sample(diffusion, value, x0, x, noise, i))
        weight = batch["weight"] if sampled else jnp.ones(shape, per_example.dtype)
        total = (weight * per_example).mean()
        metrics = {"loss": total} | {name: (weight * p).mean() for name, p in parts.items()}
        if sampled:
            metrics["per_example"] = jax.lax.stop_gradient(per_example)
        return total, metrics

    return loss
