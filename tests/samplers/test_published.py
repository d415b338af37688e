"""Published samplers: orders on a Gaussian with a known flow, moments, limits, and grids that go up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VE, VP, LinearVE
from score_jax.types import Step, StepOut
from tests.helpers.closed_form import isotropic
from tests.samplers.test_fewstep import flow, rms, runner, slope, snr_grid

MEAN, STD = 0.7, 0.4
STDS = np.array([[0.15, 0.4, 1.5]])  # narrow and wide
er_flow = functools.partial(sm.er_sde, phi=sm.no_noise)
sa_flow = functools.partial(sm.sa_solver, tau=0.0)

# Order of convergence on the flow, and evaluations a step.
SOLVERS = {
    "dpm_solver_2": (sm.dpm_solver_2, 2, 2),
    "dpmpp_3s": (sm.dpmpp_3s, 3, 3),
    "lms_2": (functools.partial(sm.lms, order=2), 2, 1),
    "lms": (sm.lms, 4, 1),
    "deis": (sm.deis, 3, 1),
    "deis_log": (functools.partial(sm.deis, order=2, log=True), 2, 1),
    "er_flow_2": (functools.partial(er_flow, order=2), 2, 1),
    "er_flow": (er_flow, 3, 1),
    "sa_flow_2": (functools.partial(sa_flow, order=2), 3, 1),
}
STOCHASTIC = {
    "sa_solver": sm.sa_solver,
    "sa_solver_more": functools.partial(sm.sa_solver, tau=1.4, order=2),
    "sa_solver_part": functools.partial(sm.sa_solver, s_min=0.05, s_max=1.0),
    "er_sde": sm.er_sde,
    "er_sde_2": functools.partial(sm.er_sde, order=2, phi=jnp.square),
}


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_order(solver, x64):
    """Against the closed form of the flow under VP, from t1 to 0.05."""
    sde, (make, order, nfe) = VP(), SOLVERS[solver]
    step = make(sde, isotropic(sde, MEAN, STDS))
    z, ns = sde.prior_sample(jax.random.key(0), (32, 3)), [40, 80, 160]
    exact, run = flow(sde, z, 1.0, 0.05, STDS), runner(step)
    errors = [rms(run(z, snr_grid(sde, n, 0.05)), exact) for n in ns]
    assert slope(ns[1:], errors[1:]) == pytest.approx(order, abs=0.45), errors
    assert step.nfe == nfe and step.nfe_extra == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ve", "edm"])
def test_every_sde(name):
    """All of them in one program, 30 steps on a grid that they share."""
    sde = {"ve": VE(sigma_max=50.0), "edm": LinearVE()}[name]
    score, t0 = isotropic(sde, MEAN, STD), float(sde.time_of_log_snr(4.0))
    grid = np.asarray(sm.karras_grid(sde, 30, t0=t0))
    steps = {k: make(sde, score) for k, (make, _, _) in SOLVERS.items()}
    z = sde.prior_sample(jax.random.key(0), (64, 2))
    run = jax.jit(
        lambda z: {k: sm.simulate(jax.random.key(0), s, z, grid).x for k, s in steps.items()}
    )
    exact = flow(sde, z, jnp.float32(sde.t1), jnp.float32(t0))
    for solver, x in run(z).items():
        np.testing.assert_allclose(x, exact, atol=0.05, err_msg=solver)


@pytest.mark.slow
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_moments(solver):
    """N(MEAN, STD^2) data under VP: 60 steps from the exact law at t1 to that at t0."""
    sde, t0 = VP(), jnp.float32(0.02)
    law = lambda t: (sde.mean_coeff(t) * MEAN, jnp.hypot(sde.mean_coeff(t) * STD, sde.std(t)))
    mean, std = law(jnp.float32(1.0))
    x = mean + std * jax.random.normal(jax.random.key(0), (40_000, 1))
    out = runner(STOCHASTIC[solver](sde, isotropic(sde, MEAN, STD)))(x, snr_grid(sde, 60, 0.02))
    mean, std = law(t0)
    # 40,000 draws: the mean is known to 0.5 % of the std, the std to 0.35 %.
    assert float(out.mean()) == pytest.approx(float(mean), abs=0.02 * float(std))
    assert float(out.std()) == pytest.approx(float(std), rel=0.015)


def test_one_step_for_a_point_is_exact_for_any_noise():
    """Data at one point: the prediction is right, and the step lands on N(m' MEAN, s'^2)."""
    sde, t, t_next = VP(), jnp.float32(0.9), jnp.float32(0.3)
    x = sde.mean_coeff(t) * MEAN + sde.std(t) * jax.random.normal(jax.random.key(0), (40_000, 1))
    s = float(sde.std(t_next))
    ratio = float(sde.std(t_next) * sde.mean_coeff(t) / (sde.mean_coeff(t_next) * sde.std(t)))
    level = lambda t: np.float64(sde.std(t) / sde.mean_coeff(t))
    paper = lambda v: v * (np.exp(v**0.3) + 10)
    kept = ratio**-1 * paper(level(t_next)) / paper(level(t))
    for make, share in (
        (functools.partial(sm.sa_solver, tau=1.5), 1 - ratio ** (2 * 1.5**2)),
        (functools.partial(sm.sa_solver, s_max=0.5), 0.0),  # the level is above s_max
        (sm.er_sde, 1 - kept**2),
        (er_flow, 0.0),
    ):
        step = make(sde, isotropic(sde, MEAN, 0.0))
        out, _ = step.update(jax.random.key(1), x, t, t_next, step.init(x, jnp.stack([t, t_next])))
        assert float(out.x.mean()) == pytest.approx(
            float(sde.mean_coeff(t_next)) * MEAN, abs=0.02 * s
        )
        assert float(out.x.std()) == pytest.approx(s, rel=0.015)
        fresh = float((out.x - out.x_mean).std())
        assert fresh == pytest.approx(s * np.sqrt(share), rel=0.015, abs=1e-6)


@pytest.mark.slow
def test_what_they_have_in_common_with_others():
    """Each is the other where the papers say so, with the same key and so the same noise."""
    sde = VP()
    score = isotropic(sde, MEAN, STD)
    x, grid = sde.prior_sample(jax.random.key(0), (8, 2)), snr_grid(sde, 6, 0.1)
    steps = {
        "sa_flow": sa_flow(sde, score),
        "unipc": sm.unipc(sde, score, order=3, b=sm.bh1),
        "sa_part": sm.sa_solver(sde, score, s_max=0.0),
        "lms_1": sm.lms(sde, score, order=1),
        "deis_1": sm.deis(sde, score, order=1),
        "er_1": er_flow(sde, score, order=1),
        "ddim": sm.ddim(sde, score),
        "er_square": sm.er_sde(sde, score, order=1, phi=jnp.square),
        "ancestral": sm.ddim(sde, score, eta=1.0),
    }
    run = jax.jit(
        lambda x: {k: sm.simulate(jax.random.key(3), s, x, grid).x for k, s in steps.items()}
    )
    found = run(x)
    for a, b in (
        ("sa_flow", "unipc"), ("sa_part", "unipc"), ("lms_1", "ddim"), ("deis_1", "ddim"),
        ("er_1", "ddim"), ("er_square", "ancestral"),
    ):  # fmt: skip
        np.testing.assert_allclose(found[a], found[b], rtol=5e-5, atol=1e-5, err_msg=f"{a}, {b}")


SDE = VP()


def levels(grid):
    return np.exp(-0.5 * np.asarray(SDE.log_snr(grid.times), np.float64))


def test_a_restart_grid_goes_up_as_it_says():
    base = sm.karras_grid(SDE, 10)
    grid = sm.restart_grid(SDE, base, low=0.1, high=0.5, steps=3, repeats=2)
    rising = np.diff(grid.times) > 0
    assert grid.rises == rising.sum() == 2
    assert len(grid.times) - 1 == 10 + 2 * (3 + 1)
    at = levels(grid)
    bottom = np.flatnonzero(rising)
    np.testing.assert_allclose(at[bottom + 1], 0.5, rtol=1e-3)
    assert len(set(at[bottom])) == 1 and abs(np.log(at[bottom[0]] / 0.1)) < 0.5
    added = np.concatenate([bottom + k for k in (1, 2, 3)])
    np.testing.assert_array_equal(np.unique(base), np.unique(np.delete(grid.times, added)))
    # The noise added is what the levels lack: keep^2 s^2 + noise^2 = s_high^2.
    s = np.asarray(SDE.std(grid.times), np.float64)
    np.testing.assert_allclose(
        np.hypot(grid.keep[rising] * s[:-1][rising], grid.noise[rising]), s[1:][rising], rtol=1e-5
    )
    assert (np.asarray(grid.keep[~rising]) == 1).all() and not np.asarray(grid.noise[~rising]).any()


def test_restarts_draw_from_the_law_and_forget_errors():
    """A point as data, and latents that are wrong: each restart shrinks the mistake by a known factor."""
    score = isotropic(SDE, MEAN, 0.0)
    base = sm.karras_grid(SDE, 6, t0=0.01)
    x = 1.5 * jax.random.normal(jax.random.key(0), (20_000, 1))
    stds, want = [], []
    for repeats in (0, 1, 3):
        grid = (
            base if not repeats else sm.restart_grid(SDE, base, low=0.05, high=0.5, repeats=repeats)
        )
        out = jax.jit(lambda x, g: sm.simulate(jax.random.key(1), sm.ddim(SDE, score), x, g))(
            x, grid
        )
        assert int(out.nfe) == 6 + 3 * repeats
        stds.append(
            float(
                (out.x - SDE.mean_coeff(grid[-1] if not repeats else grid.times[-1]) * MEAN).std()
            )
        )
        # In units of s, DDIM keeps the deviation, and a move up mixes it with fresh noise.
        square = 1.5**2
        if repeats:
            rising = np.flatnonzero(np.diff(grid.times) > 0)
            share = (levels(grid)[rising[0]] / levels(grid)[rising[0] + 1]) ** 2
            for _ in range(repeats):
                square = share * square + 1 - share
        want.append(np.sqrt(square))
    s0 = float(SDE.std(jnp.float32(0.01)))
    np.testing.assert_allclose(np.asarray(stds) / s0, want, rtol=0.02)
    assert want[2] < 1.01


def test_a_move_up_makes_the_state_anew_and_costs_nothing():
    """A step that counts: its state is the number of steps down since the start or the last restart."""

    def update(key, x, t, t_next, count):
        return StepOut(jnp.full_like(x, count + 1), x), count + 1

    counting = Step(lambda x, grid: jnp.zeros(()), update, 2, nfe_extra=-1)
    grid = sm.restart_grid(SDE, sm.karras_grid(SDE, 6), low=0.1, high=0.5, steps=2, repeats=1)
    out = sm.simulate(jax.random.key(0), counting, jnp.zeros((2, 1)), grid, save_every=1)
    up = int(np.flatnonzero(np.diff(grid.times) > 0)[0])
    after = len(grid.times) - 2 - up
    seen = np.asarray(out.trajectory[:, 0, 0])
    np.testing.assert_array_equal(seen[:up], np.arange(1, up + 1))
    np.testing.assert_array_equal(seen[up + 1 :], np.arange(1, after + 1))
    assert out.nfe == 2 * (up + after) - 1


@pytest.mark.slow
def test_samples_on_a_restart_grid():
    """By `sample` with a multistep method, which begins anew; a solver without steps is refused."""
    score = isotropic(SDE, MEAN, STD)
    grid = sm.restart_grid(SDE, sm.karras_grid(SDE, 12), low=0.1, high=0.5)
    options = {"grid": grid, "progress": False, "chunk": 512}
    out = sm.sample(jax.random.key(0), SDE, score, (512, 2), sampler=sm.dpmpp_2m, **options)
    assert set(out.nfe) == {12 + 6 + 1}
    assert out.x.mean() == pytest.approx(MEAN, abs=0.06)
    assert out.x.std() == pytest.approx(STD, rel=0.1)
    with pytest.raises(ValueError, match="a sampler without steps, got a RestartGrid"):
        sm.sample(jax.random.key(0), SDE, score, (4, 2), sampler=sm.flow(), **options)


PAIR = SDE, isotropic(SDE, MEAN, STD)
BASE = sm.karras_grid(SDE, 6)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sm.lms(*PAIR, order=5), "order must be 1, 2, 3 or 4, got 5"),
        (lambda: sm.deis(*PAIR, order=0), "order must be 1, 2, 3 or 4, got 0"),
        (lambda: sm.er_sde(*PAIR, order=4), "order must be 1, 2 or 3, got 4"),
        (lambda: sm.sa_solver(*PAIR, order=4), "order must be 1, 2 or 3, got 4"),
        (lambda: sm.sa_solver(*PAIR, tau=-1.0), "tau must be finite and >= 0, got -1"),
        (lambda: sm.sa_solver(*PAIR, s_min=2.0, s_max=1.0), r"s_min must be in \[0, s_max=1.0\]"),
        (lambda: sm.restart_grid(SDE, BASE, low=0.5, high=0.1), "must be .low, high. with low < high"),
        (lambda: sm.restart_grid(SDE, BASE, low=0.1, high=1e6), r"must be in \["),
        (lambda: sm.restart_grid(SDE, BASE, low=0.1, high=0.5, steps=0), "steps must be at least 1"),
        (lambda: sm.restart_grid(SDE, BASE, low=0.1, high=0.101), "high must be above|must be"),
        (lambda: sm.restart_grid(SDE, BASE[::-1], low=0.1, high=0.5), "grid must decrease"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
