"""The configuration of a run: typed fields with a comment each, and the library's own objects.

`net`, `sde` and `noise_input` are a module, an SDE and a noise input of score_jax, written by kind and
fields of their own. Fields of a network that follow from the data or the process (`DERIVED`) are left
out here and filled in by `experiments.runs.build`.
"""

import dataclasses
import math
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn

from score_jax.convert import records
from score_jax.nets import NCSNpp
from score_jax.parametrization import (
    NOISE,
    IndexInput,
    NoiseInput,
    Parametrization,
    TimeInput,
    Variance,
)
from score_jax.sde import VP, NoiseSchedule
from score_jax.types import SDE

from .data_config import DataConfig as DataConfig
from .parts.rules import at_least, require
from .parts.samplers import SAMPLERS

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]
# Fields of networks that `runs.build` fills in.
DERIVED = (
    "num_classes", "out_channels", "dims", "centered", "sigmas", "num_levels", "super_resolution",
    "cond_size",
)  # fmt: skip
SCHEDULE_OBJECTIVES = ("simple", "hybrid", "variational")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    # Denoising score matching; or, on a noise schedule, the losses of Improved DDPM: mean squared
    # error, that and a small part of the variational bound for the variance, or the bound.
    objective: Literal["dsm", "simple", "hybrid", "variational"] = "dsm"
    # For "dsm": equal weight in units of the noise; g(t)^2, which bounds the likelihood; or EDM's,
    # equal in units of the output of parametrization "edm".
    weighting: Literal["noise", "likelihood", "edm"] = "noise"
    # For "dsm": mean over the entries, or half their sum.
    reduction: Literal["mean", "half_sum"] = "mean"
    # Times of a batch: one in each n-th of the interval, independent, or drawn by importance for
    # the likelihood weighting, or with a log-normal sigma. With an index or a level as noise input:
    # one of the timesteps.
    times: Literal["stratified", "uniform", "importance", "log_normal"] = "stratified"
    # For "log_normal": mean of the logarithm of sigma.
    log_sigma_mean: float = -1.2
    # For "log_normal": standard deviation of the logarithm of sigma.
    log_sigma_std: float = 1.2
    # For "hybrid": weight of n times a term of the bound.
    weight: float = 1e-3
    # On a noise schedule: indices in proportion to their last losses, instead of `times`.
    indices: Literal["uniform", "loss_second_moment"] = "uniform"
    # Fraction of the class labels that are hidden, so that the network learns the data without
    # them too, as classifier-free guidance needs.
    label_dropout: float = 0.0
    # Smallest time in training and likelihood; the score is not learned below it.
    t0: float = 1e-5

    def __post_init__(self) -> None:
        weighted = self.times != "importance" or self.weighting == "likelihood"
        require(
            "loss", self,
            ("times", weighted, "importance only with loss.weighting likelihood"),
            ("weight", self.weight > 0, "> 0"),
            ("log_sigma_mean", math.isfinite(self.log_sigma_mean), "finite"),
            ("log_sigma_std", self.log_sigma_std > 0, "> 0"),
            ("label_dropout", 0 <= self.label_dropout < 1, "in [0, 1)"),
            ("t0", 0 < self.t0 < 1, "in (0, 1)"),
        )  # fmt: skip


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
    # Decay of the mean of the gradients.
    beta1: float = 0.9
    # Decay of the mean of their squares.
    beta2: float = 0.999
    # Added to the root of that mean, for "adam" and "adamw".
    eps: float = 1e-8
    # Decay of the average, which itself warms up: min(this, (1 + n) / (10 + n)).
    ema_decay: float = 0.999
    # The rate stays, or goes to `final_lr` times itself by the last step, by optax's schedules.
    schedule: Literal["constant", "cosine", "linear", "exponential", "polynomial", "one_cycle"] = (
        "constant"
    )
    # The last rate as a fraction of the first.
    final_lr: float = 0.0
    # Of matrices and kernels, never of biases and norms; for "adamw" and "lion".
    weight_decay: float = 0.0
    # Decays of further averages.
    averages: tuple[float, ...] = ()
    # Relative widths of power-function averages (from 0.05 and 0.1 all others can be made, see
    # train.snapshot_every).
    power_averages: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        final = 0 < self.final_lr <= 1 or (self.final_lr == 0 and self.schedule != "exponential")
        decays = self.weight_decay == 0 or (self.weight_decay > 0 and self.rule != "adam")
        fractions = ("ema_decay", "beta1", "beta2")
        require(
            "optim", self,
            ("lr", math.isfinite(self.lr) and self.lr > 0, "finite and > 0"),
            ("warmup", self.warmup >= 0, "at least 0"),
            ("grad_clip", self.grad_clip is None or self.grad_clip > 0, "> 0 or none"),
            *((name, 0 <= getattr(self, name) < 1, "in [0, 1)") for name in fractions),
            ("eps", self.eps > 0, "> 0"),
            ("final_lr", final, "in [0, 1], and > 0 for exponential"),
            ("weight_decay", decays, ">= 0, and 0 for optim.rule adam"),
            ("averages", all(0 <= d < 1 for d in self.averages), "decays in [0, 1)"),
            ("power_averages", all(0 < w < 0.28 for w in self.power_averages), "widths in (0, 0.28)"),
        )  # fmt: skip


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
    # Newest checkpoints kept; the best is kept as well.
    keep: int = 3
    # Which checkpoint is the best: lowest loss since the last one, or lowest on held-out data.
    checkpoint_metric: Literal["train_loss", "test_loss"] = "train_loss"
    # Microbatches that a batch is divided into: less memory, the same update.
    microbatches: int = 1
    # Compute again in the backward pass, for less memory: nothing, every residual block, or all but
    # what the blocks return.
    remat: Literal["none", "blocks", "full"] = "none"
    # Consecutive steps that are not finite, and therefore skipped, after which the run stops.
    nonfinite_limit: int = 10
    # What happens if a checkpoint cannot be written (a full disk).
    save_error: Literal["stop", "continue"] = "stop"
    # Updates between two snapshots of the further averages; none: no snapshots.
    snapshot_every: int | None = None
    # Calls whose batches are transferred to the devices early.
    ahead: int = 2

    def __post_init__(self) -> None:
        counts = [f.name for f in dataclasses.fields(self) if f.type in (int, int | None)]
        whole = ("log_every", "sample_every", "checkpoint_every", "steps", "snapshot_every")
        divides = lambda n: n is None or n % self.steps_per_call == 0
        allowed = f"a multiple of train.steps_per_call={self.steps_per_call}"
        require("train", self, *at_least(self, 1, *counts))
        require("train", self, *((name, divides(getattr(self, name)), allowed) for name in whole))
        ok = self.batch_size % self.microbatches == 0
        require("train", self, ("microbatches", ok, f"a divisor of {self.batch_size}"))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How a step is mapped over the devices; results depend on it only by rounding."""

    # One program for each device by jax.pmap or jax.shard_map, or one program for all devices.
    mapping: Literal["pmap", "shard_map", "jit"] = "pmap"
    # Divide parameters, optimiser and averages over the devices (with mapping jit), or not.
    shard: Literal["none", "fsdp"] = "none"

    def __post_init__(self) -> None:
        ok = self.shard == "none" or self.mapping == "jit"
        require("mesh", self, ("shard", ok, "'none' unless mesh.mapping is 'jit'"))


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn, unless the command line says otherwise."""

    # Which sampler: docs/samplers.md says what each is for.
    sampler: SamplerName = "pc"
    # For "pc" and "song" (the authors' program): the predictor.
    predictor: Literal["reverse_diffusion", "euler_maruyama", "ancestral", "none"] = (
        "reverse_diffusion"
    )
    # For "pc" and "song": the corrector, which runs before the predictor.
    corrector: Literal["langevin", "annealed", "none"] = "langevin"
    # Steps of the fixed-step samplers.
    steps: int = 125
    # Their grid of times; "usual" is the default of the sampler.
    grid: Literal["usual", "uniform", "quadratic", "log_snr", "karras", "song", "schedule"] = (
        "usual"
    )
    # Signal-to-noise ratio of the Langevin corrector.
    snr: float = 0.1
    # Corrector moves per step ("langevin": moves at every level).
    corrector_steps: int = 1
    # Time at which sampling ends.
    t0: float = 1e-3
    # Removal of the noise that is left there: the mean of x0 given x (one more evaluation), the last
    # step without its noise, or none.
    final_denoising: Literal["tweedie", "mean", "none"] = "tweedie"
    # Average the corrector's norms over the samples drawn at once, as the authors do, and take the
    # same adaptive steps for all: samples then depend on the chunk.
    together: bool = False
    # Relative tolerance of the adaptive samplers.
    rtol: float = 1e-3
    # Absolute tolerance of the adaptive samplers.
    atol: float = 1e-3
    # Keep the estimate of x0 in the range of the data: none, by clipping, or by its own quantile.
    threshold: Literal["none", "static", "dynamic"] = "none"
    # For "ddim": 0 draws no noise, 1 as much as ancestral sampling.
    eta: float = 0.0
    # For "unipc": its order.
    order: int = 2
    # For "edm": S_churn of the paper, how much noise is added.
    churn: float = 40.0
    # For "edm": the lowest noise level at which noise is added.
    s_min: float = 0.05
    # For "edm": the highest noise level at which noise is added.
    s_max: float = 50.0
    # For "edm": standard deviation of the added noise.
    s_noise: float = 1.003
    # For "langevin": the step size at the last level.
    epsilon: float = 2e-5

    def __post_init__(self) -> None:
        positive = ("snr", "rtol", "atol", "s_noise", "epsilon")
        require(
            "sample", self,
            *at_least(self, 1, "steps", "corrector_steps"),
            ("t0", 0 < self.t0 < 1, "in (0, 1)"),
            ("eta", 0 <= self.eta <= 1, "in [0, 1]"),
            ("order", self.order in (1, 2, 3), "1, 2 or 3"),
            ("churn", self.churn >= 0, "at least 0"),
            ("s_min", 0 <= self.s_min <= self.s_max, f"in [0, s_max={self.s_max}]"),
            *((name, getattr(self, name) > 0, "> 0") for name in positive),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run needs: saved in its folder as config.json."""

    data: DataConfig = field(default_factory=DataConfig)
    # The network.
    net: nn.Module = field(
        default_factory=lambda: NCSNpp(
            channels=32, channel_mult=(1, 2), num_blocks=1, attention=(4,), dropout=0.0
        )
    )
    # The forward process.
    sde: SDE = field(default_factory=VP)
    # What the network is given of the time.
    noise_input: NoiseInput = field(default_factory=TimeInput)
    # What the network returns.
    parametrization: Parametrization = NOISE
    # Variance of the reverse steps of a noise schedule: the posterior's (small), beta (large), or
    # learned by twice the channels.
    variance: Variance | None = None
    # Condition the network on the data's class labels.
    class_conditional: bool = False
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    # Seed of the parameters, the noise and the order of the data.
    seed: int = 0
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        require("config", self, *at_least(self, 0, "seed"))
        schedule, loss = isinstance(self.sde, NoiseSchedule), self.loss
        kind = type(self.sde).__name__
        for name, value, needs in (
            ("loss.objective", loss.objective, loss.objective in SCHEDULE_OBJECTIVES),
            ("loss.indices", loss.indices, loss.indices != "uniform"),
            ("noise_input", self.noise_input, isinstance(self.noise_input, IndexInput)),
        ):
            if needs and not schedule:
                raise ValueError(f"{name}={value!r} needs a noise schedule, got sde.kind={kind!r}")
        if loss.objective == "hybrid" and not self.learns_variance:
            given = self.variance and self.variance.name
            raise ValueError(f"loss.objective='hybrid' needs a learned variance, got {given!r}")
        if self.sample.t0 < loss.t0:
            # Checked before training rather than at its first picture.
            raise ValueError(
                f"sample.t0 must be at least loss.t0={loss.t0}, where training ends, "
                f"got {self.sample.t0}"
            )
        if loss.label_dropout and not self.class_conditional:
            raise ValueError(
                f"loss.label_dropout={loss.label_dropout} needs class_conditional: otherwise there "
                "are no labels to hide"
            )

    @property
    def learns_variance(self) -> bool:
        """Whether the network returns the variance of a step too."""
        return self.variance is not None and self.variance.learned


# Fields that may differ when a run resumes: they change how long it is and what is written, not what
# is computed at a step, or only its rounding (a learning-rate schedule that depends on the last step is
# the exception, checked in `differences`).
RESUMABLE = (
    "train.steps", "train.log_every", "train.sample_every", "train.checkpoint_every", "train.keep",
    "train.checkpoint_metric", "train.microbatches", "train.remat", "train.nonfinite_limit",
    "train.save_error", "train.snapshot_every", "train.ahead", "mesh.mapping", "mesh.shard",
    "net.remat", "data.path", "data.test_path", "data.workers", "data.processes",
    "data.resume", "data.verify", *(f"sample.{f.name}" for f in dataclasses.fields(SampleConfig)),
)  # fmt: skip


def to_record(config: Config) -> dict[str, Any]:
    """A config as a JSON value."""
    tree: dict[str, Any] = records.to_record(config, omit=DERIVED)
    return tree


def to_json(config: Config) -> str:
    """A config as indented JSON."""
    return records.to_json(config, omit=DERIVED)


def from_json(text: str) -> Config:
    """Read a config written by `to_json`; ValueError for unknown fields or wrong types."""
    config: Config = records.read_json(Config, text)
    return config


def flatten(config: Config) -> dict[str, Any]:
    """All fields by their dotted names: {"optim.lr": 1e-3, ...}."""
    flat: dict[str, Any] = {}
    for name, value in to_record(config).items():
        inner = value.items() if isinstance(value, dict) else ()
        flat |= {f"{name}.{k}": v for k, v in inner} or {name: value}
    return flat


def differences(old: Config, new: Config) -> list[str]:
    """Changes with which a run of `old` cannot resume as `new`: lines "optim.lr: 0.001 -> 0.0001"."""
    free = set(RESUMABLE) - ({"train.steps"} if new.optim.schedule != "constant" else set())
    a, b = flatten(old), flatten(new)
    names = [*b, *(name for name in a if name not in b)]
    show = lambda flat, name: repr(flat[name]) if name in flat else "absent"
    return [
        f"{name}: {show(a, name)} -> {show(b, name)}"
        for name in names
        if name not in free and (name not in a or name not in b or a[name] != b[name])
    ]
