r"""ER-SDE-Solver: the reverse SDE with any amount of noise, multistep in s/m (arXiv:2309.06169).

For y = x/m, sigma = s/m and a function phi(sigma) that grows at least as fast as sigma, the extended
reverse SDE has the marginals of the process for every phi, and its solution from sigma to sigma' is

    (1)  y' = (phi'/phi) y + phi' int_sigma'^sigma (dphi/phi^2) D + sqrt(sigma'^2 - (sigma phi'/phi)^2) z

with D the prediction of x0. phi = sigma is the probability flow, phi = sigma^2 the reverse SDE; the
paper's choice, its "ER SDE 5", is

    (2)  phi = sigma (exp(sigma^0.3) + 10)

With the noise n = -s score, y = D + sigma n, the first two terms are D + sigma (phi'/phi) n for a
constant D, which is finite at pure noise too. D is replaced by the polynomial in sigma through the
newest predictions. The authors' third order has (sigma - sigma_0)^2 / 2 where this polynomial has
(sigma - sigma_0) (sigma - sigma_1) / 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check, check_function
from score_jax._math import as_time, bcast, elementwise_grad
from score_jax.samplers.exponential import weighted
from score_jax.samplers.history import History, no_history, remembered
from score_jax.samplers.quadrature import log_level, node_integrals
from score_jax.score import x0_of
from score_jax.types import (
    SDE,
    Data,
    Grid,
    Moved,
    PRNGKey,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
    score_out,
)

Levels = Float[Array, "..."]


def er_noise(sigma: Levels) -> Levels:
    """phi of eq. (2), the paper's choice: shape of sigma = s/m."""
    return sigma * (jnp.exp(sigma**0.3) + 10)


def no_noise(sigma: Levels) -> Levels:
    """phi = sigma: the probability flow."""
    return sigma


def er_sde(
    sde: SDE, score: ScoreFn, *, order: int = 3, phi: Callable[[Levels], Levels] = er_noise
) -> Step:
    """ER-SDE-Solver of order 1, 2 or 3: noise by `phi`, one evaluation a step.

    `phi` is an elementwise function of sigma = s/m with phi/sigma not falling, such as `er_noise` or
    `no_noise`; its logarithm is differentiated. Its state holds order - 1 predictions; x_mean lacks the
    noise of the step. With `no_noise` it converges with `order`. arXiv:2309.06169 algorithms 1 and 2.

    Raises ValueError unless order is 1, 2 or 3, and for a phi that is no function.

    >>> out = simulate(key, er_sde(sde, score), x, karras_grid(sde, 20))
    """
    check_process(sde, score)
    check("order", order, order in (1, 2, 3), "1, 2 or 3")
    check_function("phi", phi, "a function of s/m, such as er_noise")

    def init(x: Data, grid: Grid) -> History:
        return no_history(x, grid, order - 1)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, past: History) -> Moved:
        # The history of the predictions of x0, at the places sigma.
        t, t_next = as_time(t), as_time(t_next)
        u, u_next = log_level(sde, t), log_level(sde, t_next)
        sigma, sigma_next, m_next = jnp.exp(u), jnp.exp(u_next), sde.mean_coeff(t_next)
        low, high = phi(sigma_next), phi(sigma)
        out = score_out(score, x, t)
        clean, noise = x0_of(sde, out, x, t), bcast(-sde.std(t), x) * out.score

        def density(u: Levels) -> Levels:
            value = phi(jnp.exp(u))
            return low / value * (elementwise_grad(lambda v: phi(jnp.exp(v)))(u) / value)

        now = jnp.minimum(past.i + 1, order)
        weights = node_integrals(density, jnp.exp, (u_next, u), sigma, past.marks, now)
        # The share of the noise that stays: 1 to the bit for phi = sigma.
        kept = (sigma * low) / (sigma_next * high)
        fresh = jnp.maximum((1 - kept) * (1 + kept), 0)
        x_mean = bcast(m_next, x) * clean + bcast(sde.std(t_next) * kept, x) * noise
        x_mean = x_mean + weighted(weights, past.values, clean, m_next)
        z = jax.random.normal(key, x.shape, x.dtype)
        x = x_mean + bcast(sde.std(t_next) * jnp.sqrt(fresh), x) * z
        return StepOut(x, x_mean), remembered(past, clean, sigma)

    return Step(init, update, 1)
