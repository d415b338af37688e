r"""The posterior of one x0 given several independent observations, from that of each alone.

Given x0 the observations are independent, so

    p(x0 | x, y_1, ..., y_n) ~ p(x0 | x)^(1-n) prod p(x0 | x, y_j)

With each factor a Gaussian of its own mean and covariance V_j = (s^2 / m) dx0_j/dx, by Tweedie,

    score = L^-1 (P_0 score_0 + sum_j (P_j score_j - P_0 score_0))
    L = P_0 + sum_j (P_j - P_0),  P = V^-1

arXiv:2404.07593 (JAC). The sum of the scores alone, P_j = P_0, is exact at t = 0 only
(arXiv:2209.14249).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from score_jax._check import check, check_score
from score_jax._math import as_time
from score_jax.inverse.methods import linearized
from score_jax.types import SDE, Data, ScoreFn, TimeLike


def combine_observations(sde: SDE, prior: ScoreFn, scores: Sequence[Callable[..., Any]]) -> ScoreFn:
    """The score of p(x(t) | y_1, ..., y_n), of scores of p(x(t) | y_j) and that of p(x(t)): a ScoreFn.

    Exact at every time if the prior and all posteriors are normal, an approximation otherwise. For
    parameters of a simulator and other x0 of few entries: every score costs as many backward passes
    as x0 has entries, and the matrices are dense. An observation can only add precision: what would take
    some away, by the errors of a network, is left out.

    Raises ValueError for no scores, or what is none.

    >>> scores = [model.score(params, y) for y in observations]  # of a network conditioned on y
    >>> together = combine_observations(sde, model.score(params, none), scores)
    """
    check("scores", scores, len(scores) > 0, "at least one score")
    for given in (prior, *scores):
        check_score(given)

    def moments(score: ScoreFn, x: Data, t: Any) -> tuple[Any, Any]:
        """The score (n,) and the precision V^-1 (n, n) at x (n,)."""
        found = linearized(sde, score, x[None], t)
        n = found.out.score.size
        rows = jax.vmap(lambda v: found.pull(v.reshape(1, *x.shape)).reshape(n))(
            jnp.eye(n, dtype=x.dtype)
        )
        covariance = jnp.square(sde.std(t)) / sde.mean_coeff(t) * 0.5 * (rows + rows.T)
        values, vectors = jnp.linalg.eigh(covariance)
        values = jnp.maximum(values, 1e-6 * jnp.max(jnp.abs(values)))
        return found.out.score.reshape(n), vectors / values[None] @ vectors.T

    def one(x: Data, t: Any) -> Data:
        first, base = moments(prior, x, t)
        total, pulled = base, base @ first
        for score in scores:
            value, precision = moments(score, x, t)
            values, vectors = jnp.linalg.eigh(precision - base)
            gained = vectors * jnp.maximum(values, 0)[None] @ vectors.T
            total = total + gained
            pulled = pulled + (base + gained) @ value - base @ first
        return jnp.linalg.solve(total, pulled[:, None])[:, 0].reshape(x.shape)

    def together(x: Data, t: TimeLike) -> Data:
        times = jnp.broadcast_to(as_time(t), x.shape[:1])
        return jax.vmap(one)(x, times)

    return together
