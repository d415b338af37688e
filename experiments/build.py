"""Names become objects: the SDE, network, data, loss and optimiser of a config."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments.configs import Config
from experiments.networks import make_net
from score_jax import data, losses, score, sde, training
from score_jax.types import SDE, Loss, ScoreFn

OUTPUTS = {output.name: output for output in score.OUTPUTS}


@dataclasses.dataclass(frozen=True)
class Process:
    """A forward process and the way a network is joined to it."""

    sde: SDE
    # t -> what the network is told.
    label: Callable[[Any], Any]
    # (apply, train) -> Loss.
    make_loss: Callable[[Any, bool], Loss]
    # (apply, params, kwargs) -> ScoreFn.
    make_score: Callable[[Any, Any, dict[str, Any]], ScoreFn]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All parts of a run, built from its config; the data are loaded when first asked for."""

    config: Config
    form: datasets.Form
    process: Process
    net: nn.Module
    optimizer: optax.GradientTransformation

    @property
    def sde(self) -> SDE:
        """The forward process."""
        return self.process.sde

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.form.shape

    @property
    def levels(self) -> int | None:
        """Grey levels of the data, or None where they are continuous."""
        return self.form.levels

    @property
    def num_classes(self) -> int | None:
        """How many classes the network is conditioned on, or None."""
        return self.form.num_classes if self.config.net.conditional else None

    @functools.cached_property
    def _splits(self) -> tuple[data.Dataset, data.Dataset]:
        return datasets.load(self.config)

    @property
    def train(self) -> data.Dataset:
        """What is learned."""
        return self._splits[0]

    @property
    def test(self) -> data.Dataset:
        """What is kept for judging."""
        return self._splits[1]

    @functools.cached_property
    def loss(self) -> Loss:
        """The loss in training, with dropout."""
        return self.process.make_loss(self.net.apply, True)

    @functools.cached_property
    def test_loss(self) -> Loss:
        """The loss on held-out data."""
        return self.process.make_loss(self.net.apply, False)

    def init_params(self, key: Any) -> Any:
        """Draw the parameters of the network."""
        y = jnp.zeros((1,), jnp.int32) if self.num_classes else None
        x = jnp.zeros((1, *self.shape))
        return jax.jit(self.net.init)(key, x, jnp.ones((1,)), y)

    def score_fn(self, params: Any, y: Any = None) -> ScoreFn:
        """Make the score of a set of parameters, with class labels closed over."""
        return self.process.make_score(self.net.apply, params, {} if y is None else {"y": y})

    def prepare(self, key: Any, batch: Any) -> Any:
        """Take a raw batch to what the loss sees."""
        noise_key, flip_key = jax.random.split(key)
        c = self.config.data
        if c.dequantize or self.levels is None:
            x = self.from_data(noise_key, batch["x"])
        else:
            x = data.scale(jnp.asarray(batch["x"], jnp.float32) / (self.levels - 1), c.range)
        if c.flip:
            x = data.random_flip(flip_key, x)
        return {"x": x} | ({"y": batch["y"]} if self.config.net.conditional else {})

    def to_data(self, x: Any) -> np.ndarray:
        """Take samples back to the data's own units: grey levels, or the numbers themselves."""
        if self.levels is None:
            return np.asarray(x)
        c = self.config.data
        if c.dequantize:
            return np.asarray(data.quantize(jnp.asarray(x), levels=self.levels, range=c.range))
        # The nearest level: without dequantisation the levels are points, not cells.
        top = self.levels - 1
        return np.clip(np.rint(np.asarray(data.unscale(x, c.range)) * top), 0, top).astype(np.uint8)

    def from_data(self, key: Any, x: Any) -> Any:
        """Take data to densities: dequantised and scaled where there are levels."""
        x = jnp.asarray(x)
        if self.levels is None:
            return x
        return data.dequantize(key, x, levels=self.levels, range=self.config.data.range)


def make_sde(config: Config) -> SDE:
    """Make the forward SDE."""
    c: Any = config.sde
    makers = {
        "vp": lambda: sde.VP(c.beta_min, c.beta_max),
        "subvp": lambda: sde.SubVP(c.beta_min, c.beta_max),
        "ve": lambda: sde.VE(c.sigma_min, c.sigma_max),
    }
    return makers[c.kind]()


def continuous(config: Config) -> Process:
    """Denoising score matching on an SDE."""
    process = make_sde(config)
    c = config.net
    label = {"time": score.label_time, "std": lambda: score.label_std(process)}[c.label]()
    output = OUTPUTS[c.output]
    options: dict[str, Any] = {
        "weighting": {
            "noise": losses.noise_weighting,
            "likelihood": losses.likelihood_weighting,
        }[config.loss.weighting],
        "reduction": {
            "mean": losses.mean_reduction,
            "half_sum": losses.half_sum_reduction,
        }[config.loss.reduction],
        "times": {
            "stratified": losses.stratified_times,
            "uniform": losses.uniform_times,
        }[config.loss.times],
        "t0": config.sde.t0,
    }
    return Process(
        process,
        label,
        lambda apply, train: losses.dsm_loss(
            process, apply, label=label, output=output, train=train, **options
        ),
        lambda apply, params, kwargs: score.score_fn(
            process, apply, params, label=label, output=output, **kwargs
        ),
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam with warm-up and clipping."""
    c = config.optim
    rate = {
        "constant": lambda: c.lr,
        "cosine": lambda: optax.cosine_decay_schedule(c.lr, config.train.steps),
    }[c.schedule]()
    return training.make_optimizer(
        learning_rate=rate,
        warmup=c.warmup,
        grad_clip=c.grad_clip,
        b1=c.beta1,
        b2=c.beta2,
        eps=c.eps,
    )


def build(config: Config) -> Experiment:
    """Build every part of a run; ValueError where the config does not fit the data."""
    form = datasets.form(config)
    num_classes = form.num_classes if config.net.conditional else None
    net = make_net(config, form.shape, num_classes)
    return Experiment(config, form, continuous(config), net, make_optimizer(config))
