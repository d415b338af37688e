"""Bits per dimension of integers, draws of dequantisation, latents."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import data as data_module
from score_jax import likelihood as lk
from score_jax.sde import VE, VP
from tests.helpers.closed_form import random_gaussian


def test_data_that_were_never_dequantised_are_refused():
    rng = np.random.default_rng(0)
    k = rng.integers(0, 17, (6, 4, 4, 1))
    options = {"levels": 17, "range": (-1.0, 1.0)}
    real = data_module.dequantize(jax.random.key(0), k, **options)
    lk.check_dequantized(real, **options)
    logp = jnp.zeros(6)
    lk.bits_per_dim(logp, (4, 4, 1), x=real, **options)
    for bad in (k, -1 + 2 * k / 17, -1 + 2 * k / 16):
        with pytest.raises(ValueError, match="dequantise"):
            lk.bits_per_dim(logp, (4, 4, 1), x=bad, **options)
    lk.bits_per_dim(logp, (4, 4, 1), **options)  # not given: not looked at


def test_draws_are_joined_as_the_two_bounds_say():
    """A density that is 2 on half of a cell and 0 on the other: log P is log 1 = 0 exactly."""
    u = np.random.default_rng(0).uniform(size=(4_000, 1))
    inside = np.where(u < 0.5, np.log(2.0), -1e30)
    joined = lk.mean_over_draws(jnp.asarray(inside, jnp.float32), importance=True)
    assert float(joined[0]) == pytest.approx(0.0, abs=0.05)
    assert float(lk.mean_over_draws(jnp.asarray(inside, jnp.float32))[0]) < -1e29
    # Jensen, for any numbers.
    logp = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)
    assert (lk.mean_over_draws(logp, importance=True) > lk.mean_over_draws(logp)).all()
    one = lk.mean_over_draws(logp[:1], importance=True)
    np.testing.assert_allclose(one, logp[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sde", [VP(), VE(0.01, 20.0)], ids=["vp", "ve"])
def test_decoding_undoes_encoding(sde):
    data = random_gaussian(4)
    x = data.sample(8).reshape(8, 2, 2, 1)
    flat = data.score_fn(sde)
    score = lambda v, t: flat(v.reshape(len(v), 4), t).reshape(v.shape)
    options = {"t0": 1e-3, "rtol": 1e-6, "atol": 1e-6}
    z = jax.jit(lambda x: lk.encode(sde, score, x, **options).x)(x)
    decode = lambda z, temperature: lk.decode(sde, score, z, temperature=temperature, **options).x
    back, cold = jax.device_get(jax.jit(lambda z: [decode(z, k) for k in (1.0, 0.5)])(z))
    np.testing.assert_allclose(back, x, atol=2e-3)
    assert np.square(cold).sum() < np.square(np.asarray(x)).sum()


@pytest.mark.slow
def test_encodings_do_not_depend_on_the_network():
    """Two forms of one score, as two trained networks would be: the same latents."""
    sde, data = VP(), random_gaussian(3)
    x = data.sample(6)
    prec = lambda t: jnp.linalg.inv(
        sde.mean_coeff(t) ** 2 * data.covs[0] + sde.std(t) ** 2 * jnp.eye(3)
    )
    other = lambda v, t: -(v - sde.mean_coeff(t) * data.means[0][None]) @ prec(t)
    options = {"t0": 1e-3, "rtol": 1e-6, "atol": 1e-6}
    encode = lambda score, x: lk.encode(sde, score, x, **options).x
    a, b = jax.jit(lambda x: [encode(score, x) for score in (data.score_fn(sde), other)])(x)
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_paths_between_latents():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(5, 6, 6, 1)), jnp.float32) for _ in range(2))
    np.testing.assert_allclose(lk.spherical(a, b, 0.0), a, atol=1e-6)
    np.testing.assert_allclose(lk.spherical(a, b, 1.0), b, atol=1e-6)
    np.testing.assert_allclose(lk.linear(a, b, jnp.full(5, 0.5)), (a + b) / 2, atol=1e-6)
    # On a circle of one radius every point has that radius, and the angle grows evenly.
    unit = lambda v: v / jnp.sqrt(jnp.square(v).sum(axis=(1, 2, 3), keepdims=True))
    points = [lk.spherical(unit(a), unit(b), w) for w in (0.0, 0.25, 0.5, 0.75, 1.0)]
    norms = [float(jnp.square(p[0]).sum()) for p in points]
    np.testing.assert_allclose(norms, 1.0, atol=1e-5)
    chords = [float(jnp.square(p[0] - q[0]).sum()) for p, q in itertools.pairwise(points)]
    np.testing.assert_allclose(chords, chords[0], rtol=1e-3)
    np.testing.assert_allclose(lk.spherical(a, a, 0.3), a, atol=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        lk.decode(VP(), lambda x, t: -x, a, temperature=0.0)


def test_a_whole_data_set_on_two_devices():
    """Every example once a draw, in order, the last partial chunk too, each with its own label."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (11, 3)).astype(np.uint8)
    y = rng.integers(0, 10, 11).astype(np.int32)

    def estimate(key, params, x, y):
        noise = jax.random.uniform(key, x.shape[:1])
        logp = x.sum(axis=1) + params * y
        return lk.LogLik(logp, x, noise, jnp.int32(7))

    def prepare(key, x):
        return x.astype(jnp.float32) + 1e-3 * jax.random.uniform(key, x.shape)

    out = lk.over_dataset(
        jax.random.key(0), estimate, x, y=y, prepare=prepare, params=jnp.float32(100), draws=3,
        chunk=4, progress=False,
    )  # fmt: skip
    assert out.logp.shape == out.nfe.shape == (3, 11) and (out.nfe == 7).all()
    for draw in out.logp:
        np.testing.assert_allclose(draw, x.sum(axis=1) + 100.0 * y, atol=3.1e-3)
    assert len(np.unique(out.logp[:, 0])) == 3  # dequantised anew
    with pytest.raises(ValueError, match="draws"):
        lk.over_dataset(jax.random.key(0), estimate, x, draws=0)
    with pytest.raises(ValueError, match="chunk"):
        lk.over_dataset(jax.random.key(0), estimate, x, chunk=0)
