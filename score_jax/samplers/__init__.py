"""Samplers: grids, steps, the scan that runs them, and the probability-flow ODE."""

from score_jax.samplers.chain import chain as chain
from score_jax.samplers.grids import check_grid as check_grid
from score_jax.samplers.grids import power_grid as power_grid
from score_jax.samplers.grids import uniform_grid as uniform_grid
from score_jax.samplers.ode import ODEOut as ODEOut
from score_jax.samplers.ode import probability_flow as probability_flow
from score_jax.samplers.simulate import SampleOut as SampleOut
from score_jax.samplers.simulate import simulate as simulate
from score_jax.samplers.steps import euler_maruyama as euler_maruyama
from score_jax.samplers.steps import langevin as langevin
from score_jax.samplers.steps import reverse_diffusion as reverse_diffusion

__all__ = [
    "ODEOut", "SampleOut", "chain", "check_grid", "euler_maruyama", "langevin", "power_grid",
    "probability_flow", "reverse_diffusion", "simulate", "uniform_grid",
]  # fmt: skip
