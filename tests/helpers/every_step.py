"""The list of Steps that the tests of the protocol run over: add yours here.

Each entry makes a Step of (sde, score); those in EXACT draw no noise.
"""

import jax.numpy as jnp

from score_jax import samplers as sm

GRID = sm.song_grid(20, 0.1)

STEPS = {
    "identity": sm.identity,
    "empty_chain": lambda sde, score: sm.chain(),
    "euler_maruyama": sm.euler_maruyama,
    "euler_ode": lambda sde, score: sm.euler_maruyama(sde, score, ode=True),
    "reverse_diffusion": sm.reverse_diffusion,
    "reverse_diffusion_ode": lambda sde, score: sm.reverse_diffusion(sde, score, ode=True),
    "ancestral": sm.ancestral,
    "ancestral_large": lambda sde, score: sm.ancestral(sde, score, large=True),
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
        sde, sm.threshold(sde, score, sm.dynamic(0.9)), large=True
    ),
}
EXACT = {name for name in STEPS if name.endswith("ode")} | {"identity", "empty_chain"}


def move(step, key, x, t, t_next):
    """One update of a step from t to t_next, as the first of a run: `StepOut`."""
    return step.update(key, x, t, t_next, step.init(x, jnp.stack([jnp.asarray(t), t_next])))[0]
