"""Drawing any number of samples from a trained network, with what they cost."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.config import SampleConfig
from experiments.parts import samplers
from experiments.parts.guiding import Guide
from experiments.runs import Experiment
from score_jax.samplers import sample


class Drawn(NamedTuple):
    """Samples in the network's range (n, *d), and their cost."""

    x: np.ndarray
    nfe: float  # network evaluations per sample
    seconds: float  # without compilation
    compile_seconds: float
    trajectory: np.ndarray | None  # (k, n, *d)


def _of_class(
    exp: Experiment, c: SampleConfig, guide: Guide | None, params: Any, y: Any = None
) -> Any:
    low, high = exp.config.data.range
    score = exp.score_fn(params, y) if guide is None else guide.score(exp, params, y)
    return samplers.thresholded(c, exp.sde, score, low, high)


def _plain(exp: Experiment, c: SampleConfig, params: Any, x: Any, t: Any) -> Any:
    return _of_class(exp, c, None, params)(x, t)


def make_score(exp: Experiment, params: Any, c: SampleConfig, guide: Guide | None = None) -> Any:
    """Make what `score_jax.sample` takes: the score, or with classes the maker of one.

    The parameters are its arrays, so that one compiled program serves all of them. With a `guide`
    they are those that `guiding.make_guide` returned with it.
    """
    # Only what changes the score, for the sake of what was compiled.
    c = SampleConfig(threshold=c.threshold)
    if exp.num_classes or guide is not None:
        return jax.tree_util.Partial(_of_class, exp, c, guide, params)
    return jax.tree_util.Partial(_plain, exp, c, params)


def _reverse(
    exp: Experiment, c: SampleConfig, guide: Guide | None, params: Any, y: Any = None
) -> Any:
    table = samplers.respaced(c, exp.process.diffusion)
    low, high = exp.config.data.range
    rule = samplers.lookup("threshold", c.threshold, samplers.THRESHOLDS)
    clean = None if rule is None else rule(low=low, high=high)
    assert exp.process.make_reverse is not None
    classify = guide is not None and guide.classifier is not None
    own, other = params if classify else (params, None)
    kwargs = {} if y is None or not exp.num_classes else {"y": y}
    apply = exp.net.apply if guide is None else guide.apply(exp)
    reverse = exp.process.make_reverse(table, apply, own, kwargs, clean)
    return reverse if guide is None else guide.reverse(exp, table, reverse, other, y)


def _plain_reverse(
    exp: Experiment, c: SampleConfig, params: Any, x: Any, i: Any, i_next: Any = None
) -> Any:
    return _reverse(exp, c, None, params)(x, i, i_next)


def make_parts(
    exp: Experiment, params: Any, c: SampleConfig, guide: Guide | None = None
) -> tuple[Any, Any, Any]:
    """Make what `score_jax.sample` takes: (score or reverse chain, sampler, grid)."""
    if c.sampler in samplers.TABLE_SAMPLERS:
        table = samplers.respaced(c, exp.process.diffusion)
        sampler, grid = samplers.make_table(c, table)
        # Only what changes the chain, for the sake of what was compiled.
        kept = SampleConfig(threshold=c.threshold, steps=c.steps, sampler=c.sampler)
        if exp.num_classes or guide is not None:
            return jax.tree_util.Partial(_reverse, exp, kept, guide, params), sampler, grid
        return jax.tree_util.Partial(_plain_reverse, exp, kept, params), sampler, grid
    check_times(exp, c)
    return make_score(exp, params, c, guide), samplers.make(c), samplers.make_grid(c, exp.sde)


def check_times(exp: Experiment, c: SampleConfig) -> None:
    """Raise ValueError where sampling would end at a time for which no score was learned."""
    if not exp.config.sde.t0 <= c.t0 < exp.sde.t1:
        raise ValueError(
            f"sample.t0 must be in [sde.t0={exp.config.sde.t0}, t1={exp.sde.t1}), got {c.t0!r}"
        )


def draw(
    exp: Experiment,
    params: Any,
    key: Any,
    num: int,
    c: SampleConfig,
    *,
    y: Any = None,
    guide: Guide | None = None,
    chunk: int = 256,
    save_every: int | None = None,
    progress: bool | None = None,
) -> Drawn:
    """Draw `num` samples with the sampler of `c`, `chunk` at a time; `y` (num,) are classes.

    The key decides the samples, whatever the chunk and the devices (unless `c.together`). `params`
    and `guide` may be those of `guiding.make_guide`.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    score, sampler, grid = make_parts(exp, params, c, guide)
    classes = exp.form.num_classes if guide is not None else exp.num_classes
    if classes:
        y = np.arange(num) % classes if y is None else np.asarray(y)
        y = y.astype(np.int32)
    out = sample(
        key,
        exp.sde,
        score,
        (num, *exp.shape),
        sampler=sampler,
        grid=grid,
        y=y,
        chunk=chunk,
        save_every=save_every,
        together=c.together,
        progress=progress,
    )
    if not np.isfinite(out.x).all():
        raise FloatingPointError(f"sampler {c.sampler!r} returned values that are not finite")
    return Drawn(out.x, float(out.nfe.mean()), out.seconds, out.compile_seconds, out.trajectory)


def quick(config: SampleConfig) -> SampleConfig:
    """A cheaper sampler for pictures during training: at most 100 steps."""
    return dataclasses.replace(config, steps=min(config.steps, 100))
