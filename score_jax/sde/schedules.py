r"""Noise schedules: VP SDEs that also have timesteps, as in DDPM and Improved DDPM.

A schedule of n betas is the chain x_0 -> x_1 -> ... -> x_n of arXiv:2006.11239. **Index i = 0..n-1 is
the time t = (i + 1)/n**, and t = 0 is data. Between these times log alpha_bar is linear in t, so

    (1)  alpha_bar_i = prod_{k <= i} (1 - beta_k) = m(t)^2 = exp(-B(t)),  s(t)^2 = 1 - alpha_bar(t)
    (2)  B((i + 1)/n) = -sum_{k <= i} log(1 - beta_k),  beta(t) = dB/dt = -n log(1 - beta_i)

and at the schedule's own times the marginals and transitions are those of the chain, in float32 as
exact as float64 arrays read at an index: a time within rounding of (i + 1)/n is taken as that time,
coefficients there are read from float64 arrays, and B is kept as two float32 numbers, so that
differences keep their digits.

A respaced schedule is a grid: `schedule_grid(schedule, spaced_indices(n, 25))`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from score_jax._check import check, check_count, known
from score_jax._math import as_time, placed
from score_jax.sde.base import Coefficient, TimeLike
from score_jax.sde.families import RateSDE

MOST_TIMESTEPS = 1_000_000  # float64 arrays of this length are kept for every schedule


class _Place(NamedTuple):
    """Where a time lies: after knot `left` by `rest` of the interval `entry` (indices, shape of t)."""

    left: Int[Array, "..."]
    rest: Coefficient
    entry: Int[Array, "..."]


class NoiseSchedule(RateSDE):
    """A VP SDE of a schedule of betas, with indices: what all schedules share.

    A subclass provides `betas`, float64 (n,), and `n`. It is static under `jax.jit`.
    """

    t1 = 1.0
    n: int
    betas: np.ndarray

    def _check(self) -> None:
        check("n", self.n, self.n <= MOST_TIMESTEPS, f"at most {MOST_TIMESTEPS}")
        betas = self.betas
        if betas.ndim != 1 or not betas.size:
            raise ValueError(
                f"betas must be a list of at least one number, got shape {betas.shape}"
            )
        bad = ~((betas > 0) & (betas < 1))
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(f"betas must be in (0, 1), got {betas[at]} at index {at}")

    @functools.cached_property
    def alpha_bar(self) -> np.ndarray:
        """alpha_bar_i of eq. (1), float64 (n,)."""
        return np.cumprod(1 - self.betas)

    @functools.cached_property
    def times(self) -> np.ndarray:
        """The time of every index, (i + 1)/n, float64 (n,)."""
        return (np.arange(self.n) + 1) / self.n

    def index_of(self, t: TimeLike) -> Int[Array, "..."]:
        """The index whose time is nearest to t, -1 for data (t = 0): int32, shape of t."""
        nearest = jnp.round(as_time(t) * self.n).astype(jnp.int32) - 1
        return jnp.clip(nearest, -1, self.n - 1)

    def time_of(self, index: ArrayLike) -> Float[Array, "..."]:
        """The time (index + 1)/n, shape of index; -1 is data.

        Raises ValueError for what is not an integer in [-1, n); where the value is traced, it gives NaN.
        """
        if not jnp.issubdtype(jnp.result_type(index), jnp.integer):
            raise ValueError(f"index must be an integer, got {jnp.result_type(index)}")
        if known(index) and np.size(index):
            ends = int(np.min(index)), int(np.max(index))
            ok = ends[0] >= -1 and ends[1] < self.n
            check("index (from, to)", ends, ok, f"in [-1, {self.n})")
        index = jnp.asarray(index)
        t = (index + 1).astype(jnp.zeros(0).dtype) / self.n
        return jnp.where((index >= -1) & (index < self.n), t, jnp.nan)

    @functools.cached_property
    def _rates(self) -> np.ndarray:
        """-log(1 - beta_i), the growth of B over each entry: (n,)."""
        return -np.log1p(-self.betas)

    @functools.cached_property
    def _knots(self) -> np.ndarray:
        """B at t = 0, 1/n, ..., 1: (n + 1,)."""
        return np.append(0.0, np.cumsum(self._rates))

    def nearest(self, t: TimeLike) -> tuple[Coefficient, Coefficient, Bool[Array, "..."]]:
        """(t n, the integer nearest to it, whether t is that timestep up to rounding): shape of t."""
        place = as_time(t) * self.n
        near = jnp.round(place)
        return place, near, jnp.abs(place - near) <= 8 * self.n * jnp.finfo(place.dtype).eps

    def _place(self, t: TimeLike) -> _Place:
        place, nearest, at_knot = self.nearest(t)
        # A time of the schedule belongs to the entry that ends there.
        left = jnp.clip(jnp.where(at_knot, nearest, jnp.floor(place)), 0, self.n)
        rest = place - left
        rest = jnp.where(at_knot, rest - jax.lax.stop_gradient(rest), rest)
        left = left.astype(jnp.int32)
        return _Place(left, rest, jnp.clip(left - at_knot, 0, self.n - 1))

    def _read(self, values: np.ndarray, index: Int[Array, "..."], like: Coefficient) -> Coefficient:
        return placed(values, like.dtype)[index]

    def _integral(self, place: _Place) -> tuple[Coefficient, Coefficient]:
        """B in two parts: the knot's value, rounded, and all the rest."""
        high = self._knots.astype(place.rest.dtype).astype(np.float64)
        rest = self._read(self._knots - high, place.left, place.rest) + self._growth(place)
        return self._read(high, place.left, place.rest), rest

    def beta_integral(self, t: TimeLike) -> Coefficient:
        """B(t) = -log alpha_bar(t): shape of t."""
        return sum(self._integral(self._place(t)))  # type: ignore[return-value]

    def integral_between(self, t: TimeLike, t_next: TimeLike) -> Coefficient:
        """B(t) - B(t_next), with the digits of both: shape of t."""
        high, rest = self._integral(self._place(t))
        high_next, rest_next = self._integral(self._place(t_next))
        return (high - high_next) + (rest - rest_next)

    def beta(self, t: TimeLike) -> Coefficient:
        """beta(t) = -n log(1 - beta_i) on (i/n, (i+1)/n]: shape of t."""
        place = self._place(t)
        return self._read(self.n * self._rates, place.entry, place.rest)

    def _growth(self, place: _Place) -> Coefficient:
        """B(t) less its value at the knot: shape of t."""
        return place.rest * self._read(self._rates, place.entry, place.rest)

    def mean_coeff(self, t: TimeLike) -> Coefficient:
        """m(t) = sqrt(alpha_bar(t)): shape of t."""
        place = self._place(t)
        knot = self._read(np.exp(-0.5 * self._knots), place.left, place.rest)
        return knot * jnp.exp(-0.5 * self._growth(place))

    def std(self, t: TimeLike) -> Coefficient:
        """s(t) = sqrt(1 - alpha_bar(t)): shape of t."""
        place = self._place(t)
        signal = self._read(np.exp(-self._knots), place.left, place.rest)
        noise = self._read(-np.expm1(-self._knots), place.left, place.rest)
        return jnp.sqrt(noise - signal * jnp.expm1(-self._growth(place)))

    def log_snr(self, t: TimeLike) -> Coefficient:
        """2 log(m/s): shape of t."""
        return -self.beta_integral(t) - 2 * jnp.log(self.std(t))

    def time_of_log_snr(self, value: TimeLike) -> Coefficient:
        """The t with log_snr(t) = value, in [0, 1]: shape of value."""
        b = jax.nn.softplus(-as_time(value))
        values = self._knots, self._rates
        knots, rates = (placed(v, b.dtype) for v in values)
        i = jnp.clip(jnp.searchsorted(knots, b, side="right") - 1, 0, self.n - 1)
        return jnp.clip((i + (b - knots[i]) / rates[i]) / self.n, 0, 1)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Betas(NoiseSchedule):
    """The noise schedule of given betas (n,); equal betas make equal schedules.

    Raises ValueError unless betas is a list of numbers with 0 < beta < 1.

    >>> Betas([0.1, 0.2]).alpha_bar
    array([0.9 , 0.72])
    """

    betas: Any

    def __post_init__(self) -> None:
        betas = np.array(self.betas, np.float64)
        betas.setflags(write=False)
        object.__setattr__(self, "betas", betas)
        self._check()

    @functools.cached_property
    def _identity(self) -> bytes:
        return self.betas.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Betas) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"Betas(<{self.n} from {self.betas[0]:.3g} to {self.betas[-1]:.3g}>)"

    @property
    def n(self) -> int:  # type: ignore[override]
        """The number of timesteps."""
        return int(self.betas.size)


class _PowerBetas(NoiseSchedule):
    """Betas whose `power`-th roots rise linearly between the ends for 1000 steps, times 1000/n."""

    power: int
    start: float
    end: float

    def __post_init__(self) -> None:
        check_count(n=self.n)
        ends = self.start, self.end
        check("(start, end)", ends, 0 < ends[0] <= ends[1], "positive and in increasing order")
        self._check()

    @functools.cached_property
    def betas(self) -> np.ndarray:  # type: ignore[override]
        """The betas, float64 (n,)."""
        roots = np.linspace(self.start ** (1 / self.power), self.end ** (1 / self.power), self.n)
        return 1000 / self.n * roots**self.power


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LinearBetas(_PowerBetas):
    """Betas rising linearly from 1000/n * start to 1000/n * end, those of DDPM for n = 1000.

    arXiv:2006.11239 section 4, rescaled to any n as in arXiv:2102.09672. Raises ValueError for n
    so small that a beta reaches 1 (n <= 20 with the defaults), and unless 0 < start <= end.

    >>> LinearBetas(1000).betas[[0, -1]]
    array([0.0001, 0.02  ])
    """

    power = 1
    n: int = 1000  # timesteps
    start: float = 1e-4  # first beta of 1000 timesteps
    end: float = 0.02  # last beta of 1000 timesteps


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ScaledLinearBetas(_PowerBetas):
    """Betas whose square roots rise linearly, those of latent diffusion (arXiv:2112.10752).

    `start` and `end` belong to 1000 steps and are rescaled by 1000/n as in `LinearBetas`.
    """

    power = 2
    n: int = 1000  # timesteps
    start: float = 0.00085  # first beta of 1000 timesteps
    end: float = 0.012  # last beta of 1000 timesteps


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CosineBetas(NoiseSchedule):
    """The cosine schedule: alpha_bar(t) proportional to cos((t + s)/(1 + s) pi/2)^2.

    arXiv:2102.09672 eq. 17, with betas cut at `max_beta`. `CosineVP` is its limit for large n. Raises
    ValueError unless n >= 1, s >= 0 and 0 < max_beta < 1.
    """

    n: int = 1000  # timesteps
    s: float = 0.008  # offset of the cosine's time
    max_beta: float = 0.999  # larger betas are cut

    def __post_init__(self) -> None:
        check("s", self.s, math.isfinite(self.s) and self.s >= 0, "finite and >= 0")
        self._check()

    @functools.cached_property
    def betas(self) -> np.ndarray:  # type: ignore[override]
        """The betas, float64 (n,)."""
        alpha_bar = lambda t: np.cos((t + self.s) / (1 + self.s) * math.pi / 2) ** 2
        return _betas_of(alpha_bar, self.n, self.max_beta)


def from_betas(betas: ArrayLike | Sequence[object]) -> Betas:
    """The noise schedule of betas (n,), each in (0, 1): `Betas`.

    >>> from_betas(np.linspace(1e-4, 0.02, 1000)).std(1.0)
    Array(0.9999798, dtype=float32)
    """
    return Betas(betas)


def from_alpha_bar(
    alpha_bar: Callable[[np.ndarray], np.ndarray], n: int, *, max_beta: float = 0.999
) -> Betas:
    """The schedule of n betas of any decreasing alpha_bar(t), t in [0, 1] (elementwise, float64).

    beta_i = 1 - alpha_bar((i + 1)/n) / alpha_bar(i/n), cut at `max_beta`. Raises ValueError where
    alpha_bar does not decrease.
    """
    return Betas(_betas_of(alpha_bar, n, max_beta))


def _betas_of(alpha_bar: Callable[[Any], Any], n: int, max_beta: float) -> np.ndarray:
    check_count(n=n)
    check("max_beta", max_beta, 0 < max_beta < 1, "in (0, 1)")
    values = np.asarray(alpha_bar(np.arange(n + 1) / n), np.float64)
    rises = ~(values[1:] < values[:-1])
    if rises.any():
        raise ValueError(f"alpha_bar must decrease, it does not at t={int(np.argmax(rises)) / n}")
    return np.minimum(1 - values[1:] / values[:-1], max_beta)


def spaced_indices(n: int, steps: int | str) -> tuple[int, ...]:
    """The indices of a schedule of n timesteps that a respaced chain keeps, increasing.

    steps: a number; several, one for each of as many equal sections ("10,15,20", from the data's
    end); or "ddim25", 25 steps of one integer stride (arXiv:2010.02502). The first two spread each
    section's steps evenly over it (arXiv:2102.09672 section 4).

    Raises ValueError for another spelling, and where a section is shorter than its steps or no
    stride gives that number.

    >>> spaced_indices(1000, "ddim50")[:3]
    (0, 20, 40)
    """
    check_count(n=n)
    spelling = str(steps)
    found = re.fullmatch(r"ddim(?P<stride>\d+)|(?P<sections>\d+(,\d+)*)", spelling)
    if found is None:
        raise ValueError(f"steps must be a number, '10,15,20' or 'ddim25', got {spelling!r}")
    if found["stride"]:
        count = int(found["stride"])
        for stride in range(1, n + 1):
            if len(range(0, n, stride)) == count:
                return tuple(range(0, n, stride))
        raise ValueError(f"steps={spelling!r}: no integer stride takes {count} of {n} steps")
    counts = [int(count) for count in spelling.split(",")]
    kept: list[int] = []
    for section, count in zip(np.array_split(np.arange(n), len(counts)), counts, strict=True):
        if not 1 <= count <= section.size:
            raise ValueError(
                f"steps={spelling!r}: cannot take {count} of a section of {section.size} steps"
            )
        spacing = (section.size - 1) / (count - 1) if count > 1 else 0.0
        # A running sum, not a product: the published program rounds halves in this way.
        kept += [int(section[0] + round(p)) for p in np.cumsum([0.0, *[spacing] * (count - 1)])]
    return tuple(kept)


def schedule_grid(
    schedule: NoiseSchedule, indices: Sequence[int] | np.ndarray | None = None
) -> Float[Array, " m"]:
    """The times of indices of a noise schedule, latest first: a sampler's grid; by default of all.

    The last time is that of the smallest index, from which the final denoising leads to data. k
    indices make k times and k - 1 steps.

    Raises ValueError unless the indices are at least two different integers in [0, n).

    >>> schedule_grid(LinearBetas(1000), spaced_indices(1000, 3))
    Array([1.   , 0.501, 0.001], dtype=float32)
    """
    n = schedule.n
    chosen = np.arange(n) if indices is None else np.asarray(list(indices))
    if chosen.ndim != 1 or chosen.size < 2 or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"indices must be at least two integers, got {indices!r} for n={n}")
    chosen = np.sort(chosen)
    if chosen[0] < 0 or chosen[-1] >= n or (np.diff(chosen) == 0).any():
        raise ValueError(f"indices must be different and in 0..{n - 1}, got {indices!r}")
    return placed(schedule.times[chosen[::-1]])
