"""The presets that `--config` names.

A preset is a value, not code: a new one is `dataclasses.replace` on another.
"""

import difflib

from experiments.config import Config
from experiments.presets import digits, improved_ddpm, score_sde

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
