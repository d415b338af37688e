"""Methods by the covariance of x0 given x are exact for normal data, and better elsewhere."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import gaussian
from score_jax.inverse import (
    Blur,
    Linear,
    Mask,
    Measurement,
    dense,
    exact,
    gaussian_kernel,
    measure,
    mmps,
    posterior_sample,
    tmpd,
)
from score_jax.samplers import ancestral, log_snr_grid
from score_jax.sde import VE, VP, SubVP
from tests.inverse.test_inverse import SDE

RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(6, 6)) / 2
DATA = gaussian(RNG.normal(size=(2, 3, 1)), ROOT @ ROOT.T + 0.05 * np.eye(6))
CASES = {  # operator, noise, process
    "mask": (Mask(np.array([True, False, True, True, False, True]).reshape(2, 3, 1)), 0.0, VP()),
    "blur": (Blur(gaussian_kernel(2, 0.5)), 0.3, SubVP()),
    "matrix": (dense(RNG.normal(size=(3, 6)), (2, 3, 1)), 0.2, VE(0.01, 10.0)),
    "iterated": (Linear(lambda x: x[:, 1:] - 0.5 * x[:, :-1], (2, 3, 1)), 0.2, VP()),
}
X = jnp.asarray(RNG.normal(size=(3, 2, 3, 1)), jnp.float32)
TIMES = jnp.asarray([0.05, 0.4, 0.9])


def relative(found, want):
    """Largest error of each example, relative to its largest entry."""
    found, want = (np.asarray(v).reshape(len(v), -1) for v in (found, want))
    return abs(found - want).max(axis=1) / abs(want).max(axis=1)


@pytest.mark.parametrize("name", CASES)
def test_mmps_is_the_posteriors_score_for_normal_data(name):
    """At every time, with all correlations: PiGDM is exact only without any."""
    operator, noise_std, sde = CASES[name]
    ys = measure(
        jax.random.key(1), operator, DATA.sample(jax.random.key(0), 3), noise_std=noise_std
    )
    want = jax.jit(exact(DATA, ys)(sde, DATA.score(sde), ys).score)(X, TIMES)
    found = jax.jit(mmps(sde, DATA.score(sde), ys, iterations=12, limit=math.inf).score)(X, TIMES)
    assert relative(found, want).max() < 5e-3


def test_tmpd_is_exact_for_independent_entries_under_a_mask():
    stds = np.array([0.3, 0.8, 1.0, 0.5, 0.2, 1.5])
    data = gaussian(np.zeros((2, 3, 1)), np.diag(stds**2))
    ys = measure(
        jax.random.key(1), CASES["mask"][0], data.sample(jax.random.key(0), 3), noise_std=0.2
    )
    # With correlations it is not, and says nothing else than finite numbers.
    again = Measurement(ys.operator, ys.y, 0.2)
    scores = [
        tmpd(SDE, data.score(SDE), ys, limit=math.inf),
        exact(data, ys)(SDE, data.score(SDE), ys),
        tmpd(SDE, DATA.score(SDE), again),
    ]
    found, want, other = jax.jit(lambda x, t: [score(x, t) for score in scores])(X, TIMES)
    assert relative(found, want).max() < 2e-2
    assert np.isfinite(other).all()


@pytest.mark.slow
def test_a_poor_network_is_not_made_much_of():
    """The derivative of a score that is wrong by a little has large errors: the limit holds them."""
    n, tau = 16, 0.5
    data = gaussian(np.zeros(n), tau**2 * np.eye(n))
    exactly = data.score(SDE)
    poor = lambda x, t: exactly(x, t) + 0.05 * jnp.sin(20 * jnp.roll(x, 5, axis=1)) / SDE.std(t)
    y = Measurement(Mask(np.arange(n) < 8), jnp.full((1, n), 0.4))

    def draw(limit):
        return posterior_sample(
            jax.random.key(0), SDE, poor, y, mmps, grid=log_snr_grid(SDE, 40), sampler=ancestral,
            num=200, chunk=200, together=True, options={"limit": limit}, progress=False,
        ).x  # fmt: skip

    x = draw(3.0)
    assert abs(x[:, 8:].mean(axis=0)).max() < 0.3 and x[:, 8:].std() < 2 * tau
    lost = draw(math.inf)
    assert not np.isfinite(lost).all() or lost[:, 8:].std() > 4 * tau


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [(mmps, {"iterations": 0}, "iterations"), (mmps, {"scale": 0.0}, "scale"),
     (mmps, {"limit": 0.0}, "limit"), (tmpd, {"scale": -1.0}, "scale")],
    ids=["iterations", "scale", "limit", "tmpd_scale"],
)  # fmt: skip
def test_wrong_use_is_named(method, options, named):
    y = Measurement(CASES["mask"][0], np.zeros((1, 2, 3, 1)), 0.1)
    with pytest.raises(ValueError, match=named):
        method(SDE, DATA.score(SDE), y, **options)
