r"""A table of betas, as of DDPM and Improved DDPM, as a VP SDE in continuous time.

Index i = 0..N-1 of the table is the time t = (i + 1) / N, and t = 0 is data. In between
log alpha_bar is interpolated linearly, so that at the times of the table the marginals are exactly
those of the discrete process,

    m(t)^2 = alpha_bar(t) = exp(-B(t)),  s(t)^2 = 1 - alpha_bar(t),
    B((i + 1) / N) = -sum_{j <= i} log(1 - beta_j),  beta(t) = dB/dt = -N log(1 - beta_i).

DDPM is arXiv:2006.11239, Improved DDPM arXiv:2102.09672.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax._math import as_time
from score_jax.sde.base import RateSDE, TimeLike


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class TableVP(RateSDE):
    """A VP SDE whose rate beta(t) is constant between the times of a table; see `from_betas`.

    `betas` holds the bytes of the table in float64: equal tables are equal SDEs under `jax.jit`,
    and their comparison is cheap.
    """

    table: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableVP) and self.table == other.table

    def __hash__(self) -> int:
        return hash(self.table)

    def __repr__(self) -> str:
        return f"from_betas(<{self.n} betas from {self.betas[0]:.3g} to {self.betas[-1]:.3g}>)"

    @property
    def t1(self) -> float:  # type: ignore[override]
        """Final time, that of the last entry: 1."""
        return 1.0

    @property
    def betas(self) -> Any:
        """The table, float64 (n,)."""
        return np.frombuffer(self.table)

    @property
    def n(self) -> int:
        """The length of the table."""
        return len(self.table) // 8

    def _rates(self) -> Any:
        """-log(1 - beta_i), what B grows by over each entry: (n,)."""
        return -np.log1p(-self.betas)

    def _knots(self) -> Any:
        """B at t = 0, 1/n, ..., 1: (n + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self._rates())])

    def beta_integral(self, t: TimeLike) -> Float[Array, "..."]:
        """B(t) = -log alpha_bar(t): shape of t."""
        place = as_time(t) * self.n
        i = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, self.n - 1)
        knots, rates = (jnp.asarray(v, place.dtype) for v in (self._knots(), self._rates()))
        return knots[i] + (place - i) * rates[i]

    def beta(self, t: TimeLike) -> Float[Array, "..."]:
        """beta(t) = -n log(1 - beta_i) on (i/n, (i+1)/n]: shape of t."""
        place = as_time(t) * self.n
        # A time of the table belongs to the entry that ends there, on whichever side it was rounded.
        slack = 8 * self.n * jnp.finfo(place.dtype).eps
        i = jnp.clip(jnp.ceil(place - slack).astype(jnp.int32) - 1, 0, self.n - 1)
        return jnp.asarray(self.n * self._rates(), place.dtype)[i]

    def time_of_log_snr(self, value: TimeLike) -> Float[Array, "..."]:
        """The t with log_snr(t) = value, in [0, 1]: shape of value."""
        b = jax.nn.softplus(-as_time(value))
        knots, rates = (jnp.asarray(v, b.dtype) for v in (self._knots(), self._rates()))
        i = jnp.clip(jnp.searchsorted(knots, b, side="right") - 1, 0, self.n - 1)
        return jnp.clip((i + (b - knots[i]) / rates[i]) / self.n, 0, 1)


def from_betas(betas: Any) -> TableVP:
    """The VP SDE of a table of betas (n,), linear, cosine, learnt or any other: see the module.

    A network trained on the table is told its index: label = t * n - 1, rounded. Exact in float32;
    the discrete process's own steps are `ancestral` over a grid of the table's times.

    Raises ValueError unless betas is one list of numbers with 0 < beta < 1.

    >>> sde = from_betas(np.linspace(1e-4, 0.02, 1000))
    >>> sde.std(1.0)
    Array(0.9999798, dtype=float32, weak_type=True)
    """
    table = np.asarray(betas, np.float64)
    if table.ndim != 1 or table.size < 1:
        raise ValueError(f"betas must be a list of at least one number, got shape {table.shape}")
    bad = ~((table > 0) & (table < 1))
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(f"betas must be in (0, 1), got {table[at]} at index {at}")
    return TableVP(table.tobytes())
