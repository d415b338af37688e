"""Conversions between what networks predict, and the score made of each."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from score_jax import score as sc
from score_jax.model import Model
from score_jax.parametrization import (
    LEARNED_RANGE,
    NOISE,
    PARAMETRIZATIONS,
    PREVIOUS,
    TIMESTEP_NOISE,
    IndexInput,
    LevelInput,
    StdInput,
    TimeInput,
)
from score_jax.sde import VE, VP, Betas, LinearBetas, LinearSDE, SubVP

SHAPE = (3, 4, 2)
OUTPUTS = [kind for kind in PARAMETRIZATIONS if kind not in (PREVIOUS, TIMESTEP_NOISE)]
# The others compare the noise level with that of their first time.
ANY_LEVEL = [kind for kind in OUTPUTS if kind.t0 is None]


@dataclasses.dataclass(frozen=True)
class Constant(LinearSDE):
    """m and s at any time."""

    m: float
    s: float
    t1: float = 1.0

    def mean_coeff(self, t):
        return jnp.full_like(t, self.m)

    def std(self, t):
        return jnp.full_like(t, self.s)


@settings(max_examples=30, deadline=None)
@given(
    m=st.floats(0.05, 1.0),
    s=st.floats(0.05, 20.0),
    pair=st.tuples(st.sampled_from(ANY_LEVEL), st.sampled_from(ANY_LEVEL)),
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
        "velocity": z - x0,
        "edm": (2 * s * x0 - 0.5 * m * z) / np.sqrt(s**2 + 0.25 * m**2),
    }
    source, target = pair
    sde = Constant(m, s)
    x, t = jnp.asarray(x, jnp.float32), jnp.float32(0.5)
    noise = source.to_noise(sde, jnp.asarray(truth[source.name], jnp.float32), x, t)
    scale = 1 + s / m + 1 / s  # the worst factor between two kinds
    close = {"rtol": 1e-4, "atol": 2e-5 * scale**2}
    np.testing.assert_allclose(target.from_noise(sde, noise, x, t), truth[target.name], **close)
    both = target.target(sde, jnp.asarray(x0), jnp.asarray(z), x, t)
    np.testing.assert_allclose(both, truth[target.name], rtol=1e-5, atol=1e-5 * scale)
    if source.to_x0 is not None:
        value = jnp.asarray(truth[source.name], jnp.float32)
        np.testing.assert_allclose(source.to_x0(sde, value, x, t), x0, **close)


def test_previous_is_the_mean_of_the_posterior():
    """Of two steps by hand, beta = (1/2, 3/4): precisions 2 and 1/3 (see test_schedules)."""
    sde = Betas([0.5, 0.75])
    x0, x = jnp.array([[0.3]]), jnp.array([[-0.8]])
    t = jnp.float32(1.0)
    z = (x - sde.mean_coeff(t) * x0) / sde.std(t)
    want = (2 * 0.3 / np.sqrt(2) + (-0.8) * 0.5 / 0.75) / (2 + 1 / 3)
    value = PREVIOUS.target(sde, x0, z, x, t)
    np.testing.assert_allclose(value, [[want]], rtol=1e-6)
    np.testing.assert_allclose(PREVIOUS.to_noise(sde, value, x, t), z, rtol=1e-5)
    with pytest.raises(ValueError, match="PREVIOUS needs a noise schedule"):
        PREVIOUS.to_noise(VP(), x, x, t)


def test_between_two_timesteps_the_std_is_that_of_the_earlier_one():
    """score_sde: labels = t (N - 1), score = -net / sqrt_1m_alphas_cumprod[int(labels)]."""
    n, sde = 1000, LinearBetas(1000)
    table = np.sqrt(1 - np.cumprod(1 - np.linspace(1e-4, 0.02, n)))
    labels = np.array([0.0, 0.25, 0.9, 7.0, 7.5, 420.99, 998.01, 999.0])
    net = lambda params, x, given: x * (1 + given[:, None])
    x = jnp.ones((len(labels), 2))
    t = jnp.asarray((labels + 1) / n, jnp.float32)
    model = Model(sde, net, IndexInput(), TIMESTEP_NOISE)
    want = -(1 + labels) / table[labels.astype(int)]
    np.testing.assert_allclose(model.score(None)(x, t)[:, 0], want, rtol=2e-4)
    at = labels == labels.astype(int)
    noise = dataclasses.replace(model, parametrization=NOISE).score(None)(x, t)
    np.testing.assert_array_equal(noise[at], model.score(None)(x, t)[at])
    # Before the first timestep the std is that of the first.
    early = model.score(None)(x[:1], jnp.float32(0.3 / n))
    np.testing.assert_allclose(early, -np.ones((1, 2)) / table[0], rtol=2e-4)
    with pytest.raises(ValueError, match="TIMESTEP_NOISE needs a noise schedule"):
        TIMESTEP_NOISE.to_noise(VP(), x, x, t)


@pytest.mark.parametrize("sde", [VP(), SubVP(), VE()], ids=["vp", "subvp", "ve"])
@pytest.mark.parametrize("kind", OUTPUTS, ids=lambda o: o.name)
def test_score_fn_recovers_the_score_of_a_point_mass(sde, kind):
    """Data at one point x0: the score is (m x0 - x) / s^2, whatever the network predicts."""
    x0 = jnp.full(SHAPE, 0.5)

    def apply(params, x, given, *, y):
        t = given / 999.0
        m, s = sde.mean_coeff(t)[:, None, None], sde.std(t)[:, None, None]
        x = x / kind.to_input(sde, jnp.ones_like(x), t)
        return kind.from_noise(sde, (x - m * y) / s, x, t) * params

    score = sc.score_fn(
        sde, apply, jnp.float32(1.0), noise_input=TimeInput(), parametrization=kind, y=x0
    )
    x = jax.random.normal(jax.random.key(0), SHAPE)
    for t in (0.2, 0.9):
        m, s = float(sde.mean_coeff(t)), float(sde.std(t))
        want = (m * x0 - x) / s**2
        np.testing.assert_allclose(score(x, t), want, rtol=2e-4, atol=2e-4 / s)
        np.testing.assert_allclose(
            score(x, jnp.full((3,), t)), score(x, jnp.asarray(t)), rtol=1e-4, atol=1e-4 / s
        )
        np.testing.assert_allclose(sc.denoise(sde, score, x, t), x0, atol=5e-3 / m)


def test_noise_inputs():
    t = jnp.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(TimeInput()(VP(), t), [0.0, 499.5, 999.0])
    np.testing.assert_allclose(StdInput()(VE(), t), VE().std(t))
    np.testing.assert_array_equal(LevelInput(11)(VE(), t), [10, 5, 0])
    schedule = LinearBetas(4000)
    index = jnp.arange(-1, 4000)
    given = IndexInput()(schedule, schedule.time_of(index))
    np.testing.assert_array_equal(given, jnp.maximum(index, 0))
    np.testing.assert_allclose(IndexInput(top=1000.0)(schedule, 0.75), 2999 / 4)
    between = jnp.float32(0.1001)
    np.testing.assert_allclose(IndexInput()(LinearBetas(1000), between), 99.1, rtol=1e-5)
    assert IndexInput(rounded=True)(LinearBetas(1000), between) == 99
    with pytest.raises(ValueError, match="IndexInput needs an sde with timesteps"):
        IndexInput()(VP(), t)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        LevelInput(1)


def test_a_score_is_a_pytree_of_its_arrays_and_compiles_once():
    """New parameters and labels are arguments of the program, not constants in it."""
    traces = []

    def apply(params, x, given, *, y, flag):
        traces.append(flag)
        return params * x + y[:, None, None]

    model = Model(VP(), apply, TimeInput())
    run = jax.jit(lambda score, x: score(x, 0.5))
    x = jnp.ones(SHAPE)
    for k in range(3):
        score = model.score(jnp.float32(k), y=jnp.full(3, float(k)), flag="kept")
        assert len(jax.tree.leaves(score)) == 2
        np.testing.assert_allclose(run(score, x), -2 * k * x / VP().std(0.5), rtol=1e-6)
    assert traces == ["kept"]


def test_a_learned_variance_comes_with_the_score():
    x = jnp.ones(SHAPE)
    apply = lambda params, x, given: jnp.concatenate([2 * x, 3 * x], axis=-1)
    model = Model(LinearBetas(100), apply, IndexInput(), variance=LEARNED_RANGE)
    out = model.score(None)(x, 0.5)
    np.testing.assert_allclose(out.score, -2 * x / model.sde.std(0.5), rtol=1e-6)
    np.testing.assert_array_equal(out.variance, 3 * x)
    m, s = model.sde.mean_coeff(0.5), model.sde.std(0.5)
    np.testing.assert_allclose(model.denoiser(None)(x, 0.5), (1 - 2 * s) / m * x, rtol=1e-5)


def test_wrong_use_is_named():
    with pytest.raises(Exception, match="parametrization"):
        sc.score_fn(
            VP(), lambda p, x, t: x, None, noise_input=TimeInput(), parametrization=("a", 1, 2)
        )
    short = sc.score_fn(VP(), lambda p, x, t: x[:, :1], None, noise_input=TimeInput())
    with pytest.raises(ValueError, match=r"returned shape \(3, 1, 2\)"):
        short(jnp.ones(SHAPE), 0.5)
