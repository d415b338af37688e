r"""A lower bound on the log density by the SDE: cheaper than the flow, and minimised in training.

The reverse SDE is a hierarchy of infinitely many latents. With the signal-to-noise ratio
e^lambda(t) = m(t)^2 / s(t)^2 its evidence bound is (Kingma et al. 2021, arXiv:2107.00630 eqs. 11 to 15;
the same as arXiv:2101.09258 theorem 3, rearranged)

    (1)  -log p(x0) <= KL(q(x(t1) | x0) || prior) - E_z log p(x0 | x(t0))
                       + 1/2 integral from t0 to t1 of -lambda'(t) E_z |z + s score(x(t), t)|^2 dt

and -lambda' = g^2 / s^2: likelihood-weighted score matching. Times are uniform in lambda, for any SDE,
so the integrand is bounded; that of uniform times grows without bound near t = 0. p(x0 | x(t0)) is the
Gaussian around Tweedie's formula of `gap.TWEEDIE`, or a decoder: for data on levels one over these, with
which (1) bounds the probability of integers, without dequantisation.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_jax._check import check, check_count, check_float, check_key
from score_jax._math import as_time, batch_sum, bcast
from score_jax._precision import exact_products
from score_jax.types import SDE, Decoder, ScoreFn, check_process, score_at


class Bound(NamedTuple):
    """A lower bound of log p_0(x0) in nats (b,), its standard error (b,), its parts, evaluations.

    With a decoder of levels logp bounds a log probability. stderr is over the draws of time and noise
    (NaN for one draw). prior, diffusion and reconstruction (b,) are the three terms of eq. (1); their sum
    is -logp.
    """

    logp: Float[Array, " b"]
    stderr: Float[Array, " b"]
    prior: Float[Array, " b"]
    diffusion: Float[Array, " b"]
    reconstruction: Float[Array, " b"]
    nfe: int


def _prior_term(sde: SDE, x0: Float[Array, "b *d"]) -> Float[Array, " b"]:
    """KL(N(m x0, s^2) || N(0, prior_std^2)) at t1, in closed form."""
    mean, std = sde.marginal(x0, as_time(sde.t1))
    prior = jnp.asarray(sde.prior_std, x0.dtype)
    ratio = jnp.square(std / prior).astype(x0.dtype)
    dim = math.prod(x0.shape[1:])
    return 0.5 * (batch_sum(jnp.square(mean / prior)) + dim * (ratio - 1 - jnp.log(ratio)))


@exact_products
def variational_bound(
    key: Key[Array, ""],
    sde: SDE,
    score: ScoreFn,
    x0: Float[Array, "b *d"],
    *,
    t0: float = 1e-5,
    draws: int = 16,
    decoder: Decoder | None = None,
) -> Bound:
    """A lower bound of log p_0 of x0 (b, *d) in nats, eq. (1) of this module: `Bound`.

    `draws` stratified times for every example, one evaluation each, and one more at t0 without a
    `decoder`. That is log p(x0 | x(t0)) as a function of x0, x(t0)/m and log (s/m)^2 at t0, all of the
    shape of x0, such as `losses.level_decoder(256)`: x0 then lies on the levels.

    Raises ValueError unless 0 < t0 < t1, draws >= 1 and x0 is floating point.

    >>> bound = variational_bound(key, sde, score, x0, draws=32)
    >>> bpd = bits_per_dim(bound.logp, x0.shape[1:], levels=256)
    >>> bound = variational_bound(key, sde, score, x0, draws=32, decoder=level_decoder(256))
    >>> bpd = -bound.logp / (math.log(2) * math.prod(x0.shape[1:]))
    """
    check_key(key, "variational_bound(key, sde, score, x0)")
    check_process(sde, score)
    check("t0", t0, 0 < t0 < sde.t1, f"in (0, t1={sde.t1})")
    check_count(draws=draws)
    check_float("x0", x0)
    top, low = sde.log_snr(as_time(t0)), sde.log_snr(as_time(sde.t1))
    offset_key, noise_key, last_key = jax.random.split(key, 3)
    offset = jax.random.uniform(offset_key, x0.shape[:1], x0.dtype)

    def squares(k: Key[Array, ""], t: Float[Array, " b"]) -> Float[Array, " b"]:
        """|z + s score|^2 (b,) at times t (b,)."""
        z = jax.random.normal(k, x0.shape, x0.dtype)
        mean, std = sde.marginal(x0, t)
        std = bcast(std, x0)
        error = z + std * score_at(score, mean + std * z, t)
        return batch_sum(jnp.square(error))

    def term(total: Any, i: Any) -> Any:
        # Stratified: draw i lies in the i-th part of the interval of lambda.
        u = (i + offset) / draws
        t = jnp.clip(sde.time_of_log_snr(low + (top - low) * u), t0, sde.t1).astype(x0.dtype)
        value = 0.5 * (top - low) * squares(jax.random.fold_in(noise_key, i), t)
        return (total[0] + value, total[1] + jnp.square(value)), None

    zero = jnp.zeros(x0.shape[:1], x0.dtype)
    (total, squared), _ = jax.lax.scan(term, (zero, zero), jnp.arange(draws))
    diffusion = total / draws
    spread = jnp.maximum(squared / draws - jnp.square(diffusion), 0) / max(draws - 1, 1)
    stderr = jnp.sqrt(spread) if draws > 1 else jnp.full_like(zero, jnp.nan)

    scale = jnp.log(sde.std(as_time(t0)) / sde.mean_coeff(as_time(t0))).astype(x0.dtype)
    if decoder is None:
        error = squares(last_key, jnp.full(x0.shape[:1], t0, x0.dtype))
        dim = math.prod(x0.shape[1:])
        # x0 - E[x0 | x] = -(s / m) (z + s score), measured in units of the decoder's s / m.
        reconstruction = dim * (0.5 * math.log(2 * math.pi) + scale) + 0.5 * error
    else:
        z = jax.random.normal(last_key, x0.shape, x0.dtype)
        mean, log_variance = x0 + jnp.exp(scale) * z, jnp.full_like(x0, 2 * scale)
        reconstruction = -batch_sum(decoder(x0, mean, log_variance))
    prior = _prior_term(sde, x0)
    logp = -(prior + diffusion + reconstruction)
    return Bound(logp, stderr, prior, diffusion, reconstruction, draws + (decoder is None))
