"""Few-step solvers: orders of convergence, moments, their cost, and what they have in common."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.analytic import Mixture
from score_jax.samplers import exponential as ex
from score_jax.sde import VE, VP, LinearVE, SubVP, from_marginals
from score_jax.types import Step
from tests.helpers.closed_form import isotropic
from tests.helpers.every_step import move

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(sigma_max=100.0)}
MEAN, STD = 0.7, 0.4

# Order of convergence on the flow, and evaluations a step.
SOLVERS = {
    "ddim": (sm.ddim, 1, 1),
    "heun": (sm.heun, 2, 2),
    "dpmpp_2m": (sm.dpmpp_2m, 2, 1),
    "dpmpp_2m_lower": (functools.partial(sm.dpmpp_2m, lower_at_end=True), 2, 1),
    "dpmpp_3m": (functools.partial(sm.dpmpp_3m, exact=True), 3, 1),
    "dpmpp_3m_halved": (sm.dpmpp_3m, 2, 1),
    "dpmpp_2s": (sm.dpmpp_2s, 2, 2),
    "unipc_1": (functools.partial(sm.unipc, order=1), 2, 1),
    "unipc_2": (sm.unipc, 3, 1),
    "unipc_2_bh1": (functools.partial(sm.unipc, b=sm.bh1), 3, 1),
    "unipc_3": (functools.partial(sm.unipc, order=3), 4, 1),
}
STOCHASTIC = {
    "ddim_eta": (functools.partial(sm.ddim, eta=0.5), 1),
    "ancestral": (functools.partial(sm.ddim, eta=1.0), 1),
    "sde_dpmpp_1": (functools.partial(sm.sde_dpmpp_2m, order=1), 1),
    "sde_dpmpp_2m": (sm.sde_dpmpp_2m, 1),
    "edm": (functools.partial(sm.edm, churn=10.0, s_min=0.05, s_max=10.0), 2),
}
MAIN = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "unipc_2", "unipc_3")
ALL = {k: (v[0], v[2]) for k, v in SOLVERS.items()} | STOCHASTIC


@functools.partial(jax.jit, static_argnums=(0, 1))
def snr_grid(sde, n, t0):
    """n steps equal in log-SNR, made here: the grids of the library are not what is tested."""
    values = jnp.linspace(sde.log_snr(sde.t1), sde.log_snr(t0), n + 1)
    return sde.time_of_log_snr(values).at[0].set(sde.t1).at[-1].set(t0)


def runner(step):
    """The loop that `simulate` scans, with the step compiled once for all numbers of steps."""

    @jax.jit
    def update(seed, i, x, t, t_next, state):
        return step.update(jax.random.fold_in(jax.random.key(seed), i), x, t, t_next, state)

    def run(x, grid, seed=3):
        state, times = step.init(x, jnp.asarray(grid)), np.asarray(grid)
        for i in range(len(times) - 1):
            out, state = update(seed, i, x, times[i], times[i + 1], state)
            x = out.x
        return x

    return run


@functools.partial(jax.jit, static_argnums=0)
def flow(sde, x, t, t_next, std=STD):
    """The probability flow of N(MEAN, std^2) data: the standardised state does not change."""
    m, s, m_next, s_next = sde.mean_coeff(t), sde.std(t), sde.mean_coeff(t_next), sde.std(t_next)
    scale = jnp.sqrt((m_next**2 * std**2 + s_next**2) / (m**2 * std**2 + s**2))
    return m_next * MEAN + scale * (x - m * MEAN)


def rms(a, b):
    return float(np.sqrt(np.square(np.asarray(a) - np.asarray(b)).mean()))


def slope(ns, errors):
    return -np.polyfit(np.log(ns), np.log(errors), 1)[0]


# Narrow and wide, so that no solver is right by accident where the error of one changes its sign.
STDS = np.array([[0.15, 0.4, 1.5]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "name"),
    [(solver, "vp") for solver in SOLVERS]
    + [(solver, name) for name in ("subvp", "ve") for solver in MAIN],
)
def test_order_on_a_gaussian(name, solver, x64):
    """Against the closed form of the flow, by regression; from t1 to 0.05, log-SNR steps."""
    sde, (make, order, _) = SDES[name], SOLVERS[solver]
    z = sde.prior_sample(jax.random.key(0), (32, 3))
    exact = flow(sde, z, 1.0, 0.05, STDS)
    run, ns = runner(make(sde, isotropic(sde, MEAN, STDS))), [40, 80, 160]
    errors = [rms(run(z, snr_grid(sde, n, 0.05)), exact) for n in ns]
    assert slope(ns, errors) > order - 0.4, errors
    if order == 1:
        assert slope(ns, errors) < 1.2  # higher orders may look better still on a short ladder


MIXTURE = ([0.3, 0.7], [[1.0, 0.5], [-1.0, -0.3]], [[0.3, 0.0], [0.2, 0.1]])


@pytest.fixture(scope="module")
def mixture_end():
    """The score of a mixture under VP, latents, and where the flow takes them."""
    with jax.enable_x64(True):
        weights, means, roots = (jnp.asarray(a) for a in MIXTURE)
        covs = jnp.stack([jnp.diag(r) + 0.05 * jnp.eye(2) for r in roots])
        score, sde = Mixture(weights, means, covs).score(SDES["vp"]), SDES["vp"]
        z = sde.prior_sample(jax.random.key(0), (64, 2))
        tight = functools.partial(
            sm.probability_flow, sde, score, t_from=1.0, t_to=0.05, rtol=1e-10, atol=1e-10,
            solver=diffrax.Dopri8(),
        )  # fmt: skip
        return score, z, jax.jit(tight)(z).x


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "unipc_2"])
def test_order_on_a_mixture(solver, mixture_end, x64):
    """Where the flow has no closed form, against an eighth-order solve in t."""
    sde, (make, order, _) = SDES["vp"], SOLVERS[solver]
    score, z, exact = mixture_end
    run, ns = runner(make(sde, score)), [30, 60, 120]
    errors = [rms(run(z, snr_grid(sde, n, 0.05)), exact) for n in ns]
    assert slope(ns, errors) > order - 0.3, errors
    assert errors[-1] < {1: 2e-2, 2: 1e-3, 3: 5e-5, 4: 2e-6}[order], errors


@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "unipc_3"])
def test_order_on_an_uneven_grid(solver, x64):
    """Steps that grow and shrink by a third at random: the coefficients know the lengths."""
    sde, (make, order, _) = SDES["vp"], SOLVERS[solver]
    z = sde.prior_sample(jax.random.key(0), (64, 1))
    run, ns, errors = runner(make(sde, isotropic(sde, MEAN, STD))), [60, 120, 240], []
    for n in ns:
        lengths = np.random.default_rng(1).uniform(0.7, 1.3, n)
        u = np.concatenate([[0], np.cumsum(lengths)]) / lengths.sum()
        first, last = (float(sde.log_snr(t)) for t in (1.0, 0.05))
        grid = np.asarray(jax.jit(sde.time_of_log_snr)(first + u * (last - first)))
        errors.append(np.abs(np.asarray(run(z, grid)) - flow(sde, z, 1.0, grid[-1])).max())
    assert slope(ns, errors) == pytest.approx(order, abs=0.4), errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "name"),
    [(solver, "vp") for solver in STOCHASTIC]
    + [(s, name) for name in ("subvp", "ve") for s in ("ancestral", "sde_dpmpp_2m", "edm")],
)
def test_moments_of_the_stochastic_ones(name, solver):
    """N(MEAN, STD^2) data: 80 steps from the exact law at t1 to that at t0."""
    sde, (make, _) = SDES[name], STOCHASTIC[solver]
    t1, t0 = jnp.float32(1.0), jnp.float32(0.02)
    law = jax.jit(
        lambda t: (sde.mean_coeff(t) * MEAN, jnp.hypot(sde.mean_coeff(t) * STD, sde.std(t)))
    )
    mean, std = law(t1)
    x = mean + std * jax.random.normal(jax.random.key(0), (40_000, 1))
    out = runner(make(sde, isotropic(sde, MEAN, STD)))(x, snr_grid(sde, 80, 0.02))
    mean, std = law(t0)
    # 40,000 draws: the mean is known to 0.5 % of the std, the std to 0.35 %; first order adds 5 %.
    slack = 0.01 if solver in ("edm", "sde_dpmpp_2m") else 0.07
    assert float(out.mean()) == pytest.approx(float(mean), abs=4 * 0.005 * float(std))
    assert float(out.std()) == pytest.approx(float(std), rel=slack)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_exact_in_one_step_for_a_point(name, eta):
    """Data at one point: E[x0 | x] does not err, and any step lands on N(m' MEAN, s'^2)."""
    sde = SDES[name]
    t, t_next = jnp.float32(0.9), jnp.float32(0.3)
    x = sde.mean_coeff(t) * MEAN + sde.std(t) * jax.random.normal(jax.random.key(0), (40_000, 1))
    step = sm.ddim(sde, isotropic(sde, MEAN, 0.0), eta=eta)
    out = move(step, jax.random.key(1), x, t, t_next)
    s = float(sde.std(t_next))
    assert float(out.x.mean()) == pytest.approx(float(sde.mean_coeff(t_next)) * MEAN, abs=0.02 * s)
    assert float(out.x.std()) == pytest.approx(s, rel=0.015)
    # What is not fresh noise is what was there, shrunk: their squares add up.
    fresh = float((out.x - out.x_mean).std())
    ratio = float(sde.std(t_next) * sde.mean_coeff(t) / (sde.mean_coeff(t_next) * sde.std(t)))
    assert fresh == pytest.approx(eta * s * np.sqrt(1 - ratio**2), rel=0.015, abs=1e-6)


def test_sde_dpmpp_2m_gains_an_order_on_the_first():
    """Weak error of the variance at 10 steps, the noise averaged out by 40,000 draws."""
    sde = SDES["vp"]
    x = jax.random.normal(jax.random.key(0), (40_000, 1))
    end = lambda solver: float(
        runner(STOCHASTIC[solver][0](sde, isotropic(sde, MEAN, STD)))(
            x, snr_grid(sde, 10, 0.02)
        ).std()
    )
    exact = float(jnp.hypot(sde.mean_coeff(0.02) * STD, sde.std(0.02)))
    first, second = (abs(end(s) / exact - 1) for s in ("sde_dpmpp_1", "sde_dpmpp_2m"))
    assert first > 0.08 and second < first / 2, (first, second)


@pytest.mark.parametrize("solver", ALL)
def test_cost_and_compile_once(solver):
    """NFE counted by a callback, and one trace for all grids of a length."""
    sde, (make, nfe) = SDES["vp"], ALL[solver]
    base, seen, traces = isotropic(sde, MEAN, STD), [], []

    def counted(x):
        seen.append(1)
        return np.asarray(x)

    def score(x, t):
        x = jax.pure_callback(counted, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return base(x, t)

    step = make(sde, score)

    @jax.jit
    def sample(key, x, grid):
        traces.append(1)
        return sm.simulate(key, step, x, grid)

    x = sde.prior_sample(jax.random.key(0), (2, 3))
    assert isinstance(step, Step)
    for t0 in (0.3, 0.2, 0.1):
        out = jax.block_until_ready(sample(jax.random.key(3), x, snr_grid(sde, 5, t0)))
        assert int(out.nfe) == len(seen) == 5 * nfe
        seen.clear()
    assert len(traces) == 1


@pytest.mark.parametrize("solver", ["ddim_eta", "dpmpp_3m", "edm", "unipc_3"])
def test_scan_vmap_and_any_rank(solver):
    """Scans side by side are the loops by themselves, for images as for vectors."""
    sde, (make, _) = SDES["subvp"], ALL[solver]
    step = make(sde, isotropic(sde, MEAN, STD))
    grid = snr_grid(sde, 4, 0.1)
    x = sde.prior_sample(jax.random.key(0), (2, 3, 2, 2, 1))
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    out = jax.jit(jax.vmap(lambda k, x: sm.simulate(k, step, x, grid).x))(keys, x)
    loop = runner(step)
    for i in range(2):
        np.testing.assert_allclose(out[i], loop(x[i], grid, 3 + i), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", SDES)
def test_float32_keeps_its_digits_over_many_short_steps(name):
    """1,000 steps down to t = 1e-5, where differences of logarithms would have lost the step."""
    sde = SDES[name]
    step = sm.unipc(sde, isotropic(sde, MEAN, STD), order=3)
    t0 = 1e-5
    with jax.enable_x64(True):
        grid = np.asarray(snr_grid(sde, 1000, t0), np.float32)
    z = sde.prior_sample(jax.random.key(0), (16, 1))
    out = jax.jit(lambda x: sm.simulate(jax.random.key(0), step, x, grid).x)(z)
    exact = flow(sde, z, jnp.float32(1.0), jnp.float32(t0))
    np.testing.assert_allclose(out, exact, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("h", [1e-7, 1e-4, 0.03, 0.999, 1.001, 3.0, 30.0])
def test_moments_are_exact(h, x64):
    """Against Gauss-Legendre quadrature in double precision, in both precisions."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u, w = 0.5 * (nodes + 1), 0.5 * weights
    want = [float(h * np.sum(w * np.exp(-h * (1 - u)) * u**k)) for k in range(4)]
    moments = jax.jit(lambda h: ex.moments(h, 3))
    np.testing.assert_allclose(moments(np.float64(h)), want, rtol=1e-11)
    np.testing.assert_allclose(moments(np.float32(h)), want, rtol=3e-6)


def test_weights_integrate_polynomials_exactly(x64):
    """Through three nodes and 0 any cubic is integrated exactly, compared with quadrature."""
    rng = np.random.default_rng(0)
    for h in (0.01, 0.7, 4.0):
        c = rng.normal(size=4)
        places = np.array([1.0, -0.6, -2.3])
        b = np.asarray(jax.jit(ex.lagrange_weights)(h, list(places)))
        x, w = np.polynomial.legendre.leggauss(60)
        u, w = 0.5 * (x + 1), 0.5 * w
        f = lambda v, c=c: np.polyval(c, v)
        want = h * np.sum(w * np.exp(-h * (1 - u)) * (f(u) - f(0.0)))
        assert np.sum(b * (f(places) - f(0.0))) == pytest.approx(want, rel=1e-9)


@pytest.mark.optimized  # equal to rounding
def test_what_the_solvers_have_in_common():
    """Each is the other where the papers say so, with the same key and so the same noise."""
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, STD)
    x = sde.prior_sample(jax.random.key(0), (8, 2))
    grid = snr_grid(sde, 6, 0.1)
    run = lambda step, grid=grid: runner(step)(x, grid)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    # DDIM with eta 1 is the first-order SDE solver.
    same(run(sm.ddim(sde, score, eta=1.0)), run(sm.sde_dpmpp_2m(sde, score, order=1)))
    # Without churn, or outside [s_min, s_max], EDM's sampler is Heun's method.
    plain = run(sm.heun(sde, score))
    same(run(sm.edm(sde, score)), plain)
    same(run(sm.edm(sde, score, churn=9.0, s_min=1e3)), plain)
    assert float(jnp.abs(run(sm.edm(sde, score, churn=9.0)) - plain).max()) > 0.05
    # One step of any multistep method is DDIM.
    once, first = grid[:2], sm.ddim(sde, score)
    for make in (sm.dpmpp_2m, sm.dpmpp_3m, sm.unipc):
        same(run(make(sde, score), once), run(first, once))
    # With `lower_at_end` the last step is DDIM from where the other steps led.
    lower = sm.dpmpp_2m(sde, score, lower_at_end=True)
    before = run(sm.dpmpp_2m(sde, score), grid[:-1])
    want = move(first, jax.random.key(0), before, grid[-2], grid[-1]).x
    same(run(lower), want)
    # A chain with the identity changes nothing: the memory and the correction survive.
    uni = sm.unipc(sde, score, order=3)
    np.testing.assert_array_equal(run(sm.chain(uni, sm.chain())), run(uni))


def test_unipc_keeps_what_others_did_to_its_state():
    """A Langevin corrector between its steps: the moments are right, and so are not undone."""
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, STD)
    both = sm.chain(sm.langevin(sde, score, snr=0.25, n_steps=2), sm.unipc(sde, score))
    # Far from the law at first: only the corrector can mend it.
    x = 3.0 * jax.random.normal(jax.random.key(0), (4096, 2))
    out = jax.jit(lambda x: sm.simulate(jax.random.key(1), both, x, snr_grid(sde, 60, 0.02)).x)(x)
    wrong = jax.jit(
        lambda x: sm.simulate(jax.random.key(1), sm.unipc(sde, score), x, snr_grid(sde, 60, 0.02)).x
    )(x)
    std = float(jnp.hypot(sde.mean_coeff(0.02) * STD, sde.std(0.02)))
    assert float(wrong.std()) > 2 * std
    assert float(out.std()) == pytest.approx(std, rel=0.1)
    assert float(out.mean()) == pytest.approx(float(sde.mean_coeff(0.02)) * MEAN, abs=0.05)


@pytest.mark.parametrize("name", SDES)
def test_ddim_encodes_and_decodes(name):
    """Latents are those of the exact flow, and the way back leads home, both up to 1/n."""
    sde = SDES[name]
    score = isotropic(sde, MEAN, STD)
    x = MEAN + STD * jax.random.normal(jax.random.key(0), (32, 2))
    start = sde.mean_coeff(0.05) * x + sde.std(0.05) * jax.random.normal(jax.random.key(1), x.shape)
    misses, homes = [], []
    for n in (100, 200):
        grid = snr_grid(sde, n, 0.05)
        z, nfe = jax.jit(lambda x, g: sm.ddim_encode(sde, score, x, g))(start, grid)
        back = jax.jit(lambda z, g: sm.simulate(jax.random.key(0), sm.ddim(sde, score), z, g).x)
        assert nfe == n
        scale = float(sde.std(1.0))
        misses.append(float(jnp.abs(z - flow(sde, start, 0.05, 1.0)).max()) / scale)
        homes.append(float(jnp.abs(back(z, grid) - start).max()))
    assert misses[1] < 0.6 * misses[0] < 0.06, misses
    assert homes[1] < 0.6 * homes[0] < 0.12, homes


@pytest.mark.slow
def test_any_sde_through_mean_and_std(x64):
    """A sine SDE known only by m and s: the inverse of its SNR is found by bisection."""
    sde = from_marginals(lambda t: jnp.cos(1.5 * t), lambda t: jnp.sin(1.5 * t) ** 1.5)
    score = isotropic(sde, MEAN, STD)
    z = 0.5 + jax.random.normal(jax.random.key(0), (64, 1))
    exact = flow(sde, z, 1.0, 0.05)
    for solver in ("heun", "dpmpp_2s", "unipc_2"):
        make, order, _ = SOLVERS[solver]
        run, ns = runner(make(sde, score)), [40, 80]
        errors = [float(jnp.abs(run(z, snr_grid(sde, n, 0.05)) - exact).max()) for n in ns]
        assert slope(ns, errors) == pytest.approx(order, abs=0.3), (solver, errors)


def test_the_last_step_of_edm_is_tweedie():
    """n intervals of Heun and the denoising are 2 (n + 1) - 1 evaluations, the paper's count."""
    sde = SDES["ve"]
    score = isotropic(sde, MEAN, 0.0)
    x = sde.prior_sample(jax.random.key(0), (4, 2))
    out = sm.simulate(
        jax.random.key(0), sm.heun(sde, score), x, snr_grid(sde, 4, 0.01),
        final_denoising=sm.tweedie(sde, score),
    )  # fmt: skip
    assert out.nfe == 2 * 5 - 1
    np.testing.assert_allclose(out.x, np.full((4, 2), MEAN), rtol=1e-4)


def test_the_third_order_is_that_of_the_authors_program():
    """One step with two past predictions, by the formulas of their multistep update of order 3."""
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, STD)
    times = sm.log_snr_grid(sde, 6)[:4]
    x = jax.random.normal(jax.random.key(0), (3, 2))
    lam = 0.5 * np.asarray(sde.log_snr(times), np.float64)
    step, seen = sm.dpmpp_3m(sde, score), []
    state = step.init(x, jnp.asarray([*times, 1e-3]))
    for i in range(3):
        before, gain = x, float(jnp.square(sde.std(times[i])))
        seen.append((x + gain * score(x, times[i])) / sde.mean_coeff(times[i]))
        out, state = step.update(jax.random.key(0), x, times[i], times[i + 1], state)
        x = out.x
    h, r0, r1 = lam[3] - lam[2], lam[2] - lam[1], lam[1] - lam[0]
    r0, r1 = r0 / h, r1 / h
    first, second = (seen[2] - seen[1]) / r0, (seen[1] - seen[0]) / r1
    slope_ = first + r0 / (r0 + r1) * (first - second)
    bend = (first - second) / (r0 + r1)
    phi1 = np.expm1(-h)
    phi2 = phi1 / h + 1
    phi3 = phi2 / h - 0.5
    m, ratio = sde.mean_coeff(times[3]), sde.std(times[3]) / sde.std(times[2])
    wanted = ratio * before - m * phi1 * seen[2] + m * phi2 * slope_ - m * phi3 * bend
    np.testing.assert_allclose(x, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_a_long_last_step_does_not_extrapolate(mixture_end, x64):
    """Equal steps in time end with one four times as long as the last in log-SNR."""
    sde, (score, z, _) = SDES["vp"], mixture_end
    grid = sm.uniform_grid(sde, 20)
    exact = sm.adaptive_multistep(sde, score, z, t_from=1.0, t_to=1e-3, rtol=1e-7, atol=1e-7).x
    first = rms(runner(sm.ddim(sde, score))(z, grid), exact)
    for solver in ("dpmpp_2m", "dpmpp_3m", "dpmpp_3m_halved", "unipc_2", "unipc_3"):
        assert rms(runner(SOLVERS[solver][0](sde, score))(z, grid), exact) < first, solver


def test_churn_counts_the_steps_of_the_paper():
    """N = 18 steps, of which the last goes to 0, have S_churn / 18 each."""
    sde, grid = SDES["ve"], sm.karras_grid(SDES["ve"], 17)
    churned = lambda s: float(
        sm.edm(sde, isotropic(sde, 0.0, 1.0), churn=s).init(jnp.ones((1, 2)), grid)
    )
    assert churned(1.8) == pytest.approx(0.1)
    assert churned(80.0) == pytest.approx(np.sqrt(2) - 1)


@pytest.mark.parametrize("make", [sm.heun, sm.edm], ids=["heun", "edm"])
def test_one_step_from_noise_to_data_is_eulers(make):
    """Heun's mean of two slopes would halve the latents, of standard deviation 80."""
    sde = LinearVE()
    score = isotropic(sde, MEAN, STD)
    x = sde.prior_sample(jax.random.key(0), (64, 2))
    out = sm.simulate(
        jax.random.key(1), make(sde, score), x, sm.karras_grid(sde, 1),
        final_denoising=sm.tweedie(sde, score),
    )  # fmt: skip
    np.testing.assert_allclose(out.x, MEAN, atol=0.02)


BAD = [
    (lambda *a: sm.ddim(*a, eta=1.5), "eta must be in \\[0, 1\\], got 1.5"),
    (lambda *a: sm.ddim(*a, eta=-0.1), "eta must be in \\[0, 1\\], got -0.1"),
    (lambda *a: sm.ddim(*a, eta=float("nan")), "eta must be"),
    (lambda *a: sm.edm(*a, churn=-1.0), "churn must be finite and >= 0, got -1.0"),
    (lambda *a: sm.edm(*a, churn=float("inf")), "churn"),
    (lambda *a: sm.edm(*a, s_min=2.0, s_max=1.0), "s_min must be in \\[0, s_max=1.0\\], got 2.0"),
    (lambda *a: sm.edm(*a, s_min=-2.0), "s_min"),
    (lambda *a: sm.edm(*a, s_noise=0.0), "s_noise must be finite and > 0, got 0.0"),
    (lambda *a: sm.unipc(*a, order=4), "order must be 1, 2 or 3, got 4"),
    (lambda *a: sm.unipc(*a, order=0), "order"),
    (lambda *a: sm.sde_dpmpp_2m(*a, order=3), "order must be 1 or 2, got 3"),
]


@pytest.mark.parametrize(("make", "named"), BAD)
def test_bad_options_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make(SDES["vp"], isotropic(SDES["vp"], MEAN, STD))


def test_bad_input_to_encoding_is_named():
    sde = SDES["vp"]
    score = isotropic(sde, MEAN, STD)
    with pytest.raises(ValueError, match="decrease strictly"):
        sm.ddim_encode(sde, score, jnp.ones((1, 2)), [0.1, 0.5])
    with pytest.raises(ValueError, match="floating point"):
        sm.ddim_encode(sde, score, jnp.ones((1, 2), jnp.int32), [0.5, 0.1])
