"""Log-densities through the probability flow, bounds on them, bits per dimension, and latents."""

from score_jax.likelihood.bits import bits_per_dim as bits_per_dim
from score_jax.likelihood.bits import check_dequantized as check_dequantized
from score_jax.likelihood.bits import mean_over_draws as mean_over_draws
from score_jax.likelihood.bound import Bound as Bound
from score_jax.likelihood.bound import variational_bound as variational_bound
from score_jax.likelihood.dataset import DatasetLogLik as DatasetLogLik
from score_jax.likelihood.dataset import over_dataset as over_dataset
from score_jax.likelihood.exact import EXACT_UP_TO as EXACT_UP_TO
from score_jax.likelihood.exact import Divergence as Divergence
from score_jax.likelihood.exact import LogLik as LogLik
from score_jax.likelihood.exact import exact_divergence as exact_divergence
from score_jax.likelihood.exact import hutchinson as hutchinson
from score_jax.likelihood.exact import log_likelihood as log_likelihood
from score_jax.likelihood.gap import IGNORE as IGNORE
from score_jax.likelihood.gap import OFFSET as OFFSET
from score_jax.likelihood.gap import TWEEDIE as TWEEDIE
from score_jax.likelihood.gap import Gap as Gap
from score_jax.likelihood.latents import decode as decode
from score_jax.likelihood.latents import encode as encode
from score_jax.likelihood.latents import linear as linear
from score_jax.likelihood.latents import spherical as spherical
