r"""Samplers side by side on one SDE and one score: their costs and their errors.

All have the same key and therefore, by the definition of `sample`, the same latents:

    error      sqrt(mean |x - x*|^2), x* the end of the probability flow from the same latent: for
               deterministic samplers, which should all end there
    distance   any distance of a set of samples to the data, for all samplers: a mean over repeated
               draws and their spread
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, ArrayLike, Key

from score_jax._check import check_count
from score_jax.samplers.sampling import sample
from score_jax.types import SDE, GridLike, Sampler, Step


class Candidate(NamedTuple):
    """A sampler to be compared and its grid; deterministic if it draws no noise but the latent."""

    sampler: Sampler | Callable[..., Step]
    grid: GridLike
    deterministic: bool = False


class Spread(NamedTuple):
    """Mean and standard deviation over repeated draws; the latter is None for a single one."""

    mean: float
    std: float | None


class Row(NamedTuple):
    """One line of a comparison.

    nfe: mean network evaluations a sample; error: root mean square over all entries, or None;
    distances: by name; seconds: of a draw, the shortest; compile_seconds: of the first.
    """

    name: str
    nfe: float
    error: float | None
    distances: dict[str, Spread]
    seconds: float
    compile_seconds: float


def compare_samplers(
    key: Key[Array, ""],
    sde: SDE,
    score: Callable[..., Any],
    shape: Sequence[int],
    candidates: Mapping[str, Candidate],
    *,
    exact: ArrayLike | None = None,
    distances: Mapping[str, Callable[[np.ndarray], Any]] | None = None,
    repeats: int = 1,
    progress: bool | None = None,
    **options: Any,
) -> list[Row]:
    """Draw with every candidate from the same latents and measure: one `Row` each, in order.

    `exact` (num, *d) are the exact results for the latents of `key`: `sample(key, ...)` by a much
    finer sampler, or a closed form; the errors of the deterministic candidates are measured
    against them. `distances` are functions of samples (num, *d) that return a number, such as
    `functools.partial(sliced_wasserstein, data)`; they are measured on `repeats` draws of `shape`,
    numbered on from the first (`first` of `sample`). `options` go to `sample`: y, chunk, devices.

    Raises ValueError if there is nothing to measure, or for shapes that do not fit.

    >>> rows = compare_samplers(key, sde, score, (256, 2),
    ...     {f"heun {n}": Candidate(stepwise(heun), uniform_grid(sde, n), True) for n in (5, 10, 20)},
    ...     exact=sample(key, sde, score, (256, 2), sampler=flow(rtol=1e-6), grid=[sde.t1, 1e-3]).x)
    """
    distances = {} if distances is None else distances
    if exact is None and not distances:
        raise ValueError("exact or distances must be given: there is nothing to measure")
    check_count(repeats=repeats)
    if exact is not None and np.shape(exact) != tuple(shape):
        raise ValueError(f"exact must have shape {tuple(shape)}, got {np.shape(exact)}")
    rows = []
    for name, candidate in candidates.items():
        outs = [
            sample(
                key, sde, score, shape, sampler=candidate.sampler, grid=candidate.grid,
                first=i * shape[0], progress=progress, **options,
            )
            for i in range(repeats if distances else 1)
        ]  # fmt: skip
        error = None
        if exact is not None and candidate.deterministic:
            error = float(np.sqrt(np.mean(np.square(np.asarray(outs[0].x - exact, np.float64)))))
        far = {name: [float(f(out.x)) for out in outs] for name, f in distances.items()}
        rows.append(
            Row(
                name,
                float(np.mean([out.nfe.mean() for out in outs])),
                error,
                {k: _spread(v) for k, v in far.items()},
                min(out.seconds for out in outs),
                outs[0].compile_seconds,
            )
        )
    return rows


def _spread(values: Sequence[float]) -> Spread:
    return Spread(
        float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    )
