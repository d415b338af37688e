"""Stochastic differential equations that turn data into noise; `score_jax.sde.base` has the equations."""

from score_jax._renamed import renamed as _renamed
from score_jax.sde.base import Bridge as Bridge
from score_jax.sde.base import LinearSDE as LinearSDE
from score_jax.sde.base import Marginals as Marginals
from score_jax.sde.base import TimeLike as TimeLike
from score_jax.sde.base import bridge as bridge
from score_jax.sde.base import from_marginals as from_marginals
from score_jax.sde.base import log_snr_ends as log_snr_ends
from score_jax.sde.base import posterior as posterior
from score_jax.sde.base import reverse_drift as reverse_drift
from score_jax.sde.families import VE as VE
from score_jax.sde.families import VP as VP
from score_jax.sde.families import CosineVP as CosineVP
from score_jax.sde.families import LinearLogSNR as LinearLogSNR
from score_jax.sde.families import LinearVE as LinearVE
from score_jax.sde.families import SubVP as SubVP
from score_jax.sde.flows import RectifiedFlow as RectifiedFlow
from score_jax.sde.schedules import Betas as Betas
from score_jax.sde.schedules import CosineBetas as CosineBetas
from score_jax.sde.schedules import LinearBetas as LinearBetas
from score_jax.sde.schedules import NoiseSchedule as NoiseSchedule
from score_jax.sde.schedules import ScaledLinearBetas as ScaledLinearBetas
from score_jax.sde.schedules import from_alpha_bar as from_alpha_bar
from score_jax.sde.schedules import from_betas as from_betas
from score_jax.sde.schedules import schedule_grid as schedule_grid
from score_jax.sde.schedules import spaced_indices as spaced_indices

__getattr__ = _renamed(__name__)
