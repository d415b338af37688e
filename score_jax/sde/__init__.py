"""Stochastic differential equations that turn data into noise; `score_jax.sde.base` has the equations."""

from score_jax.sde.base import LinearSDE as LinearSDE
from score_jax.sde.base import Marginals as Marginals
from score_jax.sde.base import from_marginals as from_marginals
from score_jax.sde.base import reverse_drift as reverse_drift
from score_jax.sde.families import VE as VE
from score_jax.sde.families import VP as VP
from score_jax.sde.families import CosineVP as CosineVP
from score_jax.sde.families import LinearVE as LinearVE
from score_jax.sde.families import SubVP as SubVP
from score_jax.sde.signal import log_snr as log_snr
from score_jax.sde.signal import time_of_log_snr as time_of_log_snr
from score_jax.sde.table import TableVP as TableVP
from score_jax.sde.table import from_betas as from_betas

__all__ = [
    "VE", "VP", "CosineVP", "LinearSDE", "LinearVE", "Marginals", "SubVP", "TableVP", "from_betas",
    "from_marginals", "log_snr", "reverse_drift", "time_of_log_snr",
]  # fmt: skip
