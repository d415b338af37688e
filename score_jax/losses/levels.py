"""The loss by noise level: in equal intervals of the log-SNR, as sums and counts.

Sums and counts can be added, and averaged over devices and microbatches, before they are divided.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax._check import check_count
from score_jax.sde import NoiseSchedule, log_snr_ends
from score_jax.types import SDE


def level_edges(sde: SDE, t0: float, n: int) -> np.ndarray:
    """The edges (n + 1,) of n intervals of the log-SNR, from the most noise to the least (at t0).

    On a noise schedule the first timestep takes the place of t0. Raises ValueError for n < 1.

    >>> level_edges(VP(), 1e-3, 8)  # -10.1 ... 9.0
    """
    check_count(n=n)
    first = float(sde.times[0]) if isinstance(sde, NoiseSchedule) else t0
    return np.linspace(*log_snr_ends(sde, first), n + 1)


def by_level(
    sde: SDE, t: Float[Array, " b"], values: Float[Array, " b"], *, t0: float, n: int
) -> Float[Array, "2 n"]:
    """Sums and counts of values (b,) at times t (b,) in the intervals of `level_edges`: (2, n).

    Values beyond the ends are counted at the ends.

    >>> sums, counts = by_level(sde, t, losses, t0=1e-5, n=8)
    """
    edges = level_edges(sde, t0, n)
    place = (sde.log_snr(t) - edges[0]) / (edges[-1] - edges[0]) * n
    # Clipped as a number: the log-SNR is infinite at t = 0.
    index = jnp.floor(jnp.clip(place, 0, n - 1)).astype(jnp.int32)
    inside = jax.nn.one_hot(index, n, dtype=values.dtype)
    finite = jnp.where(inside > 0, values[:, None], 0)
    return jnp.stack([finite.sum(axis=0), inside.sum(axis=0)])
