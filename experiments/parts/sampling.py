"""Drawing any number of samples from a trained network, with their cost."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from score_jax._check import check_classes
from score_jax.data import take
from score_jax.samplers import Sampler, sample, threshold
from score_jax.types import Params, PRNGKey, ScoreFn

from ..config import SampleConfig
from ..runs import Run
from . import samplers
from .guiding import Guide


class Drawn(NamedTuple):
    """Samples in the network's range (n, *d), and their cost."""

    x: np.ndarray
    nfe: float  # network evaluations per sample
    seconds: float  # without compilation
    compile_seconds: float
    trajectory: np.ndarray | None  # (k, n, *d)


def _score(
    run: Run, c: SampleConfig, guide: Guide | None, params: Any, given: dict[str, Any]
) -> ScoreFn:
    score = (
        run.score(params, **given) if guide is None else guide.score(run, params, given.get("y"))
    )
    # Continuous data have no range to be kept in.
    continuous = run.source.levels is None
    rule = None if continuous else samplers.threshold_rule(c, *run.config.data.range)
    return score if rule is None else threshold(run.sde, score, rule)


def make_sampler(run: Run, c: SampleConfig) -> Sampler:
    """The sampler of a config, with the variance of the run's model and what was fitted to the run."""
    return samplers.make(c, run.model.variance, run.fitted)


def make_score(run: Run, params: Any, c: SampleConfig, guide: Guide | None = None) -> Any:
    """The function of what the network is given (`labels`), which `score_jax.sample` takes.

    The parameters are its arrays, so that one compiled program serves all of them. With a `guide`
    they are those that `guiding.make_guide` returned with it.
    """
    # Only fields that change the score, so that compiled programs are reused.
    c = SampleConfig(threshold=c.threshold)
    return jax.tree_util.Partial(_score, run, c, guide, params)


def labels(
    run: Run, num: int, y: Any = None, guide: Guide | None = None, cond: Any = None
) -> dict[str, Any]:
    """What the network is given for `num` samples: {"y": ...}, {"low_res": ...}, both, or {}.

    y (num,): classes, by default all in turn. cond (m, *d): vectors or fields in the data's own units,
    repeated if m < num; by default those of the first test examples, which the run folder has.
    """
    y = classes(run, num, y, guide)
    found: dict[str, Any] = {} if y is None else {"y": y}
    if not run.net_is_given_images and run.source.cond is None:
        if cond is not None:
            raise ValueError("cond was given, but the network is conditioned on no vector or field")
        return found
    if guide is not None:
        raise ValueError("guidance is for networks that are conditioned on classes alone")
    return found | jax.tree.map(np.asarray, _conditions(run, num, cond))


def classes(run: Run, num: int, y: Any = None, guide: Guide | None = None) -> np.ndarray | None:
    """The classes (num,) of `num` samples, by default all in turn; None without classes."""
    n = run.num_classes if guide is None else guide.classes(run)
    if not n:
        return None
    y = np.arange(num) % n if y is None else np.asarray(y)
    check_classes(y, n + (guide is None and run.null_class is not None))
    return y.astype(np.int32)


def cond_of(run: Run, numbers: np.ndarray) -> np.ndarray | None:
    """The vectors or fields of the samples of these numbers: those of test examples, repeated.

    They are the ones that the run keeps, if it keeps some. More small images than it keeps are made of
    the test data where these are there. None for a network that is conditioned on no vector or field.
    """
    source = run.source
    if not run.net_is_given_images and source.cond is None:
        return None
    kept = None if source.kept is None else np.asarray(source.kept)
    if kept is not None and (source.cond is not None or numbers.max() < len(kept)):
        return kept[numbers % len(kept)]
    try:
        test = source.split("test")
        found = take(test, numbers % len(test))
    except (ValueError, OSError):
        if kept is None:
            raise
        return kept[numbers % len(kept)]
    if source.cond is None:
        return np.asarray(source.reduced(source.on_levels(found["x"])))
    return np.asarray(found["cond"])


def _conditions(run: Run, num: int, cond: Any) -> dict[str, Any]:
    source = run.source
    cond = np.asarray(cond_of(run, np.arange(num)) if cond is None else cond)
    if source.cond is None:
        return {"low_res": _repeated(cond, num)}
    shape = source.cond.shape
    if cond.shape[1:] != shape or not len(cond):
        raise ValueError(
            f"cond must be of shape (m, {', '.join(map(str, shape))}), got {cond.shape}"
        )
    return source.conditions(_repeated(cond, num))


def _repeated(values: np.ndarray, num: int) -> np.ndarray:
    return values[np.arange(num) % len(values)]


def one_class(run: Run, label: int | None, workdir: Any) -> int | None:
    """The class that the network is given for all examples; that of hidden labels if it is unknown.

    Raises ValueError for a class that the network does not have, and where it needs one.
    """
    if not run.num_classes:
        if label is not None:
            raise ValueError(f"--class given, but {str(workdir)!r} was trained without classes")
        return None
    if label is None:
        if run.null_class is None:
            raise ValueError(f"{str(workdir)!r} was trained with classes: give --class")
        return run.null_class
    if not 0 <= label < run.num_classes:
        raise ValueError(f"--class must be in [0, {run.num_classes}), got {label}")
    return label


def check_sample(run: Run, c: SampleConfig) -> None:
    """Raise ValueError for options of a sampler that do not fit the data of a run."""
    check_times(run, c)
    if c.threshold != "none" and run.source.levels is None:
        raise ValueError(
            f"--threshold {c.threshold} is for data with levels, and those of this run are continuous"
        )


def check_diffusion(run: Run, what: str) -> None:
    """Raise ValueError for a consistency model, whose network gives no score; `what` needs one."""
    if run.model.parametrization.t0 is not None:
        raise ValueError(
            f"{what} needs the score of a diffusion model, and this run is a consistency model "
            f"(parametrization {run.model.parametrization.name!r}): only --sampler consistency is for it"
        )


def check_times(run: Run, c: SampleConfig) -> None:
    """Raise ValueError for a sampler of other models, or one that ends at a time that was not learned."""
    if not samplers.known(c).consistency:
        check_diffusion(run, f"--sampler {c.sampler}")
    elif run.model.parametrization.t0 is None:
        raise ValueError(
            f"--sampler {c.sampler} needs a consistency model, such as one trained by --config "
            f"digits_consistency, and this network returns {run.model.parametrization.name!r}"
        )
    low, t1 = run.config.loss.t0, run.sde.t1
    on_schedule = samplers.grid_name(c, run.sde) == "schedule"
    if not on_schedule and not low <= c.t0 < t1:
        raise ValueError(f"sample.t0 must be in [loss.t0={low}, t1={t1}), got {c.t0!r}")


def draw(
    run: Run,
    params: Params,
    key: PRNGKey,
    num: int,
    c: SampleConfig,
    *,
    y: Any = None,
    cond: Any = None,
    guide: Guide | None = None,
    chunk: int = 256,
    save_every: int | None = None,
    progress: bool | None = None,
    first: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Drawn:
    """Draw `num` samples with the sampler of `c`, `chunk` at a time; y and cond are as for `labels`.

    They are numbered from `first`; without `y`, classes are in turn from the first class. devices:
    those of this host by default; with `jax.devices()` all hosts draw together and get all samples.

    The samples depend on the key and not on the chunk and the devices (unless `c.together`). `params`
    and `guide` may be those of `guiding.make_guide`.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    check_times(run, c)
    sampler = make_sampler(run, c)
    out = sample(
        key,
        run.sde,
        make_score(run, params, c, guide),
        (num, *run.shape),
        sampler=sampler if guide is None else guide.sampler(sampler),
        grid=samplers.make_grid(c, run.sde, run.fitted),
        y=labels(run, num, y, guide, cond),
        chunk=chunk,
        save_every=save_every,
        together=c.together,
        progress=progress,
        first=first,
        devices=devices,
    )
    if not np.isfinite(out.x).all():
        raise FloatingPointError(f"sampler {c.sampler!r} returned values that are not finite")
    return Drawn(out.x, float(out.nfe.mean()), out.seconds, out.compile_seconds, out.trajectory)


def quick(config: SampleConfig) -> SampleConfig:
    """A cheaper sampler for pictures during training: at most 100 steps."""
    return dataclasses.replace(config, steps=min(config.steps, 100))
