"""Score-based generative modelling through SDEs, with Improved DDPM, in JAX and Flax.

Pure functions on small frozen records: an `SDE`, a `ScoreFn` made of any network by `score_fn`, a
sampler `Step` run by `simulate`, a `Loss` for `training.fit`. See the modules for the rest.
"""

from score_jax.guidance import classifier_free as classifier_free
from score_jax.guidance import classifier_guidance as classifier_guidance
from score_jax.inverse import posterior_sample as posterior_sample
from score_jax.likelihood import bits_per_dim as bits_per_dim
from score_jax.likelihood import log_likelihood as log_likelihood
from score_jax.losses import dsm_loss as dsm_loss
from score_jax.model import Model as Model
from score_jax.parametrization import IndexInput as IndexInput
from score_jax.parametrization import StdInput as StdInput
from score_jax.parametrization import TimeInput as TimeInput
from score_jax.samplers import adaptive_multistep as adaptive_multistep
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
from score_jax.score import label_std as label_std
from score_jax.score import label_time as label_time
from score_jax.score import score_fn as score_fn
from score_jax.sde import VE as VE
from score_jax.sde import VP as VP
from score_jax.sde import CosineVP as CosineVP
from score_jax.sde import LinearVE as LinearVE
from score_jax.sde import SubVP as SubVP
from score_jax.sde import from_betas as from_betas
from score_jax.sde import from_marginals as from_marginals
from score_jax.sde import reverse_drift as reverse_drift

__version__ = "0.1.0"

__all__ = [
    "VE", "VP", "CosineVP", "LinearVE", "SubVP", "adaptive_multistep", "bits_per_dim", "chain",
    "classifier_free", "classifier_guidance", "compare_samplers", "ddim", "denoise", "dpmpp_2m",
    "dsm_loss", "euler_maruyama", "flow", "from_betas", "from_marginals", "label_std", "label_time",
    "langevin", "log_likelihood", "log_snr_grid", "posterior_sample", "probability_flow",
    "reverse_diffusion", "reverse_drift", "sample", "score_fn", "simulate", "stepwise",
    "uniform_grid",
]  # fmt: skip
