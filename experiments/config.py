"""The sections of a run's configuration: typed fields with a comment each, which is their help text.

`experiments.run_config` joins them with the library's own objects. This module imports nothing heavy,
because the options of every command are made of it.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from .data_config import DataConfig as DataConfig
from .parts.rules import at_least, require
from .parts.samplers import SAMPLERS

if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    # Denoising score matching; or, on a noise schedule, the losses of Improved DDPM: mean squared
    # error, that and a small part of the variational bound for the variance, or the bound; or, for
    # parametrization "consistency", consistency training, or distillation with a teacher.
    objective: Literal["dsm", "simple", "hybrid", "variational", "consistency"] = "dsm"
    # For "dsm": equal weight in units of the noise; g(t)^2, which bounds the likelihood; EDM's, equal in
    # units of the output of parametrization "edm"; equal in units of the velocity (flow matching); or
    # min-SNR, P2 or SiD2's sigmoid, functions of the log-SNR.
    weighting: Literal["noise", "likelihood", "edm", "velocity", "min_snr", "p2", "sigmoid"] = (
        "noise"
    )
    # For "min_snr" and "p2": gamma (default: 5 and 1).
    gamma: float | None = None
    # For "sigmoid": the log-SNR at its middle; smaller for larger images.
    bias: float = 0.0
    # Learn a further weight of each noise level with the network, as EDM2 does.
    uncertainty: bool = False
    # For "dsm" and "consistency": mean of the squares over the entries, half their sum, or, for
    # "consistency", the pseudo-Huber metric.
    reduction: Literal["mean", "half_sum", "pseudo_huber"] = "mean"
    # For "consistency": the first and the last number of intervals from the smallest time to the largest;
    # it doubles over train.steps.
    intervals: tuple[int, int] = (10, 1280)
    # For "consistency": folder of a run, or a file of published weights, whose probability flow is
    # distilled; none: consistency training.
    teacher: str | None = None
    # For a teacher in a file of published weights: the preset of its network.
    teacher_preset: str | None = None
    # Times of a batch: one in each n-th of the interval, independent, or drawn by importance for
    # the likelihood weighting, or with a log-normal sigma, or a normal logit. With an index or a level
    # as noise input: one of the timesteps.
    times: Literal["stratified", "uniform", "importance", "log_normal", "logit_normal"] = (
        "stratified"
    )
    # For "logit_normal": mean of the logit of the time.
    logit_mean: float = 0.0
    # For "logit_normal": standard deviation of the logit of the time.
    logit_std: float = 1.0
    # Move the times towards noise by this factor, as for large images in Stable Diffusion 3; 1: not.
    shift: float = 1.0
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
        huber = self.reduction != "pseudo_huber" or self.objective == "consistency"
        first, last = self.intervals
        require(
            "loss", self,
            ("times", weighted, "importance only with loss.weighting likelihood"),
            ("weight", self.weight > 0, "> 0"),
            ("reduction", huber, "mean or half_sum unless loss.objective is consistency"),
            ("intervals", 1 <= first <= last, "two numbers from 1 in increasing order"),
            ("teacher_preset", self.teacher_preset is None or self.teacher is not None, "for a teacher"),
            ("log_sigma_mean", math.isfinite(self.log_sigma_mean), "finite"),
            ("log_sigma_std", self.log_sigma_std > 0, "> 0"),
            ("gamma", self.gamma is None or self.gamma > 0, "> 0"),
            ("bias", math.isfinite(self.bias), "finite"),
            ("logit_mean", math.isfinite(self.logit_mean), "finite"),
            ("logit_std", self.logit_std > 0, "> 0"),
            ("shift", self.shift > 0, "> 0"),
            ("shift", self.shift == 1 or self.times != "importance", "1 with importance"),
            ("label_dropout", 0 <= self.label_dropout < 1, "in [0, 1)"),
            ("t0", 0 < self.t0 < 1, "in (0, 1)"),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimiser, its warm-up, and the averages of the parameters."""

    # adam; adamw: Adam with weight decay; lion: Lion, with rates about ten times lower and beta2 0.99.
    rule: Literal["adam", "adamw", "lion"] = "adam"
    # Learning rate after the warm-up.
    lr: float = 2e-3
    # Steps over which the rate grows linearly from 0.
    warmup: int = 200
    # Largest global norm of the gradient (none: no clipping).
    grad_clip: float | None = 1.0
    # Decay of the mean of the gradients.
    beta1: float = 0.9
    # Decay of the mean of their squares.
    beta2: float = 0.999
    # Added to the root of that mean, for "adam" and "adamw".
    eps: float = 1e-8
    # Decay of the average. It warms up: min(this, (1 + n) / (10 + n)) at step n.
    ema_decay: float = 0.999
    # How the rate changes after the warm-up: not at all (constant), as one over the root of the step from
    # decay_after steps on (inverse_sqrt), or to final_lr times itself by the last step, by the schedule
    # of optax of this name (the others).
    schedule: Literal[
        "constant", "cosine", "linear", "exponential", "polynomial", "one_cycle", "inverse_sqrt"
    ] = "constant"
    # For "inverse_sqrt": steps before the rate falls.
    decay_after: int = 1_000
    # The last rate as a fraction of the first.
    final_lr: float = 0.0
    # Of matrices and kernels, never of biases and norms; for "adamw" and "lion".
    weight_decay: float = 0.0
    # Decays of further averages.
    averages: tuple[float, ...] = ()
    # Relative widths of power-function averages. Averages of any other width can be made of 0.05 and 0.1
    # (see train.snapshot_every).
    power_averages: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        final = 0 < self.final_lr <= 1 or (self.final_lr == 0 and self.schedule != "exponential")
        decays = self.weight_decay == 0 or (self.weight_decay > 0 and self.rule != "adam")
        fractions = ("ema_decay", "beta1", "beta2")
        require(
            "optim", self,
            ("lr", math.isfinite(self.lr) and self.lr > 0, "finite and > 0"),
            ("warmup", self.warmup >= 0, "at least 0"),
            ("decay_after", self.decay_after >= 1, "at least 1"),
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
    # How many of the newest checkpoints are kept; the best one is kept as well.
    keep: int = 3
    # Which checkpoint is the best: that of the lowest loss since the one before (train_loss), or that of
    # the lowest loss on held-out data (test_loss).
    checkpoint_metric: Literal["train_loss", "test_loss"] = "train_loss"
    # How many microbatches a batch is divided into, for the same update with less memory.
    microbatches: int = 1
    # What the backward pass computes again, for less memory: nothing (none), every residual block and
    # attention (blocks), or all but what the blocks return (full).
    remat: Literal["none", "blocks", "full"] = "none"
    # Precision of products of float32: what is fastest on the platform (default: bfloat16 on a TPU, TF32
    # on a GPU), TF32 (tensorfloat32), or float32 (highest). It does not change products of bfloat16,
    # with net.dtype.
    matmul_precision: Literal["default", "tensorfloat32", "highest"] = "default"
    # Consecutive steps that are not finite, and therefore skipped, after which the run stops.
    nonfinite_limit: int = 10
    # What happens if a checkpoint cannot be written, as on a full disk: the run ends (stop), or it tries
    # again at the next checkpoint (continue).
    save_error: Literal["stop", "continue"] = "stop"
    # Updates between two snapshots of the power-function averages (none: no snapshots).
    snapshot_every: int | None = None
    # Calls whose batches are transferred to the devices early.
    ahead: int = 2
    # Updates between two Frechet distances of a few samples to the training images (none: not computed).
    # They are in metrics.jsonl as fid_1000, with the number of samples. Follow a run with them, and do
    # not publish them.
    fid_every: int | None = None
    # The number of these samples.
    fid_num: int = 1_000
    # For fid_every: weights of the FID Inception, pt_inception-2015-12-05-6726825d.pth.
    inception: str | None = None
    # For fid_every, instead of inception: a function of your own, package.module:function, from uint8
    # images to (b, k). The distance is then called frechet_1000.
    features: str | None = None

    def __post_init__(self) -> None:
        counts = [f.name for f in dataclasses.fields(self) if f.type in (int, int | None)]
        whole = (
            "log_every",
            "sample_every",
            "checkpoint_every",
            "steps",
            "snapshot_every",
            "fid_every",
        )
        divides = lambda n: n is None or n % self.steps_per_call == 0
        allowed = f"a multiple of train.steps_per_call={self.steps_per_call}"
        require("train", self, *at_least(self, 1, *counts))
        require("train", self, *((name, divides(getattr(self, name)), allowed) for name in whole))
        ok = self.batch_size % self.microbatches == 0
        require("train", self, ("microbatches", ok, f"a divisor of {self.batch_size}"),
                ("fid_num", self.fid_num >= 2, "at least 2"))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How a step is mapped over the devices; results depend on it only by rounding."""

    # One program for each device (pmap, shard_map), or one program for all devices (jit).
    mapping: Literal["pmap", "shard_map", "jit"] = "pmap"
    # With mapping jit, whether parameters, optimiser and averages are divided over the devices: always
    # (fsdp), never (none), or from 16 devices on (auto).
    shard: Literal["auto", "none", "fsdp"] = "auto"
    # Neighbouring devices that share every image, each with a part of its height (with mapping jit).
    space: int = 1

    def __post_init__(self) -> None:
        whole = self.mapping == "jit"
        require(
            "mesh", self,
            ("shard", self.shard != "fsdp" or whole, "'auto' or 'none' unless mesh.mapping is 'jit'"),
            *at_least(self, 1, "space"),
            ("space", self.space == 1 or whole, "1 unless mesh.mapping is 'jit'"),
        )  # fmt: skip


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
    # Their grid of times; "usual" is the default of the sampler, "fitted" that of compare --fit-grid.
    grid: Literal[
        "usual",
        "uniform",
        "quadratic",
        "log_snr",
        "karras",
        "fitted",
        "restart",
        "song",
        "schedule",
    ] = "usual"
    # Signal-to-noise ratio of the Langevin corrector.
    snr: float = 0.1
    # Corrector moves per step ("langevin": moves at every level).
    corrector_steps: int = 1
    # Time at which sampling ends.
    t0: float = 1e-3
    # How the noise that is left at t0 is removed: by the mean of x0 given x, which takes one more
    # evaluation (tweedie), by a last step that adds no noise (mean), or not at all (none).
    final_denoising: Literal["tweedie", "mean", "none"] = "tweedie"
    # Average the corrector's norms over the samples drawn at once, as the authors do, and take the
    # same adaptive steps for all: samples then depend on the chunk.
    together: bool = False
    # Relative tolerance of the adaptive samplers.
    rtol: float = 1e-3
    # Absolute tolerance of the adaptive samplers.
    atol: float = 1e-3
    # How the estimate of x0 is kept in the range of the data: not at all (none), by clipping (static), or
    # by its own quantile (dynamic).
    threshold: Literal["none", "static", "dynamic"] = "none"
    # For "ddim": 0 draws no noise, 1 as much as ancestral sampling.
    eta: float = 0.0
    # For "unipc" and "dpm_solver_v3": its order.
    order: int = 2
    # For "edm": S_churn of the paper, how much noise is added.
    churn: float = 40.0
    # For "edm" and "sa_solver": the lowest noise level at which noise is added.
    s_min: float = 0.05
    # For "edm" and "sa_solver": the highest noise level at which noise is added.
    s_max: float = 50.0
    # For "edm": standard deviation of the added noise.
    s_noise: float = 1.003
    # For "sa_solver" and "interpolant": how much noise is added; 0 is the probability flow, 1 the
    # reverse SDE.
    tau: float = 1.0
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
            *((name, getattr(self, name) >= 0, "at least 0") for name in ("churn", "tau")),
            ("s_min", 0 <= self.s_min <= self.s_max, f"in [0, s_max={self.s_max}]"),
            *((name, getattr(self, name) > 0, "> 0") for name in positive),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """How samples are guided: by the flags of the commands, not by the config of a run."""

    # Scale of the guidance: 1 is the network as it was trained, larger scales give more typical and
    # less diverse samples (default: no guidance).
    guidance: float | None = None
    # Interval of times with guidance, lowest and highest (default: all times).
    guidance_interval: tuple[float, float] | None = None
    # The source of the guidance: the network itself, trained with hidden labels (loss.label_dropout),
    # the classifier of experiments.train_classifier, or the worse model of --guidance-worse; auto: the
    # worse model if it is given, or the first of the others that exists.
    guidance_by: Literal["auto", "free", "classifier", "worse"] = "auto"
    # Folder of a run that is worse than this one, on the same data and process, for autoguidance.
    guidance_worse: str | None = None
    # The step of its checkpoint (default: the newest); an earlier one of the same run may be worse
    # enough.
    guidance_worse_step: int | None = None
    # Share by which the standard deviation of x0 is brought back to that without guidance, such as 0.7.
    guidance_rescale: float | None = None
    # Adaptive projected guidance: the share that is kept of the guidance along x0, such as 0.
    guidance_parallel: float | None = None
    # For adaptive projected guidance: the largest norm of the guidance of a sample.
    guidance_limit: float | None = None
    # For adaptive projected guidance: the weight of the guidance before, such as -0.5.
    guidance_momentum: float | None = None

    def __post_init__(self) -> None:
        given = [
            f.name
            for f in dataclasses.fields(self)[1:]
            if getattr(self, f.name) not in (None, "auto")
        ]
        flag = lambda name: "--" + name.replace("_", "-")
        if self.guidance is None and given:
            raise ValueError(f"{flag(given[0])} needs --guidance, the scale")
        worse = self.guidance_by in ("auto", "worse")
        if self.guidance_worse is not None and not worse:
            raise ValueError(f"--guidance-worse is not for --guidance-by {self.guidance_by}")
        for name, needed in (
            ("guidance_worse_step", "guidance_worse"),
            ("guidance_limit", "guidance_parallel"),
            ("guidance_momentum", "guidance_parallel"),
        ):
            if name in given and needed not in given:
                raise ValueError(f"{flag(name)} needs {flag(needed)}")
        if self.guidance_by == "worse" and self.guidance_worse is None:
            raise ValueError("--guidance-by worse needs --guidance-worse, the folder of a run")
        if self.guidance_rescale is not None and self.guidance_parallel is not None:
            raise ValueError("--guidance-rescale and --guidance-parallel exclude each other")
        if self.guidance_by == "classifier" and self.corrected:
            raise ValueError(
                "--guidance-rescale and --guidance-parallel are for two scores, not for a classifier"
            )

    @property
    def corrected(self) -> bool:
        """Whether x0 is rescaled or projected."""
        return self.guidance_rescale is not None or self.guidance_parallel is not None


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """A classifier of noisy data and how it is trained."""

    # A residual MLP for data of any shape, or guided-diffusion's, the way down of a U-Net, for images.
    net: Literal["mlp", "unet"] = "unet"
    # Channels of the finest level, or width of the hidden layers.
    width: int = 32
    # Parameter updates in all.
    steps: int = 1_500
    # Examples per update.
    batch_size: int = 64
    # Learning rate after a warm-up.
    lr: float = 1e-3
    # Seed of the parameters, the noise and the order of the data.
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            "classifier", self,
            *at_least(self, 1, "width", "steps", "batch_size"),
            ("lr", math.isfinite(self.lr) and self.lr > 0, "finite and > 0"),
        )  # fmt: skip
