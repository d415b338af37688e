r"""Multistep solvers that extrapolate the noise: LMS and DEIS, for any SDE.

With y = x/m, rho = s/m and the noise in x, n(x, t) = -s score(x, t), the probability flow of every
isotropic linear SDE is dy/drho = n (arXiv:2206.00364 eq. 4), so that

    (1)  x' = m' D + s' n_0 + m' sum_j (n_j - n_0) int_rho^rho' l_j drho,        D = (x - s n_0) / m

for a polynomial through the newest evaluations n_0, n_1, ..., of which l_j is the Lagrange polynomial.
The methods differ in the variable of the polynomial:

    LMS        rho           Adams-Bashforth on an uneven grid, k-diffusion's `sample_lms`
    tAB-DEIS   t             arXiv:2204.13902 section 3.3 (LMS is its rho-AB-DEIS)
    log        log rho       the form of DEIS in diffusers

The first steps have the orders that the past allows. The weights are integrals over log rho by a
Gauss-Legendre rule, exact to rounding.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check
from score_jax._math import as_time, bcast
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

# The variable of the polynomial as a function of u = log(s/m): shape of u.
Variable = Callable[[SDE, Float[Array, "..."]], Float[Array, "..."]]


def _level(sde: SDE, u: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.exp(u)


def _time(sde: SDE, u: Float[Array, "..."]) -> Float[Array, "..."]:
    return sde.time_of_log_snr(-2 * u)


def _log_level(sde: SDE, u: Float[Array, "..."]) -> Float[Array, "..."]:
    return u


def _adams(sde: SDE, score: ScoreFn, order: int, variable: Variable) -> Step:
    check_process(sde, score)
    check("order", order, order in (1, 2, 3, 4), "1, 2, 3 or 4")

    def init(x: Data, grid: Grid) -> History:
        return no_history(x, grid, order - 1)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, past: History) -> Moved:
        # The history of the noise, at the places log(s/m).
        t, t_next = as_time(t), as_time(t_next)
        m_next, out = sde.mean_coeff(t_next), score_out(score, x, t)
        noise = bcast(-sde.std(t), x) * out.score
        ends = log_level(sde, t), log_level(sde, t_next)
        now = jnp.minimum(past.i + 1, order)
        weights = node_integrals(
            jnp.exp,
            lambda u: variable(sde, u),
            ends,
            variable(sde, ends[0]),
            [variable(sde, place) for place in past.marks],
            now,
        )
        # Euler's step in s/m is m' D + s' n, finite at pure noise too.
        x = bcast(m_next, x) * x0_of(sde, out, x, t) + bcast(sde.std(t_next), x) * noise
        x = x + weighted(weights, past.values, noise, m_next)
        return StepOut(x, x), remembered(past, noise, ends[0])

    return Step(init, update, 1)


def lms(sde: SDE, score: ScoreFn, *, order: int = 4) -> Step:
    """The linear multistep method of order 1 to 4 in s/m, one evaluation a step.

    Its state holds order - 1 noises. Use it on `karras_grid`: its intervals in s/m shrink steadily.
    k-diffusion's `sample_lms`; see the module.

    Raises ValueError unless order is 1, 2, 3 or 4.

    >>> out = simulate(key, lms(sde, score), x, karras_grid(sde, 20))
    """
    return _adams(sde, score, order, _level)


def deis(sde: SDE, score: ScoreFn, *, order: int = 3, log: bool = False) -> Step:
    """DEIS, tAB of order 1 to 4: one evaluation a step; its state holds order - 1 noises.

    The polynomials are in t or, with `log`, in log(s/m). They are good where the variable of the
    polynomials and the grid agree: `quadratic_grid` is the paper's for VP. arXiv:2204.13902.

    Raises ValueError unless order is 1, 2, 3 or 4.

    >>> out = simulate(key, deis(sde, score), x, quadratic_grid(sde, 10))
    """
    return _adams(sde, score, order, _log_level if log else _time)
