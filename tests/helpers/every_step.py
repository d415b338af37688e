"""The Steps that the tests of the protocol run over.

Each entry of STEPS makes a Step of (sde, score); those in EXACT draw no noise. EXPORTED holds all
factories that `score_jax.samplers` exports, so that a new one needs no entry.
"""

import inspect

import jax.numpy as jnp

from score_jax import samplers as sm
from score_jax.parametrization import LARGE
from score_jax.types import Step

GRID = sm.song_grid(20, 0.1)

STEPS = {
    "identity": sm.identity,
    "empty_chain": lambda sde, score: sm.chain(),
    "euler_maruyama": sm.euler_maruyama,
    "euler_ode": lambda sde, score: sm.euler_maruyama(sde, score, ode=True),
    "reverse_diffusion": sm.reverse_diffusion,
    "reverse_diffusion_ode": lambda sde, score: sm.reverse_diffusion(sde, score, ode=True),
    "ancestral": sm.ancestral,
    "ancestral_large": lambda sde, score: sm.ancestral(sde, score, variance=LARGE),
    "ancestral_ode": lambda sde, score: sm.ancestral(sde, score, ode=True),
    "langevin": lambda sde, score: sm.langevin(sde, score, n_steps=2),
    "langevin_per_sample": lambda sde, score: sm.langevin(sde, score, ratio=sm.per_sample),
    "langevin_root_dim": lambda sde, score: sm.langevin(sde, score, ratio=sm.root_dim),
    "annealed_langevin": sm.annealed_langevin,
    "langevin_dynamics": lambda sde, score: sm.langevin_dynamics(
        sde, score, epsilon=1e-3, n_steps=2
    ),
    "corrector_first": lambda sde, score: sm.chain(
        sm.langevin(sde, score), sm.reverse_diffusion(sde, score)
    ),
    "predictor_first": lambda sde, score: sm.chain(
        sm.ancestral(sde, score), sm.at_next(sm.annealed_langevin(sde, score, n_steps=2))
    ),
    "song_euler_maruyama": lambda sde, score: sm.song_euler_maruyama(sde, score, GRID),
    "song_reverse_diffusion": lambda sde, score: sm.song_reverse_diffusion(sde, score, GRID),
    "song_langevin": lambda sde, score: sm.song_langevin(sde, score, GRID),
    "song_annealed_langevin": lambda sde, score: sm.song_annealed_langevin(sde, score, GRID),
    "thresholded": lambda sde, score: sm.ancestral(
        sde, sm.threshold(sde, score, sm.dynamic(0.9)), variance=LARGE
    ),
}
EXACT = {name for name in STEPS if name.endswith("ode")} | {"identity", "empty_chain"}


def _makes_steps(value):
    if not inspect.isfunction(value):
        return False
    found = inspect.signature(inspect.unwrap(value))
    required = [n for n, p in found.parameters.items() if p.default is p.empty]
    return found.return_annotation in (Step, "Step") and required == ["sde", "score"]


EXPORTED = {name: value for name, value in vars(sm).items() if _makes_steps(value)}


def move(step, key, x, t, t_next):
    """One update of a step from t to t_next, as the first of a run: `StepOut`."""
    grid = jnp.stack([t, t_next]) if jnp.ndim(t) == 0 else jnp.ones(2)
    return step.update(key, x, t, t_next, step.init(x, grid))[0]
