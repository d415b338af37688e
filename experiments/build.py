"""Names become objects: the SDE, network, data, loss and optimiser of a config."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.configs import Config
from score_jax import data, losses, score, sde, training
from score_jax.nets import MLP, NCSNpp
from score_jax.types import SDE, Loss, ScoreFn


def make_sde(config: Config) -> SDE:
    """Make the forward process."""
    c = config.sde
    makers = {
        "vp": lambda: sde.VP(c.beta_min, c.beta_max),
        "subvp": lambda: sde.SubVP(c.beta_min, c.beta_max),
        "ve": lambda: sde.VE(c.sigma_min, c.sigma_max),
    }
    return makers[c.kind]()


def make_data(config: Config) -> tuple[data.Dataset, data.Dataset]:
    """Load the (train, test) splits."""
    c = config.data
    makers = {
        "digits": lambda: (data.load_digits("train"), data.load_digits("test")),
        "two_moons": lambda: (data.two_moons(c.num_points, seed=0), data.two_moons(2_000, seed=1)),
        "array": lambda: split(data.load_array(str(c.path))),
    }
    train, test = makers[c.name]()
    if config.net.conditional and train.y is None:
        raise ValueError(f"net.conditional needs labels, and data.name={c.name!r} has none")
    return train, test


def split(dataset: data.Dataset) -> tuple[data.Dataset, data.Dataset]:
    """Keep every tenth example of an array file, counted from a fixed shuffle, for testing."""
    n = len(dataset.x)
    if n < 20:
        raise ValueError(f"data.path must hold at least 20 examples, got {n}")
    order = np.random.default_rng(0).permutation(n)
    part = lambda index: dataclasses.replace(
        dataset, x=dataset.x[index], y=None if dataset.y is None else dataset.y[index]
    )
    return part(order[n // 10 :]), part(order[: n // 10])


def make_net(config: Config, train: data.Dataset) -> nn.Module:
    """Make the network for data of this shape."""
    c = config.net
    num_classes = int(train.y.max()) + 1 if c.conditional and train.y is not None else None
    if c.kind == "ncsnpp" and train.x.ndim != 4:
        raise ValueError(f"net.kind='ncsnpp' needs images (n, h, w, c), got shape {train.x.shape}")
    makers = {
        "ncsnpp": lambda: NCSNpp(
            channels=c.width,
            channel_mult=c.channel_mult,
            num_blocks=c.num_blocks,
            attention=c.attention,
            dropout=c.dropout,
            embedding=c.embedding,
            scale_by_sigma=c.output == "score",
            num_classes=num_classes,
        ),
        "mlp": lambda: MLP(width=c.width, num_blocks=c.num_blocks, num_classes=num_classes),
    }
    return makers[c.kind]()


class Experiment(NamedTuple):
    """All parts of a run, built from its config."""

    config: Config
    sde: SDE
    net: nn.Module
    train: data.Dataset
    test: data.Dataset
    label: Any
    output: score.Output
    loss: Loss
    test_loss: Loss
    optimizer: optax.GradientTransformation
    prepare: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.x.shape[1:]

    @property
    def num_classes(self) -> int | None:
        """How many classes the network is conditioned on, or None."""
        return self.net.num_classes  # type: ignore[attr-defined]

    def init_params(self, key: Any) -> Any:
        """Draw the parameters of the network."""
        y = jnp.zeros((1,), jnp.int32) if self.num_classes else None
        x = jnp.zeros((1, *self.shape))
        return jax.jit(self.net.init)(key, x, jnp.ones((1,)), y)

    def score_fn(self, params: Any, y: Any = None) -> ScoreFn:
        """Make the score of a set of parameters, with class labels closed over."""
        kwargs = {} if y is None else {"y": y}
        return score.score_fn(
            self.sde, self.net.apply, params, label=self.label, output=self.output, **kwargs
        )

    def to_data(self, x: Any) -> np.ndarray:
        """Take samples back to the data's own units: grey levels, or the numbers themselves."""
        if self.train.levels is None:
            return np.asarray(x)
        return np.asarray(
            data.quantize(jnp.asarray(x), levels=self.train.levels, range=self.config.data.range)
        )

    def from_data(self, key: Any, x: Any) -> Any:
        """Take data to what the network sees: dequantised and scaled where there are levels."""
        return prepare_x(key, jnp.asarray(x), self.train.levels, self.config.data.range)


def prepare_x(key: Any, x: Any, levels: int | None, interval: tuple[float, float]) -> Any:
    """Dequantise and scale integers; leave floating-point data as they are."""
    if levels is None:
        return x
    return data.dequantize(key, x, levels=levels, range=interval)


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
    process = make_sde(config)
    train, test = make_data(config)
    net = make_net(config, train)
    c = config.net
    label = {"time": score.label_time, "std": lambda: score.label_std(process)}[c.label]()
    output = {"noise": score.NOISE, "score": score.SCORE}[c.output]
    weighting = {
        "noise": losses.noise_weighting,
        "likelihood": losses.likelihood_weighting,
    }[config.loss.weighting]
    reduction = {
        "mean": losses.mean_reduction,
        "half_sum": losses.half_sum_reduction,
    }[config.loss.reduction]
    times = {
        "stratified": losses.stratified_times,
        "uniform": losses.uniform_times,
    }[config.loss.times]

    def loss(is_train: bool) -> Loss:
        return losses.dsm_loss(
            process,
            net.apply,
            label=label,
            output=output,
            weighting=weighting,
            reduction=reduction,
            times=times,
            t0=config.sde.t0,
            train=is_train,
        )

    def prepare(key: Any, batch: Any) -> Any:
        noise_key, flip_key = jax.random.split(key)
        x = prepare_x(noise_key, batch["x"], train.levels, config.data.range)
        if config.data.flip:
            x = data.random_flip(flip_key, x)
        return {"x": x} | ({"y": batch["y"]} if c.conditional else {})

    return Experiment(
        config, process, net, train, test, label, output,
        loss(True), loss(False), make_optimizer(config), prepare,
    )  # fmt: skip
