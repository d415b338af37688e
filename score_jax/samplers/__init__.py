"""Samplers: grids, steps, the scan that runs them, and the probability-flow ODE."""

from score_jax.samplers.chain import chain as chain
from score_jax.samplers.compare import Candidate as Candidate
from score_jax.samplers.compare import compare_samplers as compare_samplers
from score_jax.samplers.ddim import EncodeOut as EncodeOut
from score_jax.samplers.ddim import ddim as ddim
from score_jax.samplers.ddim import ddim_encode as ddim_encode
from score_jax.samplers.dpm import dpmpp_2m as dpmpp_2m
from score_jax.samplers.dpm import dpmpp_2s as dpmpp_2s
from score_jax.samplers.dpm import dpmpp_3m as dpmpp_3m
from score_jax.samplers.dpm import sde_dpmpp_2m as sde_dpmpp_2m
from score_jax.samplers.grids import check_grid as check_grid
from score_jax.samplers.grids import power_grid as power_grid
from score_jax.samplers.grids import uniform_grid as uniform_grid
from score_jax.samplers.heun import edm as edm
from score_jax.samplers.heun import heun as heun
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
from score_jax.samplers.unipc import bh1 as bh1
from score_jax.samplers.unipc import bh2 as bh2
from score_jax.samplers.unipc import unipc as unipc

__all__ = [
    "Candidate", "EncodeOut", "ODEOut", "SampleOut", "Sampler", "Samples", "as_it_is", "bh1",
    "bh2", "chain", "check_grid", "compare_samplers", "ddim", "ddim_encode", "dpmpp_2m",
    "dpmpp_2s", "dpmpp_3m", "edm", "euler_maruyama", "flow", "heun", "langevin", "last_mean",
    "power_grid", "probability_flow", "reverse_diffusion", "sample", "sde_dpmpp_2m", "simulate",
    "stepwise", "tweedie", "uniform_grid", "unipc",
]  # fmt: skip
