r"""DPM-Solver-v3 as a `Step`: the flow in a form that is fitted to the model (arXiv:2310.13268).

With y = x/m, lambda = log(m/s) and D the prediction of x0, the probability flow of every isotropic
linear SDE is dy/dlambda = D - y. For functions l, s, b of lambda, each with one value an entry of x,

    (1)  dy/dlambda = -l y - f,    f = (1 - l) y - D
    (2)  f = e^S (g + B),          S = int_0^lambda s,   B = int_0^lambda e^-S b
    (3)  y' = e^-L [ y - int_0^h e^(L + S) (g + B) dlambda ],     L = int_0^lambda l

with all integrals from the start of a step, where g = f. A method of order p replaces g by the
polynomial through its values at p places, and integrates (3). l = 1, s = b = 0 is the prediction of x0
(`unipc` with exact weights), l = 0, s = -1, b = 0 that of the noise (`deis(log=True)`). The paper's
choice makes g change least:

    (4)  l = mean of diag(d noise / dx) s, so that 1 - l is that of dD/dy
    (5)  s, b = the regression of f' on f, f' its derivative along the flow

over the states of the flow at lambda, the empirical model statistics. On a normal distribution with
independent entries f' is a function of lambda alone, and a step of any length is exact.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from score_jax._check import check, check_key
from score_jax._math import as_time, bcast
from score_jax.samplers import exponential as ex
from score_jax.samplers.fitted import FinePath, along_fine_path, fine_states
from score_jax.samplers.history import History, no_history, remembered
from score_jax.samplers.quadrature import MASSES, PLACES, lagrange, log_level
from score_jax.score import denoise
from score_jax.types import (
    SDE,
    Data,
    Grid,
    GridLike,
    Moved,
    PRNGKey,
    Scalar,
    ScoreFn,
    Step,
    StepOut,
    Time,
    check_process,
)

_INNER = np.polynomial.legendre.leggauss(8)  # of B within a step
_RIDGE = 1e-6  # of the regression, in units of the mean square of D


@dataclasses.dataclass(frozen=True, eq=False)
class ModelStatistics:
    """l, s and b of eq. (1) and (2) as lines between values at `levels`, constant beyond them.

    levels (k,): increasing lambda = log(m/s); linear, growth, shift: l, s, b (k, *d), or (k,) for all
    entries alike. Made by `model_statistics`.

    Raises ValueError unless the levels increase and the shapes fit.
    """

    levels: np.ndarray
    linear: np.ndarray
    growth: np.ndarray
    shift: np.ndarray

    def __post_init__(self) -> None:
        levels = np.asarray(self.levels)
        rising = levels.ndim == 1 and len(levels) > 1 and bool((np.diff(levels) > 0).all())
        check("levels", levels.shape, rising, "two or more increasing numbers")
        shapes = {np.shape(v) for v in (self.linear, self.growth, self.shift)}
        fit = len(shapes) == 1 and next(iter(shapes))[:1] == levels.shape
        check("the shapes of linear, growth and shift", shapes, fit, f"{levels.shape} + (*d)")


DATA_PREDICTION = ModelStatistics(np.array([0.0, 1.0]), np.ones(2), np.zeros(2), np.zeros(2))


class _Line:
    """A piecewise linear function of lambda with values (k, *d), and its integral."""

    def __init__(self, levels: np.ndarray, values: np.ndarray, dtype: Any) -> None:
        levels, values = np.asarray(levels, np.float64), np.asarray(values, np.float64)
        gaps = np.diff(levels).reshape(-1, *[1] * (values.ndim - 1))
        slopes = np.diff(values, axis=0) / gaps
        areas = np.cumsum(gaps * (values[1:] + values[:-1]) / 2, axis=0)
        areas = np.concatenate([np.zeros_like(values[:1]), areas])
        self.levels, self.values, self.slopes, self.areas = (
            jnp.asarray(v, dtype) for v in (levels, values, slopes, areas)
        )

    def _at(self, u: Float[Array, " q"]) -> tuple[Any, Any, Any]:
        """(the piece, the way from its start, and the way beyond the ends), the last two (q, 1, ...)."""
        inside = jnp.clip(u, self.levels[0], self.levels[-1])
        i = jnp.clip(jnp.searchsorted(self.levels, inside) - 1, 0, self.levels.shape[0] - 2)
        shape = (-1, *[1] * (self.values.ndim - 1))
        return i, (inside - self.levels[i]).reshape(shape), (u - inside).reshape(shape)

    def __call__(self, u: Float[Array, " q"]) -> Float[Array, "q *d"]:
        i, a, _ = self._at(u)
        return self.values[i] + a * self.slopes[i]

    def integral(self, u: Float[Array, " q"]) -> Float[Array, "q *d"]:
        """From the first level to u."""
        i, a, beyond = self._at(u)
        end = self.values[i] + a * self.slopes[i]
        return self.areas[i] + a * (self.values[i] + end) / 2 + beyond * end


class _Form:
    """The flow in the form of eq. (3), from the start of a step on."""

    def __init__(self, statistics: ModelStatistics, dtype: Any) -> None:
        self.linear, self.growth, self.shift = (
            _Line(statistics.levels, v, dtype)
            for v in (statistics.linear, statistics.growth, statistics.shift)
        )

    def grown(self, start: Scalar, u: Float[Array, " q"]) -> Float[Array, "q *d"]:
        """S at u."""
        return self.growth.integral(u) - self.growth.integral(start[None])

    def shifted(self, start: Scalar, u: Float[Array, " q"]) -> Float[Array, "q *d"]:
        """B at u, by a rule whose error is the same at all places of g."""
        places, masses = ((_INNER[0] + 1) / 2, _INNER[1] / 2)
        total: Any = 0.0
        for place, mass in zip(places, masses, strict=True):
            v = start + (u - start) * float(place)
            total = total + float(mass) * jnp.exp(-self.grown(start, v)) * self.shift(v)
        return (u - start).reshape(-1, *[1] * (total.ndim - 1)) * total

    def values(self, start: Scalar, places: Sequence[Scalar], fields: Sequence[Data]) -> list[Data]:
        """g of eq. (2) at earlier or later places, of f there."""
        found = []
        for place, f in zip(places, fields, strict=True):
            u = place[None]
            decay, b = jnp.exp(-self.grown(start, u)), self.shifted(start, u)
            found.append(_over(decay[0], f) * f - _over(b[0], f))
        return found

    def integrals(
        self, start: Scalar, end: Scalar, polynomials: Callable[[Any], Sequence[Any]]
    ) -> tuple[Any, Any, list[Any]]:
        """e^-L, int E B, and int E p for p = 1 and the polynomials of u: each (*d), E = e^(L + S)."""
        u = start + (end - start) * jnp.asarray(PLACES, start.dtype)
        mass = (end - start) * jnp.asarray(MASSES, start.dtype)
        first = self.linear.integral(start[None])
        weight = jnp.exp(self.linear.integral(u) - first + self.grown(start, u))
        decay = jnp.exp(first - self.linear.integral(end[None]))[0]
        over = lambda p: jnp.tensordot(mass * p, weight, 1)
        shift = jnp.tensordot(mass, weight * self.shifted(start, u), 1)
        return decay, shift, [over(p) for p in (jnp.ones_like(u), *polynomials(u))]


def _over(value: Float[Array, "*entries"], x: Data) -> Float[Array, "..."]:
    """A number, or one an entry of x, for all examples."""
    return value.reshape((1,) * (x.ndim - value.ndim) + value.shape)


def _sum(weights: Sequence[Any], values: Sequence[Data], base: Data) -> Any:
    total: Any = 0.0
    for weight, value in zip(weights, values, strict=True):
        total = total + _over(weight, base) * (value - base)
    return total


def dpm_solver_v3(
    sde: SDE,
    score: ScoreFn,
    *,
    statistics: ModelStatistics = DATA_PREDICTION,
    order: int = 2,
    corrector: bool = True,
) -> Step:
    """DPM-Solver-v3 of order 1, 2 or 3: one evaluation a step, and the form of the flow by `statistics`.

    It converges with `order`, and with order + 1 with the `corrector`, which costs no evaluation (as in
    `unipc`); the corners of the statistics, which are lines between levels, show in steps shorter than
    these. Its state holds `order` values of f. A step that is much longer than the last has a lower order
    (`exponential.order_at`); one from pure noise is DDIM's. arXiv:2310.13268; see the module.

    Raises ValueError unless order is 1, 2 or 3, and for statistics of another shape than x.

    >>> statistics = model_statistics(jax.random.key(0), sde, score, (256, 8, 8, 1))
    >>> sampler = stepwise(dpm_solver_v3, statistics=statistics)
    """
    check_process(sde, score)
    check("order", order, order in (1, 2, 3), "1, 2 or 3")

    def init(x: Data, grid: Grid) -> History:
        shape = np.shape(statistics.linear)[1:]
        check("the shape of statistics", shape, shape in ((), x.shape[1:]), f"{x.shape[1:]}")
        return no_history(x, grid, order)

    def update(key: PRNGKey, x: Data, t: Time, t_next: Time, past: History) -> Moved:
        t, t_next = as_time(t), as_time(t_next)
        form = _Form(statistics, past.marks[0].dtype)
        here, there = -log_level(sde, t), -log_level(sde, t_next)
        m = sde.mean_coeff(t)
        clean, noisy = denoise(sde, score, x, t), m > 0
        safe = jnp.where(noisy, m, 1)
        one = 1 - _over(form.linear(here[None])[0], x)
        f = one * (x / bcast(safe, x)) - clean
        if corrector:
            change = _correction(form, here, f, past, order)
            x = x + bcast(jnp.where(past.i > 0, m, 0), x) * change
        lengths = there - here, here - past.marks[0]
        now = ex.order_at(past.i, past.i + 1, order, False, lengths)
        nodes = past.marks[: order - 1]
        decay, shift, (whole, *weights) = form.integrals(
            here, there, lambda u: lagrange(u, here, nodes, now)
        )
        values = form.values(here, nodes, past.values[: order - 1])
        moved = x / bcast(safe, x) - _over(whole, x) * f - _over(shift, x)
        moved = _over(decay, x) * (moved - _sum(weights, values, f))
        # At pure noise y is infinite, and f is of no use to later steps.
        first = ex.exponential_step(x, ex.interval(sde, t, t_next), clean, 0.0)
        x = jnp.where(noisy, bcast(sde.mean_coeff(t_next), x) * moved, first)
        later = remembered(past, f, here)
        return StepOut(x, x), later._replace(i=past.i + noisy.astype(past.i.dtype))

    return Step(init, update, 1)


def _correction(form: _Form, end: Scalar, f: Data, past: History, order: int) -> Data | float:
    """The change of y by the polynomial that has f at the end of the last step too."""
    start, base = past.marks[0], past.values[0]
    earlier, fields = past.marks[1:], past.values[1:]
    lengths = end - start, start - (earlier[0] if earlier else start)
    last: Int[Array, ""] = jnp.maximum(past.i - 1, 0)
    now = ex.order_at(last, past.i, order, False, lengths)

    def polynomials(u: Any) -> list[Any]:
        # The newest node first, so that a lower order lacks only the oldest.
        new = lagrange(u, start, (end, *earlier), now + 1)
        old = lagrange(u, start, earlier, now)
        return [new[0], *(a - b for a, b in zip(new[1:], old, strict=True))]

    decay, _, (_, *weights) = form.integrals(start, end, polynomials)
    values = form.values(start, (end, *earlier), (f, *fields))
    return _over(-decay, f) * _sum(weights, values, base)


def _slopes(shared: FinePath, index: Any, y: Any) -> Any:
    """States, predictions and an estimate of diag(dD/dx) at the fine times: (n, times, *d) each."""
    sde, grid = shared.sde, shared.grid
    score, states = fine_states(shared, index, y)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(shared.key, i), 1))(index)
    probe = jax.vmap(lambda key: jax.random.rademacher(key, shared.item, states.dtype))(keys)

    def at(this: Any) -> Any:
        x, t = this
        clean, moved = jax.jvp(lambda x: denoise(sde, score, x, t), (x,), (probe,))
        return clean, probe * moved

    found = (states, *jax.lax.map(at, (states, grid)))
    return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), found)


def model_statistics(
    key: Key[Array, ""],
    sde: SDE,
    score: Callable[..., Any],
    shape: Sequence[int],
    *,
    grid: GridLike | None = None,
    y: Any = None,
    chunk: int = 256,
    progress: bool | None = None,
) -> ModelStatistics:
    """The empirical model statistics of eq. (4) and (5) on a fine grid: `ModelStatistics`.

    shape is (num, *d), as in `sample`, and so are `score` and `y`; the paper takes 1,024 samples or more.
    The states are those of the flow from `num` latents, solved on `grid`, by default
    `log_snr_grid(sde, 64)`, at whose times the statistics are. Two evaluations and a derivative a sample
    and time.

    Raises ValueError for a grid of fewer than three times, fewer than two samples, and arguments that do
    not fit.
    """
    check_key(key, "model_statistics(key, sde, score, shape)")
    check("num", shape[0], shape[0] > 1, "at least 2")
    _, m, s, (x, clean, slope) = along_fine_path(
        _slopes, key, sde, score, shape, grid=grid, y=y, chunk=chunk, progress=progress,
        desc="statistics",
    )  # fmt: skip
    return _fit(*(v[m > 0] for v in (m, s, x, clean, slope)))


def _fit(
    m: np.ndarray, s: np.ndarray, x: np.ndarray, clean: np.ndarray, slope: np.ndarray
) -> ModelStatistics:
    """Eq. (4) and (5) of states, predictions and diagonals (times, samples, *d)."""
    levels, scale = np.log(m) - np.log(s), m.reshape(-1, *[1] * (x.ndim - 1))
    share = (scale * slope).mean(axis=1)
    f = share[:, None] * (x / scale) - clean
    change = np.gradient(f, levels, axis=0, edge_order=2)
    mean, middle = f.mean(axis=1), change.mean(axis=1)
    together = (f * change).mean(axis=1) - mean * middle
    growth = together / (f.var(axis=1) + _RIDGE * np.square(clean).mean())
    return ModelStatistics(levels, 1 - share, growth, middle - growth * mean)
