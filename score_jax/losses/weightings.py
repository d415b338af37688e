r"""Weights of denoising score matching, all in the units of the noise: what w(t) in

    (1)  L = E_t E_z [ w(t) || z_hat - z ||^2 ]

is for each published loss, whatever the network returns and the process is. The error of the noise
depends on the log-SNR lambda alone, and with e = z_hat - z those of other predictions are

    x0        -exp(-lambda/2) e
    velocity  (1 + exp(-lambda/2)) e        z - x0
    v         sqrt(1 + exp(-lambda)) e      of a process with m^2 + s^2 = 1

so that a weight in their units is one of lambda in (1). The times are drawn by a rule of their own
(`score_jax.losses.times`): only `likelihood_weighting` and `sigmoid_weighting` are densities of the
log-SNR, made for uniform times.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_jax._check import check, check_positive, is_number
from score_jax._math import as_time, elementwise_grad
from score_jax.parametrization import SIGMA_DATA
from score_jax.types import SDE

Weighting = Callable[[SDE, Float[Array, "..."]], Float[Array, "..."]]


def noise_weighting(sde: SDE, t: Float[Array, "..."]) -> Float[Array, "..."]:
    """w(t) = 1 in eq. (1): lambda(t) = s(t)^2, the default of arXiv:2011.13456."""
    return jnp.ones_like(t)


def likelihood_weighting(sde: SDE, t: Float[Array, "..."]) -> Float[Array, "..."]:
    """w(t) = g(t)^2 / s(t)^2 in eq. (1): lambda(t) = g(t)^2, for likelihood (arXiv:2101.09258)."""
    return jnp.square(sde.diffusion(t) / sde.std(t))


def velocity_weighting(sde: SDE, t: Float[Array, "..."]) -> Float[Array, "..."]:
    """w(t) = (1 + exp(-lambda/2))^2: equal weight to the error of the velocity, flow matching.

    On `RectifiedFlow` the loss is the mean of ||v_hat - v||^2 (arXiv:2210.02747, arXiv:2209.03003).

    >>> loss = Model(RectifiedFlow(), net.apply, TimeInput(), VELOCITY).loss(
    ...     dsm(weighting=velocity_weighting))
    """
    return jnp.square(1 + jnp.exp(-0.5 * sde.log_snr(t)))


def edm_weighting(sigma_data: float = SIGMA_DATA) -> Weighting:
    """w(t) = 1 + (sigma / sigma_data)^2 in eq. (1), sigma = s/m: EDM's weight of the loss.

    In units of the network's output under `edm(sigma_data)` it is 1 (arXiv:2206.00364 table 1). Raises
    ValueError unless sigma_data > 0.

    >>> loss = model.loss(dsm(weighting=edm_weighting()), times=log_normal_times(model.sde))
    """
    check_positive(sigma_data=sigma_data)
    return lambda sde, t: 1 + jnp.exp(-sde.log_snr(t)) / sigma_data**2


def min_snr_weighting(gamma: float = 5.0) -> Weighting:
    """w(t) = min(1, gamma / SNR), which is min(SNR, gamma) for the error of x0: arXiv:2303.09556.

    Raises ValueError unless gamma > 0.
    """
    check_positive(gamma=gamma)
    log_gamma = math.log(gamma)
    return lambda sde, t: jnp.exp(jnp.minimum(log_gamma - sde.log_snr(t), 0))


def p2_weighting(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """w(t) = (k + SNR)^-gamma: perception-prioritised training, arXiv:2204.00227 eq. 8.

    Raises ValueError unless gamma and k are > 0.
    """
    check_positive(gamma=gamma, k=k)
    return lambda sde, t: jnp.exp(-gamma * jnp.logaddexp(math.log(k), sde.log_snr(t)))


def sigmoid_weighting(bias: float = 0.0) -> Weighting:
    """w(t) = -lambda'(t) sigmoid(bias - lambda): the sigmoid weight that SiD2 trains with.

    A sigmoid as the density of the log-SNR, for times drawn uniformly (arXiv:2303.00848; SiD2:
    arXiv:2410.19324). For the error of x0 it is -lambda'(t) e^bias sigmoid(lambda - bias), the form in
    which programs that follow SiD2 have it, up to the constant 1/2. A smaller bias moves the weight to
    more noise. Raises ValueError unless bias is finite.
    """
    check("bias", bias, is_number(bias), "a finite number")

    def weighting(sde: SDE, t: Float[Array, "..."]) -> Float[Array, "..."]:
        t = as_time(t)
        return -elementwise_grad(sde.log_snr)(t) * jax.nn.sigmoid(bias - sde.log_snr(t))

    return weighting
