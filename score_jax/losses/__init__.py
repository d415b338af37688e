"""Training objectives: denoising score matching on an SDE."""

from score_jax.losses.continuous import TimeSampler as TimeSampler
from score_jax.losses.continuous import Weighting as Weighting
from score_jax.losses.continuous import dsm_loss as dsm_loss
from score_jax.losses.continuous import dsm_per_example as dsm_per_example
from score_jax.losses.continuous import half_sum_reduction as half_sum_reduction
from score_jax.losses.continuous import likelihood_weighting as likelihood_weighting
from score_jax.losses.continuous import mean_reduction as mean_reduction
from score_jax.losses.continuous import noise_weighting as noise_weighting
from score_jax.losses.continuous import stratified_times as stratified_times
from score_jax.losses.continuous import uniform_times as uniform_times
from score_jax.losses.importance import importance_weighting as importance_weighting
from score_jax.losses.importance import log_snr_times as log_snr_times

__all__ = [
    "TimeSampler", "Weighting", "dsm_loss", "dsm_per_example", "half_sum_reduction",
    "importance_weighting", "likelihood_weighting", "log_snr_times", "mean_reduction",
    "noise_weighting", "stratified_times", "uniform_times",
]  # fmt: skip
