"""The table of betas: how it is made, cut and read; the forward chain and its posterior.

Equations (1) and (2) of `score_jax.discrete`.
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
from jaxtyping import Array, Float, Int

from score_jax._math import bcast

_TINY = 1e-30  # below it a logarithm of a variance is cut: an interval of no length


def _frozen(values: Any, dtype: Any) -> np.ndarray:
    values = np.array(values, dtype)
    values.setflags(write=False)
    return values


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Diffusion:
    """A table of betas and all that follows from it, for any data.

    betas: (n,), each in (0, 1). index_map: (n,), increasing, where each step lies in the table of
    `n_original` steps that a network was trained on (`respace` sets both; identity by default).

    Raises ValueError naming the argument for values outside these ranges.

    >>> diffusion = Diffusion([0.1, 0.2])
    >>> diffusion.alpha_bar
    array([0.9 , 0.72])
    """

    betas: Any
    index_map: Any = None
    n_original: Any = None

    def __post_init__(self) -> None:
        betas = _frozen(self.betas, np.float64)
        if betas.ndim != 1 or not betas.size:
            raise ValueError(f"betas must be a list of numbers, got shape {betas.shape}")
        bad = ~((betas > 0) & (betas < 1))
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(f"betas must be in (0, 1), got {betas[at]} at index {at}")
        n_original = betas.size if self.n_original is None else int(self.n_original)
        kept = np.arange(betas.size) if self.index_map is None else np.asarray(self.index_map)
        if kept.shape != betas.shape or not np.issubdtype(kept.dtype, np.integer):
            raise ValueError(
                f"index_map must have one integer per beta, got {kept.dtype}{list(kept.shape)} "
                f"for {betas.size} betas"
            )
        if (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= n_original:
            raise ValueError(
                f"index_map must increase inside [0, n_original={n_original}), got {kept.tolist()}"
            )
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "index_map", _frozen(kept, np.int64))
        object.__setattr__(self, "n_original", n_original)

    @functools.cached_property
    def _identity(self) -> tuple[Any, ...]:
        return self.betas.tobytes(), self.index_map.tobytes(), self.n_original

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Diffusion) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"Diffusion(n={self.n}, betas={self.betas[0]:.3g}..{self.betas[-1]:.3g})"

    @property
    def n(self) -> int:
        """Number of steps."""
        return int(self.betas.size)

    @property
    def respaced(self) -> bool:
        """Whether this is a cut of a longer table."""
        return self.n != self.n_original

    @functools.cached_property
    def alpha_bar(self) -> np.ndarray:
        """alpha_bar_i of eq. (1): (n,)."""
        return np.cumprod(1 - self.betas)

    @functools.cached_property
    def alpha_bar_prev(self) -> np.ndarray:
        """alpha_bar_{i-1}, which is 1 (data) at i = 0: (n,)."""
        return np.append(1.0, self.alpha_bar[:-1])

    @functools.cached_property
    def posterior_variance(self) -> np.ndarray:
        """beta~_i of eq. (2): (n,), zero at i = 0."""
        return self.betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    @functools.cached_property
    def posterior_log_variance(self) -> np.ndarray:
        """log beta~_i, that of i = 1 in the place of -inf at i = 0: (n,)."""
        first = self.posterior_variance[1] if self.n > 1 else self.betas[0]
        return np.log(np.append(first, self.posterior_variance[1:]))

    @functools.cached_property
    def posterior_x0_coef(self) -> np.ndarray:
        """c0 of eq. (2): (n,)."""
        return self.betas * np.sqrt(self.alpha_bar_prev) / (1 - self.alpha_bar)

    @functools.cached_property
    def posterior_x_coef(self) -> np.ndarray:
        """c1 of eq. (2): (n,)."""
        return (1 - self.alpha_bar_prev) * np.sqrt(1 - self.betas) / (1 - self.alpha_bar)

    @functools.cached_property
    def times(self) -> np.ndarray:
        """The time of every index in (0, 1], as the original table has it: (n,)."""
        return (self.index_map + 1) / self.n_original

    def index_of(self, t: Any) -> Any:
        """The index whose time is nearest to t, -1 for data (t = 0): int32, shape of t."""
        nodes = np.append(0.0, self.times)
        t = jnp.asarray(t)
        middles = jnp.asarray((nodes[1:] + nodes[:-1]) / 2, t.dtype)
        return jnp.searchsorted(middles, t).astype(jnp.int32) - 1


# The tables.


def linear(n: int, *, start: float = 1e-4, end: float = 0.02) -> Diffusion:
    """Betas rising linearly from 1000/n * start to 1000/n * end, as for n = 1000 in DDPM.

    arXiv:2006.11239 section 4, rescaled to any n as in arXiv:2102.09672. Raises ValueError for n
    so small that a beta reaches 1 (n <= 20 with the defaults).

    >>> linear(1000).betas[[0, -1]]
    array([0.0001, 0.02  ])
    """
    _check_ends(n, start, end)
    scale = 1000 / n
    return Diffusion(np.linspace(scale * start, scale * end, n))


def scaled_linear(n: int, *, start: float = 0.00085, end: float = 0.012) -> Diffusion:
    """Betas whose square roots rise linearly: that of latent diffusion (arXiv:2112.10752).

    `start` and `end` are those of 1000 steps and are rescaled by 1000/n as in `linear`.
    """
    _check_ends(n, start, end)
    return Diffusion(1000 / n * np.linspace(math.sqrt(start), math.sqrt(end), n) ** 2)


def cosine(n: int, *, s: float = 0.008, max_beta: float = 0.999) -> Diffusion:
    """The cosine table: alpha_bar(t) proportional to cos((t + s)/(1 + s) pi/2)^2.

    arXiv:2102.09672 eq. 17, with betas cut at `max_beta`.
    """
    if not (math.isfinite(s) and s >= 0):
        raise ValueError(f"s must be finite and >= 0, got {s!r}")
    return from_alpha_bar(
        lambda t: np.cos((t + s) / (1 + s) * math.pi / 2) ** 2, n, max_beta=max_beta
    )


def from_alpha_bar(
    alpha_bar: Callable[[np.ndarray], np.ndarray], n: int, *, max_beta: float = 0.999
) -> Diffusion:
    """The table of n betas of any decreasing alpha_bar(t), t in [0, 1] (elementwise, float64).

    beta_i = 1 - alpha_bar((i + 1)/n) / alpha_bar(i/n), cut at `max_beta`. Raises ValueError where
    alpha_bar does not decrease.
    """
    _check_n(n)
    if not 0 < max_beta < 1:
        raise ValueError(f"max_beta must be in (0, 1), got {max_beta!r}")
    values = np.asarray(alpha_bar(np.arange(n + 1) / n), np.float64)
    rises = ~(values[1:] < values[:-1])
    if rises.any():
        raise ValueError(f"alpha_bar must decrease, it does not at t={int(np.argmax(rises)) / n}")
    return Diffusion(np.minimum(1 - values[1:] / values[:-1], max_beta))


def _check_n(n: Any) -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be an integer >= 1, got {n!r}")


def _check_ends(n: Any, start: float, end: float) -> None:
    _check_n(n)
    if not 0 < start <= end:
        raise ValueError(f"betas must not decrease: need 0 < start <= end, got {start=}, {end=}")


def respace(diffusion: Diffusion, steps: int | str) -> Diffusion:
    """Keep some of the steps of a table: the same alpha_bar at them, fewer of them.

    steps: a number; several, one for each of as many equal sections ("10,15,20", from the data's
    end); or "ddim25", the 25 steps of one integer stride (arXiv:2010.02502). The first two spread
    each section's steps evenly over it (arXiv:2102.09672 section 4).

    Raises ValueError for another spelling and where a section is shorter than its steps or no
    stride gives that number.

    >>> respace(linear(1000), "ddim50").index_map[:3]
    array([ 0, 20, 40])
    """
    return take(diffusion, _spaced(diffusion.n, str(steps)))


def _spaced(n: int, spelling: str) -> list[int]:
    """The indices that a published spelling names."""
    found = re.fullmatch(r"ddim(?P<stride>\d+)|(?P<sections>\d+(,\d+)*)", spelling)
    if found is None:
        raise ValueError(f"steps must be a number, '10,15,20' or 'ddim25', got {spelling!r}")
    if found["stride"]:
        count = int(found["stride"])
        for stride in range(1, n + 1):
            if len(range(0, n, stride)) == count:
                return list(range(0, n, stride))
        raise ValueError(f"steps={spelling!r}: no integer stride takes {count} of {n} steps")
    counts = [int(count) for count in spelling.split(",")]
    kept: list[int] = []
    for section, count in zip(np.array_split(np.arange(n), len(counts)), counts, strict=True):
        if not 1 <= count <= section.size:
            raise ValueError(
                f"steps={spelling!r}: cannot take {count} of a section of {section.size} steps"
            )
        spacing = (section.size - 1) / (count - 1) if count > 1 else 0.0
        # Added up, not multiplied: halves are rounded as the published program rounds them.
        kept += [int(section[0] + round(p)) for p in np.cumsum([0.0, *[spacing] * (count - 1)])]
    return kept


def take(diffusion: Diffusion, indices: Sequence[int] | np.ndarray) -> Diffusion:
    """The table that visits these indices (increasing) of `diffusion` only."""
    kept = np.asarray(indices)
    if kept.ndim != 1 or not kept.size or not np.issubdtype(kept.dtype, np.integer):
        raise ValueError(f"indices must be a list of integers, got {indices!r}")
    if (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= diffusion.n:
        raise ValueError(f"indices must increase inside [0, {diffusion.n}), got {kept.tolist()}")
    alpha_bar = diffusion.alpha_bar[kept]
    betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return Diffusion(betas, diffusion.index_map[kept], diffusion.n_original)


# Reading a table.


def check_index(diffusion: Diffusion, i: Any, *, low: int = 0, high: int | None = None) -> Any:
    """Return i as integers, or raise ValueError where it is no index of the table.

    Values are checked where they are known, which is everywhere but inside a transformation.
    """
    high = diffusion.n - 1 if high is None else high
    known = not isinstance(i, jax.core.Tracer)
    values = np.asarray(i) if known else None
    i = jnp.asarray(i if values is None else values)
    if not jnp.issubdtype(i.dtype, jnp.integer):
        raise ValueError(f"an index of a table must be an integer, got {i.dtype}")
    if values is not None and values.size and not (low <= values.min() <= values.max() <= high):
        raise ValueError(
            f"index must be in [{low}, {high}] for a table of {diffusion.n} steps, got "
            f"{values.min()} to {values.max()}"
        )
    return i


def read(table: np.ndarray, i: Any, x: Float[Array, "b *d"]) -> Float[Array, "..."]:
    """table[i] at x's precision, shaped to multiply x; i is a scalar or (b,). NaN outside."""
    values = jnp.asarray(table, x.dtype)
    i = jnp.asarray(i)
    return bcast(values.at[i].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False), x)


def where(condition: Any, x: Float[Array, "b *d"]) -> Any:
    """A condition on indices, () or (b,), shaped to choose between arrays like x."""
    return bcast(condition.astype(x.dtype), x) > 0


def q_mean_var(
    diffusion: Diffusion, x0: Float[Array, "b *d"], i: Any
) -> tuple[Float[Array, "b *d"], Float[Array, "..."]]:
    """Mean (b, *d) and log variance (broadcast to it) of q(x | x0), eq. (1); i is () or (b,)."""
    i = check_index(diffusion, i)
    mean = read(np.sqrt(diffusion.alpha_bar), i, x0) * x0
    return mean, read(np.log(1 - diffusion.alpha_bar), i, x0)


def q_sample(
    diffusion: Diffusion, x0: Float[Array, "b *d"], i: Any, noise: Float[Array, "b *d"]
) -> Float[Array, "b *d"]:
    """A draw of q(x | x0), eq. (1), from unit noise of the shape of x0; i is () or (b,)."""
    i = check_index(diffusion, i)
    signal = read(np.sqrt(diffusion.alpha_bar), i, x0)
    return signal * x0 + read(np.sqrt(1 - diffusion.alpha_bar), i, x0) * noise


class Bridge(NamedTuple):
    """q(x_next | x, x0) = N(c0 x0 + c1 x, exp(small)); large: log of the interval's beta."""

    c0: Any
    c1: Any
    small: Any
    large: Any


def log_alpha_bar(diffusion: Diffusion, i: Any, x: Float[Array, "b *d"]) -> tuple[Any, Any]:
    """log alpha_bar in two parts, rounded and the rest, so that differences keep their digits.

    i in [-1, n]: -1 is data (0), n pure noise (-inf), beyond the table.
    """
    table = np.concatenate([[0.0], np.log(diffusion.alpha_bar), [-np.inf]])
    high = table.astype(x.dtype)
    low = np.where(np.isfinite(table), table, 0) - np.where(np.isfinite(table), high, 0)
    return read(high, i + 1, x), read(low, i + 1, x)


def bridge(diffusion: Diffusion, i: Any, i_next: Any, x: Any) -> Bridge:
    """From index i to i_next < i (-1: data), by default the one before, from the exact tables."""
    i = check_index(diffusion, i)
    if i_next is None:
        return Bridge(
            read(diffusion.posterior_x0_coef, i, x),
            read(diffusion.posterior_x_coef, i, x),
            read(diffusion.posterior_log_variance, i, x),
            read(np.log(diffusion.betas), i, x),
        )
    i_next = check_index(diffusion, i_next, low=-1)
    (a, a_rest), (b, b_rest) = (log_alpha_bar(diffusion, k, x) for k in (i, i_next))
    ratio = (a - b) + (a_rest - b_rest)
    beta, noise, noise_next = -jnp.expm1(ratio), -jnp.expm1(a), -jnp.expm1(b)
    small = jnp.log(jnp.maximum(beta * noise_next / noise, _TINY))
    large = jnp.log(jnp.maximum(beta, _TINY))
    return Bridge(
        jnp.exp(b / 2) * beta / noise,
        jnp.exp(ratio / 2) * noise_next / noise,
        jnp.where(where(i_next < 0, x), large, small),
        large,
    )


def q_posterior(
    diffusion: Diffusion,
    x0: Float[Array, "b *d"],
    x: Float[Array, "b *d"],
    i: Any,
    i_next: Any = None,
) -> tuple[Float[Array, "b *d"], Float[Array, "..."]]:
    """Mean (b, *d) and log variance (broadcast to it) of q(x_next | x, x0), eq. (2).

    i is () or (b,), the index of x; i_next of the same shape, any smaller index, -1 for data
    (where no width is left and log beta stands in); by default the index before.
    """
    found = bridge(diffusion, i, i_next, x)
    return found.c0 * x0 + found.c1 * x, found.small


def at_index(diffusion: Diffusion, index: Int[Array, "..."], x: Float[Array, "b *d"]) -> Any:
    """(sqrt(alpha_bar), sqrt(1 - alpha_bar)) at an index in [-1, n] (data to pure noise), for x."""
    high, _ = log_alpha_bar(diffusion, index, x)
    return jnp.exp(high / 2), jnp.sqrt(-jnp.expm1(high))
