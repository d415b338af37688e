r"""Stochastic differential equations that turn data into noise, as frozen records.

Every SDE here is linear and isotropic, `dx = f(x, t) dt + g(t) dw` with `f(x, t) = a(t) x`, so

    (1)  p(x(t) | x0) = N(m(t) x0, s(t)^2 I)                 m = mean_coeff, s = std
    (2)  a(t)   = d log m(t) / dt                            drift(x, t) = a(t) x
    (3)  g(t)^2 = d s(t)^2 / dt - 2 a(t) s(t)^2              diffusion(t) = g(t)
    (4)  reverse time: dx = [f(x, t) - g(t)^2 score(x, t)] dt + g(t) dw
    (5)  probability flow: dx/dt = f(x, t) - g(t)^2 score(x, t) / 2
    (6)  x(t) = A x(t') + G z,  A = m(t)/m(t'),  G^2 = s(t)^2 - A^2 s(t')^2,  t' <= t

(1) is arXiv:2011.13456 eq. 29, (4) its eq. 6 and (5) its eq. 13. By (2) and (3) any pair m, s defines
an SDE: derive a class from `LinearSDE`, or use `from_marginals`.

The coefficients are exact near t = 0 in float32: 1 - exp(-u) is computed as -expm1(-u), because the
subtraction would lose 1 % of sub-VP's std at t = 1e-5.

An SDE is static under `jax.jit`: it may be closed over or passed as an argument, and a function is
compiled once for each set of parameters.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from score_jax._check import check, check_positive
from score_jax._math import Elementwise, as_time, bcast, elementwise_grad, normal_logp
from score_jax.types import SDE, ScoreFn, ends_in_noise, score_out

TimeLike = float | Float[Array, "..."]
Coefficient = Float[Array, "..."]

_TINY = 1e-30  # the smallest variance whose logarithm is taken


class LinearSDE:
    """All methods of an `SDE` from `t1`, `mean_coeff` and `std`; subclasses add closed forms.

    >>> @jax.tree_util.register_static
    ... @dataclasses.dataclass(frozen=True)
    ... class Cosine(LinearSDE):
    ...     t1: float = 1.5
    ...     def mean_coeff(self, t): return jnp.cos(t)
    ...     def std(self, t): return jnp.sin(t)
    """

    t1: float

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t) of eq. (1), shape of t."""
        raise NotImplementedError

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) of eq. (1), shape of t."""
        raise NotImplementedError

    def drift_coeff(self, t: TimeLike) -> Coefficient:
        """a(t) = d log m(t) / dt of eq. (2), shape of t."""
        return elementwise_grad(lambda u: jnp.log(self.mean_coeff(u)))(as_time(t))

    def diffusion(self, t: TimeLike) -> Coefficient:
        """g(t) of eq. (3), shape of t."""
        t = as_time(t)
        variance, growth = jax.jvp(lambda u: jnp.square(self.std(u)), (t,), (jnp.ones_like(t),))
        # Rounding may leave a tiny negative number where g vanishes.
        return jnp.sqrt(jnp.maximum(growth - 2 * self.drift_coeff(t) * variance, 0))

    def drift(self, x: Float[Array, "b *d"], t: TimeLike) -> Float[Array, "b *d"]:
        """f(x, t) = a(t) x, shape of x; t is a scalar or (b,)."""
        return bcast(self.drift_coeff(t), x) * x

    def marginal(
        self, x0: Float[Array, "b *d"], t: TimeLike
    ) -> tuple[Float[Array, "b *d"], Coefficient]:
        """(mean, std) of p(x(t) | x0), eq. (1): shapes of x0 and of t."""
        return bcast(self.mean_coeff(t), x0) * x0, self.std(t)

    def transition(self, t: TimeLike, t_next: TimeLike) -> tuple[Coefficient, Coefficient]:
        """(A, G^2) of the forward transition from t_next to t, eq. (6), t_next <= t: shape of t."""
        t, t_next = as_time(t), as_time(t_next)
        a = self.mean_coeff(t) / self.mean_coeff(t_next)
        variance = jnp.square(self.std(t)) - jnp.square(a * self.std(t_next))
        return a, jnp.maximum(variance, 0)  # rounding on a very short interval

    def log_snr(self, t: TimeLike) -> Coefficient:
        """2 log(m(t) / s(t)), shape of t: infinite where s is 0 (t = 0 of VP and sub-VP).

        It decreases in t; one half of it is the lambda of DPM-Solver (arXiv:2206.00927).
        """
        t = as_time(t)
        return 2 * (jnp.log(self.mean_coeff(t)) - jnp.log(self.std(t)))

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t in [0, t1] with log_snr(t) = value, shape of value; differentiable.

        By bisection and one Newton step; a value beyond the ends of [0, t1] gives that end.
        """
        value = as_time(value)

        def halve(_: Any, ends: tuple[Coefficient, Coefficient]) -> tuple[Coefficient, Coefficient]:
            low, high = ends
            middle = 0.5 * (low + high)
            # In this form a ratio that is NaN at t = 0 moves away from there.
            later = ~(self.log_snr(middle) <= value)
            return jnp.where(later, middle, low), jnp.where(later, high, middle)

        # Thirty halvings more than the digits of t find small times to the same relative error.
        digits = jnp.finfo(value.dtype).nmant + 30
        ends = jnp.zeros_like(value), jnp.full_like(value, self.t1)
        low, high = jax.lax.fori_loop(0, digits, halve, ends)
        tiny = jnp.finfo(value.dtype).tiny
        t = jax.lax.stop_gradient(jnp.clip(0.5 * (low + high), tiny, self.t1))
        move = (value - self.log_snr(t)) / elementwise_grad(self.log_snr)(t)
        return jnp.clip(t + jnp.where(jnp.isfinite(move), move, 0), 0, self.t1)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior: 1, the limit of s(t) for large t."""
        return 1.0

    def prior_sample(
        self, key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike | None = None
    ) -> Float[Array, "..."]:
        """A draw of the prior N(0, prior_std^2 I) with this shape."""
        z = jax.random.normal(key, shape, dtype=jnp.zeros(0).dtype if dtype is None else dtype)
        return z * jnp.asarray(self.prior_std, z.dtype)

    def prior_logp(self, z: Float[Array, "b *d"]) -> Float[Array, " b"]:
        """Log density of the prior in nats: (b, *d) -> (b,)."""
        return normal_logp(z, self.prior_std)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Marginals(LinearSDE):
    """An SDE given by the functions m(t) and s(t), made by `from_marginals`."""

    mean_coeff_fn: Elementwise
    std_fn: Elementwise
    t1: float
    terminal_std: float

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t) as given: shape of t."""
        return self.mean_coeff_fn(as_time(t))

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) as given: shape of t."""
        return self.std_fn(as_time(t))

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior: s(t1)."""
        return self.terminal_std


def from_marginals(mean_coeff: Elementwise, std: Elementwise, t1: float = 1.0) -> Marginals:
    """Make an SDE of any differentiable m(t) > 0 and s(t) >= 0 with p(x(t)|x0) = N(m x0, s^2 I).

    The two functions are elementwise in t and written with `jax.numpy`. Drift and diffusion follow
    from eq. (2) and (3) of this module, the prior is N(0, s(t1)^2 I).

    Raises ValueError where m or s is not finite on (0, t1], m is not positive, s is negative, or
    g(t)^2 of eq. (3) would be negative (the noise-to-signal ratio must not decrease).

    >>> cosine = from_marginals(lambda t: jnp.cos(t), lambda t: jnp.sin(t), t1=1.5)
    """
    check_positive("from_marginals", t1=t1)
    t = jnp.linspace(1e-3, 1.0, 257) * t1
    with jax.ensure_compile_time_eval():
        m, s = mean_coeff(t), std(t)
        for name, value, ok, sign in (("mean_coeff", m, m > 0, "> 0"), ("std", s, s >= 0, ">= 0")):
            check(f"the shape of {name}(t)", value.shape, value.shape == t.shape, "that of t")
            ok = ok & jnp.isfinite(value)
            at = int(jnp.argmin(ok))
            where = f"finite and {sign} on (0, t1], as it is not at t={float(t[at])}"
            check(name, float(value[at]), bool(ok.all()), where)
        falls = (s / m)[1:] < (s / m)[:-1] * (1 - 1e-5)
        if bool(falls.any()):
            raise ValueError(
                "std / mean_coeff must not decrease (the diffusion would be imaginary), it does "
                f"near t={float(t[int(jnp.argmax(falls))])}"
            )
        terminal = float(s[-1])
    check_positive("from_marginals", **{"std(t1)": terminal})
    return Marginals(mean_coeff, std, float(t1), terminal)


def reverse_drift(
    sde: SDE,
    score: ScoreFn,
    x: Float[Array, "b *d"],
    t: TimeLike,
    *,
    ode: bool = False,
) -> Float[Array, "b *d"]:
    """Drift of the reverse-time SDE, or of the probability-flow ODE: f - g^2 score (ode: / 2).

    x is (b, *d), t a scalar or (b,); one evaluation of `score`. arXiv:2011.13456 eq. 6 and 13. Where
    the score comes with the mean of x0 (`ScoreOut.clean`), the flow is computed as m'(t) x0 + s'(t) z,
    which is finite at pure noise too.
    """
    out = score_out(score, x, t)
    g2 = jnp.square(sde.diffusion(t)) * (0.5 if ode else 1.0)
    if not ode or out.clean is None:
        return sde.drift(x, t) - bcast(g2, x) * out.score
    t = as_time(t)
    m_rate, s_rate = (elementwise_grad(f)(t) for f in (sde.mean_coeff, sde.std))
    velocity = bcast(m_rate, x) * out.clean.x0 - bcast(s_rate * sde.std(t), x) * out.clean.score
    if out.score is out.clean.score:
        return velocity
    # Nothing guides pure noise, where a finite change of x0 is no change of the score.
    g2 = jnp.where(sde.mean_coeff(t) > 0, g2, 0)
    return velocity - bcast(g2, x) * (out.score - out.clean.score)


_PURE = -2 * math.log(1e3)  # the log-SNR that stands for that of pure noise


def log_snr_ends(sde: SDE, t0: float) -> tuple[float, float]:
    """The log-SNR at t1 and at t0, of noise 1,000 times the data where that at t1 is -infinity.

    >>> log_snr_ends(RectifiedFlow(), 1e-3)
    (-13.81..., 13.81...)
    """
    with jax.ensure_compile_time_eval():
        last, first = (float(sde.log_snr(jnp.asarray(t))) for t in (sde.t1, t0))
    return (max(last, _PURE) if ends_in_noise(sde) else last), first


class Bridge(NamedTuple):
    """q(x(t_next) | x(t), x0) = N(x0_coeff x0 + x_coeff x, exp(small)): each of the shape of t.

    small is the logarithm of the posterior's variance, large that of the transition's G^2: the two
    bounds of a reverse variance in arXiv:2006.11239 section 3.2. a and g2 are A and G^2 themselves.
    """

    x0_coeff: Coefficient
    x_coeff: Coefficient
    small: Coefficient
    large: Coefficient
    a: Coefficient
    g2: Coefficient

    def mean(self, x0: Float[Array, "b *d"], x: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        """x0_coeff x0 + x_coeff x: (b, *d)."""
        return bcast(self.x0_coeff, x) * x0 + bcast(self.x_coeff, x) * x


def bridge(sde: SDE, t: TimeLike, t_next: TimeLike) -> Bridge:
    """The coefficients of the posterior over the interval from t to t_next < t, for any linear SDE.

    With (A, G^2) of the transition, x0_coeff = m(t_next) G^2/s(t)^2, x_coeff = A s(t_next)^2/s(t)^2
    and exp(small) = G^2 s(t_next)^2/s(t)^2 (arXiv:2006.11239 eq. 7). Where s(t_next) is 0, no width
    is left, and small is large.
    """
    t, t_next = as_time(t), as_time(t_next)
    a, g2 = sde.transition(t, t_next)
    variance, variance_next = jnp.square(sde.std(t)), jnp.square(sde.std(t_next))
    share, rest = g2 / variance, variance_next / variance
    large = jnp.log(jnp.maximum(g2, _TINY))
    small = jnp.log(jnp.maximum(g2 * rest, _TINY))
    return Bridge(
        sde.mean_coeff(t_next) * share,
        a * rest,
        jnp.where(variance_next > 0, small, large),
        large,
        a,
        g2,
    )


def posterior(
    sde: SDE,
    x0: Float[Array, "b *d"],
    x: Float[Array, "b *d"],
    t: TimeLike,
    t_next: TimeLike,
) -> tuple[Float[Array, "b *d"], Float[Array, "..."]]:
    """Mean (b, *d) and log variance (broadcast to it) of q(x(t_next) | x(t), x0), t_next < t.

    x is at t; both times are () or (b,). See `bridge`.

    >>> mean, log_variance = posterior(VP(), x0, x, 0.5, 0.4)
    """
    found = bridge(sde, t, t_next)
    return found.mean(x0, x), bcast(found.small, x)
