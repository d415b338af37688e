"""Thresholds of the denoised estimate: by hand, in any sampler, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.score import denoise
from score_jax.sde import VE, VP, SubVP
from tests.helpers.closed_form import isotropic

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 10.0)}


@pytest.mark.parametrize("name", SDES)
def test_the_denoised_estimate_is_the_rule_of_it(name):
    sde, t = SDES[name], jnp.float32(0.5)
    score = isotropic(sde, 0.9, 0.5)
    x = 2 * jax.random.normal(jax.random.key(0), (5, 4))
    x0 = denoise(sde, score, x, t)
    assert float(x0.max()) > 1
    kept = denoise(sde, sm.threshold(sde, score, sm.static(-1, 1)), x, t)
    np.testing.assert_allclose(kept, np.clip(x0, -1, 1), atol=2e-5)
    inside = jnp.abs(x0) <= 1
    changed = sm.threshold(sde, score, sm.static(-1, 1))(x, t)
    np.testing.assert_array_equal(changed[inside], score(x, t)[inside])
    same = sm.threshold(sde, score, sm.no_threshold)(x, t)
    np.testing.assert_array_equal(same, score(x, t))


def test_dynamic_threshold_by_hand():
    """The median of |x0| is 2 in the first sample, 0.5 in the second, which is only clipped."""
    x0 = jnp.asarray([[0.5, -2.0, 4.0], [0.1, -0.5, 3.0]])
    want = [[0.25, -1.0, 1.0], [0.1, -0.5, 1.0]]
    np.testing.assert_allclose(sm.dynamic(0.5)(x0), want, rtol=1e-6)
    # The same picture in [0, 1].
    moved = sm.dynamic(0.5, 0.0, 1.0)(0.5 + 0.5 * x0)
    np.testing.assert_allclose(moved, 0.5 + 0.5 * np.asarray(want), rtol=1e-6)
    np.testing.assert_allclose(sm.dynamic(1.0)(x0), x0 / jnp.asarray([[4.0], [3.0]]), rtol=1e-6)


def test_a_run_stays_in_the_range():
    """With a score that leads far outside, as strong guidance does; the last estimate is inside."""
    sde = VP()
    score = isotropic(sde, 3.0, 0.1)
    x = sde.prior_sample(jax.random.key(0), (16, 3))
    for rule, limit in ((sm.static(-1, 1), 1.0), (sm.dynamic(0.9), 1.0), (sm.no_threshold, 3.5)):
        bounded = sm.threshold(sde, score, rule)
        out = jax.jit(
            lambda key, x, s=bounded: sm.simulate(
                key, sm.ancestral(sde, s), x, sm.uniform_grid(sde, 20),
                final_denoising=sm.tweedie(sde, s),
            )
        )(jax.random.key(1), x)  # fmt: skip
        largest = float(jnp.abs(out.x).max())
        assert largest <= limit + 1e-3 and largest > 0.9 * limit - 0.2


BAD = [
    (lambda: sm.static(1.0, -1.0), "low must be smaller than high"),
    (lambda: sm.static(float("nan"), 1.0), "low must be"),
    (lambda: sm.dynamic(0.0), r"quantile must be in \(0, 1\], got 0.0"),
    (lambda: sm.dynamic(1.5), "quantile"),
    (lambda: sm.dynamic(0.9, 1.0, 1.0), "low must be"),
    (lambda: sm.threshold(VP(), lambda x, t: x, 0.5), "rule must be a function"),
    (
        lambda: sm.threshold(VP(), lambda x, t: x, lambda x0: x0[:1])(jnp.ones((2, 2)), 0.5),
        "rule must keep the shape",
    ),
]


@pytest.mark.parametrize(("make", "named"), BAD)
def test_bad_rules_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
