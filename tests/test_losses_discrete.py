"""Losses and the bound on a table: the authors' numbers, exact Gaussians, masses that sum to one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import discrete as d
from score_jax import losses
from score_jax.samplers import static
from tests.golden_files import golden
from tests.test_discrete import NAMES, arrays, close, table

BITS = math.log(2.0)


def sample(name):
    g = arrays(name)
    return losses.Sample(
        table(name),
        *(jnp.asarray(g[k]) for k in ("model_out", "x0", "x_t", "noise")),
        jnp.asarray(g["t"], jnp.int32),
    ), g


# The authors' numbers.


def test_decoder_is_the_authors():
    g = golden("iddpm_process")
    x = jnp.asarray(g["dgll/x"])
    mean, log_scale = (jnp.full_like(x, float(g[f"dgll/{k}"])) for k in ("mean", "log_scale"))
    got = losses.discretized_gaussian(256)(x, mean, 2 * log_scale)
    np.testing.assert_allclose(got, g["dgll/out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_authors(name):
    s, g = sample(name)
    hybrid, parts = losses.hybrid()(s)
    close(parts["mse"], g["hybrid_rescaled/mse"])
    close(hybrid, g["hybrid_rescaled/loss"])
    close(1e-3 * parts["vlb"], g["hybrid_rescaled/vb"])
    close(losses.variational()(s)[0], g["vlb_rescaled/loss"])
    reverse = d.p_mean_var(s.diffusion, s.value, s.x, s.i)
    term = losses.bound_term(s.diffusion, reverse, s.x0, s.x, s.i)
    np.testing.assert_allclose(term, g["vb_terms_bpd"], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_the_authors(name):
    """Their whole loop of 50 steps, for the noise that they drew."""
    diffusion, g = table(name), arrays(name)
    w = jnp.asarray(g["bpd_loop/W"])
    drawn = jnp.asarray(g["bpd_loop/noise_in_call_order_t_descending"])[::-1]

    def net(params, x, label):
        scale = 1 + label[:, None, None, None] / 50
        return scale * jnp.einsum("bhwc,oc->bhwo", x, params)

    reverse = d.reverse_fn(diffusion, net, w, clean=static())
    bound = jax.jit(
        functools.partial(losses.table_bound, diffusion, reverse, noise=lambda key, i, x0: drawn[i])
    )
    out = bound(jax.random.key(0), jnp.asarray(g["x0"]))
    close(out.total, g["bpd_loop/total_bpd"])
    close(out.terms, g["bpd_loop/vb"][:, ::-1])
    close(out.x0_mse, g["bpd_loop/xstart_mse"][:, ::-1])
    close(out.noise_mse, g["bpd_loop/mse"][:, ::-1])
    # Of order 1e-6, with the rounding of a difference of ones.
    np.testing.assert_allclose(out.prior, g["bpd_loop/prior_bpd"], atol=1e-7)
