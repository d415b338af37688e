"""The published families in closed form: VP, sub-VP, cosine VP, and the two VE; and `RateSDE`."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from score_jax._check import check, check_positive
from score_jax._math import as_time
from score_jax.sde.base import Coefficient, LinearSDE, TimeLike


class RateSDE(LinearSDE):
    """A variance-preserving SDE of a rate beta(t) with integral B(t).

    m = exp(-B/2), a = -beta/2, s^2 = 1 - exp(-B), g^2 = beta, arXiv:2011.13456 eq. 11. A subclass
    defines `beta` and `beta_integral`.
    """

    def beta(self, t: TimeLike) -> Coefficient:
        """beta(t), the rate of the noise: shape of t."""
        raise NotImplementedError

    def beta_integral(self, t: TimeLike) -> Coefficient:
        """B(t), the integral of beta from 0 to t: shape of t."""
        raise NotImplementedError

    def integral_between(self, t: TimeLike, t_next: TimeLike) -> Coefficient:
        """B(t) - B(t_next): shape of t."""
        return self.beta_integral(t) - self.beta_integral(t_next)

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t) = exp(-B(t)/2): shape of t."""
        return jnp.exp(-0.5 * self.beta_integral(t))

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = sqrt(1 - exp(-B(t))): shape of t."""
        return jnp.sqrt(-jnp.expm1(-self.beta_integral(t)))

    def drift_coeff(self, t: TimeLike) -> Coefficient:
        """a(t) = -beta(t)/2: shape of t."""
        return -0.5 * self.beta(t)

    def diffusion(self, t: TimeLike) -> Coefficient:
        """g(t) = sqrt(beta(t)): shape of t."""
        return jnp.sqrt(self.beta(t))

    def transition(self, t: TimeLike, t_next: TimeLike) -> tuple[Coefficient, Coefficient]:
        """(A, G^2) of eq. (6), (exp(-b/2), 1 - exp(-b)) with b = B(t) - B(t_next): shape of t."""
        b = jnp.maximum(self.integral_between(t, t_next), 0)
        return jnp.exp(-0.5 * b), -jnp.expm1(-b)

    def log_snr(self, t: TimeLike) -> Coefficient:
        """2 log(m/s) = -log(exp(B) - 1): shape of t."""
        b = self.beta_integral(t)
        return -b - jnp.log(-jnp.expm1(-b))


class _LinearBeta(RateSDE):
    """The integral of beta(t) = beta_min + t (beta_max - beta_min), shared by VP and sub-VP."""

    beta_min: float
    beta_max: float
    t1: float

    def _check(self) -> None:
        owner = type(self).__name__
        check_positive(owner, beta_min=self.beta_min, beta_max=self.beta_max, t1=self.t1)
        ends = self.beta_min, self.beta_max
        check(f"{owner}: (beta_min, beta_max)", ends, ends[0] <= ends[1], "in increasing order")

    def beta(self, t: TimeLike) -> Coefficient:
        """beta(t), the rate of the noise: shape of t."""
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def beta_integral(self, t: TimeLike) -> Coefficient:
        """The integral of beta from 0 to t: shape of t."""
        t = jnp.asarray(t)
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def integral_between(self, t: TimeLike, t_next: TimeLike) -> Coefficient:
        """B(t) - B(t_next), without cancellation: shape of t."""
        t, t_next = as_time(t), as_time(t_next)
        middle = 0.5 * (t + t_next)
        return (t - t_next) * (self.beta_min + middle * (self.beta_max - self.beta_min))

    def _time_of_integral(self, b: Coefficient) -> Coefficient:
        """The t with B(t) = b, in the form of the quadratic's root that does not cancel."""
        root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b)
        return 2 * b / (self.beta_min + root)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class VP(_LinearBeta):
    """Variance-preserving SDE: dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw.

    The continuous limit of DDPM, arXiv:2011.13456 eq. 11, with its linear beta (eq. 32).

    Raises ValueError unless 0 < beta_min <= beta_max and t1 > 0, all finite.

    >>> VP().mean_coeff(0.0)
    Array(1., dtype=float32, weak_type=True)
    """

    beta_min: float = 0.1  # rate at t = 0
    beta_max: float = 20.0  # rate at t = 1
    t1: float = 1.0  # end of the process

    def __post_init__(self) -> None:
        self._check()

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value: shape of value."""
        return self._time_of_integral(jax.nn.softplus(-as_time(value)))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LinearLogSNR(RateSDE):
    """Variance-preserving SDE whose log-SNR falls linearly, from -gamma_min to -gamma_max.

    B(t) = log(1 + exp(gamma(t))), gamma(t) = gamma_min + t (gamma_max - gamma_min); that of variational
    diffusion models at their start (arXiv:2107.00630). x(0) has noise of variance sigmoid(gamma_min).

    Raises ValueError unless gamma_min < gamma_max, both finite.

    >>> LinearLogSNR().log_snr(1.0)
    Array(-5., dtype=float32, weak_type=True)
    """

    gamma_min: float = -13.3  # minus the log-SNR at t = 0
    gamma_max: float = 5.0  # minus the log-SNR at t = 1
    t1: float = 1.0  # end of the process

    def __post_init__(self) -> None:
        check_positive("LinearLogSNR", t1=self.t1)
        ends = self.gamma_min, self.gamma_max
        ok = all(map(math.isfinite, ends)) and ends[0] < ends[1]
        check("LinearLogSNR: (gamma_min, gamma_max)", ends, ok, "finite, in increasing order")

    def _gamma(self, t: TimeLike) -> Coefficient:
        return self.gamma_min + as_time(t) * (self.gamma_max - self.gamma_min)

    def beta(self, t: TimeLike) -> Coefficient:
        """beta(t), the rate of the noise: shape of t."""
        return (self.gamma_max - self.gamma_min) * jax.nn.sigmoid(self._gamma(t))

    def beta_integral(self, t: TimeLike) -> Coefficient:
        """log(1 + exp(gamma(t))): shape of t."""
        return jax.nn.softplus(self._gamma(t))

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = sqrt(sigmoid(gamma(t))): shape of t."""
        return jnp.exp(0.5 * jax.nn.log_sigmoid(self._gamma(t)))

    def log_snr(self, t: TimeLike) -> Coefficient:
        """-gamma(t): shape of t."""
        return -self._gamma(t)

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value: shape of value."""
        return (-as_time(value) - self.gamma_min) / (self.gamma_max - self.gamma_min)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SubVP(_LinearBeta):
    """Sub-VP SDE: VP's drift with less noise, s(t) = 1 - exp(-B(t)).

    dx = -beta(t) x / 2 dt + sqrt(beta(t) (1 - exp(-2 B(t)))) dw, arXiv:2011.13456 eq. 12. It has
    the best likelihoods of the paper's three.

    Raises ValueError unless 0 < beta_min <= beta_max and t1 > 0, all finite.
    """

    beta_min: float = 0.1  # rate at t = 0
    beta_max: float = 20.0  # rate at t = 1
    t1: float = 1.0  # end of the process

    def __post_init__(self) -> None:
        self._check()

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = 1 - exp(-B(t)): shape of t."""
        return -jnp.expm1(-self.beta_integral(t))

    def diffusion(self, t: TimeLike) -> Coefficient:
        """g(t) = sqrt(beta(t) (1 - exp(-2 B(t)))): shape of t."""
        # 1 - exp(-2B) = s (2 - s). A second expm1 is not safe: within one fused reduction jaxlib 0.10.2
        # silently evaluates expm1(-2B) as expm1(-B) on CPU.
        s = self.std(t)
        return jnp.sqrt(self.beta(t) * s * (2 - s))

    def transition(self, t: TimeLike, t_next: TimeLike) -> tuple[Coefficient, Coefficient]:
        """(A, G^2) of the forward transition from t_next to t: shape of t."""
        return LinearSDE.transition(self, t, t_next)

    def log_snr(self, t: TimeLike) -> Coefficient:
        """2 log(m/s) = -2 log(2 sinh(B/2)): shape of t."""
        b = self.beta_integral(t)
        return -b - 2 * jnp.log(-jnp.expm1(-b))

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value: shape of value."""
        half = -0.5 * as_time(value)
        # asinh(exp(u) / 2) is u to rounding for large u, where the exponential would overflow.
        b = jnp.where(half > 20, 2 * half, 2 * jnp.arcsinh(0.5 * jnp.exp(jnp.minimum(half, 20))))
        return self._time_of_integral(b)


class _NoDrift(LinearSDE):
    """m(t) = 1: what variance-exploding SDEs share."""

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t) = 1: shape of t."""
        return jnp.ones_like(as_time(t))

    def drift_coeff(self, t: TimeLike) -> Coefficient:
        """a(t) = 0: shape of t."""
        return jnp.zeros_like(as_time(t))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class VE(_NoDrift):
    """Variance-exploding SDE: no drift, s(t) = sigma(t) = sigma_min (sigma_max/sigma_min)^(t/t1).

    The continuous limit of NCSN, arXiv:2011.13456 eq. 9 and 30-31. As there, p(x(0)) is not the
    data but the data with noise sigma_min, and s(t)^2 is sigma(t)^2, without the - sigma_min^2 of
    the exact integral: with it the density at t = 0 is the smoothed data.

    Raises ValueError unless 0 < sigma_min < sigma_max and t1 > 0, all finite.
    """

    sigma_min: float = 0.01  # noise level at t = 0
    sigma_max: float = 50.0  # noise level at t1
    t1: float = 1.0  # end of the process

    def __post_init__(self) -> None:
        check_positive("VE", sigma_min=self.sigma_min, sigma_max=self.sigma_max, t1=self.t1)
        ends = self.sigma_min, self.sigma_max
        check("VE: (sigma_min, sigma_max)", ends, ends[0] < ends[1], "in increasing order")

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior: sigma_max."""
        return self.sigma_max

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = sigma(t): shape of t."""
        return self.sigma_min * jnp.exp(as_time(t) / self.t1 * self._log_ratio)

    def diffusion(self, t: TimeLike) -> Coefficient:
        """g(t) = sigma(t) sqrt(2 log(sigma_max/sigma_min) / t1): shape of t."""
        return self.std(t) * math.sqrt(2 * self._log_ratio / self.t1)

    def log_snr(self, t: TimeLike) -> Coefficient:
        """-2 log sigma(t): shape of t."""
        return -2 * (math.log(self.sigma_min) + as_time(t) / self.t1 * self._log_ratio)

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value: shape of value."""
        steps = -0.5 * as_time(value) - math.log(self.sigma_min)
        return steps * (self.t1 / self._log_ratio)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LinearVE(_NoDrift):
    """The VE SDE of EDM: no drift, s(t) = sigma(t) = t, so that time is the noise itself.

    dx = sqrt(2 t) dw with data at t = 0, arXiv:2206.00364 eq. 1 with s(t) = 1; its sampler starts at
    t1 = 80 and stops at t0 = 0.002.

    Raises ValueError unless t1 > 0 and finite.
    """

    t1: float = 80.0  # end of the process, its noise level

    def __post_init__(self) -> None:
        check_positive("LinearVE", t1=self.t1)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior: t1."""
        return self.t1

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = t: shape of t."""
        return as_time(t)

    def diffusion(self, t: TimeLike) -> Coefficient:
        """g(t) = sqrt(2 t): shape of t."""
        return jnp.sqrt(2 * as_time(t))

    def log_snr(self, t: TimeLike) -> Coefficient:
        """-2 log t: shape of t."""
        return -2 * jnp.log(as_time(t))

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value: shape of value."""
        return jnp.exp(-0.5 * as_time(value))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CosineVP(RateSDE):
    r"""VP SDE with the cosine schedule of Improved DDPM (arXiv:2102.09672 eq. 17) in continuous time.

        alpha_bar(t) = m(t)^2 = cos(q(t))^2 / cos(q(0))^2,  q(t) = (t + offset) / (1 + offset) pi/2
        beta(t) = -d log alpha_bar / dt = pi / (1 + offset) tan(q(t))

    The paper clips its betas, beta_i <= 0.999, which ends the growth of the rate just before t = 1. As
    beta_i is beta(t) / N, the rate is clipped here at `max_rate` = 0.999 * 4000 for the paper's N: this
    changes t > 0.9995 only and keeps every coefficient finite up to t1 = 1, where log_snr is -16.3.
    `CosineBetas` is the schedule of N timesteps.

    Raises ValueError unless offset and max_rate are finite and > 0 and max_rate exceeds beta(0).
    """

    t1 = 1.0
    offset: float = 0.008  # of the cosine's time, so that the first rates are not too small
    max_rate: float = 3996.0  # the rate is clipped there

    def __post_init__(self) -> None:
        check_positive("CosineVP", offset=self.offset, max_rate=self.max_rate)
        start = math.pi / (1 + self.offset) * math.tan(self._start)
        check("CosineVP: max_rate", self.max_rate, self.max_rate > start, "above the rate at t = 0")

    @property
    def _speed(self) -> float:
        """dq/dt."""
        return 0.5 * math.pi / (1 + self.offset)

    @property
    def _start(self) -> float:
        """q(0)."""
        return self.offset * self._speed

    @property
    def _clip(self) -> tuple[float, float]:
        """The time from which the rate is constant, and B = -log alpha_bar there."""
        rest = math.atan(2 * self._speed / self.max_rate)  # pi/2 - q
        return 1 - rest / self._speed, -2 * math.log(math.sin(rest) / math.cos(self._start))

    def _rest(self, t: Coefficient) -> Coefficient:
        """pi/2 - q(t), exact near t = 1, held where the rate is clipped."""
        return jnp.maximum(1 - t, 1 - self._clip[0]) * self._speed

    def beta(self, t: TimeLike) -> Coefficient:
        """beta(t), the rate of the noise: shape of t."""
        return 2 * self._speed / jnp.tan(self._rest(as_time(t)))

    def beta_integral(self, t: TimeLike) -> Coefficient:
        """B(t) = -log alpha_bar(t), to rounding of 1: shape of t."""
        t = as_time(t)
        inside = -2 * jnp.log(jnp.sin(self._rest(t)) / math.cos(self._start))
        return inside + self.max_rate * jnp.maximum(t - self._clip[0], 0)

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t) = sqrt(alpha_bar(t)): shape of t."""
        t = as_time(t)
        late = jnp.exp(-0.5 * self.max_rate * jnp.maximum(t - self._clip[0], 0))
        return jnp.sin(self._rest(t)) / math.cos(self._start) * late

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = sqrt(1 - alpha_bar(t)), as a product of sines that does not cancel: shape of t."""
        t = as_time(t)
        early = jnp.minimum(t, self._clip[0])
        angle = early * self._speed
        variance = jnp.sin(angle) * jnp.sin(angle + 2 * self._start) / math.cos(self._start) ** 2
        late = -jnp.expm1(-self.max_rate * jnp.maximum(t - self._clip[0], 0))
        return jnp.sqrt(variance + (1 - variance) * late)

    def log_snr(self, t: TimeLike) -> Coefficient:
        """2 log(m/s): shape of t."""
        return -self.beta_integral(t) - 2 * jnp.log(self.std(t))

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value: shape of value."""
        value = as_time(value)
        _, clip_b = self._clip
        b = jax.nn.softplus(-value)
        late = jnp.maximum(b - clip_b, 0) / self.max_rate
        early = jnp.minimum(b, clip_b)
        m, variance = jnp.exp(-0.5 * early), -jnp.expm1(-early)
        # sin and cos of q(t) - q(0), in sums of positive terms.
        first, second = math.sin(self._start), math.cos(self._start)
        sine = jnp.sqrt(first**2 + variance * second**2)
        rise = variance * second**2 / (sine + first)
        up = second * (rise + variance / (1 + m) * first)
        along = m * second**2 + sine * first
        return jnp.arctan2(up, along) / self._speed + late
