r"""The error of p(y) by sequential Monte Carlo, from the ancestors of its particles and from repeats.

The weights of the last particles do not show the noise of earlier steps, which resampling hides. The
ancestors do. Let E(i) be the first particle from which particle i descends, W the last weights (of sum
1), and at each resampling N(i) the copies of particle i, whose weight was W_t(i). For p particles

    eps(e) = p sum_{E(i) = e} W(i) - 1 - sum_t sum_{E(i) = e} (N_t(i) - p W_t(i))
    V = sum_e eps(e)^2 / (p (p - 1))                                                              (1)

estimates var(Z) / Z^2 of the estimate Z of p(y) from one run (Chan and Lai, arXiv:1312.5114; Lee and
Whiteley, arXiv:1509.00394). Z^2 (1 - V) is then an estimate of p(y)^2, so that the variance relative to
p(y)^2 is V / (1 - V). It has no bound as V comes near 1, where one ancestor is left.

With few particles a step log Z is normal rather than Z: log Z ~ N(log p(y) - s^2 / 2, s^2) (Bérard, Del
Moral and Doucet, arXiv:1307.0181). Its logarithm is low by half its variance, and the mean of a few Z is
mostly low as well, with a spread that is too small, because the rare large values that carry the mean are
missing from both. The spread of the logarithms is not affected, and gives

    var(mean of n Z) / p(y)^2 = (exp(s^2) - 1) / n                                                (2)

V is itself an estimate from as many numbers as there are families of some size: with a families left,
a = 1 / sum_e (sum_{E(i) = e} W(i))^2, of p particles, it is too small too often. The error therefore
contains the variance of the families' weights, which is what p independent weights would leave a of,

    1 / a - 1 / p                                                                                 (3)

and is infinite below `FAMILIES` families a system. Both are from simulations of normal data, where the
mean of Z is known (docs/adr/0032).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.nn import softmax

FAMILIES = 6.0  # effective ancestors a system, below which nothing is known of p(y)


class Families(NamedTuple):
    """The ancestors of p particles (p,), and what resampling gave the family of each ancestor (p,)."""

    ancestor: Any
    excess: Any


def first_families(p: int, dtype: Any) -> Families:
    """Every particle is its own ancestor."""
    return Families(jnp.arange(p), jnp.zeros(p, dtype))


def resampled(families: Families, logs: Any, index: Any, drawn: Any) -> Families:
    """After weights exp(logs) (p,), when the particles `index` (p,) go on; `drawn`: by resampling."""
    p = len(index)
    more = jnp.zeros(p, logs.dtype).at[index].add(1) - p * softmax(logs)
    excess = families.excess.at[families.ancestor].add(jnp.where(drawn, more, 0))
    return Families(families.ancestor[index], excess)


def relative_variance(families: Families, logs: Any) -> tuple[Any, Any]:
    """V of equation (1) for the last log-weights (p,), and the effective number of ancestors left."""
    p = len(logs)
    share = jnp.zeros(p, logs.dtype).at[families.ancestor].add(softmax(logs))
    away = p * share - 1 - families.excess
    return jnp.square(away).sum() / (p * (p - 1)), 1 / jnp.square(share).sum()


def evidence_error(logs: Any, variances: Any, ancestors: Any, particles: int) -> float:
    """The relative standard error of the mean of Z over n systems of particles, of their log Z (n,).

    The largest of three: equation (2) with the variance of `logs`; the spread of the Z; and what follows
    from the `variances` (n,) of the systems, equation (1), which is infinite where one ancestor is left.
    Equation (3) is added for the `ancestors` (n,) that are left, and their mean below `FAMILIES` makes
    the error infinite. A system without weight has log Z = -inf.

    >>> evidence_error([-4.1, -4.3, -3.9, -4.2], [0.05, 0.04, 0.06, 0.05], [20, 22, 17, 19], 100)
    """
    logs, variances, left = (np.asarray(v, np.float64) for v in (logs, variances, ancestors))
    n, alive = len(logs), np.isfinite(logs)
    if left[alive].mean() < FAMILIES:
        return np.inf
    z = np.exp(logs - logs[alive].max())
    of_mean = lambda v: np.where(alive, np.square(z) * v, 0.0).sum() / z.sum() ** 2
    inside = of_mean(variances)
    found = [float(inside / (1 - inside)) if inside < 1 else np.inf]
    if n > 1:
        found.append(float(z.var(ddof=1) / z.mean() ** 2 / n))
    if alive.sum() > 1:
        # Beyond exp(100) nothing is known in any case.
        found.append(float(np.expm1(min(logs[alive].var(ddof=1), 100.0)) / n))
    return float(np.sqrt(max(found) + max(of_mean(1 / left - 1 / particles), 0.0)))
