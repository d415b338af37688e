r"""Averages of the parameters: exponential, and power-function averages of any length made later.

    (1)  exponential  d_n = min(d, (1 + n) / (10 + n))
    (2)  power        d_n = (1 - 1/n)^(gamma + 1)              arXiv:2312.02696 section 3.1

(2) is the average with weight proportional to tau^gamma over the whole past. Its relative width is

    (3)  std = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))

An average of another width, or at an earlier step, is a weighted sum of stored ones (section 3.2 of
the paper): the weights solve a least-squares problem between the profiles p(tau) of stored and wanted
averages, whose inner products are

    (4)  <p_1, p_2> = (g1 + 1)(g2 + 1) min(t1, t2)^(g1 + g2 + 1) / ((g1 + g2 + 1) t1^(g1+1) t2^(g2+1))
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_jax._check import check
from score_jax.types import Params

Decay = Callable[
    [int | Int[Array, ""]], Float[Array, ""]
]  # the number of the update, 1, 2, ... -> d_n

WIDEST = 0.28  # std of eq. (3) at gamma about 0: beyond, the average is not one of this family


def ema_decay_at(step: int | Int[Array, ""], decay: float) -> Float[Array, ""]:
    """d_n of eq. (1): min(decay, (1 + n) / (10 + n)) for the n-th update, n = 1, 2, ...

    The average starts short, so that samples drawn early in training are usable.

    >>> ema_decay_at(1, 0.999)
    Array(0.18181819, dtype=float32)
    """
    n = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + n) / (10 + n))


def exponential(decay: float) -> Decay:
    """Eq. (1) as a `Decay`. Raises ValueError unless 0 <= decay < 1.

    >>> make_train_step(loss, optimizer, averages={"0.9999": exponential(0.9999)})
    """
    check("ema_decay", decay, 0 <= decay < 1, "in [0, 1)")
    return lambda n: ema_decay_at(n, decay)


def power_gamma(std: float) -> float:
    """The exponent gamma of eq. (2) whose relative width, eq. (3), is `std`.

    Raises ValueError unless 0 < std < 0.28.

    >>> round(power_gamma(0.1), 2)
    6.94
    """
    check("std", std, 0 < std < WIDEST, f"in (0, {WIDEST})")
    # (3) squared, as a cubic in gamma; the largest real root is the gamma > 0.
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def power(std: float) -> Decay:
    """Eq. (2), the power-function average of relative width `std`, as a `Decay`; see `power_gamma`.

    >>> averages = {"0.05": power(0.05), "0.1": power(0.1)}
    """
    gamma = power_gamma(std)

    def decay(n: int | Int[Array, ""]) -> Float[Array, ""]:
        return (1 - 1 / jnp.asarray(n, jnp.float32)) ** (gamma + 1)

    return decay


class Profile(NamedTuple):
    """A power-function average: the step at which it was taken, and its relative width."""

    step: int
    std: float


def _inner(a: Sequence[Profile], b: Sequence[Profile]) -> np.ndarray:
    """Eq. (4) for all pairs, (len(a), len(b)), with the largest step taken as 1, in float64."""
    top = max(p.step for p in (*a, *b))
    t1 = np.array([p.step / top for p in a])[:, None]
    t2 = np.array([p.step / top for p in b])[None]
    g1 = np.array([power_gamma(p.std) for p in a])[:, None]
    g2 = np.array([power_gamma(p.std) for p in b])[None]
    least, most = np.minimum(t1, t2), np.maximum(t1, t2)
    # After cancelling with the minimum, only the power of the later of the two steps is left.
    later = np.where(t1 > t2, g1, g2)
    ratio = (least / most) ** later / most
    return (g1 + 1) * (g2 + 1) / (g1 + g2 + 1) * ratio


def combination(stored: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """Weights (len(stored),), float64, whose sum of stored averages is nearest to the wanted one.

    Averages from after `wanted.step` have weight 0, because they contain later parameters. With the
    widths 0.05 and 0.1 stored a few dozen times in a run, widths from 0.03 to 0.15 are matched
    closely; wider averages reach into the time before the first snapshot.

    Raises ValueError if none was stored by then, and for widths out of range.

    >>> weights = combination([Profile(100, 0.05), Profile(100, 0.1)], Profile(100, 0.07))
    """
    known = np.array([p.step <= wanted.step for p in stored], bool)
    if not known.any():
        raise ValueError(f"no average is stored at or before step {wanted.step}")
    used = [p for p, k in zip(stored, known, strict=True) if k]
    # Profiles of neighbouring steps are almost equal: lstsq drops the directions lost in rounding.
    found = np.linalg.lstsq(_inner(used, used), _inner(used, [wanted])[:, 0], rcond=1e-13)[0]
    weights = np.zeros(len(stored))
    weights[known] = found
    return weights


def post_hoc(store: Any, widths: Mapping[str, float], wanted: Profile) -> Params:
    """The power-function average `wanted`, computed from the snapshots of a run: parameters.

    store: the `Checkpoints` of the `Snapshots` hook; widths: {name of an average: relative width}.

    Raises ValueError if no snapshot is from `wanted.step` or before, and what reading them raises.

    >>> with open_checkpoints("runs/x/averages", read_only=True) as store:
    ...     params = post_hoc(store, {"power_0.05": 0.05, "power_0.1": 0.1}, Profile(100_000, 0.07))
    """
    steps = [step for step in store.steps() if step <= wanted.step]
    stored = [Profile(step, width) for step in steps for width in widths.values()]
    weights = combination(stored, wanted).reshape(len(steps), len(widths))
    total: Any = None
    for step, row in zip(steps, weights, strict=True):  # one snapshot at a time in memory
        averages = store.read(step, "averages")
        part = _weighted([averages[name] for name in widths], row)
        total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), total)


def _weighted(trees: Sequence[Any], weights: Sequence[float] | np.ndarray) -> Any:
    """The weighted sum of trees of arrays, in float64."""
    add = lambda *leaves: sum(
        w * np.asarray(leaf, np.float64) for w, leaf in zip(weights, leaves, strict=True)
    )
    return jax.tree.map(add, *trees)


def combine(trees: Sequence[Params], weights: Sequence[float] | np.ndarray) -> Params:
    """The weighted sum of trees of arrays, in float32, computed in float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), _weighted(trees, weights))
