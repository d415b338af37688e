"""Guidance of a run by flags: by hidden labels, a classifier of `train_classifier`, or a worse run."""

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
from score_jax.samplers.sampling import Stepwise
from score_jax.types import Params, Sampler, ScoreFn

from ..config import ClassifierConfig, GuidanceConfig
from ..runs import Run, load

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
    """How samples are guided, and by what: a classifier, a worse model, or the network without labels.

    With a classifier or a worse model the parameters are a pair, of the network and of the other.
    """

    config: GuidanceConfig
    classifier: nn.Module | None = None
    worse: Run | None = None

    def classes(self, run: Run) -> int | None:
        """How many classes samples may be guided towards, or None."""
        return run.num_classes if self.worse is not None else run.source.num_classes

    def score(self, run: Run, params: Any, y: Any) -> ScoreFn:
        """The guided score for labels y, or None."""
        c = self.config
        options: dict[str, Any] = {"scale": c.guidance, "interval": c.guidance_interval}
        if self.classifier is not None:
            own, params = params
            classify = guidance.classifier_fn(
                run.sde, self.classifier.apply, params, noise_input=noise_input(run)
            )
            score = run.score(own, y if run.num_classes else None)
            return guidance.classifier_guidance(run.sde, score, classify, y, **options)
        if self.worse is not None:
            own, params = params
            labels = y if self.worse.num_classes else None
            pair = run.score(own, y), self.worse.score(params, labels)
        else:
            none = jnp.full_like(y, run.null_class or 0)
            options["both"] = run.score(params, jnp.concatenate([y, none]))
            pair = run.score(params, y), run.score(params, none)
        if c.guidance_rescale is not None:
            return guidance.rescaled(run.sde, *pair, share=c.guidance_rescale, **options)
        if c.guidance_parallel is not None:
            return guidance.projected(
                run.sde, *pair, parallel=c.guidance_parallel, limit=c.guidance_limit, **options
            )
        return guidance.classifier_free(*pair, **options)

    def sampler(self, sampler: Sampler) -> Sampler:
        """The sampler with the momentum of the guidance, if it has one.

        Raises ValueError for a sampler without fixed steps.
        """
        momentum = self.config.guidance_momentum
        if momentum is None:
            return sampler
        if not isinstance(sampler, Stepwise):
            raise ValueError("--guidance-momentum needs a sampler with fixed steps")
        make = guidance.reverse_momentum(sampler.make, momentum=momentum)
        return dataclasses.replace(sampler, make=make)


def load_worse(run: Run, workdir: pathlib.Path, step: int | None) -> tuple[Run, Params]:
    """(run, parameters) of a worse model, at a step or the newest.

    Raises ValueError unless its data have the same shape and range, and its process is the same.
    """
    worse, params, _ = load(workdir, step)
    for what, own, other in (
        ("examples of shape", run.shape, worse.shape),
        ("the range", run.config.data.range, worse.config.data.range),
        ("the process", run.sde, worse.sde),
    ):
        if own != other:
            raise ValueError(
                f"--guidance-worse {str(workdir)!r} has {what} {other}, and the run has {own}"
            )
    if worse.num_classes not in (None, run.num_classes):
        raise ValueError(
            f"--guidance-worse {str(workdir)!r} is conditioned on {worse.num_classes} classes, and the "
            f"run on {run.num_classes or 'none'}"
        )
    return worse, params


def make_guide(
    run: Run, params: Params, workdir: pathlib.Path, config: GuidanceConfig
) -> tuple[Guide, Any]:
    """(guide, parameters of all networks) of a run: what the flags say, or what there is.

    Raises ValueError where a run cannot be guided in this way.
    """
    if config.guidance_worse is not None:
        folder = pathlib.Path(config.guidance_worse)
        worse, others = load_worse(run, folder, config.guidance_worse_step)
        return Guide(config, worse=worse), (params, others)
    knows_both, by = run.null_class is not None, config.guidance_by
    if by == "free" or (by == "auto" and (knows_both or config.corrected)):
        if not knows_both:
            raise ValueError(
                f"workdir {str(workdir)!r} was not trained with hidden labels (loss.label_dropout), "
                "which guidance without a classifier needs"
            )
        return Guide(config), params
    net, own = load_classifier(run, workdir)
    return Guide(config, classifier=net), (params, own)
