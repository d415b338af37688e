r"""Final denoising: what becomes of the noise that is left at the last time of a grid.

Each is a factory of the same form as those of steps, (sde, score) -> function, and the function maps
(out: StepOut, t) to (x, evaluations), where out is the result of the last step, at the time t.
"""

from collections.abc import Callable
from typing import Any

from score_jax.score import denoise
from score_jax.types import SDE, SampleOut, ScoreFn, StepOut

FinalDenoising = Callable[[StepOut, Any], tuple[Any, int]]


def tweedie(sde: SDE, score: ScoreFn) -> FinalDenoising:
    """The mean of x0 given x, by one more evaluation: the step to t = 0 without noise.

    >>> out = simulate(key, step, x, grid, final_denoising=tweedie(sde, score))
    """
    return lambda out, t: (denoise(sde, score, out.x, t), 1)


def last_mean(sde: SDE, score: ScoreFn) -> FinalDenoising:
    """The state without the noise of the last step, as in the authors' programs."""
    del sde, score
    return lambda out, t: (out.x_mean, 0)


def as_it_is(sde: SDE, score: ScoreFn) -> FinalDenoising:
    """The state itself, with noise of level t."""
    del sde, score
    return lambda out, t: (out.x, 0)


def denoised(out: SampleOut, final_denoising: FinalDenoising | None, t: Any) -> SampleOut:
    """Apply the final denoising, if any, at the last time t; the trajectory then ends in its x."""
    if final_denoising is None:
        return out
    x, evaluations = final_denoising(StepOut(out.x, out.x_mean), t)
    path = out.trajectory
    return SampleOut(
        x,
        x if evaluations else out.x_mean,
        out.nfe + evaluations,
        None if path is None else path.at[-1].set(x),
    )
