"""diffrax's stochastic solvers on the reverse SDE: cost, law, order, one path for all grids."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VE, VP
from tests.helpers.closed_form import isotropic

SOLVERS = [
    diffrax.Euler(),
    diffrax.Heun(),
    diffrax.EulerHeun(),
    diffrax.ItoMilstein(),
    diffrax.SRA1(),
    diffrax.SEA(),
    diffrax.ShARK(),
    diffrax.SlowRK(),
]
MILD = VP(0.1, 5.0)


def counted(score, seen):
    def count(x):
        seen.append(1)
        return np.asarray(x)

    spec = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    return lambda x, t: score(jax.pure_callback(count, spec(x), x), t)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_nfe_is_what_the_network_saw(solver):
    """For every solver, in few steps; and the same key gives the same samples."""
    seen = []
    score = counted(isotropic(MILD, 0.8, 0.5), seen)
    grid = sm.uniform_grid(MILD, 3, t0=0.1)
    run = jax.jit(lambda key, x: sm.diffrax_sde(key, MILD, score, x, grid, solver=solver))
    x = jnp.ones((2, 3, 1))
    out, again = (jax.block_until_ready(run(jax.random.key(1), x)) for _ in range(2))
    assert out.x.shape == x.shape and out.x.dtype == x.dtype
    assert 2 * int(out.nfe) == len(seen) and int(out.accepted) == 3
    np.testing.assert_array_equal(out.x, again.x)
    assert float(jnp.abs(run(jax.random.key(2), x).x - out.x).max()) > 0


@pytest.mark.slow
def test_nfe_with_adaptive_steps_and_of_the_unknown():
    seen = []
    score = counted(isotropic(MILD, 0.8, 0.5), seen)
    control = diffrax.PIDController(
        rtol=0.03, atol=0.03, pcoeff=0.1, icoeff=0.3, dtmin=0.01, error_order=1.0
    )
    run = jax.jit(
        lambda key, x: sm.diffrax_sde(
            key, MILD, score, x, [1.0, 0.5, 0.1], solver=diffrax.SPaRK(), controller=control
        )
    )
    out = jax.block_until_ready(run(jax.random.key(1), jnp.ones((2, 3))))
    assert int(out.nfe) == len(seen) and int(out.rejected) > 0
    plain = isotropic(MILD, 0.8, 0.5)
    other = sm.diffrax_sde(
        jax.random.key(0),
        MILD,
        plain,
        jnp.ones((1, 1)),
        [1.0, 0.5],
        solver=diffrax.ReversibleHeun(),
    )
    assert int(other.nfe) == -1


@pytest.mark.slow
@pytest.mark.parametrize("sde", [MILD, VE(0.1, 5.0)], ids=["vp", "ve"])
def test_law_of_a_gaussian(sde):
    """From p_t1 the law at t0 is p_t0: reverse time runs forward, with the noise of the right size."""
    t0 = 0.05
    m1, s1 = float(sde.mean_coeff(1.0)), float(sde.std(1.0))
    z = jax.random.normal(jax.random.key(0), (4096, 1))
    x = m1 * 0.8 + (m1**2 * 0.25 + s1**2) ** 0.5 * z
    grid = sm.log_snr_grid(sde, 12, t0=t0)
    score = isotropic(sde, 0.8, 0.5)
    out = jax.jit(lambda key, x: sm.diffrax_sde(key, sde, score, x, grid).x)(jax.random.key(1), x)
    m, s = float(sde.mean_coeff(t0)), float(sde.std(t0))
    assert float(out.mean()) == pytest.approx(m * 0.8, abs=0.04)
    assert float(out.std()) == pytest.approx((m**2 * 0.25 + s**2) ** 0.5, rel=0.04)


@pytest.mark.slow
def test_strong_order_on_one_path():
    """One key is one Brownian path for all grids and solvers: Euler errs like 1/n, ShARK faster."""
    score = isotropic(MILD, 0.8, 0.5)
    ns = [8, 64]

    def end(n, solver):
        grid = np.linspace(1.0, 0.1, n + 1)
        return sm.diffrax_sde(
            jax.random.key(3), MILD, score, jnp.zeros((64, 1)), grid, solver=solver,
            resolution=1e-3,
        ).x  # fmt: skip

    with jax.enable_x64(True):
        fine = jax.jit(lambda: end(512, diffrax.ShARK()))()
        slopes = []
        for solver in (diffrax.Euler(), diffrax.ShARK()):
            ends = jax.jit(lambda s=solver: [end(n, s) for n in ns])()
            few, many = (float(jnp.sqrt(jnp.square(e - fine).mean())) for e in ends)
            slopes.append(np.log(many / few) / np.log(ns[1] / ns[0]))
    assert slopes[0] == pytest.approx(-1.0, abs=0.25)  # the noise is additive
    assert slopes[1] < -1.35


def test_bad_input_is_named():
    x, score = jnp.ones((2, 3)), isotropic(MILD, 0.8, 0.5)
    with pytest.raises(ValueError, match="grid must decrease strictly"):
        sm.diffrax_sde(jax.random.key(0), MILD, score, x, [0.5, 1.0])
    with pytest.raises(ValueError, match="must not start above t1"):
        sm.diffrax_sde(jax.random.key(0), MILD, score, x, [1.5, 1.0])
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        sm.diffrax_sde(jax.random.key(0), MILD, score, x, [1.0, 0.5], max_steps=0)
