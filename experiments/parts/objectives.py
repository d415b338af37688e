"""What the config of a run trains: the loss, the learning rate, the optimiser and the averages."""

from typing import Any

import jax
import numpy as np
import optax

from score_jax import losses, training
from score_jax.model import Model
from score_jax.nets import EDM2, unit_directions
from score_jax.parametrization import SIGMA_DATA, LevelInput
from score_jax.types import Loss, Params, PRNGKey

from ..run_config import Config

LEVELS = 8  # of noise, by which training logs the loss


def make_loss(
    config: Config,
    model: Model,
    *,
    decoder: losses.Decoder,
    teacher: losses.Teacher | None,
    null_class: int | None,
    train: bool,
) -> Loss:
    """The loss of a config on a model."""
    c, sde = config.loss, model.sde
    weightings = {
        "noise": losses.noise_weighting, "likelihood": losses.likelihood_weighting,
        "edm": losses.edm_weighting(model.parametrization.sigma_data or SIGMA_DATA),
        "velocity": losses.velocity_weighting,
        "min_snr": losses.min_snr_weighting(c.gamma or 5.0),
        "p2": losses.p2_weighting(c.gamma or 1.0), "sigmoid": losses.sigmoid_weighting(c.bias),
    }  # fmt: skip
    reductions = {
        "mean": losses.mean_reduction, "half_sum": losses.half_sum_reduction,
        "pseudo_huber": losses.pseudo_huber_reduction(),
    }  # fmt: skip
    reduction: losses.Reduction = reductions[c.reduction]
    weighting: losses.Weighting = weightings[c.weighting]
    times = None
    if c.times == "importance":
        weighting, times = losses.importance_weighting(sde, c.t0), losses.log_snr_times(sde)
    if c.times == "log_normal":
        times = losses.log_normal_times(sde, c.log_sigma_mean, c.log_sigma_std)
    if c.times == "logit_normal":
        times = losses.logit_normal_times(c.logit_mean, c.logit_std)
    if c.shift != 1:
        times = losses.shifted_times(c.shift, losses.uniform_times if times is None else times)
    if isinstance(model.noise_input, LevelInput):
        n = model.noise_input.n
        times = losses.timesteps(np.arange(n) / (n - 1))
    objectives = {
        "dsm": lambda: losses.dsm(weighting=weighting, reduction=reduction),
        "simple": losses.simple,
        "hybrid": lambda: losses.hybrid(weight=c.weight, decoder=decoder),
        "variational": lambda: losses.variational(decoder=decoder),
        "consistency": lambda: losses.consistency_matching(
            intervals=losses.doubling_intervals(*c.intervals, steps=config.train.steps),
            teacher=teacher,
            reduction=reduction,
        ),
    }
    return model.loss(
        objectives[c.objective](),
        times=times,
        stratified=c.times != "uniform",
        t0=c.t0,
        label_dropout=c.label_dropout,
        null_class=null_class,
        train=train,
        noise_levels=LEVELS,
        uncertainty=losses.Uncertainty() if c.uncertainty else None,
    )


def with_precision(loss: Loss, precision: str) -> Loss:
    """The loss, and so its gradient, with this precision of the products of float32."""
    if precision == "default":
        return loss

    def precise(params: Params, key: PRNGKey, batch: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return loss(params, key, batch)

    return precise


def make_schedule(config: Config) -> Any:
    """The learning rate after the warm-up: a number, or a schedule of optax over the whole run."""
    c, n = config.optim, config.train.steps
    low = c.lr * c.final_lr
    return {
        "constant": lambda: c.lr,
        "cosine": lambda: optax.cosine_decay_schedule(c.lr, n, c.final_lr),
        "linear": lambda: optax.linear_schedule(c.lr, low, n),
        "exponential": lambda: optax.exponential_decay(c.lr, n, c.final_lr),
        "polynomial": lambda: optax.polynomial_schedule(c.lr, low, 2, n),
        "one_cycle": lambda: optax.cosine_onecycle_schedule(n, c.lr),
        "inverse_sqrt": lambda: training.inverse_sqrt(c.lr, c.decay_after),
    }[c.schedule]()


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """The rule of the config with warm-up and clipping, and the projection that the network needs."""
    c = config.optim
    made = training.make_optimizer(
        learning_rate=make_schedule(config),
        warmup=c.warmup,
        grad_clip=c.grad_clip,
        b1=c.beta1,
        b2=c.beta2,
        eps=c.eps,
        weight_decay=c.weight_decay,
        rule=optax.scale_by_lion(c.beta1, c.beta2) if c.rule == "lion" else None,
    )
    return training.projected(made, unit_directions) if isinstance(config.net, EDM2) else made


def make_averages(config: Config) -> dict[str, training.Decay]:
    """The further averages: "0.9999" for a decay, "power_0.05" for a relative width."""
    decays = {f"{d:g}": training.exponential(d) for d in config.optim.averages}
    return decays | {f"power_{w:g}": training.power(w) for w in config.optim.power_averages}
