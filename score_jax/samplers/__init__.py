"""Samplers: grids, steps, the scan that runs them, and the probability-flow ODE."""

from score_jax.samplers.adaptive import AdaptiveOut as AdaptiveOut
from score_jax.samplers.adaptive import adaptive_multistep as adaptive_multistep
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
from score_jax.samplers.grids import even_indices as even_indices
from score_jax.samplers.grids import karras_grid as karras_grid
from score_jax.samplers.grids import log_snr_grid as log_snr_grid
from score_jax.samplers.grids import power_grid as power_grid
from score_jax.samplers.grids import quadratic_grid as quadratic_grid
from score_jax.samplers.grids import table_grid as table_grid
from score_jax.samplers.grids import uniform_grid as uniform_grid
from score_jax.samplers.heun import edm as edm
from score_jax.samplers.heun import heun as heun
from score_jax.samplers.langevin import annealed_langevin as annealed_langevin
from score_jax.samplers.langevin import at_next as at_next
from score_jax.samplers.langevin import langevin as langevin
from score_jax.samplers.langevin import langevin_dynamics as langevin_dynamics
from score_jax.samplers.langevin import per_batch as per_batch
from score_jax.samplers.langevin import per_sample as per_sample
from score_jax.samplers.langevin import root_dim as root_dim
from score_jax.samplers.ode import IN_ANGLE as IN_ANGLE
from score_jax.samplers.ode import IN_LOG_NOISE as IN_LOG_NOISE
from score_jax.samplers.ode import IN_TIME as IN_TIME
from score_jax.samplers.ode import Coordinate as Coordinate
from score_jax.samplers.ode import FlowPath as FlowPath
from score_jax.samplers.ode import ODEOut as ODEOut
from score_jax.samplers.ode import batch_rms as batch_rms
from score_jax.samplers.ode import probability_flow as probability_flow
from score_jax.samplers.ode import probability_path as probability_path
from score_jax.samplers.ode import worst_sample as worst_sample
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
from score_jax.samplers.song import SongGrid as SongGrid
from score_jax.samplers.song import song_ancestral as song_ancestral
from score_jax.samplers.song import song_annealed_langevin as song_annealed_langevin
from score_jax.samplers.song import song_euler_maruyama as song_euler_maruyama
from score_jax.samplers.song import song_grid as song_grid
from score_jax.samplers.song import song_langevin as song_langevin
from score_jax.samplers.song import song_reverse_diffusion as song_reverse_diffusion
from score_jax.samplers.steps import ancestral as ancestral
from score_jax.samplers.steps import euler_maruyama as euler_maruyama
from score_jax.samplers.steps import identity as identity
from score_jax.samplers.steps import reverse_diffusion as reverse_diffusion
from score_jax.samplers.steps import transition as transition
from score_jax.samplers.stochastic import StochasticOut as StochasticOut
from score_jax.samplers.stochastic import diffrax_sde as diffrax_sde
from score_jax.samplers.table import Tablewise as Tablewise
from score_jax.samplers.table import ddim_move as ddim_move
from score_jax.samplers.table import table_ancestral as table_ancestral
from score_jax.samplers.table import table_ddim as table_ddim
from score_jax.samplers.table import table_denoise as table_denoise
from score_jax.samplers.table import table_encode as table_encode
from score_jax.samplers.table import table_score as table_score
from score_jax.samplers.table import tablewise as tablewise
from score_jax.samplers.threshold import dynamic as dynamic
from score_jax.samplers.threshold import no_threshold as no_threshold
from score_jax.samplers.threshold import static as static
from score_jax.samplers.threshold import threshold as threshold
from score_jax.samplers.unipc import bh1 as bh1
from score_jax.samplers.unipc import bh2 as bh2
from score_jax.samplers.unipc import unipc as unipc

__all__ = [
    "IN_ANGLE", "IN_LOG_NOISE", "IN_TIME", "AdaptiveOut", "Candidate", "Coordinate", "EncodeOut",
    "FlowPath", "ODEOut", "SampleOut", "Sampler", "Samples", "SongGrid", "StochasticOut",
    "Tablewise", "adaptive_multistep", "ancestral", "annealed_langevin", "as_it_is", "at_next",
    "batch_rms", "bh1", "bh2", "chain", "check_grid", "compare_samplers", "ddim", "ddim_encode",
    "ddim_move", "diffrax_sde", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dynamic", "edm",
    "euler_maruyama", "even_indices", "flow", "heun", "identity", "karras_grid", "langevin",
    "langevin_dynamics", "last_mean", "log_snr_grid", "no_threshold", "per_batch", "per_sample",
    "power_grid", "probability_flow", "probability_path", "quadratic_grid", "reverse_diffusion",
    "root_dim", "sample", "sde_dpmpp_2m", "simulate", "song_ancestral", "song_annealed_langevin",
    "song_euler_maruyama", "song_grid", "song_langevin", "song_reverse_diffusion", "static",
    "stepwise", "table_ancestral", "table_ddim", "table_denoise", "table_encode", "table_grid",
    "table_score", "tablewise", "threshold", "transition", "tweedie", "uniform_grid", "unipc",
    "worst_sample",
]  # fmt: skip
