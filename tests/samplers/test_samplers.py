"""The parts together, on Gaussian data: runs, their cost, and what is refused."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VE, VP, SubVP
from tests.helpers.closed_form import isotropic
from tests.helpers.every_step import move

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 10.0)}
MEAN, STD = 0.8, 0.5
STEPS = {
    "euler_maruyama": sm.euler_maruyama,
    "reverse_diffusion": sm.reverse_diffusion,
    "predictor_corrector": lambda sde, score: sm.chain(
        sm.langevin(sde, score), sm.reverse_diffusion(sde, score)
    ),
}


def run(sde, make, n_steps, *, n=4096, score=None, key=0, **kwargs):
    """Sample n vectors of two from the prior on with the step that `make` makes."""
    score = isotropic(sde, MEAN, STD) if score is None else score
    grid = sm.uniform_grid(sde, n_steps, t0=1e-3)

    @jax.jit
    def sample(key):
        prior_key, step_key = jax.random.split(key)
        x = sde.prior_sample(prior_key, (n, 2))
        return sm.simulate(step_key, make(sde, score), x, grid, **kwargs)

    return sample(jax.random.key(key))


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_adaptive_ode_has_the_mean_that_theory_predicts(name):
    """The flow of a Gaussian is affine: x0 - mean = (z - m1 mean) std / sqrt(m1^2 std^2 + s1^2)."""
    sde = SDES[name]
    score = isotropic(sde, MEAN, STD)
    z = sde.prior_sample(jax.random.key(0), (256, 2))
    t0 = 1e-3
    tight = functools.partial(sm.probability_flow, sde, score, rtol=1e-6, atol=1e-6)
    solve = jax.jit(lambda z: tight(z, t_from=sde.t1, t_to=t0))
    spread = lambda t: np.sqrt(float(sde.mean_coeff(t)) ** 2 * STD**2 + float(sde.std(t)) ** 2)
    m = lambda t: float(sde.mean_coeff(t)) * MEAN
    want = m(t0) + (z - m(sde.t1)) * spread(t0) / spread(sde.t1)
    np.testing.assert_allclose(solve(z).x, want, atol=2e-4)
    back = jax.jit(lambda x: tight(x, t_from=t0, t_to=sde.t1))
    np.testing.assert_allclose(back(solve(z).x).x, z, atol=2e-3 * sde.prior_std)


def test_langevin_reaches_its_stationary_law():
    """At a fixed t the corrector alone reaches N(m mean, m^2 std^2 + s^2), up to its step's bias.

    For a Gaussian the discrete chain x + e score + sqrt(2e) z has variance v / (1 - e / (2 v)).
    """
    sde, t = SDES["vp"], jnp.float32(0.3)
    score = isotropic(sde, MEAN, STD)
    v = float(sde.mean_coeff(t) ** 2 * STD**2 + sde.std(t) ** 2)
    step = sm.langevin(sde, score, snr=0.2, n_steps=400)
    x = jnp.zeros((4096, 2))
    out = jax.jit(functools.partial(move, step))(jax.random.key(0), x, t, t).x
    e = 2 * 0.2**2 * v  # ||z|| / ||score|| is sqrt(v) at stationarity
    assert float(out.mean()) == pytest.approx(float(sde.mean_coeff(t)) * MEAN, abs=0.03)
    assert float(out.var()) == pytest.approx(v / (1 - e / (2 * v)), rel=0.04)


@pytest.mark.slow
def test_nfe_is_what_the_network_saw():
    """Counted by a callback that runs with every evaluation, for scans and for adaptive solves."""
    sde, seen = SDES["vp"], []
    base = isotropic(sde, MEAN, STD)

    def counted(x):
        seen.append(1)
        return np.asarray(x)

    def score(x, t):
        x = jax.pure_callback(counted, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return base(x, t)

    def check(out):
        nfe = int(jax.block_until_ready(out).nfe)
        assert nfe == len(seen), (nfe, len(seen))
        seen.clear()

    check(run(sde, STEPS["euler_maruyama"], 7, n=2, score=score))
    finish = sm.tweedie(sde, score)
    check(run(sde, STEPS["predictor_corrector"], 5, n=2, score=score, final_denoising=finish))
    z = sde.prior_sample(jax.random.key(0), (2, 2))
    for solver in (diffrax.Tsit5(), diffrax.Dopri5(), diffrax.Heun()):
        flow = lambda z, s=solver: sm.probability_flow(
            sde, score, z, t_from=1.0, t_to=1e-2, rtol=1e-3, atol=1e-3, solver=s
        )
        check(jax.jit(flow)(z))
    fixed = lambda z: sm.probability_flow(
        sde, score, z, t_from=1.0, t_to=1e-2, solver=diffrax.Euler(),
        controller=diffrax.ConstantStepSize(), dt0=0.1,
    )  # fmt: skip
    check(jax.jit(fixed)(z))


def test_simulate_is_a_loop_over_the_grid_and_keeps_the_way():
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, STD)
    step = STEPS["predictor_corrector"](sde, score)
    grid = sm.uniform_grid(sde, 7, t0=0.01)
    x = sde.prior_sample(jax.random.key(0), (3, 2))
    key = jax.random.key(5)
    out = sm.simulate(key, step, x, grid, save_every=3)
    states = []
    for i in range(7):
        moved = move(step, jax.random.fold_in(key, i), x, grid[i], grid[i + 1])
        x = moved.x
        states.append(x)
    np.testing.assert_allclose(out.x, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.x_mean, moved.x_mean, rtol=1e-5, atol=1e-6)
    want = jnp.stack([states[2], states[5], states[6]])
    np.testing.assert_allclose(out.trajectory, want, rtol=1e-5, atol=1e-6)
    assert out.nfe == 14


def test_denoising_takes_the_last_noise_away():
    """Tweedie at t0 gives the mean of x0 given x; for near-certain data it is the data."""
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, 1e-3)
    plain = run(sde, STEPS["reverse_diffusion"], 50, score=score)
    finish = sm.tweedie(sde, score)
    clean = run(sde, STEPS["reverse_diffusion"], 50, score=score, final_denoising=finish)
    assert float(plain.x.std()) > 5e-3
    assert float(clean.x.std()) < 2e-3
    assert clean.nfe == plain.nfe + 1


@pytest.mark.slow
def test_per_sample_control_does_not_see_the_neighbours():
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, STD)
    flow = jax.jit(
        lambda z: sm.probability_flow(sde, score, z, t_from=1.0, t_to=1e-3, per_sample=True)
    )
    z = sde.prior_sample(jax.random.key(0), (4, 2))
    wild = z.at[0].multiply(50.0)
    a, b = flow(z), flow(wild)
    np.testing.assert_allclose(a.x[1:], b.x[1:], rtol=1e-6)
    np.testing.assert_array_equal(a.nfe[1:], b.nfe[1:])
    assert a.nfe.shape == (4,)


BAD_GRIDS = [
    ([1.0, 0.5, 0.5], "decrease strictly"),
    ([0.1, 0.5], "decrease strictly"),
    ([1.0, float("nan")], "finite"),
    ([1.0, 0.0], "above 0"),
    ([2.0, 0.5], "t1"),
    ([1.0], "at least two"),
]


@pytest.mark.parametrize(("grid", "named"), BAD_GRIDS)
def test_bad_grids_are_named(grid, named):
    with pytest.raises(ValueError, match=named):
        sm.check_grid(grid, 1.0)


def test_bad_options_are_named():
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, STD)
    with pytest.raises(ValueError, match="snr must be > 0 and finite, got -1"):
        sm.langevin(sde, score, snr=-1.0)
    with pytest.raises(ValueError, match="n_steps"):
        sm.langevin(sde, score, n_steps=0)
    with pytest.raises(ValueError, match="n, the number of steps"):
        sm.uniform_grid(sde, 0)
    with pytest.raises(ValueError, match="t0 must be in"):
        sm.uniform_grid(sde, 3, t0=1.0)
    with pytest.raises(ValueError, match="power"):
        sm.power_grid(sde, 3, power=0.0)
    x = jnp.zeros((1, 2))
    with pytest.raises(ValueError, match="save_every"):
        sm.simulate(jax.random.key(0), sm.chain(), x, [1.0, 0.5], save_every=0)
    with pytest.raises(ValueError, match="rtol must be > 0"):
        sm.probability_flow(sde, score, x, t_from=1.0, t_to=0.1, rtol=0.0)
    with pytest.raises(ValueError, match="max_steps"):
        sm.probability_flow(sde, score, x, t_from=1.0, t_to=0.1, max_steps=0)
