"""Conversions between what networks predict, and the score made of each."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from score_jax import score as sc
from score_jax.sde import VE, VP, SubVP

SHAPE = (3, 4, 2)


@settings(max_examples=30, deadline=None)
@given(
    m=st.floats(0.05, 1.0),
    s=st.floats(0.05, 20.0),
    pair=st.tuples(st.sampled_from(sc.OUTPUTS), st.sampled_from(sc.OUTPUTS)),
)
def test_every_kind_is_what_its_definition_says(m, s, pair):
    """With x = m x0 + s z each kind has a known value; every conversion must hit it."""
    rng = np.random.default_rng(0)
    x0, z = rng.normal(size=SHAPE).astype(np.float32), rng.normal(size=SHAPE).astype(np.float32)
    x = m * x0 + s * z
    truth = {
        "noise": z,
        "score": -z / s,
        "scaled_score": -z,
        "denoised": x0,
        "v": m * z - s * x0,
    }
    source, target = pair
    got = sc.convert(
        jnp.asarray(truth[source.name], jnp.float32),
        source,
        target,
        jnp.asarray(x, jnp.float32),
        jnp.float32(m),
        jnp.float32(s),
    )
    scale = 1 + s / m + 1 / s  # the worst factor between two kinds
    np.testing.assert_allclose(got, truth[target.name], rtol=1e-4, atol=2e-5 * scale**2)


@pytest.mark.parametrize("sde", [VP(), SubVP(), VE()], ids=["vp", "subvp", "ve"])
@pytest.mark.parametrize("output", sc.OUTPUTS, ids=lambda o: o.name)
def test_score_fn_recovers_the_score_of_a_point_mass(sde, output):
    """Data at one point x0: the score is (m x0 - x) / s^2, whatever the network predicts."""
    x0 = jnp.full(SHAPE, 0.5)

    def apply(params, x, label, *, y):
        t = label / 999.0
        m, s = sde.mean_coeff(t)[:, None, None], sde.std(t)[:, None, None]
        z = (x - m * y) / s
        return output.from_noise(z, x, m, s) * params

    score = sc.score_fn(sde, apply, jnp.float32(1.0), label=sc.label_time(), output=output, y=x0)
    x = jax.random.normal(jax.random.key(0), SHAPE)
    for t in (0.2, 0.9):
        m, s = float(sde.mean_coeff(t)), float(sde.std(t))
        want = (m * x0 - x) / s**2
        np.testing.assert_allclose(score(x, t), want, rtol=2e-4, atol=2e-4 / s)
        np.testing.assert_allclose(
            score(x, jnp.full((3,), t)), score(x, jnp.asarray(t)), rtol=1e-4, atol=1e-4 / s
        )
        np.testing.assert_allclose(sc.denoise(sde, score, x, t), x0, atol=5e-3 / m)


def test_labels():
    t = jnp.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(sc.label_time()(t), [0.0, 499.5, 999.0])
    np.testing.assert_allclose(sc.label_std(VE())(t), VE().std(t))


def test_wrong_use_is_named():
    with pytest.raises(Exception, match="output"):
        sc.score_fn(VP(), lambda p, x, t: x, None, label=sc.label_time(), output=("a", 1, 2))
    short = sc.score_fn(VP(), lambda p, x, t: x[:, :1], None, label=sc.label_time())
    with pytest.raises(ValueError, match=r"returned shape \(3, 1, 2\)"):
        short(jnp.ones(SHAPE), 0.5)
