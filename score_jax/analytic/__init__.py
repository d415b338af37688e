"""Data with known answers: mixtures of Gaussians, their scores, posteriors and evidences."""

from score_jax.analytic.conditioning import Conditioner as Conditioner
from score_jax.analytic.covariance import LowRank as LowRank
from score_jax.analytic.covariance import Separable as Separable
from score_jax.analytic.covariance import cosine_basis as cosine_basis
from score_jax.analytic.covariance import fourier_basis as fourier_basis
from score_jax.analytic.importance import Weighted as Weighted
from score_jax.analytic.importance import importance_posterior as importance_posterior
from score_jax.analytic.mixture import Mixture as Mixture
from score_jax.analytic.mixture import gaussian as gaussian
from score_jax.analytic.priors import fit_mixture as fit_mixture
from score_jax.analytic.priors import random_field as random_field
from score_jax.analytic.priors import random_mixture as random_mixture
