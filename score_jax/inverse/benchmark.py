r"""How far the draws of a posterior sampler are from the exact posterior.

A `Problem` is a prior with a known posterior, an operator and noise. `pose` draws x0 and y of it
several times and computes the reference of each; `by_steps` and `by_particles` make drawers, functions
that sample the posteriors; `compare_draws` measures one drawer's output, for every y alone:

    sliced_wasserstein  to exact draws, in units of the posterior's standard deviation
    frechet             of the moments to the exact ones, divided by the total variance
    mean_error          root mean square, in units of the posterior's standard deviation
    std_ratio           root mean square deviation of the draws over the exact one: 1 is right
    std_error           root mean square error of the standard deviations, in units of theirs
    weights_error       half the sum of |weight - exact weight| over the components of the mixture
    residual            root mean square of y - A(x), in units of the noise where there is some
    evidence            the estimate of p(y) over the exact one, where there are both: 1 in the mean
    sbc, tarp           distance of ranks and coverage levels to uniform, over all y
    calibration         p-value of all ranks and levels together (`calibration_test`)

The ranks are those of projections on random directions and of the density of the posterior, which sees
a wrong spread of many entries at once; the points of the coverage levels are draws of the posterior.
Finite samples of the exact posterior have distances too: those of `exact_draws`, the first of every
comparison, are the scale of all others. Errors are standard errors over the y, for `sbc` and `tarp`
by bootstrap.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from score_jax._check import check, check_count
from score_jax.analytic import Mixture, importance_posterior
from score_jax.inverse.calibration import calibration_test, sbc_ranks, tarp_levels, uniformity
from score_jax.inverse.combining import example_of
from score_jax.inverse.exact import conditioner, exact, log_evidence
from score_jax.inverse.measurement import Measurement, measure, measurement_logp
from score_jax.inverse.operators import LinearOperator, Operator
from score_jax.inverse.particles import ParticlesDied, Systems, twisted_smc
from score_jax.inverse.sampling import posterior_sample
from score_jax.metrics.distances import Estimate, frechet_distance, sliced_wasserstein
from score_jax.samplers import ancestral, log_snr_grid
from score_jax.types import SDE

EXACT = "exact draws"  # the name of the first line of a comparison
_FRECHET = 300  # entries up to which covariances are compared
_PROJECTIONS = 8  # directions whose ranks are taken
_BOOTSTRAP = 100


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prior, an operator and the noise of a measurement: the posterior is exact for linear operators.

    For others it is found by `draws` draws of the prior, in few dimensions.
    """

    prior: Mixture
    operator: Operator
    noise_std: float = 0.1
    draws: int = 100_000


class Reference(NamedTuple):
    """The posterior of one y, flat: mean (n,), std (n,), cov (n, n) or None, weights (k,) of components.

    draws and others: two sets of draws (m, n). error: the largest standard error of the mean in units of
    the standard deviation; 0 where the reference is exact.
    """

    mean: np.ndarray
    std: np.ndarray
    cov: np.ndarray | None
    weights: np.ndarray
    draws: np.ndarray
    others: np.ndarray
    error: float


class Posed(NamedTuple):
    """A problem posed r times: x0 (r, *d), their measurement, and the reference of each."""

    problem: Problem
    x0: np.ndarray
    measurement: Measurement
    references: tuple[Reference, ...]


class Drawn(NamedTuple):
    """Draws x (r, num, *d), evaluations for each, seconds of drawing all, log p(y) (r,) or None."""

    x: np.ndarray
    nfe: float
    seconds: float
    log_evidence: np.ndarray | None = None


# (key, sde, score, measurement of r examples, num) -> Drawn
Drawer = Callable[[Any, SDE, Any, Measurement, int], Drawn]


class Comparison(NamedTuple):
    """The figures of one drawer on one problem.

    figures: estimates by the names of the module, without those that do not apply; ranks (r, 9) and
    levels (r,): those of calibration; nonfinite: the share of draws that are not finite.
    """

    figures: dict[str, Estimate]
    ranks: np.ndarray
    levels: np.ndarray
    nonfinite: float
    nfe: float
    seconds: float


def _flat(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)


def pose(key: Key[Array, ""], problem: Problem, *, repeats: int = 16, num: int = 256) -> Posed:
    """Draw x0 and y `repeats` times and find the posterior of each, with `num` draws: `Posed`.

    Raises ValueError for counts that are too small, and for an operator that does not fit the prior.
    """
    check_count(2, repeats=repeats, num=num)
    x_key, y_key, key = jax.random.split(key, 3)
    x0 = problem.prior.sample(x_key, repeats)
    measurement = measure(y_key, problem.operator, x0, noise_std=problem.noise_std)
    keys = jax.random.split(key, repeats)
    if isinstance(problem.operator, LinearOperator):
        given, seen = conditioner(problem.prior, measurement)
        ys = np.asarray(measurement.y, np.float64).reshape(repeats, -1)[:, seen]
        found = [_exact(k, given(y), num) for k, y in zip(keys, ys, strict=True)]
    else:
        each = [example_of(measurement, i) for i in range(repeats)]
        found = [_sampled(k, problem, one, num) for k, one in zip(keys, each, strict=True)]
    return Posed(problem, np.asarray(x0), measurement, tuple(found))


def _exact(key: Any, posterior: Mixture, num: int) -> Reference:
    """The reference of a linear operator."""
    mean, std = posterior.mean.reshape(-1), posterior.std.reshape(-1)
    cov = posterior.cov if len(std) <= _FRECHET else None
    x = _flat(posterior.sample(key, 2 * num))
    return Reference(mean, std, cov, posterior.weights, x[:num], x[num:], 0.0)


def _sampled(key: Any, problem: Problem, one: Measurement, num: int) -> Reference:
    """The reference of any other, by importance sampling from the prior."""
    logp = measurement_logp(one)
    found = importance_posterior(
        key, problem.prior, lambda x: logp(x, jnp.zeros(())), problem.draws
    )
    mean, std = found.mean.reshape(-1), found.std.reshape(-1)
    away = _flat(found.x) - mean[None]
    cov = np.einsum("i,ij,ik->jk", found.weights, away, away, optimize=True)
    members = np.asarray(problem.prior.memberships(jnp.asarray(found.x)), np.float64)
    x = _flat(found.draw(2 * num))
    error = (found.mean_error.reshape(-1) / np.maximum(std, 1e-12)).max()
    return Reference(mean, std, cov, found.weights @ members, x[:num], x[num:], float(error))


def exact_draws(posed: Posed) -> Drawn:
    """Other draws of the posteriors themselves: the scale of all figures."""
    x = np.stack([reference.others for reference in posed.references])
    return Drawn(x.reshape(*x.shape[:2], *posed.x0.shape[1:]), 0.0, 0.0)


def by_steps(
    method: Callable[..., Any],
    *,
    nfe: int = 100,
    sampler: Callable[..., Any] = ancestral,
    grid: Callable[..., Any] = log_snr_grid,
    chunk: int = 2048,
    **options: Any,
) -> Drawer:
    """A drawer of a method (sde, score, measurement, **options) -> `Conditional` with a sampler of steps.

    As many steps of `grid(sde, n)` as `nfe` evaluations pay for, and Tweedie's formula at the end.

    >>> drawer = by_steps(pigdm, nfe=50, data_std=0.5)
    """
    check_count(2, nfe=nfe)

    def draw(key: Any, sde: SDE, score: Any, measurement: Measurement, num: int) -> Drawn:
        y = np.asarray(measurement.y)
        cost = method(sde, score, example_of(measurement, 0), **options)
        cost = cost.step(sampler(sde, cost)).nfe
        steps = max(1, (nfe - 1) // cost)
        every = np.repeat(y, num, axis=0)
        out = posterior_sample(
            key, sde, score, dataclasses.replace(measurement, y=every), method,
            grid=grid(sde, steps), sampler=sampler, options=options, chunk=chunk, together=True,
            progress=False,
        )  # fmt: skip
        x = out.x.reshape(len(y), num, *out.x.shape[1:])
        return Drawn(x, float(out.nfe.mean()), out.seconds)

    return draw


def by_exact_score(prior: Mixture, **kwargs: Any) -> Drawer:
    """The drawer of `exact`, the exact score given y, with the arguments of `by_steps`."""

    def draw(key: Any, sde: SDE, score: Any, measurement: Measurement, num: int) -> Drawn:
        method = exact(prior, measurement)
        return by_steps(method, **kwargs)(key, sde, score, measurement, num)

    return draw


def survivors(
    key: Any, sde: SDE, score: Any, measurement: Measurement, *args: Any, **kwargs: Any
) -> tuple[Systems, list[int]]:
    """The `twisted_smc` of the measurements whose particles do not all die, and their numbers.

    Arguments are those of `twisted_smc`; the numbers (n,) are in the order of the systems.

    >>> systems, alive = survivors(key, sde, score, measurement, grid=grid, particles=100)
    """
    dead: tuple[int, ...] = ()
    try:
        out = twisted_smc(key, sde, score, measurement, *args, **kwargs)
    except ParticlesDied as error:
        out, dead = error.systems, error.dead
    return out, [i for i in range(len(measurement.y)) if i not in dead]


def by_particles(
    method: Callable[..., Any] | None = None,
    *,
    nfe: int = 100,
    times: int = 1,
    grid: Callable[..., Any] = log_snr_grid,
    **options: Any,
) -> Drawer:
    """A drawer of `twisted_smc` with one system of `times` * num particles for each y.

    `nfe` are the evaluations of a particle, the steps of `grid(sde, n)`; options are those of
    `twisted_smc`. The draws of a y whose particles all died are NaN, and its p(y) is 0.

    >>> drawer = by_particles(times=4, data_std=0.5)
    """
    check_count(nfe=nfe, times=times)

    def draw(key: Any, sde: SDE, score: Any, measurement: Measurement, num: int) -> Drawn:
        cost = 1 if method is None else 2
        with warnings.catch_warnings():  # of few particles, whose error the figures show
            warnings.filterwarnings("ignore", "too few particles", UserWarning)
            out, alive = survivors(
                key, sde, score, measurement, method, grid=grid(sde, nfe // cost),
                particles=times * num, islands=1, progress=False, **options,
            )  # fmt: skip
        x = np.full((len(measurement.y), num, *measurement.shape), np.nan)
        evidence = np.full(len(measurement.y), -np.inf)
        for i, one in zip(alive, out.found, strict=True):
            x[i], evidence[i] = one.draw(num, seed=i), one.log_evidence
        return Drawn(x, float(nfe * times), out.seconds, evidence)

    return draw


def compare_draws(posed: Posed, drawn: Drawn, *, seed: int = 0) -> Comparison:
    """The figures of draws against the references, see the module: `Comparison`.

    Values of a y with draws that are not finite are left out, and `nonfinite` is their share of all
    draws. Raises ValueError for draws of another shape.
    """
    r, shape = len(posed.x0), posed.x0.shape[1:]
    x = np.asarray(drawn.x, np.float64)
    fits = x.shape[:1] + x.shape[2:] == (r, *shape)
    check("the shape of x", x.shape, fits, f"({r}, num, *{shape})")
    x = x.reshape(r, x.shape[1], -1)
    fine: Any = np.isfinite(x).all(axis=2)
    kept = [i for i in range(r) if fine[i].all()]
    rows = [_figures(posed, i, x[i]) for i in kept]
    figures = {name: _mean([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    if drawn.log_evidence is not None and isinstance(posed.problem.operator, LinearOperator):
        away = drawn.log_evidence - log_evidence(posed.problem.prior, posed.measurement)
        figures["evidence"] = _mean(list(np.exp(away)))
    ranks, levels = np.zeros((0, _PROJECTIONS + 1)), np.zeros(0)
    if len(kept) > 1:
        rng = np.random.default_rng(seed)
        ranks, levels = _calibration(posed, x[kept], kept, rng)
        figures["sbc"] = _bootstrap(ranks, rng)
        figures["tarp"] = _bootstrap(levels, rng)
        p = calibration_test(np.concatenate([ranks, levels[:, None]], axis=1))
        figures["calibration"] = Estimate(p, 0.0, len(kept))
    return Comparison(figures, ranks, levels, float(1 - fine.mean()), drawn.nfe, drawn.seconds)


def _calibration(
    posed: Posed, x: np.ndarray, kept: list[int], rng: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (r, 9) and coverage levels (r,) of the truths of these y among their draws x (r, num, n)."""
    truth = _flat(posed.x0)[kept]
    directions = rng.normal(size=(x.shape[2], _PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0, keepdims=True)
    one = [_posterior_logs(posed, i, truth[j][None]) for j, i in enumerate(kept)]
    many = [_posterior_logs(posed, i, x[j]) for j, i in enumerate(kept)]
    ranks = [
        sbc_ranks(truth @ directions, x @ directions),
        sbc_ranks(np.array(one), np.array(many)[:, :, None]),
    ]
    points = np.stack([posed.references[i].draws[0] for i in kept])
    return np.concatenate(ranks, axis=1), tarp_levels(truth, x, points)


def _measured(posed: Posed, i: int, x: Any) -> Measurement:
    """The measurement of y number i, once for each of the draws x."""
    y = jnp.repeat(jnp.asarray(posed.measurement.y)[i : i + 1], len(x), axis=0)
    return dataclasses.replace(posed.measurement, y=y)


def _posterior_logs(posed: Posed, i: int, x: np.ndarray) -> np.ndarray:
    """log p(x | y) of number i up to a constant, x (num, n); without noise log p(x): (num,)."""
    examples = jnp.asarray(x.reshape(-1, *posed.x0.shape[1:]), jnp.float32)
    logs = jax.nn.logsumexp(posed.problem.prior.clean_logs(examples), axis=1)
    if posed.measurement.noise_std > 0:
        logs = logs + measurement_logp(_measured(posed, i, x))(examples, jnp.zeros(()))
    return np.asarray(logs, np.float64)


def _figures(posed: Posed, i: int, x: np.ndarray) -> dict[str, float]:
    """The figures of one y, x (num, n)."""
    truth, size = posed.references[i], posed.x0.shape[1:]
    rms = lambda v: float(np.sqrt(np.mean(np.square(v))))
    unit = max(rms(truth.std), 1e-12)
    mean, std = x.mean(axis=0), x.std(axis=0, ddof=1)
    found = {
        "sliced_wasserstein": sliced_wasserstein(x, truth.draws) / unit,
        "mean_error": rms(mean - truth.mean) / unit,
        "std_ratio": rms(std) / unit,
        "std_error": rms(std - truth.std) / unit,
    }
    if truth.cov is not None:
        far = frechet_distance(mean, np.cov(x.T).reshape(len(mean), -1), truth.mean, truth.cov)
        found["frechet"] = far / (len(mean) * unit**2)
    examples = jnp.asarray(x.reshape(-1, *size), jnp.float32)
    if len(truth.weights) > 1:
        weights = np.asarray(posed.problem.prior.memberships(examples), np.float64).mean(axis=0)
        found["weights_error"] = 0.5 * float(abs(weights - truth.weights).sum())
    residual = _flat(_measured(posed, i, x).residual(examples))
    measured = (residual != 0).any(axis=0)
    unit = float(posed.measurement.noise_std) or 1.0
    found["residual"] = rms(residual[:, measured]) / unit if measured.any() else 0.0
    return found


def _mean(values: Sequence[float]) -> Estimate:
    """The mean over the y with its standard error."""
    return Estimate(
        float(np.mean(values)), float(np.std(values, ddof=len(values) > 1)), len(values)
    )


def _bootstrap(levels: np.ndarray, rng: Any) -> Estimate:
    """The distance of levels to uniform, with its error by drawing the y again."""
    r = len(levels)
    again = [uniformity(levels[rng.integers(0, r, r)]) for _ in range(_BOOTSTRAP)]
    return Estimate(uniformity(levels), float(np.std(again) * np.sqrt(r)), r)


def compare(
    key: Key[Array, ""],
    sde: SDE,
    posed: Posed,
    drawers: Mapping[Any, Drawer],
    *,
    num: int = 256,
    score: Any = None,
) -> dict[Any, Comparison]:
    """Compare drawers on a posed problem: their figures by name, after those of exact draws.

    `score` is the exact one of the prior unless given. A drawer that raises ValueError for this problem,
    such as one for linear operators only, or FloatingPointError is left out with a warning.

    >>> posed = pose(key, Problem(data, Mask(mask), 0.1))
    >>> compare(key, sde, posed, {"pigdm": by_steps(pigdm), "exact": by_exact_score(data)})
    """
    score = posed.problem.prior.score(sde) if score is None else score
    found = {EXACT: compare_draws(posed, exact_draws(posed))}
    for name, drawer in drawers.items():
        try:
            drawn = drawer(key, sde, score, posed.measurement, num)
        except (ValueError, FloatingPointError) as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=2)
            continue
        found[name] = compare_draws(posed, drawn)
    return found
