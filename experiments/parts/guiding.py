"""Guidance of a run by flags: without a classifier, or by the one that `train_classifier` trained."""

import dataclasses
import json
import pathlib
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.parts.fields import check
from experiments.runs import Experiment
from score_jax import checkpoints, guidance
from score_jax.nets.classifier import EncoderUNet, MLPClassifier
from score_jax.score import label_time

FOLDER = "classifier"
CONFIG_FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """A classifier of noisy data and how it is trained."""

    # A residual MLP for data of any shape, or guided-diffusion's, the way down of a U-Net, for images.
    net: Literal["mlp", "unet"] = "unet"
    # Channels of the finest level, or width of the hidden layers.
    width: int = 32
    # Parameter updates in all, examples of one, learning rate after a warm-up.
    steps: int = 1_500
    batch_size: int = 64
    lr: float = 1e-3
    # Seed of the parameters, the noise and the order of the data.
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "steps", "batch_size"):
            check("classifier", getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check("classifier", self.lr > 0, "lr", self.lr, "> 0")


def make_classifier(exp: Experiment, c: ClassifierConfig) -> nn.Module:
    """The network; ValueError where the data have no classes or do not fit it."""
    classes = exp.form.num_classes
    if classes is None:
        raise ValueError("a classifier needs labels, and the data of this run have none")
    if c.net == "mlp":
        return MLPClassifier(num_classes=classes, width=c.width)
    if len(exp.shape) not in (2, 3, 4):
        raise ValueError(f"net unet does not take examples of shape {exp.shape}: use mlp")
    return EncoderUNet(
        channels=c.width,
        channel_mult=(1, 2),
        num_blocks=1,
        attention_factors=(2,),
        num_head_channels=16,
        groups=min(32, c.width),
        dims=len(exp.shape) - 1,
        num_classes=classes,
        pool="adaptive",
    )


def tell(exp: Experiment) -> Any:
    """What the classifier is told of the time: 0 to 999 whatever the SDE."""
    return label_time(999.0 / exp.sde.t1)


def classifier_folder(workdir: pathlib.Path) -> pathlib.Path:
    """Where the classifier of a run lies."""
    return workdir / FOLDER


def load_classifier(exp: Experiment, workdir: pathlib.Path) -> tuple[nn.Module, Any]:
    """(network, parameters) of the classifier of a run.

    Raises ValueError if there is none, or it knows other classes than the data of the run.
    """
    folder = classifier_folder(workdir)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"workdir {str(workdir)!r} has no classifier: python -m experiments.train_classifier "
            f"--workdir {workdir}"
        )
    saved = json.loads((folder / CONFIG_FILE).read_text())
    classes = saved.pop("num_classes", None)
    if classes != exp.form.num_classes:
        raise ValueError(
            f"the classifier in {str(folder)!r} knows {classes} classes, but the data of the run have "
            f"{exp.form.num_classes}: train it again"
        )
    net = make_classifier(exp, ClassifierConfig(**saved))
    x = jnp.zeros((1, *exp.shape))
    template = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1))
    with checkpoints.open_checkpoints(folder / "checkpoints", read_only=True) as store:
        params = store.restore_params(template)
    if params is None:
        raise ValueError(f"{str(folder)!r} holds no checkpoint: train the classifier first")
    return net, params


@dataclasses.dataclass(frozen=True)
class Guide:
    """How samples are guided: scale (1: not more than the labels), when, and by which classifier.

    Without a classifier the network itself guides, which must have been trained with hidden labels.
    """

    scale: float
    interval: tuple[float, float] | None = None
    classifier: nn.Module | None = None

    def score(self, exp: Experiment, params: Any, y: Any) -> Any:
        """The guided score for labels y; params are those of both networks with a classifier."""
        if self.classifier is None:
            maker = lambda y: exp.score_fn(params, y)
            return guidance.classifier_free_doubled(
                maker, y, exp.null_class, scale=self.scale, interval=self.interval
            )
        own, params = params
        given = y if exp.num_classes else None
        classify = guidance.classifier_fn(
            exp.sde, self.classifier.apply, params, noise_input=lambda sde, t: tell(exp)(t)
        )
        return guidance.classifier_guidance(
            exp.sde, exp.score_fn(own, given), classify, y, scale=self.scale, interval=self.interval
        )

    def apply(self, exp: Experiment) -> Any:
        """The network's apply for the chains of a table, guided inside if it guides itself."""
        if self.classifier is not None:
            return exp.net.apply
        if self.interval is not None:
            raise ValueError(
                "a guidance interval needs a sampler in continuous time, not a table's"
            )
        return guidance.classifier_free_apply(exp.net.apply, exp.null_class or 0, scale=self.scale)

    def reverse(self, exp: Experiment, table: Any, reverse: Any, params: Any, y: Any) -> Any:
        """A table's reverse chain, guided by the classifier if there is one."""
        if self.classifier is None:
            return reverse
        classify = guidance.classifier_fn(
            exp.sde, self.classifier.apply, params, noise_input=lambda sde, t: tell(exp)(t)
        )
        times = jnp.asarray((table.index_map + 1.0) / table.n_original, jnp.float32)
        logp = guidance.class_logp(lambda x, i: classify(x, times[i]), y)
        gradient = guidance.gradient_of(logp, self.scale)
        return guidance.guided_noise(table, reverse, gradient)


def make_guide(
    exp: Experiment,
    params: Any,
    workdir: pathlib.Path,
    *,
    scale: float,
    interval: tuple[float, float] | None = None,
    by: str = "auto",
) -> tuple[Guide, Any]:
    """(guide, parameters of all networks) of a run: "free", by its "classifier", or what there is.

    Raises ValueError where a run cannot be guided so.
    """
    knows_both = exp.null_class is not None
    if by == "free" or (by == "auto" and knows_both):
        if not knows_both:
            raise ValueError(
                f"workdir {str(workdir)!r} was not trained with hidden labels (loss.label_dropout), "
                "which guidance without a classifier needs"
            )
        return Guide(scale, interval), params
    net, own = load_classifier(exp, workdir)
    return Guide(scale, interval, net), (params, own)
