r"""Predictors as `Step`s: moves from t to t_next in reverse time, one evaluation each.

The forward transition over an interval, from t_next to t, is x_t = a x_{t_next} + G n with

    a = m(t) / m(t_next),  G^2 = s(t)^2 - a^2 s(t_next)^2

and every linear SDE has it. With z unit noise the predictors are

    Euler-Maruyama       x + [f - g^2 score] (t_next - t) + g sqrt(t - t_next) z
    reverse diffusion    (2 - a) x + G^2 score + G z                arXiv:2011.13456 eq. 46
    ancestral            (x + G^2 score) / a + G s(t_next)/s(t) z   arXiv:2006.11239 eq. 7, 11

The paper writes the reverse diffusion for three discretisations; with a and G of the interval they are
one: a = sqrt(1 - beta) for VP, G^2 the difference of sigma^2 for VE, and the same form for any SDE. The
ancestral step draws from the posterior p(x_{t_next} | x_t, x0) at the denoised x0: in DDPM's words
G^2 is beta and the variance beta-tilde, for VE it is arXiv:2011.13456 eq. 47.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from score_jax._math import as_time, bcast
from score_jax.parametrization import SMALL, Variance
from score_jax.score import x0_of
from score_jax.sde import Bridge, bridge, reverse_drift
from score_jax.types import (
    SDE,
    Data,
    PRNGKey,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
    score_at,
    score_out,
    stateless,
)


def identity(sde: SDE | None = None, score: ScoreFn | None = None) -> Step:
    """The step that changes nothing and costs nothing: no predictor, or no corrector."""
    return stateless(lambda key, x, t, t_next: StepOut(x, x), 0)


def euler_maruyama(sde: SDE, score: ScoreFn, *, ode: bool = False) -> Step:
    """Euler-Maruyama on the reverse SDE, or Euler on the probability flow if `ode`: a predictor.

    Weak order 1 (order 1 if `ode`); one evaluation.

    >>> step = euler_maruyama(sde, score)
    >>> out, state = step.update(key, x, t, t_next, step.init(x, grid))
    """
    check_process(sde, score)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        x_mean = x + bcast(t_next - t, x) * reverse_drift(sde, score, x, t, ode=ode)
        if ode:
            return StepOut(x_mean, x_mean)
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(sde.diffusion(t) * jnp.sqrt(t - t_next), x) * z, x_mean)

    return stateless(update, 1)


def reverse_diffusion(sde: SDE, score: ScoreFn, *, ode: bool = False) -> Step:
    """The forward discretisation of the interval, reversed: a predictor (see the module).

    With `ode` half of the score's part and no noise, the discretised probability flow. One evaluation.
    """
    check_process(sde, score)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        a, variance = sde.transition(as_time(t), as_time(t_next))
        push = bcast(variance * (0.5 if ode else 1.0), x) * score_at(score, x, as_time(t))
        x_mean = bcast(2 - a, x) * x + push
        if ode:
            return StepOut(x_mean, x_mean)
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(jnp.sqrt(variance), x) * z, x_mean)

    return stateless(update, 1)


def _reversed(found: Bridge, x: Data, share: float, score: Data) -> Data:
    """(x + share G^2 score) / a of the interval: (b, *d)."""
    return (x + bcast(share * found.g2, x) * score) / bcast(found.a, x)


def ancestral(
    sde: SDE,
    score: ScoreFn,
    *,
    variance: Variance = SMALL,
    gradient: Callable[[Data, Time], Data] | None = None,
    ode: bool = False,
) -> Step:
    """A draw from the posterior of the interval at the denoised x0: a predictor for any SDE.

    Exact over an interval of any length if x0 is certain given x. `variance`: SMALL is the posterior's
    own, LARGE that of the transition, G^2 (the two bounds of arXiv:2006.11239 section 3.2); LEARNED
    and LEARNED_RANGE (arXiv:2102.09672 eq. 15) read it from the `ScoreOut` of a network that has
    learned it. No noise is added at t = 0. `gradient(x, t)` of a log-likelihood moves the mean by the
    variance times its value: classifier guidance by arXiv:2105.05233 algorithm 1 (`guide` changes the
    score instead). With `ode` half of the score's part and no noise, a discretised probability flow of
    first order. One evaluation.

    Raises ValueError for a variance of another type, and, when called, for a learned one that the
    score does not return.

    >>> out = simulate(key, ancestral(sde, score), x, uniform_grid(sde, 1000))
    """
    check_process(sde, score)
    if not isinstance(variance, Variance):
        raise ValueError(
            f"variance must be SMALL, LARGE, LEARNED or LEARNED_RANGE, got {variance!r}"
        )

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time) -> StepOut:
        t, t_next = as_time(t), as_time(t_next)
        found = bridge(sde, t, t_next)
        out = score_out(score, x, t)
        if ode:
            return StepOut(*(_reversed(found, x, 0.5, out.score),) * 2)
        if out.clean is None:
            x_mean = _reversed(found, x, 1.0, out.score)
        else:
            x_mean = found.mean(x0_of(sde, out, x, t), x)
        if variance.learned and out.variance is None:
            raise ValueError(
                f"variance={variance.name} needs a score that returns a ScoreOut with a variance: a "
                "Model with a learned variance"
            )
        small, large = bcast(found.small, x), bcast(found.large, x)
        log_variance = variance.log_variance(out.variance, small, large)
        if gradient is not None:
            x_mean = x_mean + jnp.exp(log_variance) * gradient(x, t)
        std = jnp.where(bcast(t_next, x) > 0, jnp.exp(0.5 * log_variance), 0)
        return StepOut(x_mean + std * jax.random.normal(key, x.shape, x.dtype), x_mean)

    return stateless(update, 1)
