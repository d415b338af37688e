"""Names become objects: the SDE, network, data, loss and optimiser of a config."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments.configs import Config
from experiments.networks import make_net
from experiments.processes import Process, make_process
from score_jax import data, training
from score_jax.types import SDE, Loss, ScoreFn


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

    @property
    def null_class(self) -> int | None:
        """The class that stands for no label, of a network trained with hidden labels, or None."""
        return self.num_classes if self.config.loss.label_dropout else None

    def init_params(self, key: Any) -> Any:
        """Draw the parameters of the network."""
        y = jnp.zeros((1,), jnp.int32) if self.num_classes else None
        x = jnp.zeros((1, *self.shape))
        small = {"low_res": self._reduced(x)} if self.reduces else {}
        return jax.jit(self.net.init)(key, x, jnp.ones((1,)), y, **small)

    def score_fn(self, params: Any, y: Any = None) -> ScoreFn:
        """Make the score of a set of parameters, with class labels closed over."""
        if self.reduces:
            raise ValueError(
                "a network of super-resolution needs the small images: use score_jax.score.score_fn "
                "or score_jax.discrete.reverse_fn with low_res=..."
            )
        return self.process.make_score(self.net.apply, params, {} if y is None else {"y": y})

    def prepare(self, key: Any, batch: Any) -> Any:
        """Take a raw batch to what the loss sees."""
        noise_key, flip_key = jax.random.split(key)
        c = self.config.data
        if c.dequantize or self.levels is None:
            x = self.from_data(noise_key, batch["x"])
        else:
            x = self.on_levels(batch["x"])
        if c.flip:
            x = data.random_flip(flip_key, x)
        ready = {"x": x} | ({"y": batch["y"]} if self.config.net.conditional else {})
        return ready | ({"low_res": self._reduced(x)} if self.reduces else {})

    def on_levels(self, x: Any) -> Any:
        """Take data to points of the range, one a level, without dequantisation."""
        if self.levels is None:
            return jnp.asarray(x)
        unit = jnp.asarray(x, jnp.float32) / (self.levels - 1)
        return data.scale(unit, self.config.data.range)

    @property
    def reduces(self) -> int | None:
        """By how much images are reduced for a network of super-resolution, or None."""
        return getattr(self.config.net, "super_resolution", None)

    def _reduced(self, x: Any) -> Any:
        """The images (b, h, w, c) that such a network sees: means of blocks."""
        n = self.reduces or 1
        b, h, w, c = x.shape
        return x.reshape(b, h // n, n, w // n, n, c).mean(axis=(2, 4))

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
    process = make_process(config, form.levels, num_classes)
    if num_classes is not None and config.loss.label_dropout:
        num_classes += 1  # the class of hidden labels
    net = make_net(config, form.shape, num_classes)
    return Experiment(config, form, process, net, make_optimizer(config))
