"""Score-based generative modelling through SDEs, with Improved DDPM, in JAX and Flax.

A `Model` joins a network with its `SDE` or noise schedule; from it come a `Loss` for `training.fit` and
a `ScoreFn` for a sampler `Step`, run by `simulate` or `sample`. All submodules are reachable from here:
`score_jax.nets`, `score_jax.losses`, ... Nothing is imported before its first use, so that a command
can answer `--help` without JAX.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from score_jax._renamed import renamed as _renamed

if TYPE_CHECKING:
    from score_jax._front import *  # noqa: F403
    from score_jax.convert import load_pretrained as load_pretrained

__version__ = "0.2.0.dev0"

_SUBMODULES = {m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")}  # noqa: F405
_LAZY = {"load_pretrained": "score_jax.convert"}  # not with the others: it imports all networks
_missing = _renamed(__name__)


def _curated() -> dict[str, Any]:
    """The curated names."""
    found = vars(importlib.import_module("score_jax._front"))
    return {name: value for name, value in found.items() if not name.startswith("_")}


def __getattr__(name: str) -> Any:
    """Import a submodule, or the curated names, at the first use; name what replaces an old name."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"score_jax.{name}")
    if not name.startswith("_") and name in (names := _curated()):
        globals()[name] = names[name]
        return names[name]
    return _missing(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *_LAZY, *_curated()})
