"""Typed configurations, one comment a field, and the presets that `--config` names.

A preset is a value, not code: a new one is `dataclasses.replace` on another.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from typing import Any, Literal


def _check(owner: str, condition: bool, field: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{owner}.{field} must be {allowed}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is learned."""

    # Which data: scikit-learn's 8x8 digits, the two moons in the plane, or an array file.
    name: Literal["digits", "two_moons", "array"] = "digits"
    # For "array": a .npy or .npz file ("x", and "y" for labels); one in ten is kept for testing.
    path: str | None = None
    # The interval that grey levels are scaled to; not used for data without levels.
    range: tuple[float, float] = (-1.0, 1.0)
    # Mirror half of the images (never for digits).
    flip: bool = False
    # For "two_moons": how many points.
    num_points: int = 20_000

    def __post_init__(self) -> None:
        _check(
            "data", self.range[0] < self.range[1], "range", self.range, "(low, high), low < high"
        )
        _check("data", self.num_points >= 100, "num_points", self.num_points, "at least 100")
        _check(
            "data", self.name != "array" or bool(self.path), "path", self.path, "given for array"
        )


@dataclasses.dataclass(frozen=True)
class SDEConfig:
    """The forward process."""

    # Variance preserving, sub-VP or variance exploding.
    kind: Literal["vp", "subvp", "ve"] = "vp"
    # Noise rate at t = 0 and t = 1 (VP, sub-VP).
    beta_min: float = 0.1
    beta_max: float = 20.0
    # Noise level at t = 0 and t = 1 (VE).
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    # Smallest time in training and likelihood: below it the score is not learned.
    t0: float = 1e-5

    def __post_init__(self) -> None:
        _check("sde", 0 < self.t0 < 1, "t0", self.t0, "in (0, 1)")


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """The network that sees x, a label of the time and perhaps a class."""

    # U-Net of the NCSN++ / DDPM++ family for images, or a residual MLP for vectors.
    kind: Literal["ncsnpp", "mlp"] = "ncsnpp"
    # Channels of the finest level (ncsnpp) or width of the hidden layers (mlp).
    width: int = 32
    # Channel multiplier of every level (ncsnpp).
    channel_mult: tuple[int, ...] = (1, 2)
    # Residual blocks: per level (ncsnpp) or in all (mlp).
    num_blocks: int = 1
    # Resolutions with self-attention (ncsnpp).
    attention: tuple[int, ...] = (4,)
    # Dropout rate in the residual blocks.
    dropout: float = 0.0
    # What the network predicts; "score" divides the output by sigma (the authors' VE networks).
    output: Literal["noise", "score"] = "noise"
    # Told of the time as t * 999 or as sigma(t).
    label: Literal["time", "std"] = "time"
    # Embedding of the label: sines of fixed or of random frequencies.
    embedding: Literal["positional", "fourier"] = "positional"
    # Condition on the data's class labels.
    conditional: bool = False

    def __post_init__(self) -> None:
        _check("net", self.width >= 4, "width", self.width, "at least 4")
        _check("net", self.num_blocks >= 1, "num_blocks", self.num_blocks, "at least 1")
        _check("net", 0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        ok = len(self.channel_mult) > 0 and min(self.channel_mult) >= 1
        _check("net", ok, "channel_mult", self.channel_mult, "one or more positive integers")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Denoising score matching."""

    # Equal weight in units of the noise, or g(t)^2, which bounds the likelihood.
    weighting: Literal["noise", "likelihood"] = "noise"
    # Mean over the entries, or half their sum.
    reduction: Literal["mean", "half_sum"] = "mean"
    # Times of a batch: one in each n-th of the interval, or independent.
    times: Literal["stratified", "uniform"] = "stratified"


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Adam, its warm-up, and the average of the parameters."""

    # Learning rate after the warm-up.
    lr: float = 2e-3
    # Steps over which the rate grows linearly from 0.
    warmup: int = 200
    # Largest global norm of the gradient.
    grad_clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    # Decay of the average, which itself warms up: min(this, (1 + n) / (10 + n)).
    ema_decay: float = 0.999
    # The rate falls to zero along a cosine by the last step, or stays.
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        ok = math.isfinite(self.lr) and self.lr > 0
        _check("optim", ok, "lr", self.lr, "finite and > 0")
        _check("optim", self.warmup >= 0, "warmup", self.warmup, "at least 0")
        _check("optim", self.grad_clip > 0, "grad_clip", self.grad_clip, "> 0")
        _check("optim", 0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        _check("optim", 0 <= self.beta1 < 1, "beta1", self.beta1, "in [0, 1)")
        _check("optim", 0 <= self.beta2 < 1, "beta2", self.beta2, "in [0, 1)")
        _check("optim", self.eps > 0, "eps", self.eps, "> 0")


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
            _check("train", getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("log_every", "sample_every", "checkpoint_every", "steps"):
            value = getattr(self, name)
            allowed = f"a multiple of train.steps_per_call={self.steps_per_call}"
            _check("train", value % self.steps_per_call == 0, name, value, allowed)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn, unless the command line says otherwise."""

    # Predictor-corrector, probability-flow ODE, or the reverse SDE by Euler-Maruyama.
    sampler: Literal["pc", "ode", "em"] = "pc"
    # Steps of the fixed-step samplers.
    steps: int = 125
    # Signal-to-noise ratio of the Langevin corrector.
    snr: float = 0.1
    # Corrector moves per step.
    corrector_steps: int = 1
    # Time at which sampling ends (and a last denoising step is taken).
    t0: float = 1e-3
    # Tolerances of the ODE solver.
    rtol: float = 1e-3
    atol: float = 1e-3

    def __post_init__(self) -> None:
        _check("sample", self.steps >= 1, "steps", self.steps, "at least 1")
        _check("sample", self.corrector_steps >= 1, "corrector_steps", self.corrector_steps, ">= 1")
        _check("sample", 0 < self.t0 < 1, "t0", self.t0, "in (0, 1)")
        for name in ("snr", "rtol", "atol"):
            _check("sample", getattr(self, name) > 0, name, getattr(self, name), "> 0")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run needs: saved in its folder as config.json."""

    data: DataConfig = DataConfig()
    sde: SDEConfig = SDEConfig()
    net: NetConfig = NetConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()
    # Seed of the parameters, the noise and the order of the data.
    seed: int = 0

    def __post_init__(self) -> None:
        _check("config", self.seed >= 0, "seed", self.seed, "at least 0")


# Fields that may differ when a run goes on: they change how long and what is written, not what is
# computed at a step (the cosine schedule is the exception, checked in `differences`).
RESUMABLE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "sample.sampler",
    "sample.steps",
    "sample.snr",
    "sample.corrector_steps",
    "sample.t0",
    "sample.rtol",
    "sample.atol",
)

_digits = Config()
CONFIGS: dict[str, Config] = {
    "digits_vp": _digits,
    "digits_subvp": dataclasses.replace(_digits, sde=SDEConfig(kind="subvp")),
    "digits_ve": dataclasses.replace(
        _digits,
        # As the authors' VE networks: data in [0, 1], told of sigma, output divided by sigma.
        # The largest distance between two digits is about 5 (arXiv:2006.09011, technique 1).
        data=DataConfig(range=(0.0, 1.0)),
        sde=SDEConfig(kind="ve", sigma_min=0.01, sigma_max=5.0),
        net=dataclasses.replace(_digits.net, output="score", label="std", embedding="fourier"),
    ),
    "digits_vp_conditional": dataclasses.replace(
        _digits, net=dataclasses.replace(_digits.net, conditional=True)
    ),
    "two_moons_vp": Config(
        data=DataConfig(name="two_moons"),
        net=NetConfig(kind="mlp", width=128, num_blocks=3),
        train=TrainConfig(
            steps=5_000, batch_size=512, steps_per_call=50, sample_every=2_500,
            checkpoint_every=2_500,
        ),
        sample=SampleConfig(steps=200),
    ),
}  # fmt: skip
DEFAULT = "digits_vp"


def get(name: str) -> Config:
    """Return the preset of this name; ValueError listing the known ones if there is none."""
    if name not in CONFIGS:
        near = difflib.get_close_matches(name, CONFIGS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown config {name!r}{hint}; known: {', '.join(CONFIGS)}")
    return CONFIGS[name]


def to_json(config: Config) -> str:
    """Write a config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Read a config written by `to_json`; ValueError for unknown fields or wrong types."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the config is not JSON: {error}") from None
    return _build(Config, tree, "config")


def _build(cls: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"{where} must be an object, got {tree!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(tree) - set(hints))
    if unknown:
        raise ValueError(f"{where} has unknown fields {unknown}; known: {sorted(hints)}")
    return cls(**{name: _value(hints[name], v, f"{where}.{name}") for name, v in tree.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {args}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        if len(kinds) == len(value):
            return tuple(_value(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return _value(args[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def flatten(config: Config) -> dict[str, Any]:
    """All fields by their dotted names: {"optim.lr": 1e-3, ...}."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{field}": v for field, v in value.items()}
        else:
            flat[name] = value
    return flat


def differences(old: Config, new: Config) -> list[str]:
    """Say where a run cannot go on from `old` with `new`: lines "optim.lr: 0.001 -> 0.0001"."""
    a, b = flatten(old), flatten(new)
    free = set(RESUMABLE)
    if new.optim.schedule == "cosine":
        free.discard("train.steps")
    return [f"{k}: {a[k]!r} -> {b[k]!r}" for k in b if a[k] != b[k] and k not in free]
