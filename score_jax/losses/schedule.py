r"""Objectives of a noise schedule: simple, variational bound, hybrid.

The bound on -log p(x0) is a sum over the timesteps, in bits per dimension (arXiv:2102.09672 eq. 4-7):

    (1)  L_prior = KL(q(x_N | x0) || N(0, I))
    (2)  L_i     = KL(q(x_prev | x, x0) || p(x_prev | x)),   x_prev not data      `bound_term`
    (3)  L_0     = -log p(x0 | x_1), a Gaussian's mass in the cells of the grey levels

and the objectives, for an index i drawn uniformly or with a weight 1/(N p_i),

    simple       w_i ||target - prediction||^2 / d                      arXiv:2006.11239 eq. 14
    variational  N L_i: an unbiased estimate of L_0 + ... + L_{N-1}
    hybrid       simple + 1e-3 N L_i, the mean held constant in L_i     arXiv:2102.09672 eq. 16
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from score_jax._check import check_positive
from score_jax._math import as_time, batch_mean
from score_jax.losses.decoders import discretized_gaussian, gaussian_kl
from score_jax.losses.training import Objective, Sample, mean_reduction
from score_jax.losses.weightings import Weighting
from score_jax.parametrization import DENOISED, SMALL
from score_jax.score import Reverse, reverse_moments
from score_jax.sde import NoiseSchedule, posterior
from score_jax.types import SDE, Decoder, PerExample

_DECODER = discretized_gaussian()


def bound_term(
    sde: SDE,
    reverse: Reverse,
    x0: Float[Array, "b *d"],
    x: Float[Array, "b *d"],
    t: float | Float[Array, "..."],
    t_next: float | Float[Array, "..."],
    *,
    decoder: Decoder = _DECODER,
) -> Float[Array, " b"]:
    """One term of the bound, eq. (2), or (3) where t_next is 0, in bits per dimension: (b,).

    `reverse` is p(x(t_next) | x) (`score_jax.score.reverse_moments`); t and t_next are () or (b,).
    """
    mean, log_variance = posterior(sde, x0, x, t, t_next)
    kl = batch_mean(gaussian_kl(mean, log_variance, reverse.mean, reverse.log_variance))
    nll = -batch_mean(decoder(x0, reverse.mean, reverse.log_variance))
    return jnp.where(as_time(t_next) > 0, kl, nll) / math.log(2.0)


def per_step(weights: Sequence[float] | ArrayLike) -> Weighting:
    """The weighting of a list of weights (n,), one for each index of a noise schedule.

    Raises ValueError unless there is one finite weight >= 0 per timestep.
    """
    values = np.asarray(weights, np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"weights must be finite and >= 0, got {weights!r}")

    def weighting(sde: SDE, t: Float[Array, "..."]) -> Float[Array, "..."]:
        schedule = _schedule(sde)
        if values.shape != (schedule.n,):
            raise ValueError(
                f"weights must have one entry for each of {schedule.n} steps, got {values.shape}"
            )
        return jnp.asarray(values, t.dtype)[schedule.index_of(t)]

    return weighting


def _schedule(sde: SDE) -> NoiseSchedule:
    if not isinstance(sde, NoiseSchedule):
        raise ValueError(f"sde must be a noise schedule for this objective, got {sde!r}")
    return sde


def simple(*, weighting: Weighting | None = None) -> Objective:
    """The mean squared error of what the network predicts: (b,), with "mse".

    For a network with a learned variance the second half of the channels is ignored.
    """

    def objective(s: Sample) -> tuple[PerExample, dict[str, PerExample]]:
        target = s.parametrization.target(s.sde, s.x0, s.z, s.x, s.t)
        mse = mean_reduction(jnp.square(target - s.prediction()[0]), s.mask)
        return (mse if weighting is None else weighting(s.sde, s.t) * mse), {"mse": mse}

    return objective


def variational(*, decoder: Decoder = _DECODER, rescaled: bool = True) -> Objective:
    """N L_i in bits per dimension, or L_i alone unless `rescaled`: (b,), with "vlb" = N L_i.

    Its mean over uniform i (or with weights 1/(N p_i)) is the bound less its prior term.
    """

    def objective(s: Sample) -> tuple[PerExample, dict[str, PerExample]]:
        schedule = _schedule(s.sde)
        if s.mask is not None:
            raise ValueError(
                'batch["mask"] is for dsm() and simple(): a bound needs all entries of x'
            )
        prediction, values = s.prediction()
        z = s.parametrization.to_noise(s.sde, prediction, s.x, s.t)
        x0 = DENOISED.from_noise(s.sde, z, s.x, s.t)
        t_next = schedule.time_of(schedule.index_of(s.t) - 1)
        reverse = reverse_moments(
            schedule, x0, values, s.x, s.t, t_next,
            variance=SMALL if s.variance is None else s.variance,
            first=schedule.times[:2],
        )  # fmt: skip
        term = bound_term(schedule, reverse, s.x0, s.x, s.t, t_next, decoder=decoder)
        vlb = schedule.n * term
        return (vlb if rescaled else term), {"vlb": vlb}

    return objective


def hybrid(
    *, weight: float = 1e-3, decoder: Decoder = _DECODER, weighting: Weighting | None = None
) -> Objective:
    """simple + weight N L_i, where L_i trains the variance alone: (b,), with "mse" and "vlb".

    arXiv:2102.09672 eq. 16 with its weight 1e-3 (the authors' "rescaled" loss; weight=1/N is theirs
    without rescaling).

    Raises ValueError unless weight > 0 and, when traced, unless the model's variance is learned.
    """
    check_positive(weight=weight)
    squares, bound = simple(weighting=weighting), variational(decoder=decoder)

    def objective(s: Sample) -> tuple[PerExample, dict[str, PerExample]]:
        if s.variance is None or not s.variance.learned:
            name = None if s.variance is None else s.variance.name
            raise ValueError(f"variance must be a learned one for hybrid(), got {name!r}")
        prediction, values = s.prediction()
        assert values is not None
        held = jnp.concatenate([jax.lax.stop_gradient(prediction), values], axis=-1)
        error, terms = squares(s)
        vlb, more = bound(s._replace(value=held))
        return error + weight * vlb, terms | more

    return objective
