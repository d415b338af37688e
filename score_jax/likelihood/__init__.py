"""Log-densities through the probability flow, bounds on them, bits per dimension, and latents."""

from score_jax.likelihood.bits import bits_per_dim, check_dequantized, mean_over_draws
from score_jax.likelihood.bound import Bound, variational_bound
from score_jax.likelihood.dataset import DatasetLogLik, over_dataset
from score_jax.likelihood.exact import (
    EXACT_UP_TO,
    Divergence,
    LogLik,
    exact_divergence,
    hutchinson,
    log_likelihood,
)
from score_jax.likelihood.gap import IGNORE, OFFSET, TWEEDIE, Gap
from score_jax.likelihood.latents import decode, encode, linear, spherical

__all__ = [
    "EXACT_UP_TO",
    "IGNORE",
    "OFFSET",
    "TWEEDIE",
    "Bound",
    "DatasetLogLik",
    "Divergence",
    "Gap",
    "LogLik",
    "bits_per_dim",
    "check_dequantized",
    "decode",
    "encode",
    "exact_divergence",
    "hutchinson",
    "linear",
    "log_likelihood",
    "mean_over_draws",
    "over_dataset",
    "spherical",
    "variational_bound",
]
