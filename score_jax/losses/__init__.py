"""Training objectives: denoising score matching on an SDE; simple, bound and hybrid on a table."""

from score_jax.losses.bound import TableBound as TableBound
from score_jax.losses.bound import mean_and_error as mean_and_error
from score_jax.losses.bound import prior_bits as prior_bits
from score_jax.losses.bound import table_bound as table_bound
from score_jax.losses.classifier import classifier_loss as classifier_loss
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
from score_jax.losses.discrete import Decoder as Decoder
from score_jax.losses.discrete import LogMass as LogMass
from score_jax.losses.discrete import Objective as Objective
from score_jax.losses.discrete import Sample as Sample
from score_jax.losses.discrete import StepWeighting as StepWeighting
from score_jax.losses.discrete import bound_term as bound_term
from score_jax.losses.discrete import density_decoder as density_decoder
from score_jax.losses.discrete import discrete_loss as discrete_loss
from score_jax.losses.discrete import discretized_gaussian as discretized_gaussian
from score_jax.losses.discrete import gaussian_kl as gaussian_kl
from score_jax.losses.discrete import hybrid as hybrid
from score_jax.losses.discrete import normal_log_mass as normal_log_mass
from score_jax.losses.discrete import per_step as per_step
from score_jax.losses.discrete import simple as simple
from score_jax.losses.discrete import tanh_log_mass as tanh_log_mass
from score_jax.losses.discrete import variational as variational
from score_jax.losses.importance import importance_weighting as importance_weighting
from score_jax.losses.importance import log_snr_times as log_snr_times
from score_jax.losses.labels import drop_labels as drop_labels
from score_jax.losses.time_samplers import LossHistory as LossHistory
from score_jax.losses.time_samplers import index_probabilities as index_probabilities
from score_jax.losses.time_samplers import loss_second_moment as loss_second_moment
from score_jax.losses.time_samplers import record as record
from score_jax.losses.time_samplers import uniform_indices as uniform_indices
from score_jax.types import IndexSampler as IndexSampler

__all__ = [
    "Decoder", "IndexSampler", "LogMass", "LossHistory", "Objective", "Sample", "StepWeighting",
    "TableBound", "TimeSampler", "Weighting", "bound_term", "classifier_loss", "density_decoder",
    "discrete_loss", "discretized_gaussian", "drop_labels", "dsm_loss", "dsm_per_example", "gaussian_kl",
    "half_sum_reduction", "hybrid", "importance_weighting", "index_probabilities",
    "likelihood_weighting", "log_snr_times", "loss_second_moment", "mean_and_error",
    "mean_reduction", "noise_weighting", "normal_log_mass", "per_step", "prior_bits", "record",
    "simple", "stratified_times", "table_bound", "tanh_log_mass", "uniform_indices",
    "uniform_times", "variational",
]  # fmt: skip
