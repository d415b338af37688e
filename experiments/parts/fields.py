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
    """The optimiser, its warm-up, and the averages of the parameters."""

    # Adam, Adam with weight decay, or Lion (rates about ten times lower; beta2 0.99).
    rule: Literal["adam", "adamw", "lion"] = "adam"
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
    # The rate stays, or goes to `final_lr` times itself by the last step, as optax has it.
    schedule: Literal["constant", "cosine", "linear", "exponential", "polynomial", "one_cycle"] = (
        "constant"
    )
    final_lr: float = 0.0
    # Of matrices and kernels, never of biases and norms; for "adamw" and "lion".
    weight_decay: float = 0.0
    # Decays of further averages.
    averages: tuple[float, ...] = ()
    # Relative widths of power-function averages (0.05 and 0.1 serve all others, see
    # train.snapshot_every).
    power_averages: tuple[float, ...] = ()

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
        ok = 0 < self.final_lr <= 1 if self.schedule == "exponential" else 0 <= self.final_lr <= 1
        check("optim", ok, "final_lr", self.final_lr, "in [0, 1], and > 0 for exponential")
        ok = self.weight_decay >= 0 and (self.weight_decay == 0 or self.rule != "adam")
        check("optim", ok, "weight_decay", self.weight_decay, ">= 0, and 0 for optim.rule adam")
        ok = all(0 <= d < 1 for d in self.averages)
        check("optim", ok, "averages", self.averages, "decays in [0, 1)")
        ok = all(0 < w < 0.28 for w in self.power_averages)
        check("optim", ok, "power_averages", self.power_averages, "widths in (0, 0.28)")


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
    # Newest checkpoints kept; the best is kept beside them.
    keep: int = 3
    # What makes a checkpoint the best: the loss since the last one, or that on held-out data.
    score: Literal["train_loss", "test_loss"] = "train_loss"
    # Parts that a batch is taken in, one after the other: less memory, the same update.
    accumulate: int = 1
    # Compute again in the backward pass, for less memory: nothing, every residual block, or all but
    # what the blocks return.
    remat: Literal["none", "blocks", "full"] = "none"
    # Steps in a row that are not finite, and so skipped, after which the run stops.
    bad_steps: int = 10
    # A checkpoint cannot be written (a full disk): stop, or report it and go on.
    save_error: Literal["stop", "continue"] = "stop"
    # Updates between two snapshots of the further averages; none: no snapshots.
    snapshot_every: int | None = None
    # Calls whose batches are put on the devices early.
    ahead: int = 2

    def __post_init__(self) -> None:
        for name in (field.name for field in dataclasses.fields(self)):
            value = getattr(self, name)
            if isinstance(value, int):
                check("train", value >= 1, name, value, "at least 1")
        for name in ("log_every", "sample_every", "checkpoint_every", "steps", "snapshot_every"):
            value = getattr(self, name)
            allowed = f"a multiple of train.steps_per_call={self.steps_per_call}"
            check("train", value is None or value % self.steps_per_call == 0, name, value, allowed)
        ok = self.batch_size % self.accumulate == 0
        check("train", ok, "accumulate", self.accumulate, f"a divisor of {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How a step lies on the devices; results do not depend on it, but for rounding."""

    # A program a device by jax.pmap or jax.shard_map, or one program of all devices.
    mapping: Literal["pmap", "shard_map", "jit"] = "pmap"
    # Divide parameters, optimiser and averages over the devices (with mapping jit), or not.
    shard: Literal["none", "fsdp"] = "none"

    def __post_init__(self) -> None:
        ok = self.shard == "none" or self.mapping == "jit"
        check("mesh", ok, "shard", self.shard, "'none' unless mesh.mapping is 'jit'")
