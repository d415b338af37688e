"""Training losses: denoising score matching on any SDE; simple, variational, hybrid on a schedule."""

from score_jax._renamed import renamed as _renamed
from score_jax.losses.bound import ScheduleBound as ScheduleBound
from score_jax.losses.bound import mean_and_error as mean_and_error
from score_jax.losses.bound import prior_bits as prior_bits
from score_jax.losses.bound import schedule_bound as schedule_bound
from score_jax.losses.classifier import classifier_loss as classifier_loss
from score_jax.losses.decoders import Decoder as Decoder
from score_jax.losses.decoders import LogMass as LogMass
from score_jax.losses.decoders import density_decoder as density_decoder
from score_jax.losses.decoders import discretized_gaussian as discretized_gaussian
from score_jax.losses.decoders import gaussian_kl as gaussian_kl
from score_jax.losses.decoders import normal_log_mass as normal_log_mass
from score_jax.losses.decoders import tanh_log_mass as tanh_log_mass
from score_jax.losses.indices import LossHistory as LossHistory
from score_jax.losses.indices import index_probabilities as index_probabilities
from score_jax.losses.indices import loss_second_moment as loss_second_moment
from score_jax.losses.indices import record as record
from score_jax.losses.indices import uniform_indices as uniform_indices
from score_jax.losses.schedule import bound_term as bound_term
from score_jax.losses.schedule import hybrid as hybrid
from score_jax.losses.schedule import per_step as per_step
from score_jax.losses.schedule import simple as simple
from score_jax.losses.schedule import variational as variational
from score_jax.losses.times import Times as Times
from score_jax.losses.times import Weighting as Weighting
from score_jax.losses.times import importance_weighting as importance_weighting
from score_jax.losses.times import log_normal_times as log_normal_times
from score_jax.losses.times import log_snr_times as log_snr_times
from score_jax.losses.times import timesteps as timesteps
from score_jax.losses.times import uniform_times as uniform_times
from score_jax.losses.training import Objective as Objective
from score_jax.losses.training import Sample as Sample
from score_jax.losses.training import drop_labels as drop_labels
from score_jax.losses.training import dsm as dsm
from score_jax.losses.training import dsm_loss as dsm_loss
from score_jax.losses.training import dsm_per_example as dsm_per_example
from score_jax.losses.training import edm_weighting as edm_weighting
from score_jax.losses.training import half_sum_reduction as half_sum_reduction
from score_jax.losses.training import likelihood_weighting as likelihood_weighting
from score_jax.losses.training import mean_reduction as mean_reduction
from score_jax.losses.training import noise_weighting as noise_weighting
from score_jax.losses.training import training_loss as training_loss
from score_jax.types import IndexSampler as IndexSampler

__getattr__ = _renamed(__name__)
