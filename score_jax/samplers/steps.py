r"""Predictors and correctors as `Step`s, and their composition.

A predictor goes from t to t_next in reverse time; a corrector stays at t and draws x closer to p_t; a
chain runs several over the same interval. With a = m(t)/m(t_next) and
G^2 = s(t)^2 - a^2 s(t_next)^2 the forward transition from t_next to t is N(a x, G^2), and

    Euler-Maruyama       x + [f - g^2 score] (t_next - t) + g sqrt(t - t_next) z
    reverse diffusion    x + (1 - a) x + G^2 score + G z            arXiv:2011.13456 eq. 46
    Langevin             x + e score + sqrt(2 e) z                  arXiv:2011.13456 alg. 4, 5

The reverse diffusion of the paper is written for three discretisations: with a and G of the interval
all are one, sqrt(1 - beta) for VP, the difference of sigma^2 for VE, and it holds for any SDE.
"""

import jax
import jax.numpy as jnp

from score_jax._math import as_time, batch_norm, bcast
from score_jax.sde import reverse_drift
from score_jax.types import SDE, ScoreFn, Step, StepOut


def euler_maruyama(sde: SDE, score: ScoreFn, *, ode: bool = False) -> Step:
    """Euler-Maruyama on the reverse SDE, or Euler on the probability flow if `ode`: a predictor.

    Weak order 1 (order 1 if `ode`); one evaluation.

    >>> step = euler_maruyama(sde, score)
    >>> out = step.update(key, x, t, t_next)
    """

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
        t, t_next = as_time(t), as_time(t_next)
        x_mean = x + bcast(t_next - t, x) * reverse_drift(sde, score, x, t, ode=ode)
        if ode:
            return StepOut(x_mean, x_mean)
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(sde.diffusion(t) * jnp.sqrt(t - t_next), x) * z, x_mean)

    return Step(update, 1)


def reverse_diffusion(sde: SDE, score: ScoreFn, *, ode: bool = False) -> Step:
    """The forward discretisation of the interval, reversed: a predictor (see the module).

    With `ode` half of the score's part and no noise, the discretised probability flow. One evaluation.
    """

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
        t, t_next = as_time(t), as_time(t_next)
        a = sde.mean_coeff(t) / sde.mean_coeff(t_next)
        variance = jnp.square(sde.std(t)) - jnp.square(a * sde.std(t_next))
        variance = jnp.maximum(variance, 0)  # rounding on a very short interval
        push = bcast(variance * (0.5 if ode else 1.0), x) * score(x, t)
        x_mean = bcast(2 - a, x) * x + push
        if ode:
            return StepOut(x_mean, x_mean)
        z = jax.random.normal(key, x.shape, x.dtype)
        return StepOut(x_mean + bcast(jnp.sqrt(variance), x) * z, x_mean)

    return Step(update, 1)


def langevin(sde: SDE, score: ScoreFn, *, snr: float = 0.16, n_steps: int = 1) -> Step:
    """Langevin dynamics at the level t: a corrector for any SDE.

    The step size is e = 2 (snr ||z|| / ||score||)^2 with norms averaged over the batch, as in the
    paper but for its factor alpha, which depends on a number of steps. `n_steps` evaluations.

    Raises ValueError unless snr > 0 and n_steps >= 1.
    """
    if not snr > 0:
        raise ValueError(f"snr must be > 0, got {snr}")
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    del sde  # every SDE is corrected alike; the argument keeps the factories' form

    def update(key, x, t, t_next):  # type: ignore[no-untyped-def]
        del t_next

        def move(carry, k):  # type: ignore[no-untyped-def]
            x, _ = carry
            z = jax.random.normal(k, x.shape, x.dtype)
            gradient = score(x, t)
            ratio = snr * batch_norm(z).mean() / batch_norm(gradient).mean()
            e = 2 * jnp.square(ratio).astype(x.dtype)
            x_mean = x + e * gradient
            return StepOut(x_mean + jnp.sqrt(2 * e) * z, x_mean), None

        keys = jax.random.split(key, n_steps)
        if n_steps == 1:
            return move((x, x), keys[0])[0]
        return jax.lax.scan(move, StepOut(x, x), keys)[0]

    return Step(update, n_steps)
