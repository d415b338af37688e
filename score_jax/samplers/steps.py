r"""Predictors as `Step`s: moves from t to t_next in reverse time, one evaluation each.

The forward transition over an interval, from t_next to t, is x_t = a x_{t_next} + G n with

    a = m(t) / m(t_next),  G^2 = s(t)^2 - a^2 s(t_next)^2

and every linear SDE has it. With z unit noise the predictors are

    Euler-Maruyama       x + [f - g^2 score] (t_next - t) + g sqrt(t - t_next) z
    reverse diffusion    (2 - a) x + G^2 score + G z                arXiv:2011.13456 eq. 46
    ancestral            (x + G^2 score) / a + G s(t_next)/s(t) z   arXiv:2006.11239 eq. 7, 11

The paper writes the reverse diffusion for three discretisations; with a and G of the interval all are
one: a = sqrt(1 - beta) for VP, G^2 the difference of sigma^2 for VE, and it holds for any SDE. The
ancestral step draws from the posterior p(x_{t_next} | x_t, x0) at the denoised x0: in DDPM's words
G^2 is beta and the variance beta-tilde, for VE it is arXiv:2011.13456 eq. 47.
"""

from typing import Any

import jax
import jax.numpy as jnp

from score_jax._math import as_time, bcast
from score_jax.sde import reverse_drift
from score_jax.types import SDE, ScoreFn, Step, StepOut, score_at, stateless


def transition(sde: SDE, t: Any, t_next: Any) -> tuple[Any, Any]:
    """(a, G^2) of the forward transition x_t = a x_{t_next} + G n, t_next <= t: shape of t each."""
    t, t_next = as_time(t), as_time(t_next)
    a = sde.mean_coeff(t) / sde.mean_coeff(t_next)
    variance = jnp.square(sde.std(t)) - jnp.square(a * sde.std(t_next))
    return a, jnp.maximum(variance, 0)  # rounding on a very short interval


def identity(sde: SDE | None = None, score: ScoreFn | None = None) -> Step:
    """The step that changes nothing and costs nothing: no predictor, or no corrector."""
    del sde, score  # it has the form of the other factories
    return stateless(lambda key, x, t, t_next: StepOut(x, x), 0)


def euler_maruyama(sde: SDE, score: ScoreFn, *, ode: bool = False) -> Step:
    """Euler-Maruyama on the reverse SDE, or Euler on the probability flow if `ode`: a predictor.

    Weak order 1 (order 1 if `ode`); one evaluation.

    >>> step = euler_maruyama(sde, score)
    >>> out, state = step.update(key, x, t, t_next, step.init(x, grid))
    """

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
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

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
        a, variance = transition(sde, t, t_next)
        push = bcast(variance * (0.5 if ode else 1.0), x) * score_at(score, x, as_time(t))
        x_mean = bcast(2 - a, x) * x + push
        if ode:
            return StepOut(x_mean, x_mean)
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(jnp.sqrt(variance), x) * z, x_mean)

    return stateless(update, 1)


def ancestral(sde: SDE, score: ScoreFn, *, large: bool = False, ode: bool = False) -> Step:
    """A draw from the posterior of the interval at the denoised x0: a predictor for any SDE.

    Exact over an interval of any length if x0 is certain given x. `large` takes DDPM's other choice
    of the variance, G^2 in place of the posterior's (the upper bound of arXiv:2006.11239 section
    3.2). With `ode` half of the score's part and no noise, as a discretised probability flow of first
    order. One evaluation.

    >>> out = simulate(key, ancestral(sde, score), x, uniform_grid(sde, 1000))
    """

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
        a, variance = transition(sde, t, t_next)
        push = bcast(variance * (0.5 if ode else 1.0), x) * score_at(score, x, as_time(t))
        x_mean = (x + push) / bcast(a, x)
        if ode:
            return StepOut(x_mean, x_mean)
        noise = jnp.sqrt(variance)
        if not large:
            noise = noise * sde.std(as_time(t_next)) / sde.std(as_time(t))
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(noise, x) * z, x_mean)

    return stateless(update, 1)
