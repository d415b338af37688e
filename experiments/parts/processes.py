"""The forward process of a config, and how a network is joined to it: label, loss, score."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config, DiffusionConfig
from experiments.parts.fields import LossConfig, TableLossConfig
from score_jax import discrete, losses, samplers, score, sde
from score_jax.types import SDE, Loss, ScoreFn

OUTPUTS = {output.name: output for output in score.OUTPUTS}
# What of a table's predictions is one of a score's parametrisations.
SCORES = {"noise": score.NOISE, "x0": score.DENOISED, "v": score.V}
PREDICTIONS = {p.name: p for p in discrete.PREDICTIONS}
VARIANCES = {
    "small": discrete.FIXED_SMALL,
    "large": discrete.FIXED_LARGE,
    "learned": discrete.LEARNED,
    "learned_range": discrete.LEARNED_RANGE,
}


@dataclasses.dataclass(frozen=True)
class Process:
    """A forward process and the way a network is joined to it."""

    sde: SDE
    # (apply, train) -> Loss.
    make_loss: Callable[[Any, bool], Loss]
    # (apply, params, kwargs) -> ScoreFn.
    make_score: Callable[[Any, Any, dict[str, Any]], ScoreFn]
    # What draws the indices of a table in training, or None.
    index_sampler: Any = None
    # The beta table, or None.
    diffusion: discrete.Diffusion | None = None
    # (diffusion, apply, params, kwargs, clean) -> the reverse chain; only with a table.
    make_reverse: Callable[..., Any] | None = None
    # log-mass of a level of the data; only with a table.
    decoder: Any = None


def make_process(config: Config, levels: int | None, num_classes: int | None = None) -> Process:
    """Make the process of a config; `levels` are the grey levels of its data.

    `num_classes` are those of a conditional network, without the one for hidden labels.
    """
    hidden = {"label_dropout": config.loss.label_dropout, "null_class": num_classes}
    if isinstance(config.sde, DiffusionConfig):
        return _table(config, levels, hidden)
    return _continuous(config, hidden)


def _make_sde(config: Config) -> SDE:
    c: Any = config.sde
    makers: dict[str, Callable[[], SDE]] = {
        "vp": lambda: sde.VP(c.beta_min, c.beta_max),
        "subvp": lambda: sde.SubVP(c.beta_min, c.beta_max),
        "ve": lambda: sde.VE(c.sigma_min, c.sigma_max),
        "cosine": sde.CosineVP,
        "edm": sde.LinearVE,
    }
    if c.kind == "vp" and c.levels is not None:
        rates = np.linspace(c.beta_min / c.levels, c.beta_max / c.levels, c.levels)
        return sde.from_betas(rates)
    return makers[c.kind]()


def _level_label(config: Config) -> Callable[[Any], Any]:
    """t -> the index that a network trained on a table of levels is told, as the authors do."""
    c: Any = config.sde
    n = c.levels
    labels = {
        # Index i of the betas is t = (i + 1)/n.
        "vp": lambda t: jnp.clip(jnp.round(t * n) - 1, 0, n - 1),
        # Index 0 is the largest sigma, t = 1.
        "ve": lambda t: jnp.round((1 - t) * (n - 1)),
    }
    return labels[c.kind]


def _level_times(config: Config) -> Callable[[Any, int, float, float], Any]:
    """Draw uniformly from the times of a table of levels."""
    c: Any = config.sde
    n = c.levels
    times = {"vp": lambda i: (i + 1) / n, "ve": lambda i: i / (n - 1)}[c.kind]
    return lambda key, b, t0, t1: times(jax.random.randint(key, (b,), 0, n).astype(jnp.float32))


def _continuous(config: Config, hidden: dict[str, Any]) -> Process:
    """Denoising score matching on an SDE."""
    process = _make_sde(config)
    c, loss = config.net, config.loss
    assert isinstance(loss, LossConfig)
    t0 = config.sde.t0
    label = {
        "time": score.label_time,
        "std": lambda: score.label_std(process),
        "index": lambda: _level_label(config),
    }[c.label]()
    output = OUTPUTS[c.output]
    weighting: Any = {
        "noise": losses.noise_weighting,
        "likelihood": losses.likelihood_weighting,
    }[loss.weighting]
    if loss.times == "importance":
        weighting = losses.importance_weighting(process, t0)
    times = {
        "stratified": lambda: losses.stratified_times,
        "uniform": lambda: losses.uniform_times,
        "importance": lambda: losses.log_snr_times(process),
    }[loss.times]()
    options: dict[str, Any] = {
        "weighting": weighting,
        "reduction": {
            "mean": losses.mean_reduction,
            "half_sum": losses.half_sum_reduction,
        }[loss.reduction],
        "times": _level_times(config) if c.label == "index" else times,
        "t0": t0,
        **hidden,
    }
    return Process(
        process,
        lambda apply, train: losses.dsm_loss(
            process, apply, label=label, output=output, train=train, **options
        ),
        lambda apply, params, kwargs: score.score_fn(
            process, apply, params, label=label, output=output, **kwargs
        ),
    )


def _table(config: Config, levels: int | None, hidden: dict[str, Any]) -> Process:
    """Diffusion on a beta table: DDPM and Improved DDPM."""
    c, loss = config.sde, config.loss
    assert isinstance(c, DiffusionConfig) and isinstance(loss, TableLossConfig)
    schedules: dict[str, Callable[[int], discrete.Diffusion]] = {
        "linear": discrete.linear,
        "cosine": discrete.cosine,
    }
    diffusion = schedules[c.schedule](c.steps)
    prediction, variance = PREDICTIONS[c.predicts], VARIANCES[c.variance]
    low, high = config.data.range
    decoder = (
        losses.density_decoder
        if levels is None
        else losses.discretized_gaussian(levels, low=low, high=high)
    )
    bound: dict[str, Any] = {"prediction": prediction, "variance": variance, "decoder": decoder}
    objective = {
        "simple": lambda: losses.simple(prediction=prediction, variance=variance),
        "hybrid": lambda: losses.hybrid(weight=loss.weight, **bound),
        "vlb": lambda: losses.variational(**bound),
    }[loss.objective]()
    top = 1_000.0 if c.rescale_labels else None
    label = discrete.label_index(diffusion, top=top)

    def make_score(apply: Any, params: Any, kwargs: dict[str, Any]) -> ScoreFn:
        if c.predicts not in SCORES:
            raise ValueError(
                f"sde.predicts={c.predicts!r} has no score: only the samplers table_ancestral and "
                "table_ddim work for it"
            )
        output = SCORES[c.predicts]
        return samplers.table_score(diffusion, apply, params, output=output, top=top, **kwargs)

    def make_reverse(
        table: discrete.Diffusion, apply: Any, params: Any, kwargs: dict[str, Any], clean: Any
    ) -> discrete.ReverseFn:
        told = discrete.label_index(table, top=top)
        return discrete.reverse_fn(
            table, apply, params, label=told, prediction=prediction, variance=variance,
            clean=clean, **kwargs,
        )  # fmt: skip

    return Process(
        sde.from_betas(diffusion.betas),
        lambda apply, train: losses.discrete_loss(
            diffusion, apply, objective, label=label, train=train, **hidden
        ),
        make_score,
        {
            "uniform": lambda: None,
            "loss_second_moment": lambda: losses.loss_second_moment(diffusion.n),
        }[loss.indices](),
        diffusion,
        make_reverse,
        decoder,
    )
