r"""Any number of samples in one line: chunked, spread over the devices, the same on any of them.

Sample number i has its own key, `fold_in(key, i)`, and is simulated by itself as a batch of one;
`jax.vmap` over the numbers makes a batch of it again. The time and the parameters are not mapped, so a
network still sees one batch and computes its embedding of the time once. The noise of a
sample, the norms of a Langevin corrector and the steps of an adaptive solver do not depend on its
neighbours. The same key therefore gives the same samples for any chunk and any number of devices, and
sample 7 alone is sample 7 of 1,000, up to the rounding of matrix products and convolutions, which
differs with the size of the batch.

A `Sampler` is a record that goes from a latent to a sample: `stepwise` makes one of a factory of
`Step`s, `flow` one of a solver of the probability flow. They compare by value, so that equal samplers
share a program.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from score_jax._batched import in_chunks
from score_jax._check import check_array, check_count, check_function, check_key
from score_jax.samplers.grids import check_grid
from score_jax.samplers.ode import probability_flow
from score_jax.samplers.restart import RestartGrid
from score_jax.samplers.simulate import FinalDenoising, denoised, simulate, tweedie
from score_jax.types import (
    SDE,
    Data,
    Grid,
    GridLike,
    PRNGKey,
    SampleOut,
    Sampler,
    ScoreFn,
    Step,
    check_process,
)

Options = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Stepwise:
    """Fixed steps: `simulate` of `make(sde, score, **options)`. See `stepwise`."""

    make: Callable[..., Step]
    options: Options = ()
    final_denoising: Callable[[SDE, ScoreFn], FinalDenoising] = tweedie

    def run(
        self,
        key: PRNGKey,
        sde: SDE,
        score: ScoreFn,
        x: Data,
        grid: Grid | RestartGrid,
        save_every: int | None = None,
    ) -> SampleOut:
        """Take x (b, *d) along every interval of the grid."""
        step = self.make(sde, score, **dict(self.options))
        final = self.final_denoising(sde, score)
        return simulate(key, step, x, grid, final_denoising=final, save_every=save_every)


@dataclasses.dataclass(frozen=True)
class Flow:
    """The probability flow by an adaptive solver. See `flow`."""

    solve: Callable[..., Any]
    options: Options = ()
    final_denoising: Callable[[SDE, ScoreFn], FinalDenoising] = tweedie

    def run(
        self,
        key: PRNGKey,
        sde: SDE,
        score: ScoreFn,
        x: Data,
        grid: Grid,
        save_every: int | None = None,
    ) -> SampleOut:
        """Take x (b, *d) from the first to the last time of the grid; the solver finds the rest."""
        if save_every is not None:
            raise ValueError(
                f"save_every must be None for an adaptive solver, which has its own times, got "
                f"{save_every}"
            )
        grid = jnp.asarray(grid)
        end = self.solve(sde, score, x, t_from=grid[0], t_to=grid[-1], **dict(self.options))
        clean = getattr(end, "denoised", end.x)
        final = self.final_denoising(sde, score)
        return denoised(SampleOut(end.x, clean, end.nfe, None), final, grid[-1])


def stepwise(
    make: Callable[..., Step],
    *,
    final_denoising: Callable[[SDE, ScoreFn], FinalDenoising] = tweedie,
    **options: Any,
) -> Stepwise:
    """Make a `Sampler` of a factory of steps, `make(sde, score, **options) -> Step`.

    `final_denoising` treats the noise that is left at the last time: `tweedie`
    removes it with one more evaluation, `last_mean` omits the noise of the last step, `as_it_is`
    keeps it; or any factory of the same form.

    >>> sampler = stepwise(reverse_diffusion, final_denoising=last_mean)
    """
    check_function("make", make, "a factory of steps (sde, score) -> Step, such as heun")
    check_function("final_denoising", final_denoising, "a factory, such as tweedie")
    return Stepwise(make, tuple(sorted(options.items())), final_denoising)


def flow(
    solve: Callable[..., Any] = probability_flow,
    *,
    final_denoising: Callable[[SDE, ScoreFn], FinalDenoising] = tweedie,
    **options: Any,
) -> Flow:
    """Make a `Sampler` of a solver `solve(sde, score, x, *, t_from, t_to, **options)` of the flow.

    The solver returns a record with the fields x and nfe, such as `ODEOut`. One that also returns the
    denoised state, such as `adaptive_multistep`, is best used with `last_mean`, which costs nothing.
    Only the first and the last time of the grid are used, so `[sde.t1, 1e-3]` is enough.

    >>> sampler = flow(rtol=1e-4, atol=1e-4)
    """
    check_function("solve", solve, "a solver, such as probability_flow")
    check_function("final_denoising", final_denoising, "a factory, such as tweedie")
    return Flow(solve, tuple(sorted(options.items())), final_denoising)


class Samples(NamedTuple):
    """Samples on the host, in their order, and their cost.

    x: (num, *d); nfe: (num,), network evaluations of each; trajectory: (k, num, *d) or None;
    seconds: wall time of drawing; compile_seconds: time to compile the program, about 0 where that was
    done before.
    """

    x: np.ndarray
    nfe: np.ndarray
    trajectory: np.ndarray | None
    seconds: float
    compile_seconds: float


def sample(
    key: Key[Array, ""],
    sde: SDE,
    score: Callable[..., Any],
    shape: Sequence[int],
    *,
    sampler: Sampler | Callable[..., Step],
    grid: GridLike | RestartGrid,
    y: Any = None,
    chunk: int = 256,
    save_every: int | None = None,
    together: bool = False,
    first: int = 0,
    devices: Sequence[jax.Device] | None = None,
    progress: bool | None = None,
) -> Samples:
    """Draw shape[0] samples of shape shape[1:], `chunk` at a time over all devices: `Samples`.

    `sampler` is a `Sampler` (`stepwise`, `flow`) or a factory of steps such as `reverse_diffusion`,
    with Tweedie's formula as the final denoising. `grid` holds the times from sde.t1 to the last one, or
    is a `RestartGrid`.
    With `y`, labels or any tree of arrays with one entry a sample, `score` is a function of the chunk's
    part (b, ...) of it that returns a `ScoreFn`.

    The arrays of a score that is a tree, such as `Model.score(params)` or `jax.tree_util.Partial`, are
    arguments of the program: other parameters need no other program. The arrays that a plain closure
    holds are constants of its program, which is kept as long as the closure.

    The same key gives the same sample number i (up to rounding, see the module) for any `chunk`,
    `shape[0]` and `devices` (default: all of this process; with `jax.devices()` all hosts call this
    together, share the work and get all samples). Samples are numbered from `first`: draw
    more later, or on another process, with the same key. With `together` the samples that share a
    device and a chunk are simulated as one batch, as the authors do: a Langevin corrector then
    averages its norms over them, an adaptive solver takes the same steps for all, which is faster,
    and the samples depend on `chunk` and `devices`. The bar is shown in terminals, or as
    `progress` says.

    A second call with equal arguments, and another key, grid of the same length, parameters or labels,
    compiles nothing.

    Raises ValueError for arguments that do not fit, before compiling; SolverError where an adaptive
    solver does not reach the last time, and FloatingPointError for samples that are not finite.

    >>> out = sample(jax.random.key(0), sde, score, (64, 28, 28, 1),
    ...              sampler=heun, grid=uniform_grid(sde, 20))
    >>> out.x.shape, out.nfe.mean()
    """
    _check_order(key, sde, score, sampler)
    num, item = _check(shape, first, save_every)
    grid = grid if isinstance(grid, RestartGrid) else check_grid(grid, sde.t1)
    sampler = sampler if isinstance(sampler, Sampler) else stepwise(sampler)
    if isinstance(grid, RestartGrid) and not isinstance(sampler, Stepwise):
        raise ValueError(
            "grid must be decreasing times for a sampler without steps, got a RestartGrid"
        )
    y = _labels(y, num)
    drawing = _Drawing(
        key, grid, np.uint32(first), score, sampler, sde, item, y is not None, save_every, together
    )
    done = in_chunks(
        _draw, drawing, lambda index: jax.tree.map(lambda v: v[index % num], y), num,
        chunk=chunk, devices=devices, progress=progress, desc="sample",
    )  # fmt: skip
    x, nfe, paths = done.out
    broken = num - int(np.isfinite(x).reshape(num, -1).all(axis=1).sum())
    if broken:
        raise FloatingPointError(
            f"sample: {broken} of {num} samples are not finite: the score is not, or the sampler is "
            "unstable on this grid"
        )
    path = None if paths is None else np.swapaxes(paths, 0, 1)
    return Samples(x, nfe, path, done.seconds, done.compile_seconds)


class _Drawing(NamedTuple):
    """All that samples of any number have in common."""

    key: Any
    grid: Any
    first: Any
    score: Any
    sampler: Any
    sde: Any
    item: tuple[int, ...]
    conditional: bool
    save_every: int | None
    together: bool


def _check_order(key: object, sde: object, score: object, sampler: object) -> None:
    """Raise ValueError, with the intended kind, for arguments of another kind."""
    order = "sample(key, sde, score, shape, *, sampler, grid)"
    check_key(key, order)
    check_process(sde, score)
    meant = "sampler must be a Sampler or a factory of steps, such as score_jax.samplers.dpmpp_2m"
    if isinstance(sampler, str):
        name = f"score_jax.samplers.{sampler}"
        raise ValueError(f"{meant}, got {sampler!r}: pass {name}, without quotes")
    if isinstance(sampler, Step):
        raise ValueError(f"{meant}, got a Step: pass the factory that made it")
    if not (isinstance(sampler, Sampler) or callable(sampler)):
        raise ValueError(f"{meant}, got {sampler!r:.60}")


def _check(shape: Sequence[int], first: int, save_every: int | None) -> tuple[int, tuple[int, ...]]:
    if not isinstance(shape, Sequence) or len(shape) < 1 or any(n < 1 for n in shape):
        raise ValueError(f"shape must be (num, *d) of numbers >= 1, got {shape!r}")
    if not 0 <= first < 2**32 - shape[0]:
        raise ValueError(f"first must be in [0, 2**32 - num), got {first}")
    if save_every is not None:
        check_count(save_every=save_every)
    return int(shape[0]), tuple(int(n) for n in shape[1:])


def _labels(y: Any, num: int) -> Any:
    check_array("y", y)
    y = jax.tree.map(np.asarray, y)
    for leaf in jax.tree.leaves(y):
        if leaf.ndim < 1 or leaf.shape[0] != num:
            raise ValueError(
                f"y must have one entry for each of the {num} samples, got shape {leaf.shape}"
            )
    return y


def latent(key: Key[Array, ""], sde: SDE, shape: Sequence[int]) -> Any:
    """The latent (*d) from which a sample starts; key is the own key of the sample, `fold_in(key, i)`."""
    return sde.prior_sample(jax.random.split(key)[0], (1, *shape))[0]


def _draw(drawing: _Drawing, index: Any, y: Any) -> Any:
    """Draw the samples numbered `index` (n,) on one device: x, nfe, trajectory, each (n, ...)."""

    def batch(key: Any, y: Any, size: int) -> Any:
        prior_key, step_key = jax.random.split(key)
        # Checked here, because a wrong result of a score of y would fail far from its cause.
        score = drawing.score(y) if drawing.conditional else drawing.score
        if not callable(score):
            raise ValueError(f"with y, score must return a ScoreFn for its part, got {score!r}")
        x = drawing.sde.prior_sample(prior_key, (size, *drawing.item))
        out = drawing.sampler.run(step_key, drawing.sde, score, x, drawing.grid, drawing.save_every)
        path = None if out.trajectory is None else jnp.swapaxes(out.trajectory, 0, 1)
        return out.x, jnp.broadcast_to(jnp.asarray(out.nfe, jnp.int32), (size,)), path

    numbers = index + drawing.first
    if drawing.together:
        return batch(jax.random.fold_in(drawing.key, numbers[0]), y, index.shape[0])

    def one(i: Any, y: Any) -> Any:
        out = batch(jax.random.fold_in(drawing.key, i), jax.tree.map(lambda v: v[None], y), 1)
        return jax.tree.map(lambda v: v[0], out)

    return jax.vmap(one)(numbers, y)
