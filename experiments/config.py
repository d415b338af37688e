"""A whole configuration, and which of its fields may change when a run goes on."""

import dataclasses
import typing
from dataclasses import field
from typing import Any

from experiments.parts import json_form
from experiments.parts.fields import (
    AnyLoss,
    DataConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    TableLossConfig,
    TrainConfig,
    check,
)
from experiments.parts.nets import AnyNet, NCSNppConfig
from experiments.parts.process import DiffusionConfig, ProcessConfig, SDEConfig
from experiments.parts.sample_config import SampleConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run needs: saved in its folder as config.json."""

    data: DataConfig = field(default_factory=DataConfig)
    sde: ProcessConfig = field(default_factory=SDEConfig)
    net: AnyNet = field(default_factory=NCSNppConfig)
    loss: AnyLoss = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    # Seed of the parameters, the noise and the order of the data.
    seed: int = 0
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        check("config", self.seed >= 0, "seed", self.seed, "at least 0")
        table = isinstance(self.sde, DiffusionConfig)
        if table != isinstance(self.loss, TableLossConfig):
            wanted = "table" if table else "dsm"
            raise ValueError(
                f"loss.kind must be {wanted!r} with sde.kind={self.sde.kind!r}, got {self.loss.kind!r}"
            )
        if not table and self.sample.t0 < self.sde.t0:
            # Said before training, not at its first picture.
            raise ValueError(
                f"sample.t0 must be at least sde.t0={self.sde.t0}, where training ends, "
                f"got {self.sample.t0}"
            )
        if self.loss.label_dropout and not self.net.conditional:
            raise ValueError(
                f"loss.label_dropout={self.loss.label_dropout} needs net.conditional: there are no "
                "labels to hide"
            )
        indexed = isinstance(self.sde, DiffusionConfig) or self.sde.levels is not None
        if indexed != (self.net.label == "index"):
            wanted = "'index'" if indexed else "'time' or 'std'"
            raise ValueError(
                f"net.label must be {wanted} with sde.kind={self.sde.kind!r} and "
                f"sde.levels={getattr(self.sde, 'levels', 'a table')}, got {self.net.label!r}"
            )


# Fields that may differ when a run goes on: they change how long and what is written, not what is
# computed at a step, or not more than its rounding (a schedule of the rate that knows the last step
# is the exception, checked in `differences`).
RESUMABLE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "train.score",
    "train.accumulate",
    "train.remat",
    "train.bad_steps",
    "train.save_error",
    "train.snapshot_every",
    "train.ahead",
    "mesh.mapping",
    "mesh.shard",
    "net.remat",
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
    if new.optim.schedule != "constant":
        free.discard("train.steps")
    return json_form.changes(old, new, free)


def with_kinds(config: Config, kinds: dict[str, str | None]) -> Config:
    """Give the parts "net", "sde", "loss" the records of these kinds, keeping fields both have.

    A kind of None, of the record that is there, or that no record has, changes nothing: what reads
    the value then says which are known. A table of betas brings its loss and label with it.
    """
    new = {name: _of_kind(name, getattr(config, name), kind) for name, kind in kinds.items()}
    process = new.get("sde", config.sde)
    if isinstance(process, DiffusionConfig) and not isinstance(config.sde, DiffusionConfig):
        if kinds.get("loss") is None:
            new["loss"] = TableLossConfig()
        new["net"] = dataclasses.replace(new.get("net", config.net), label="index")
    return dataclasses.replace(config, **new)


def _of_kind(name: str, old: Any, kind: str | None) -> Any:
    known = json_form.kinds(typing.get_type_hints(Config)[name])
    cls = known.get(kind or "", type(old))
    if cls is type(old):
        return old
    shared = {f.name for f in dataclasses.fields(cls)} - {"kind"}
    return cls(**{k: v for k, v in vars(old).items() if k in shared})
