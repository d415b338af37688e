"""The presets that `--config` names.

A preset is a value, not code: a new one is `dataclasses.replace` on another. Networks and processes of
published runs are those of `score_jax.convert.published`.
"""

from score_jax.convert.published import lookup

from ..run_config import Config
from . import digits, improved_ddpm, score_sde

CONFIGS: dict[str, Config] = {
    **digits.PRESETS,
    **improved_ddpm.PRESETS,
    **score_sde.PRESETS,
}


def get(name: str) -> Config:
    """Return the preset of this name; ValueError listing the known ones if there is none."""
    config: Config = lookup(name, CONFIGS, "config")
    return config
