"""Samplers: grids, steps, the scan that runs them, and the probability-flow ODE."""

from score_jax.samplers.chain import chain as chain
from score_jax.samplers.compare import Candidate as Candidate
from score_jax.samplers.compare import compare_samplers as compare_samplers
from score_jax.samplers.grids import check_grid as check_grid
from score_jax.samplers.grids import power_grid as power_grid
from score_jax.samplers.grids import uniform_grid as uniform_grid
from score_jax.samplers.ode import ODEOut as ODEOut
from score_jax.samplers.ode import probability_flow as probability_flow
from score_jax.samplers.sampling import Sampler as Sampler
from score_jax.samplers.sampling import Samples as Samples
from score_jax.samplers.sampling import as_it_is as as_it_is
from score_jax.samplers.sampling import flow as flow
from score_jax.samplers.sampling import last_mean as last_mean
from score_jax.samplers.sampling import sample as sample
from score_jax.samplers.sampling import stepwise as stepwise
from score_jax.samplers.sampling import tweedie as tweedie
from score_jax.samplers.simulate import SampleOut as SampleOut
from score_jax.samplers.simulate import simulate as simulate
from score_jax.samplers.steps import euler_maruyama as euler_maruyama
from score_jax.samplers.steps import langevin as langevin
from score_jax.samplers.steps import reverse_diffusion as reverse_diffusion

__all__ = [
    "Candidate", "ODEOut", "SampleOut", "Sampler", "Samples", "as_it_is",
    "chain", "check_grid", "compare_samplers", "euler_maruyama", "flow", "langevin", "last_mean",
    "power_grid", "probability_flow", "reverse_diffusion", "sample", "simulate", "stepwise",
    "tweedie", "uniform_grid",
]  # fmt: skip
