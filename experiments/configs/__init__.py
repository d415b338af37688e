"""Typed configurations, one comment a field, and the presets that `--config` names.

A preset is a value, not code: a new one is `dataclasses.replace` on another.
"""

import difflib

from experiments.configs import digits, improved_ddpm, score_sde
from experiments.configs.config import (
    RESUMABLE,
    Config,
    differences,
    flatten,
    from_json,
    to_json,
    with_kinds,
)
from experiments.configs.fields import DataConfig, LossConfig, OptimConfig, TrainConfig
from experiments.configs.nets import AnyNet, NCSNppConfig
from experiments.configs.process import DiffusionConfig, ProcessConfig, SDEConfig
from experiments.configs.sample import SampleConfig

__all__ = [
    "ALIASES",
    "CONFIGS",
    "DEFAULT",
    "RESUMABLE",
    "AnyNet",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "LossConfig",
    "NCSNppConfig",
    "OptimConfig",
    "ProcessConfig",
    "SDEConfig",
    "SampleConfig",
    "TrainConfig",
    "differences",
    "flatten",
    "from_json",
    "get",
    "to_json",
    "with_kinds",
]

CONFIGS: dict[str, Config] = {
    **digits.PRESETS,
    **improved_ddpm.PRESETS,
    **score_sde.PRESETS,
}
ALIASES = score_sde.ALIASES
DEFAULT = "digits_vp"


def get(name: str) -> Config:
    """Return the preset of this name; ValueError listing the known ones if there is none."""
    name = ALIASES.get(name, name)
    if name not in CONFIGS:
        near = difflib.get_close_matches(name, CONFIGS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown config {name!r}{hint}; known: {', '.join(CONFIGS)}")
    return CONFIGS[name]
