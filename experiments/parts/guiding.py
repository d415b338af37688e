"""Guidance of a run by flags: classifier-free, or by the classifier of `train_classifier`."""

import dataclasses
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_jax import checkpoints, guidance
from score_jax.nets.classifier import EncoderUNet, MLPClassifier
from score_jax.parametrization import TimeInput
from score_jax.types import Params, ScoreFn

from ..config import ClassifierConfig
from ..runs import Run

FOLDER = "classifier"
CONFIG_FILE = "config.json"


def make_classifier(run: Run, c: ClassifierConfig) -> nn.Module:
    """The network; ValueError where the data have no classes or do not fit it."""
    classes = run.source.num_classes
    if classes is None:
        raise ValueError("a classifier needs labels, and the data of this run have none")
    if c.net == "mlp":
        return MLPClassifier(num_classes=classes, width=c.width)
    if len(run.shape) not in (2, 3, 4):
        raise ValueError(f"net unet does not take examples of shape {run.shape}: use mlp")
    return EncoderUNet(
        channels=c.width,
        channel_mult=(1, 2),
        num_blocks=1,
        attention_factors=(2,),
        num_head_channels=16,
        groups=min(32, c.width),
        dims=len(run.shape) - 1,
        num_classes=classes,
        pool="adaptive",
    )


def noise_input(run: Run) -> TimeInput:
    """The noise input of the classifier: 0 to 999 for every SDE."""
    return TimeInput(999.0 / run.sde.t1)


def load_classifier(run: Run, workdir: pathlib.Path) -> tuple[nn.Module, Params]:
    """(network, parameters) of the classifier of a run.

    Raises ValueError if there is none, or if its classes are not those of the data of the run.
    """
    folder = workdir / FOLDER
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"workdir {str(workdir)!r} has no classifier: python -m experiments.train_classifier "
            f"--workdir {workdir}"
        )
    saved = json.loads((folder / CONFIG_FILE).read_text())
    classes = saved.pop("num_classes", None)
    if classes != run.source.num_classes:
        raise ValueError(
            f"the classifier in {str(folder)!r} has {classes} classes, but the data of the run have "
            f"{run.source.num_classes}: train it again"
        )
    net = make_classifier(run, ClassifierConfig(**saved))
    x = jnp.zeros((1, *run.shape))
    template = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1))
    with checkpoints.open_checkpoints(folder / "checkpoints", read_only=True) as store:
        found = store.restore_field(template)
    if found is None:
        raise ValueError(f"{str(folder)!r} holds no checkpoint: train the classifier first")
    return net, found.state


@dataclasses.dataclass(frozen=True)
class Guide:
    """How samples are guided: scale (1: the labels alone), interval, and classifier.

    Without a classifier the network itself guides, which must have been trained with hidden labels.
    """

    scale: float
    interval: tuple[float, float] | None = None
    classifier: nn.Module | None = None

    def score(self, run: Run, params: Any, y: Any) -> ScoreFn:
        """The guided score for labels y; params are those of both networks with a classifier."""
        options: dict[str, Any] = {"scale": self.scale, "interval": self.interval}
        if self.classifier is None:
            none = jnp.full_like(y, run.null_class or 0)
            doubled = run.score(params, jnp.concatenate([y, none]))
            return guidance.classifier_free(
                run.score(params, y), run.score(params, none), both=doubled, **options
            )
        own, params = params
        classify = guidance.classifier_fn(
            run.sde, self.classifier.apply, params, noise_input=noise_input(run)
        )
        score = run.score(own, y if run.num_classes else None)
        return guidance.classifier_guidance(run.sde, score, classify, y, **options)


def make_guide(
    run: Run,
    params: Params,
    workdir: pathlib.Path,
    *,
    scale: float,
    interval: tuple[float, float] | None = None,
    by: str = "auto",
) -> tuple[Guide, Any]:
    """(guide, parameters of all networks) of a run: "free", by its "classifier", or what there is.

    Raises ValueError where a run cannot be guided in this way.
    """
    knows_both = run.null_class is not None
    if by == "free" or (by == "auto" and knows_both):
        if not knows_both:
            raise ValueError(
                f"workdir {str(workdir)!r} was not trained with hidden labels (loss.label_dropout), "
                "which guidance without a classifier needs"
            )
        return Guide(scale, interval), params
    net, own = load_classifier(run, workdir)
    return Guide(scale, interval, net), (params, own)
