"""Problems with known posteriors and methods of posterior sampling, by name."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import data, inverse
from score_jax.analytic import Mixture, fit_mixture, random_field, random_mixture
from score_jax.convert.published import lookup
from score_jax.inverse import benchmark
from score_jax.inverse.benchmark import Drawer, Problem

from .. import presets
from .named import function_named


def two_modes() -> Mixture:
    """Two components of the plane that differ most in what is not measured."""
    narrow, tilted = 0.1 * np.eye(2), [[0.15, 0.05], [0.05, 0.15]]
    return Mixture([0.6, 0.4], [[0.0, -1.5], [0.5, 1.5]], [narrow, tilted])


@functools.cache
def digits() -> Mixture:
    """A mixture of ten Gaussians fitted to the digits, between about -1 and 1."""
    x = np.asarray(data.load_digits().x, np.float64)
    return fit_mixture((x + 0.5) / 17 * 2 - 1, 10, rank=12)


@functools.cache
def fashion() -> Mixture:
    """A mixture of ten Gaussians of 24 axes fitted to Fashion-MNIST, 784 entries from -1 to 1.

    Raises FileNotFoundError where the images are not installed.
    """
    path = str(presets.get("fashion_vp").data.path)
    x = np.asarray(data.read_idx(path).x[:20_000], np.float64)
    return fit_mixture(x / 127.5 - 1, 10, rank=24)


def _half(shape: tuple[int, ...]) -> np.ndarray:
    return np.indices(shape)[0] < shape[0] // 2


def _random_matrix(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(rows, columns)) / np.sqrt(columns)


# Each a function of the noise's standard deviation.
PROBLEMS: dict[str, Callable[[float], Problem]] = {
    "two_modes": lambda s: Problem(two_modes(), inverse.Mask([True, False]), s),
    "mixture": lambda s: Problem(
        random_mixture((8,), 5), inverse.dense(_random_matrix(3, 8), cutoff=1e-6), s
    ),
    "digits_half": lambda s: Problem(digits(), inverse.Mask(_half((8, 8, 1))), s),
    "digits_small": lambda s: Problem(digits(), inverse.BlockAverage(2), s),
    "digits_blur": lambda s: Problem(digits(), inverse.Blur(inverse.gaussian_kernel(5, 1.0)), s),
    "fashion_half": lambda s: Problem(fashion(), inverse.Mask(_half((28, 28, 1))), s),
    "fashion_small": lambda s: Problem(fashion(), inverse.BlockAverage(4), s),
    "field": lambda s: Problem(random_field((64, 64, 1)), inverse.BlockAverage(4), s),
    "magnitude": lambda s: Problem(
        random_mixture((2,), 3), inverse.Nonlinear(lambda x: jnp.abs(x), (2,)), s
    ),
}


def _data_std(problem: Problem) -> Any:
    """Standard deviations of the prior in what is measured; of all entries if it is not linear."""
    x = problem.prior.sample(jax.random.key(0), 500)
    if isinstance(problem.operator, inverse.LinearOperator):
        return inverse.measured_stds(problem.operator, x)
    return float(np.sqrt(np.mean(problem.prior.std**2)))


def _steps(method: Any, **fixed: Any) -> Callable[[Problem, int], Drawer]:
    return lambda problem, nfe: benchmark.by_steps(method, nfe=nfe, **fixed)


def _with_std(method: Any, **fixed: Any) -> Callable[[Problem, int], Drawer]:
    return lambda problem, nfe: benchmark.by_steps(
        method, nfe=nfe, data_std=_data_std(problem), **fixed
    )


# Each a function of the problem and the number of evaluations.
METHODS: dict[str, Callable[[Problem, int], Drawer]] = {
    "exact": lambda problem, nfe: benchmark.by_exact_score(problem.prior, nfe=nfe),
    "pigdm": _with_std(inverse.pigdm),
    "projection": _with_std(inverse.projection),
    "replacement": _steps(inverse.replacement, corrections=3, snr=0.3),
    "dps": _steps(inverse.dps),
    "tmpd": _steps(inverse.tmpd),
    "mmps": _steps(inverse.mmps),
    "ddrm": _steps(inverse.ddrm),
    "diffpir": _steps(inverse.diffpir),
    "daps": _with_std(inverse.daps),
    "smc": lambda problem, nfe: benchmark.by_particles(nfe=nfe, data_std=_data_std(problem)),
    "smc_8": lambda problem, nfe: benchmark.by_particles(
        nfe=nfe, times=8, data_std=_data_std(problem)
    ),
    "smc_cov": lambda problem, nfe: benchmark.by_particles(nfe=nfe, data_std=None, chunk=2),
}


def user_method(path: str) -> Callable[[Problem, int], Drawer]:
    """The method `package.module:function`, (sde, score, measurement) -> Conditional, as it is named.

    Raises ValueError for another form, a module that cannot be imported or has no such function.
    """
    method = function_named("--method", path)
    return _steps(method)


def chosen(names: Sequence[str], own: Sequence[str]) -> dict[str, Callable[[Problem, int], Drawer]]:
    """The methods with these names (none: all), and the user's; ValueError for an unknown one."""
    found = {name: lookup(name, METHODS, "method") for name in names or METHODS}
    return found | {path: user_method(path) for path in own}


def problem(name: str, noise_std: float) -> Problem:
    """The problem of a name; ValueError for an unknown one."""
    return lookup(name, PROBLEMS, "problem")(noise_std)
