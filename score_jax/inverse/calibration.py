r"""Are posterior draws calibrated? Ranks of the truth, and coverage around random points.

With x0 from the prior and y measured of it, x0 is one more draw of p(x0 | y). So the rank of any
function of x0 among those of exact posterior draws is uniform (simulation-based calibration,
arXiv:1804.06788), and so is the share of draws that are nearer than x0 to a point that does not depend
on x0 (TARP, arXiv:2302.03026, which also proves the converse for points that vary). Draws that are too
narrow give ranks near 0 and 1.

How well a wrong spread is seen depends on the function. Functions that depend on y, too, are allowed: the
density of the posterior (arXiv:2211.02383) sees the spread of all entries at once, and points near the
posterior see more than points far away.
"""

from typing import Any

import numpy as np

from score_jax._check import check


def _pair(truth: Any, draws: Any) -> tuple[np.ndarray, np.ndarray]:
    truth, draws = np.asarray(truth, np.float64), np.asarray(draws, np.float64)
    fits = truth.ndim == 2 and draws.ndim == 3 and draws.shape[::2] == truth.shape
    check("the shapes of truth and draws", (truth.shape, draws.shape), fits, "(r, p) and (r, n, p)")
    return truth, draws


def sbc_ranks(truth: Any, draws: Any) -> np.ndarray:
    """Ranks of the truth (r, p) among draws (r, n, p) of its posterior: (r, p) in [0, 1].

    The share of draws below it, ties counted half: uniform for each of the p functions if the draws
    are exact. Raises ValueError for shapes that do not fit.

    >>> sbc_ranks(x0, draws)  # draws[i] of p(x0 | y[i])
    """
    truth, draws = _pair(truth, draws)
    there = truth[:, None]
    return (draws < there).mean(axis=1) + 0.5 * (draws == there).mean(axis=1)


def tarp_levels(truth: Any, draws: Any, points: Any) -> np.ndarray:
    """The share of draws (r, n, p) nearer than the truth (r, p) to the points (r, p): (r,) in [0, 1].

    Uniform if the draws are exact and each point is independent of its truth, given y. The coverage of
    the credibility level c is the share of levels below c. Raises ValueError for other shapes.
    """
    truth, draws = _pair(truth, draws)
    points = np.asarray(points, np.float64)
    check("points", points.shape, points.shape == truth.shape, f"of shape {truth.shape}")
    far = np.linalg.norm(truth - points, axis=1)
    return (np.linalg.norm(draws - points[:, None], axis=2) < far[:, None]).mean(axis=1)


def uniformity(levels: Any) -> float:
    """The largest distance of the distribution of levels in [0, 1] to the uniform one.

    Kolmogorov's statistic of each column of (r,) or (r, p), and the mean over columns. For r exact and
    independent levels it is about 0.87 / sqrt(r).
    """
    levels = np.sort(np.asarray(levels, np.float64).reshape(len(levels), -1), axis=0)
    r = len(levels)
    above, below = np.arange(1, r + 1) / r, np.arange(r) / r
    far = np.maximum(above[:, None] - levels, levels - below[:, None])
    return float(far.max(axis=0).mean())


def calibration_test(levels: Any) -> float:
    """The p-value of levels (r,) or (r, p) in [0, 1] being uniform, such as ranks or coverage levels.

    Neyman's smooth test of order 2: the mean and the variance of each column, in units of their standard
    deviations for uniform levels, squared and added, are chi-squared with 2 degrees of freedom. Wrong
    places move the mean, wrong spreads the mean or the variance. The smallest p-value of p columns is
    multiplied by p (Bonferroni), so that a sampler that is right is below 0.05 in at most 5 % of cases,
    whatever the columns have in common. For r of some 20 and more, and levels of some 50 draws and more.
    With the ranks and levels of the benchmark, 64 posteriors of two numbers and 100 draws each, a spread
    that is 1.4 or 0.7 times that of the posterior is found in 98 of 100 cases.

    >>> calibration_test(sbc_ranks(truth, draws)) > 0.05
    """
    levels = np.asarray(levels, np.float64)
    fits = levels.ndim in (1, 2) and len(levels) > 1
    check("levels", levels.shape, fits, "of shape (r,) or (r, p) with r of at least 2")
    away, r = levels.reshape(len(levels), -1) - 0.5, len(levels)
    place = (12 * r) ** 0.5 * away.mean(axis=0)
    spread = (180 * r) ** 0.5 * (np.square(away).mean(axis=0) - 1 / 12)
    found = np.exp(-0.5 * (np.square(place) + np.square(spread)))
    return float(min(1.0, found.min() * len(found)))
