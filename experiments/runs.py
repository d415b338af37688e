"""Build a run from its config, load one from its folder, write one."""

import dataclasses
import functools
import pathlib
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config, differences, from_json, to_json
from experiments.parts import datasets
from experiments.parts.networks import make_net
from experiments.parts.processes import Process, make_process
from score_jax import checkpoints, data, training
from score_jax._files import replacing, write_json, write_text
from score_jax.draws import draw_of
from score_jax.nets.layers import KEPT
from score_jax.types import SDE, Loss, ScoreFn

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "averages"
METRICS = "metrics.jsonl"


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
        remat = self.config.train.remat
        net: Any = self.net if remat == "none" else self.net.clone(remat=True)
        loss = self.process.make_loss(net.apply, True)
        if remat != "full":
            return loss
        # Of the whole network only what the blocks return is kept, not what is joined from it.
        return jax.checkpoint(loss, policy=jax.checkpoint_policies.save_only_these_names(KEPT))

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
        draw = draw_of(key, batch)
        c = self.config.data
        if self.levels is None or not c.dequantize:
            x = self.on_levels(batch["x"])
        else:
            x = draw.fold(0).each(self.from_data, batch["x"])
        if c.flip:
            flip = lambda key, x: data.random_flip(key, x[None])[0]
            x = draw.fold(1).each(flip, x)
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
    }[c.schedule]()


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """The rule of the config with warm-up and clipping."""
    c = config.optim
    return training.make_optimizer(
        learning_rate=make_schedule(config),
        warmup=c.warmup,
        grad_clip=c.grad_clip,
        b1=c.beta1,
        b2=c.beta2,
        eps=c.eps,
        weight_decay=c.weight_decay,
        rule=optax.scale_by_lion(c.beta1, c.beta2) if c.rule == "lion" else None,
    )


def make_averages(config: Config) -> dict[str, training.Decay]:
    """The averages beside the first: "0.9999" for a decay, "power_0.05" for a relative width."""
    decays = {f"{d:g}": training.exponential(d) for d in config.optim.averages}
    return decays | {f"power_{w:g}": training.power(w) for w in config.optim.power_averages}


def make_step(exp: Experiment, axis_name: str | None = None) -> training.TrainStep:
    """The training step of a run: for one device or global arrays, or mapped over an axis."""
    return training.make_train_step(
        exp.loss,
        exp.optimizer,
        ema_decay=exp.config.optim.ema_decay,
        prepare=exp.prepare,
        axis_name=axis_name,
        index_sampler=exp.process.index_sampler,
        averages=make_averages(exp.config),
        accumulate=exp.config.train.accumulate,
    )


def make_state(exp: Experiment, key: Any, params: Any) -> training.TrainState:
    """The state of a run before its first step, from parameters that are given."""
    return training.init_state(
        key,
        params,
        exp.optimizer,
        index_sampler=exp.process.index_sampler,
        averages=tuple(make_averages(exp.config)),
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


def initial_state(exp: Experiment, key: Any = None) -> training.TrainState:
    """Draw the parameters and make the state of step 0; everything follows from config.seed."""
    key = jax.random.key(exp.config.seed) if key is None else key
    params_key, state_key = jax.random.split(key)
    return make_state(exp, state_key, exp.init_params(params_key))


def save_config(workdir: pathlib.Path, config: Config, *, allow_changes: bool = False) -> None:
    """Write config.json; ValueError with the differences if the folder holds another run's.

    With `allow_changes` the differences are printed, and the new config takes the place of the old.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        changed = differences(load_config(workdir), config)
        if changed and not allow_changes:
            raise ValueError(
                f"workdir {str(workdir)!r} holds a run with another config "
                f"({'; '.join(changed)}): choose another --workdir or the same fields, or go on "
                "with the change by --allow-changes"
            )
        for line in changed:
            print(f"changed: {line}", file=sys.stderr)
    elif workdir.exists() and not workdir.is_dir():
        raise ValueError(f"workdir {str(workdir)!r} is a file, not a folder")
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(config))


def check_new(name: str, folder: pathlib.Path) -> None:
    """Raise ValueError naming the argument if there is more than an empty folder at its path."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{name} {str(folder)!r} exists already: choose another")


def load_config(workdir: pathlib.Path) -> Config:
    """Read the config of a run folder; ValueError that names the folder if there is none."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"workdir {str(workdir)!r} holds no run ({CONFIG_FILE} is missing)")
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load(workdir: pathlib.Path) -> tuple[Experiment, Any, int]:
    """Read a run folder: (experiment, EMA parameters, step); it needs nothing but that folder."""
    exp = build(load_config(workdir))
    template = jax.eval_shape(exp.init_params, jax.random.key(0))
    with checkpoints.open_checkpoints(workdir / CHECKPOINTS, read_only=True) as store:
        params, step = store.restore_params(template), store.latest_step()
    if params is None:
        raise ValueError(f"workdir {str(workdir)!r} holds no checkpoint: train it first")
    return exp, params, int(step or 0)


def write(
    workdir: pathlib.Path, exp: Experiment, params: Any, step: int, notes: dict[str, Any]
) -> None:
    """Write the folder of a run whose weights are given, whole or not at all.

    `notes`: JSON values by the names of the files that they go to.
    """
    state = make_state(exp, jax.random.key(exp.config.seed), params)
    with replacing(workdir) as part:
        save_config(part, exp.config)
        for name, value in notes.items():
            write_json(part / name, value)
        with checkpoints.open_checkpoints(part / CHECKPOINTS, keep=1) as store:
            store.save(step, state, extra=dataclasses.asdict(exp.config))
