r"""The exact posteriors of mixtures of Gaussians under linear measurements, and their evidence.

What approximate methods are compared with: `exact` makes a method like the others, which reaches
the posterior with every sampler as its steps get finer.
"""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_jax._check import check, check_positive
from score_jax.analytic import Conditioner, Mixture
from score_jax.inverse.combining import example_of, own_operators
from score_jax.inverse.measurement import Measurement, check_measurement, consistent
from score_jax.inverse.methods import Conditional, Method
from score_jax.inverse.operators import LinearOperator, matrix_of
from score_jax.types import SDE, ScoreFn


def conditioner(prior: Any, measurement: Measurement) -> tuple[Conditioner, np.ndarray]:
    """The posteriors of one operator and noise as a function of y, and which entries (q,) of y it takes.

    Entries that are not measured, whose row of the matrix is 0, are left out. Raises ValueError for a
    prior that is not a `Mixture`, an operator that is not linear, or data of another shape.
    """
    if not isinstance(prior, Mixture):
        raise ValueError(f"prior must be a Mixture of score_jax.analytic, got {prior!r:.60}")
    check_measurement(measurement, prior.shape)
    if not isinstance(measurement.operator, LinearOperator):
        raise ValueError(f"the operator must be linear, got {measurement.operator!r}")
    if own_operators(measurement.operator) is not None:
        raise ValueError("all measurements must share one operator here: use exact_posteriors")
    if measurement.noise is not None:
        raise ValueError(f"noise must be normal for an exact posterior, got {measurement.noise!r}")
    matrix = matrix_of(measurement.operator, prior.shape)
    seen = abs(matrix).sum(axis=1) > 0
    return prior.conditioner(matrix[seen], float(measurement.noise_std)), seen


def exact_posteriors(prior: Any, measurement: Measurement) -> list[Mixture]:
    """The posterior of a mixture of Gaussians given each of the b measurements: b of `Mixture`.

    Raises ValueError for an operator that is not linear, or a prior of another shape.

    >>> first, second = exact_posteriors(data, Measurement(operator, y, 0.1))  # y (2, *out)
    """
    if own_operators(measurement.operator) is not None:
        ones = [example_of(measurement, i) for i in range(len(measurement.y))]
        return [exact_posterior(prior, one) for one in ones]
    given, seen = conditioner(prior, measurement)
    return [given(y.reshape(-1)[seen]) for y in np.asarray(measurement.y, np.float64)]


def exact_posterior(mixture: Any, measurement: Measurement) -> Mixture:
    """The posterior of a mixture of Gaussians given its measurement, of one example: a `Mixture`.

    The reference of every method: `exact_posterior(data, measurement).score(sde)` is the score of its
    noisy states. Linear operators only; `exact_posteriors` takes many measurements.

    Raises ValueError for more than one example, or an operator that is not linear.
    """
    check_measurement(measurement, mixture.shape)
    if measurement.y.shape[0] != 1:
        raise ValueError(f"y must be of one example, got {measurement.y.shape[0]}")
    given, seen = conditioner(mixture, example_of(measurement, 0))
    return given(np.asarray(measurement.y, np.float64).reshape(-1)[seen])


def log_evidence(prior: Any, measurement: Measurement) -> Float[np.ndarray, " b"]:
    """log p(y) in nats of each measurement under a mixture of Gaussians: (b,).

    Raises ValueError as `exact_posteriors`.

    >>> log_evidence(data, Measurement(operator, y, noise_std=0.1))
    """
    if own_operators(measurement.operator) is not None:
        ones = [example_of(measurement, i) for i in range(len(measurement.y))]
        return np.concatenate([log_evidence(prior, one) for one in ones])
    given, seen = conditioner(prior, measurement)
    y = np.asarray(measurement.y, np.float64)
    return np.array([given.log_evidence(v.reshape(-1)[seen]) for v in y])


def most_likely_noise(
    prior: Any, measurement: Measurement, noise_stds: Any
) -> tuple[float, Float[np.ndarray, " n"]]:
    """The unknown noise_std of measurements by maximum likelihood: (noise_std, log p(y) of each).

    log p(y | noise_std), summed over the b measurements, is computed for each of `noise_stds`; the
    noise_std of the measurement itself is ignored. Costs one eigenvalue decomposition each. `prior` is
    a mixture, or for other priors a function of a measurement to log p(y) (b,), such as the evidence of
    `twisted_smc`.

    Raises ValueError for no noise_stds, or values that are not positive.

    >>> found, _ = most_likely_noise(data, measurement, np.geomspace(0.01, 1, 30))
    """
    check("noise_stds", noise_stds, len(noise_stds) > 0, "at least one value")
    totals = []
    for noise_std in map(float, noise_stds):
        check_positive(noise_std=noise_std)
        tried = dataclasses.replace(measurement, noise_std=noise_std)
        logs = prior(tried) if callable(prior) else log_evidence(prior, tried)
        totals.append(float(np.sum(logs)))
    return float(noise_stds[int(np.argmax(totals))]), np.array(totals)


def exact(prior: Any, measurement: Any) -> Method:
    """The method whose score is the exact one of p(x(t) | y) under a mixture of Gaussians: the reference.

    What is left of an error is that of the sampler. It holds for the operator and the noise of
    `measurement`, with any y. Linear operators. The score that the method is given is not used.

    Raises ValueError as `exact_posteriors`.

    >>> method = exact(data, measurement)
    >>> out = posterior_sample(key, sde, data.score(sde), measurement, method, grid=grid)
    """
    given, seen = conditioner(prior, measurement)
    index = np.flatnonzero(seen)

    def method(sde: SDE, score: ScoreFn, measurement: Any) -> Conditional:
        y = jnp.asarray(measurement.y).reshape(measurement.y.shape[0], -1)[:, index]
        return Conditional(given.score(sde, y), None, partial(consistent, measurement))

    return method
