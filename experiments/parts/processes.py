"""The forward process of a config, and how a network is joined to it: `Model`, loss, score."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.config import Config, DiffusionConfig
from experiments.parts.fields import LossConfig, TableLossConfig
from score_jax import discrete, losses, parametrization, sde
from score_jax.model import Model
from score_jax.parametrization import NoiseInput
from score_jax.types import SDE, Loss, ScoreFn

PARAMETRIZATIONS = {p.name: p for p in parametrization.PARAMETRIZATIONS}
PARAMETRIZATIONS["x0"] = parametrization.DENOISED
PREDICTIONS = {p.name: p for p in discrete.PREDICTIONS}
TABLE_VARIANCES = {
    "small": discrete.FIXED_SMALL,
    "large": discrete.FIXED_LARGE,
    "learned": discrete.LEARNED,
    "learned_range": discrete.LEARNED_RANGE,
}
VARIANCES = {v.name: v for v in parametrization.VARIANCES}


@dataclasses.dataclass(frozen=True)
class Process:
    """A forward process and the way a network is joined to it."""

    sde: SDE
    # apply -> Model.
    make_model: Callable[[Any], Model]
    # (apply, train) -> Loss.
    make_loss: Callable[[Any, bool], Loss]
    # (apply, params, kwargs) -> ScoreFn.
    make_score: Callable[[Any, Any, dict[str, Any]], ScoreFn]
    # What draws the indices of a noise schedule in training, or None.
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


def _noise_input(config: Config) -> NoiseInput:
    """The noise input of the network, t, sigma(t), or the index of a noise level."""
    c: Any = config.sde
    if config.net.label == "time":
        return parametrization.TimeInput()
    if config.net.label == "std":
        return parametrization.StdInput()
    if c.kind == "vp":
        return parametrization.IndexInput(rounded=True)
    return parametrization.LevelInput(c.levels)


def _times(config: Config, process: SDE) -> losses.Times:
    """The rule for the times of a batch."""
    loss: Any = config.loss
    c: Any = config.sde
    if config.net.label == "index" and c.kind == "vp":
        return losses.timesteps(process.times)  # type: ignore[attr-defined]
    if config.net.label == "index":
        return losses.timesteps(np.arange(c.levels) / (c.levels - 1))
    if loss.times == "importance":
        return losses.log_snr_times(process)
    return losses.uniform_times


def _continuous(config: Config, hidden: dict[str, Any]) -> Process:
    """Denoising score matching on an SDE."""
    process, loss, t0 = _make_sde(config), config.loss, config.sde.t0
    assert isinstance(loss, LossConfig)
    weighting: Any = {
        "noise": losses.noise_weighting,
        "likelihood": losses.likelihood_weighting,
    }[loss.weighting]
    if loss.times == "importance":
        weighting = losses.importance_weighting(process, t0)
    reduction: Any = {
        "mean": losses.mean_reduction,
        "half_sum": losses.half_sum_reduction,
    }[loss.reduction]
    stratified = loss.times != "uniform" and config.net.label != "index"

    def make_model(apply: Any) -> Model:
        kind = PARAMETRIZATIONS[config.net.output]
        return Model(process, apply, _noise_input(config), kind)

    def make_loss(apply: Any, train: bool) -> Loss:
        objective = losses.dsm(weighting=weighting, reduction=reduction)
        times = _times(config, process)
        return make_model(apply).loss(
            objective, times=times, stratified=stratified, t0=t0, train=train, **hidden
        )

    return Process(
        process,
        make_model,
        make_loss,
        lambda apply, params, kwargs: make_model(apply).score(params, **kwargs),
    )


def _table(config: Config, levels: int | None, hidden: dict[str, Any]) -> Process:
    """Diffusion on a noise schedule: DDPM and Improved DDPM."""
    c, loss = config.sde, config.loss
    assert isinstance(c, DiffusionConfig) and isinstance(loss, TableLossConfig)
    schedule: Any = {"linear": sde.LinearBetas, "cosine": sde.CosineBetas}[c.schedule](c.steps)
    diffusion = {"linear": discrete.linear, "cosine": discrete.cosine}[c.schedule](c.steps)
    low, high = config.data.range
    decoder = (
        losses.density_decoder
        if levels is None
        else losses.discretized_gaussian(levels, low=low, high=high)
    )
    objective = {
        "simple": lambda: losses.simple(),
        "hybrid": lambda: losses.hybrid(weight=loss.weight, decoder=decoder),
        "vlb": lambda: losses.variational(decoder=decoder),
    }[loss.objective]()
    top = 1_000.0 if c.rescale_labels else None

    def make_model(apply: Any) -> Model:
        kind, variance = PARAMETRIZATIONS[c.predicts], VARIANCES[c.variance]
        return Model(schedule, apply, parametrization.IndexInput(top), kind, variance)

    def make_reverse(
        table: discrete.Diffusion, apply: Any, params: Any, kwargs: dict[str, Any], clean: Any
    ) -> discrete.ReverseFn:
        return discrete.reverse_fn(
            table, apply, params, label=discrete.label_index(table, top=top),
            prediction=PREDICTIONS[c.predicts], variance=TABLE_VARIANCES[c.variance],
            clean=clean, **kwargs,
        )  # fmt: skip

    return Process(
        schedule,
        make_model,
        lambda apply, train: make_model(apply).loss(
            objective, stratified=False, train=train, **hidden
        ),
        lambda apply, params, kwargs: make_model(apply).score(params, **kwargs),
        losses.loss_second_moment(c.steps) if loss.indices == "loss_second_moment" else None,
        diffusion,
        make_reverse,
        decoder,
    )
