"""The authors' numbers of Improved DDPM on two schedules, and the best network for Gaussian data."""

import jax.numpy as jnp
import numpy as np

from score_jax._math import bcast
from score_jax.parametrization import LEARNED, IndexInput
from score_jax.sde import CosineBetas, LinearBetas
from tests.helpers.golden_files import golden

NAMES = ("cosine50", "linear50")
MEAN, SPREAD = 0.3, 0.5  # the Gaussian data


def schedule(name):
    return {"cosine50": CosineBetas, "linear50": LinearBetas}[name](50)


def arrays(name):
    prefix = f"{name}/"
    found = golden("iddpm_process").items()
    return {k.removeprefix(prefix): v for k, v in found if k.startswith(prefix)}


def close(got, want, rtol=1e-5, scale=None):
    """Equal to a relative 1e-5 of each number, or of the largest where terms cancel."""
    atol = rtol * (np.abs(want).max() if scale is None else scale)
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=atol)


def posterior_variance(sde):
    """beta~ of the chain in float64, zero at index 0: (n,)."""
    before = np.append(1.0, sde.alpha_bar[:-1])
    return sde.betas * (1 - before) / (1 - sde.alpha_bar)


def posterior_x0_coef(sde):
    """The coefficient of x0 in the mean of the chain's posterior, in float64: (n,)."""
    before = np.append(1.0, sde.alpha_bar[:-1])
    return sde.betas * np.sqrt(before) / (1 - sde.alpha_bar)


def exact_variance(sde):
    """Var(x_prev | x) of N(MEAN, SPREAD^2) data, beta~ + c0^2 Var(x0 | x): (n,)."""
    left = SPREAD**2 * (1 - sde.alpha_bar) / (sde.alpha_bar * SPREAD**2 + 1 - sde.alpha_bar)
    return posterior_variance(sde) + posterior_x0_coef(sde) ** 2 * left


def gaussian_net(sde, variance=True):
    """The best network for N(MEAN, SPREAD^2): the noise, and the exact reverse variance."""

    def net(params, x, index):
        i = index.astype(jnp.int32)
        ab = bcast(jnp.asarray(sde.alpha_bar, x.dtype)[i], x)
        noise = jnp.sqrt(1 - ab) * (x - jnp.sqrt(ab) * MEAN) / (ab * SPREAD**2 + 1 - ab)
        if not variance:
            return noise
        log_variance = bcast(jnp.asarray(np.log(exact_variance(sde)), x.dtype)[i], x)
        return jnp.concatenate([noise, log_variance * jnp.ones_like(x)], axis=-1)

    return net


GAUSSIAN_INPUT, GAUSSIAN_VARIANCE = IndexInput(), LEARNED
