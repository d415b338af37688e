r"""Rectified flow: the straight line from data to noise as a member of the SDE family.

    x(t) = (1 - t) x0 + t z,   0 <= t <= 1                  m = 1 - t, s = t

(arXiv:2209.03003; flow matching with the path of optimal transport, arXiv:2210.02747). The probability
flow is dx/dt = v, the mean of the velocity z - x0 given x. As an SDE it has

    a = -1 / (1 - t),  g^2 = 2 t / (1 - t),  log-SNR = 2 log((1 - t) / t)

which are infinite at t = 1, while the velocity, x0 = x - t v and z = x + (1 - t) v are finite at both
ends. Everything that is made of x0 and z therefore starts at pure noise, t1 = 1, exactly; what needs a,
g or the log-SNR at its first time needs t1 < 1 (see `RectifiedFlow`).
"""

import dataclasses

import jax
import jax.numpy as jnp

from score_jax._check import check, is_number
from score_jax._math import as_time
from score_jax.sde.base import Coefficient, LinearSDE, TimeLike


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RectifiedFlow(LinearSDE):
    """Rectified flow as an SDE: m = 1 - t, s = t, so that x(t) is a line from data to unit noise.

    With t1 = 1 the prior N(0, I) is exact. A network on it must return x0 or the velocity in some form
    (`VELOCITY`, `V`, `DENOISED`, `edm()`), because the noise alone does not determine x0 there. Steps
    that evaluate the drift or the diffusion at the first time (Euler-Maruyama, `diffrax_sde`, the
    likelihood weighting) need t1 < 1. The prior N(0, t1^2 I) then lacks the mean (1 - t1) x0: its
    Kullback-Leibler divergence is at most (1 - t1)^2 E|x0|^2 / (2 t1^2) nats, 5e-7 a dimension at
    t1 = 0.999 for data of unit power.

    Raises ValueError unless 0 < t1 <= 1.

    >>> RectifiedFlow().marginal(jnp.ones((1, 2)), 0.25)[0]
    Array([[0.75, 0.75]], dtype=float32)
    """

    t1: float = 1.0  # end of the process; below 1 for steps that need drift, diffusion or log-SNR

    def __post_init__(self) -> None:
        check("RectifiedFlow: t1", self.t1, is_number(self.t1) and 0 < self.t1 <= 1, "in (0, 1]")

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior: t1."""
        return self.t1

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t) = 1 - t: shape of t."""
        return 1 - as_time(t)

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = t: shape of t."""
        return as_time(t)

    def drift_coeff(self, t: TimeLike) -> Coefficient:
        """a(t) = -1 / (1 - t), infinite at t = 1: shape of t."""
        return -1 / (1 - as_time(t))

    def diffusion(self, t: TimeLike) -> Coefficient:
        """g(t) = sqrt(2 t / (1 - t)), infinite at t = 1: shape of t."""
        t = as_time(t)
        return jnp.sqrt(2 * t / (1 - t))

    def transition(self, t: TimeLike, t_next: TimeLike) -> tuple[Coefficient, Coefficient]:
        """(A, G^2) of the forward transition from t_next to t, finite at t = 1 too: shape of t."""
        t, t_next = as_time(t), as_time(t_next)
        rest = 1 - t_next
        # t^2 - (A t_next)^2 as a product, which does not cancel.
        total = t * rest + t_next * (1 - t)
        return (1 - t) / rest, jnp.maximum(t - t_next, 0) * total / jnp.square(rest)

    def log_snr(self, t: TimeLike) -> Coefficient:
        """2 log((1 - t) / t), and at t = 1 that of the last number before it: shape of t."""
        t = as_time(t)
        return 2 * (jnp.log(jnp.maximum(1 - t, 0.5 * jnp.finfo(t.dtype).eps)) - jnp.log(t))

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t in [0, t1] with log_snr(t) = value: shape of value."""
        return jnp.minimum(jax.nn.sigmoid(-0.5 * as_time(value)), self.t1)
