"""Score-based generative modelling through SDEs, with Improved DDPM, in JAX and Flax.

A `Model` joins a network with its `SDE` or noise schedule; from it come a `Loss` for `training.fit` and
a `ScoreFn` for a sampler `Step`, run by `simulate` or `sample`. All submodules are reachable from here:
`score_jax.nets`, `score_jax.losses`, ...
"""

import importlib
import pkgutil
from typing import Any

from score_jax._renamed import renamed as _renamed
from score_jax.guidance import classifier_free as classifier_free
from score_jax.guidance import classifier_guidance as classifier_guidance
from score_jax.inverse import posterior_sample as posterior_sample
from score_jax.likelihood import bits_per_dim as bits_per_dim
from score_jax.likelihood import log_likelihood as log_likelihood
from score_jax.losses import dsm_loss as dsm_loss
from score_jax.losses import training_loss as training_loss
from score_jax.model import Model as Model
from score_jax.parametrization import IndexInput as IndexInput
from score_jax.parametrization import LevelInput as LevelInput
from score_jax.parametrization import StdInput as StdInput
from score_jax.parametrization import TimeInput as TimeInput
from score_jax.samplers import adaptive_multistep as adaptive_multistep
from score_jax.samplers import ancestral as ancestral
from score_jax.samplers import chain as chain
from score_jax.samplers import compare_samplers as compare_samplers
from score_jax.samplers import ddim as ddim
from score_jax.samplers import dpmpp_2m as dpmpp_2m
from score_jax.samplers import euler_maruyama as euler_maruyama
from score_jax.samplers import flow as flow
from score_jax.samplers import langevin as langevin
from score_jax.samplers import log_snr_grid as log_snr_grid
from score_jax.samplers import probability_flow as probability_flow
from score_jax.samplers import reverse_diffusion as reverse_diffusion
from score_jax.samplers import sample as sample
from score_jax.samplers import simulate as simulate
from score_jax.samplers import stepwise as stepwise
from score_jax.samplers import uniform_grid as uniform_grid
from score_jax.score import denoise as denoise
from score_jax.score import reverse_fn as reverse_fn
from score_jax.score import score_fn as score_fn
from score_jax.sde import VE as VE
from score_jax.sde import VP as VP
from score_jax.sde import Betas as Betas
from score_jax.sde import CosineBetas as CosineBetas
from score_jax.sde import CosineVP as CosineVP
from score_jax.sde import LinearBetas as LinearBetas
from score_jax.sde import LinearSDE as LinearSDE
from score_jax.sde import LinearVE as LinearVE
from score_jax.sde import NoiseSchedule as NoiseSchedule
from score_jax.sde import ScaledLinearBetas as ScaledLinearBetas
from score_jax.sde import SubVP as SubVP
from score_jax.sde import from_betas as from_betas
from score_jax.sde import from_marginals as from_marginals
from score_jax.sde import posterior as posterior
from score_jax.sde import reverse_drift as reverse_drift
from score_jax.sde import schedule_grid as schedule_grid
from score_jax.sde import spaced_indices as spaced_indices

__version__ = "0.1.0"

_SUBMODULES = {m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")}
_LAZY = {"load_pretrained": "score_jax.convert"}
_missing = _renamed(__name__)


def __getattr__(name: str) -> Any:
    """Import a submodule, or `load_pretrained`, at its first use; name what replaces an old name."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"score_jax.{name}")
    return _missing(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *_LAZY})
