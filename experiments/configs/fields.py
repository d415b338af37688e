"""What is learned, by which loss, how it is optimised and for how long."""

import dataclasses
import math
from typing import Any, Literal


def check(owner: str, condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raise ValueError naming the field unless the condition holds."""
    if not condition:
        raise ValueError(f"{owner}.{field} must be {allowed}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is learned."""

    # Which data: scikit-learn's 8x8 digits, the two moons in the plane, an array file, or images
    # that tensorflow-datasets has prepared.
    name: Literal["digits", "two_moons", "array", "tfds"] = "digits"
    # For "array": a .npy or .npz file ("x", and "y" for labels); one in ten is kept for testing.
    path: str | None = None
    # For "tfds": the data set, as tensorflow-datasets calls it, and the size of its images.
    builder: str | None = None
    image_size: int = 32
    channels: int = 3
    # How many classes its labels have; none: they are not used.
    num_classes: int | None = None
    # The interval that grey levels are scaled to; not used for data without levels.
    range: tuple[float, float] = (-1.0, 1.0)
    # Fill the cells of the grey levels with uniform noise in training (likelihoods always do).
    dequantize: bool = True
    # Mirror half of the images (never for digits).
    flip: bool = False
    # For "two_moons": how many points.
    num_points: int = 20_000

    def __post_init__(self) -> None:
        check("data", self.range[0] < self.range[1], "range", self.range, "(low, high), low < high")
        check("data", self.num_points >= 100, "num_points", self.num_points, "at least 100")
        check("data", self.name != "array" or bool(self.path), "path", self.path, "given for array")
        ok = self.name != "tfds" or bool(self.builder)
        check("data", ok, "builder", self.builder, "given for tfds")
        check("data", self.image_size >= 1, "image_size", self.image_size, "at least 1")
        check("data", self.channels >= 1, "channels", self.channels, "at least 1")
        ok = self.num_classes is None or self.num_classes >= 1
        check("data", ok, "num_classes", self.num_classes, "none or at least 1")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Denoising score matching on an SDE."""

    kind: Literal["dsm"] = "dsm"
    # Equal weight in units of the noise, or g(t)^2, which bounds the likelihood.
    weighting: Literal["noise", "likelihood"] = "noise"
    # Mean over the entries, or half their sum.
    reduction: Literal["mean", "half_sum"] = "mean"
    # Times of a batch: one in each n-th of the interval, independent, or drawn by importance for
    # the likelihood weighting. Networks of noise levels draw those.
    times: Literal["stratified", "uniform", "importance"] = "stratified"
    # Fraction of the labels hidden from a conditional network, so that it learns the data without
    # them too, as classifier-free guidance needs.
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        ok = self.times != "importance" or self.weighting == "likelihood"
        check("loss", ok, "times", self.times, "importance only with loss.weighting likelihood")
        check("loss", 0 <= self.label_dropout < 1, "label_dropout", self.label_dropout, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class TableLossConfig:
    """The losses of Improved DDPM, on a beta table."""

    kind: Literal["table"] = "table"
    # Mean squared error, that and a thousandth of the bound for the variance, or the bound.
    objective: Literal["simple", "hybrid", "vlb"] = "hybrid"
    # Weight of N times a term of the bound in the hybrid loss.
    weight: float = 1e-3
    # Indices of a batch: uniform, or by the size of their last losses.
    indices: Literal["uniform", "loss_second_moment"] = "uniform"
    # Fraction of the labels hidden from a conditional network, so that it learns the data without
    # them too, as classifier-free guidance needs.
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        check("loss", self.weight > 0, "weight", self.weight, "> 0")
        check("loss", 0 <= self.label_dropout < 1, "label_dropout", self.label_dropout, "in [0, 1)")


AnyLoss = LossConfig | TableLossConfig


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Adam, its warm-up, and the average of the parameters."""

    # Learning rate after the warm-up.
    lr: float = 2e-3
    # Steps over which the rate grows linearly from 0.
    warmup: int = 200
    # Largest global norm of the gradient; none: not clipped.
    grad_clip: float | None = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    # Decay of the average, which itself warms up: min(this, (1 + n) / (10 + n)).
    ema_decay: float = 0.999
    # The rate falls to zero along a cosine by the last step, or stays.
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        ok = math.isfinite(self.lr) and self.lr > 0
        check("optim", ok, "lr", self.lr, "finite and > 0")
        check("optim", self.warmup >= 0, "warmup", self.warmup, "at least 0")
        ok = self.grad_clip is None or self.grad_clip > 0
        check("optim", ok, "grad_clip", self.grad_clip, "> 0 or none")
        check("optim", 0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        check("optim", 0 <= self.beta1 < 1, "beta1", self.beta1, "in [0, 1)")
        check("optim", 0 <= self.beta2 < 1, "beta2", self.beta2, "in [0, 1)")
        check("optim", self.eps > 0, "eps", self.eps, "> 0")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    # Parameter updates in all.
    steps: int = 2_500
    # Examples per update, over all devices.
    batch_size: int = 64
    # Updates compiled into one call.
    steps_per_call: int = 10
    # Updates between two lines of metrics.jsonl.
    log_every: int = 50
    # Updates between two pictures of samples.
    sample_every: int = 1_250
    # Updates between two checkpoints.
    checkpoint_every: int = 500
    # Checkpoints kept.
    keep: int = 3

    def __post_init__(self) -> None:
        for name in (field.name for field in dataclasses.fields(self)):
            check("train", getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("log_every", "sample_every", "checkpoint_every", "steps"):
            value = getattr(self, name)
            allowed = f"a multiple of train.steps_per_call={self.steps_per_call}"
            check("train", value % self.steps_per_call == 0, name, value, allowed)
