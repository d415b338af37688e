"""The presets that `--config` names, made when they are first asked for.

A preset is a value, not code: a new one is `dataclasses.replace` on another. Networks and processes of
published runs are those of `score_jax.convert.published`. After a change:
`python -m experiments.parts.describe`.
"""

from __future__ import annotations

import functools
from typing import Any

from ..late import late

with late():
    from score_jax.convert.published import lookup

    from ..run_config import Config


@functools.cache
def _configs() -> dict[str, Config]:
    from . import digits, edm, fashion, improved_ddpm, score_sde

    parts = (digits, fashion, improved_ddpm, score_sde, edm)
    return {name: config for part in parts for name, config in part.PRESETS.items()}


def __getattr__(name: str) -> Any:
    """CONFIGS: the presets by name."""
    if name == "CONFIGS":
        return _configs()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get(name: str) -> Config:
    """Return the preset of this name; ValueError listing the known ones if there is none."""
    config: Config = lookup(name, _configs(), "config")
    return config
