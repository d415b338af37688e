"""A whole configuration, and which of its fields may change when a run goes on."""

import dataclasses
import typing
from dataclasses import field
from typing import Any

from experiments.configs import json_form
from experiments.configs.fields import DataConfig, LossConfig, OptimConfig, TrainConfig, check
from experiments.configs.nets import AnyNet, NCSNppConfig
from experiments.configs.process import DiffusionConfig, ProcessConfig, SDEConfig
from experiments.configs.sample import SampleConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run needs: saved in its folder as config.json."""

    data: DataConfig = field(default_factory=DataConfig)
    sde: ProcessConfig = field(default_factory=SDEConfig)
    net: AnyNet = field(default_factory=NCSNppConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    # Seed of the parameters, the noise and the order of the data.
    seed: int = 0

    def __post_init__(self) -> None:
        check("config", self.seed >= 0, "seed", self.seed, "at least 0")
        table = isinstance(self.sde, DiffusionConfig) or self.sde.levels is not None
        if table != (self.net.label == "index"):
            needs = "a table (sde.levels or sde.kind diffusion)" if not table else "'index'"
            raise ValueError(
                f"net.label={self.net.label!r} does not fit sde.kind={self.sde.kind!r}: needs {needs}"
            )


# Fields that may differ when a run goes on: they change how long and what is written, not what is
# computed at a step (the cosine schedule is the exception, checked in `differences`).
RESUMABLE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    *(f"sample.{f.name}" for f in dataclasses.fields(SampleConfig)),
)

to_json = json_form.to_json
flatten = json_form.flatten


def from_json(text: str) -> Config:
    """Read a config written by `to_json`; ValueError for unknown fields or wrong types."""
    config: Config = json_form.read(Config, text)
    return config


def differences(old: Any, new: Any) -> list[str]:
    """Say where a run cannot go on from `old` with `new`: lines "optim.lr: 0.001 -> 0.0001"."""
    free = set(RESUMABLE)
    if new.optim.schedule == "cosine":
        free.discard("train.steps")
    return json_form.changes(old, new, free)


def with_kind(config: Config, part: str, kind: str | None) -> Config:
    """Give the part "net" or "sde" the record of this kind, keeping fields that both have.

    A kind of None, of the record that is there, or that no record has, changes nothing: what reads
    the value then says which are known.
    """
    old = getattr(config, part)
    known = json_form.kinds(typing.get_type_hints(Config)[part])
    cls = known.get(kind or "", type(old))
    if cls is type(old):
        return config
    shared = {f.name for f in dataclasses.fields(cls)} - {"kind"}
    kept = {k: v for k, v in vars(old).items() if k in shared}
    return dataclasses.replace(config, **{part: cls(**kept)})
