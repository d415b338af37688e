r"""Grids fitted to a model: the times at which few steps lose least, by dynamic programming.

Along a fine solution x_0, ..., x_N of the probability flow every step of a coarse grid is a step from
x_i to x_j, whose error is known without further evaluations: with the predictions D_i of x0 at the
fine times,

    (1)  order 1   x' = (s'/s) x_i + m' (1 - e^-h) D_i                                        DDIM
    (2)  order 2   x' + m' (1 - e^-h) (D_i - D_k) / (2 r), k the time before i                2M

    (3)  c = rms(x' - x_j) / sqrt(m_j^2 + s_j^2)

over the samples and their entries, in the state of unit size in which the flow of data of unit variance
keeps differences. The best grid of n steps is the path with the smallest sum of c from the first time to
the last. arXiv:2405.11326 (GITS) does this for (1) with the distance in x/m. The second order makes the
cost of a step depend on the one before, which the path then keeps in mind.

The costs are those of DDIM and DPM-Solver++(2M) in the algebra of `exponential`; one set serves any
number of steps.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from score_jax._batched import in_chunks
from score_jax._check import check, check_count, check_key
from score_jax.samplers.exponential import TOO_LONG
from score_jax.samplers.grids import check_grid, log_snr_grid
from score_jax.samplers.sampling import latent
from score_jax.samplers.unipc import unipc
from score_jax.score import denoise
from score_jax.types import SDE, GridLike, check_process


class StepCosts(NamedTuple):
    """The errors of single steps along a fine solution, made by `step_costs`.

    times (n + 1,) of the fine grid; first[i, j]: of a step of order 1 from time i to time j;
    second[k, i, j]: of order 2 after a step from k to i. Infinite where these times do not decrease.
    """

    times: np.ndarray
    first: np.ndarray
    second: np.ndarray


class FinePath(NamedTuple):
    """What the samples of a fine solution have in common."""

    key: Any
    grid: Any
    score: Any
    sde: Any
    item: tuple[int, ...]
    conditional: bool


def fine_states(shared: FinePath, index: Any, y: Any) -> tuple[Any, Any]:
    """(the score, the states of the fine solution (times, n, *d)) for samples `index` (n,)."""
    sde, grid = shared.sde, shared.grid
    score = shared.score(y) if shared.conditional else shared.score
    keys = jax.vmap(lambda i: jax.random.fold_in(shared.key, i))(index)
    x = jax.vmap(lambda key: latent(key, sde, shared.item))(keys)
    step = unipc(sde, score, order=3)

    def body(carry: Any, this: Any) -> Any:
        (x, state), (t, t_next) = carry, this
        out, state = step.update(shared.key, x, t, t_next, state)
        return (out.x, state), out.x

    _, later = jax.lax.scan(body, (x, step.init(x, grid)), (grid[:-1], grid[1:]))
    return score, jnp.concatenate([x[None], later])


def _path(shared: FinePath, index: Any, y: Any) -> Any:
    """The fine solution and its predictions of x0 for samples `index` (n,): (n, times, *d) each."""
    score, states = fine_states(shared, index, y)
    clean = jax.lax.map(lambda this: denoise(shared.sde, score, *this), (states, shared.grid))
    return jax.tree.map(lambda v: jnp.swapaxes(v, 0, 1), (states, clean))


def along_fine_path(
    walk: Callable[[FinePath, Any, Any], Any],
    key: Key[Array, ""],
    sde: SDE,
    score: Callable[..., Any],
    shape: Sequence[int],
    *,
    grid: GridLike | None,
    y: Any,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """(times, m, s, what `walk` returns) of a fine solution: the last as arrays (times, num, *d).

    walk(shared, index, y) returns arrays (n, times, *d) for the samples `index` (n,). The arguments are
    those of `step_costs`, and so are the errors; options: chunk, progress and desc of `in_chunks`.
    """
    check_process(sde, score)
    times = check_grid(log_snr_grid(sde, 64) if grid is None else grid, sde.t1)
    check("grid", times.shape[0], times.shape[0] > 2, "at least three times")
    num = int(shape[0])
    check_count(num=num)
    shared = FinePath(key, times, score, sde, tuple(shape[1:]), y is not None)
    take = lambda index: jax.tree.map(lambda v: np.asarray(v)[index % num], y)
    done = in_chunks(walk, shared, take, num, **options)
    found = [np.asarray(v, np.float64).swapaxes(0, 1) for v in done.out]
    with jax.ensure_compile_time_eval():
        m, s = (np.asarray(f(times), np.float64) for f in (sde.mean_coeff, sde.std))
    return np.asarray(times), m, s, found


def step_costs(
    key: Key[Array, ""],
    sde: SDE,
    score: Callable[..., Any],
    shape: Sequence[int],
    *,
    grid: GridLike | None = None,
    y: Any = None,
    chunk: int = 256,
    progress: bool | None = None,
) -> StepCosts:
    """The costs of eq. (3) for all steps between the times of a fine grid: `StepCosts`.

    shape is (num, *d), as in `sample`, and so are `score` and `y`; 64 samples suffice. `grid` is the
    fine grid, by default `log_snr_grid(sde, 64)`; its times are those that a fitted grid may have. Two
    evaluations a sample and fine time.

    Raises ValueError for a grid of fewer than three times, and for arguments that do not fit.

    >>> costs = step_costs(jax.random.key(0), sde, score, (64, 8, 8, 1))
    >>> grid = fitted_grid(costs, 10)
    """
    check_key(key, "step_costs(key, sde, score, shape)")
    times, m, s, (states, clean) = along_fine_path(
        _path, key, sde, score, shape, grid=grid, y=y, chunk=chunk, progress=progress,
        desc="step costs",
    )  # fmt: skip
    flat = (len(m), -1)
    return _costs(times, m, s, states.reshape(flat), clean.reshape(flat))


def _costs(
    times: np.ndarray, m: np.ndarray, s: np.ndarray, x: np.ndarray, clean: np.ndarray
) -> StepCosts:
    """The costs from states and predictions (times, entries of all samples)."""
    n, size = len(times), np.hypot(m, s)
    # From pure noise the first interval is infinitely long.
    levels = np.log(np.maximum(m, 1e-12)) - np.log(s)
    first, second = np.full((n, n), np.inf), np.full((n, n, n), np.inf)
    for i in range(n - 1):
        h = levels[i + 1 :] - levels[i]
        keep = (s[i + 1 :] / s[i])[:, None]
        error = (
            keep * x[i][None] + (m[i + 1 :] * -np.expm1(-h))[:, None] * clean[i][None] - x[i + 1 :]
        )
        square = np.square(error).mean(axis=1)
        first[i, i + 1 :] = np.sqrt(square) / size[i + 1 :]
        if i == 0:
            continue
        # |error + gain (D_i - D_k)|^2 from inner products, for all earlier times k at once.
        apart = clean[i][None] - clean[:i]
        gain = m[i + 1 :] * -np.expm1(-h) / (2 * (levels[i] - levels[:i])[:, None]) * h
        both = square + 2 * gain * (apart @ error.T / x.shape[1])
        both += gain**2 * np.square(apart).mean(axis=1)[:, None]
        value = np.sqrt(np.maximum(both, 0)) / size[i + 1 :]
        # A step that is much longer than the one before has order 1, as `exponential.order_at` says.
        short = h <= TOO_LONG * (levels[i] - levels[:i])[:, None]
        second[:i, i, i + 1 :] = np.where(short, value, first[i, i + 1 :])
    return StepCosts(times, first, second)


def fitted_grid(costs: StepCosts, n: int, *, order: int = 2) -> Float[Array, " m"]:
    """The grid of n steps with the smallest sum of costs: (n + 1,), from the first time to the last.

    `order` is that of the costs: 1 for single-step samplers such as `ddim` and `heun`, 2 for multistep
    ones such as `dpmpp_2m` and `unipc`.

    Raises ValueError unless n is between 1 and the number of steps of the fine grid, and order is 1 or
    2.

    >>> out = sample(key, sde, score, shape, sampler=dpmpp_2m, grid=fitted_grid(costs, 10))
    """
    most = len(costs.times) - 1
    check_count(n=n)
    check("n", n, n <= most, f"at most {most}, the steps of the fine grid")
    check("order", order, order in (1, 2), "1 or 2")
    # value[i, j]: the least cost of paths whose last step is from i to j; `second` is of (k, i, j).
    value = np.full_like(costs.first, np.inf)
    value[0] = costs.first[0]
    after = costs.second if order == 2 else np.broadcast_to(costs.first[None], costs.second.shape)
    before = []
    for _ in range(n - 1):
        total = value[:, :, None] + after
        before.append(total.argmin(axis=0))
        value = np.take_along_axis(total, before[-1][None], axis=0)[0]
    i, j = int(value[:, -1].argmin()), most
    path = [j, i]
    for choice in reversed(before):
        i, j = int(choice[i, j]), i
        path.append(i)
    return jnp.asarray(costs.times[path[::-1]])
