"""Inception score, exp(mean KL(p(y given x) || p(y))): arXiv:1606.03498."""

import numpy as np
from jaxtyping import ArrayLike

from score_jax._check import check, check_count
from score_jax.metrics.distances import Estimate
from score_jax.metrics.statistics import check_points


def inception_score(
    logits: ArrayLike, *, splits: int | None = 10, chunk: int | None = None, seed: int | None = 2020
) -> Estimate:
    """Inception score of logits (n, classes), those without a bias: mean and deviation over splits.

    The default is the protocol of torch-fidelity: a shuffle by `seed`, then 10 splits. ADM's is
    `splits=None, chunk=5000, seed=None`: chunks of 5,000 in order, the last one as it is.

    Raises ValueError unless exactly one of splits and chunk is given, and for fewer logits than splits.
    """
    logits = check_points("logits", logits, 1).astype(np.float64)
    n = len(logits)
    check("splits and chunk", (splits, chunk), (splits is None) != (chunk is None), "one of them")
    if splits is not None:
        check_count(splits=splits)
        check("splits", splits, splits <= n, f"at most the number of logits, {n}")
        ends = [i * n // splits for i in range(1, splits)]
    else:
        check_count(chunk=chunk)
        ends = list(range(chunk or n, n, chunk or n))
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(n)]
    values = [_score(part) for part in np.split(logits, ends)]
    return Estimate(float(np.mean(values)), float(np.std(values)), len(values))


def _score(logits: np.ndarray) -> float:
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    # The sum over classes of p log p(y), where a class that never occurs has p = 0.
    marginal = p.mean(0)
    entropy = -np.sum(marginal * np.log(np.maximum(marginal, np.finfo(float).tiny)))
    return float(np.exp((p * log_p).sum(1).mean() + entropy))
