"""The adaptive multistep solver against flows that are known, and what it says that it cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from score_jax import samplers as sm
from score_jax.analytic import Mixture
from score_jax.samplers.uneven import uneven_weights
from score_jax.sde import VE, VP, CosineVP, SubVP, from_marginals
from tests.helpers.closed_form import isotropic

SDES = {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(0.01, 10.0),
    "cosine": CosineVP(),
    "own": from_marginals(lambda t: jnp.cos(t), lambda t: jnp.sin(t), t1=1.5),
}
MEAN, STD = 0.8, 0.5


def exact_flow(sde, x, t_from, t_to):
    """The flow of N(MEAN, STD^2 I): every quantile stays one, in double precision."""
    with jax.enable_x64(True):
        law = lambda t: (
            MEAN * float(sde.mean_coeff(t)),
            float(np.hypot(STD * float(sde.mean_coeff(t)), float(sde.std(t)))),
        )
        (mean, std), (mean_to, std_to) = law(t_from), law(t_to)
    return mean_to + std_to * (np.asarray(x, np.float64) - mean) / std


def solver(sde, **options):
    """A jitted solve with the tolerance as an argument."""
    score = isotropic(sde, MEAN, STD)
    return jax.jit(
        lambda x, t_from, t_to, tol: sm.adaptive_multistep(
            sde, score, x, t_from=t_from, t_to=t_to, rtol=tol, atol=tol, **options
        )
    )


@functools.cache
def mixture(dim, k):
    """A mixture whose modes are wider than they are far apart by a few times."""
    rng = np.random.default_rng(dim)
    covs = np.stack([(0.1 + 0.3 * rng.random()) * np.eye(dim) for _ in range(k)])
    return jnp.full(k, 1 / k), rng.normal(size=(k, dim)), covs


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_gaussian_flow_is_exact_to_the_tolerance_both_ways(name):
    sde, t0 = SDES[name], 1e-3
    solve = solver(sde)
    z = jax.random.normal(jax.random.key(0), (16, 3)) * sde.prior_std
    for tol in (1e-3, 1e-5):
        out = solve(z, sde.t1, t0, tol)
        truth = exact_flow(sde, z, sde.t1, t0)
        error = np.sqrt(np.mean(np.square(out.x - truth)))
        assert error < 12 * tol + 2e-6
        # Denoised as the formula of a Gaussian's posterior mean says.
        m, s = float(sde.mean_coeff(t0)), float(sde.std(t0))
        gain = m * STD**2 / (m**2 * STD**2 + s**2)
        np.testing.assert_allclose(
            out.denoised, MEAN + gain * (truth - m * MEAN), atol=30 * tol + 1e-5
        )
        back = solve(jnp.asarray(truth, jnp.float32), t0, sde.t1, tol)
        size = float(np.hypot(sde.mean_coeff(sde.t1), sde.std(sde.t1)))
        assert np.sqrt(np.mean(np.square(back.x - z))) / size < 12 * tol + 5e-6


def reference(sde, mix, x, t_from, t_to):
    """The flow of a mixture in float64 by scipy's eighth order in log(s/m), its score in NumPy."""
    weights, means, covs = (np.asarray(a, np.float64) for a in mix)
    var = covs[:, 0, 0]
    dim = means.shape[1]

    def rhs(u, y):
        y = y.reshape(x.shape)
        total = var + np.exp(2 * u)
        d2 = np.square(y[:, None] - means[None]).sum(-1)
        logs = np.log(weights) - dim / 2 * np.log(total) - d2 / (2 * total)
        p = np.exp(logs - logs.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        clean = np.einsum("bk,bkd->bd", p * var / total, y[:, None] - means[None]) + p @ means
        return (y - clean).ravel()

    ends = [(float(sde.mean_coeff(t)), float(sde.std(t))) for t in (t_from, t_to)]
    (m, s), (m_to, s_to) = ends
    span = (np.log(s / m), np.log(s_to / m_to))
    start = (np.asarray(x, np.float64) / m).ravel()
    found = solve_ivp(rhs, span, start, method="DOP853", rtol=1e-12, atol=1e-12)
    return found.y[:, -1].reshape(x.shape) * m_to


@pytest.fixture(scope="module")
def ladder():
    """Errors and costs on a mixture in two dimensions, in double precision, over tolerances."""
    with jax.enable_x64(True):
        sde = VP()
        mix = mixture(2, 5)
        score = Mixture(*mix).score(sde)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(48, 2)))
        truth = reference(sde, mix, x, 1.0, 1e-3)

        @jax.jit
        def solve(tol):
            return sm.adaptive_multistep(sde, score, x, t_from=1.0, t_to=1e-3, rtol=tol, atol=tol)

        tols = 10.0 ** -np.arange(2, 9)
        outs = [solve(tol) for tol in tols]
        errors = [float(np.sqrt(np.mean(np.square(out.x - truth)))) for out in outs]
        return tols, np.array(errors), outs


@pytest.mark.slow
def test_error_follows_the_tolerance(ladder):
    tols, errors, _ = ladder
    assert (errors < 5 * tols).all() and (errors > tols / 10).all()
    slope = np.polyfit(np.log(tols), np.log(errors), 1)[0]
    assert 0.8 < slope < 1.2


def test_few_evaluations_and_all_of_them_counted(ladder):
    tols, _, outs = ladder
    nfe = np.array([int(out.nfe) for out in outs])
    for out in outs:
        assert int(out.nfe) == 1 + int(out.accepted) + int(out.rejected)
        assert int(out.rejected) <= 0.1 * int(out.nfe)
    # A fourth-order predictor whose error the tolerance bounds: nfe grows as tol^(-1/5) at the fine end.
    slope = np.polyfit(np.log(tols[-4:]), np.log(nfe[-4:]), 1)[0]
    assert -0.24 < slope < -0.15
    assert nfe[1] <= 26 and nfe[3] <= 58  # 1e-3 and 1e-5


@pytest.mark.parametrize("order", [1, 2, 3])
def test_cost_grows_as_the_order_says(order):
    """With steps of order q at most, evaluations go as tol^(-1/(q + 1))."""
    with jax.enable_x64(True):
        sde = VP()
        solve = solver(sde, order=order, max_steps=20_000)
        x = jnp.linspace(-2.0, 2.0, 8)[:, None]
        tols = np.array([1e-6, 1e-7, 1e-8]) if order > 1 else np.array([1e-4, 1e-5, 1e-6])
        nfe = [int(solve(x, 1.0, 1e-3, tol).nfe) for tol in tols]
    slope = np.polyfit(np.log(tols), np.log(nfe), 1)[0]
    assert slope == pytest.approx(-1 / (order + 1), abs=0.05)


WEIGHTS = jax.jit(uneven_weights)


def test_weights_integrate_every_polynomial_in_the_angle(x64):
    phi = lambda lam: np.arctan(np.exp(lam))
    nodes = np.array([0.4, -0.3, -1.1, -1.2, 99.0])
    used = np.array([True, True, True, True, False])
    for start, h in ((-0.3, 0.7), (0.4, -0.9), (0.4, 1e-7), (-2.0, 4.0), (0.4, -4.0)):
        w = np.asarray(WEIGHTS(start, h, nodes, used))
        assert w[4] == 0
        for power in range(4):
            exact = quad(
                lambda v, p=power, a=start, b=h: np.exp(v - b) * phi(a + v) ** p,
                0, h, epsabs=0, epsrel=1e-13,
            )[0]  # fmt: skip
            assert float(w[:4] @ phi(nodes[:4]) ** power) == pytest.approx(exact, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("start", [-12.0, 0.0, 9.0])
@pytest.mark.parametrize("h", [1e-5, -1e-3, 0.3, 4.0])
def test_weights_in_single_precision(start, h):
    """Far out in lambda and for short steps they keep the digits of their inputs."""
    offsets = np.array([0.0, -1.0, -1.7, -2.1]) * h
    nodes, used = (start + offsets).astype(np.float32), np.ones(4, bool)
    got = WEIGHTS(nodes[0], np.float32(h), nodes, used)
    with jax.enable_x64(True):
        wide = nodes.astype(np.float64)
        exact = WEIGHTS(wide[0], np.float64(np.float32(h)), wide, used)
    np.testing.assert_allclose(got, exact, rtol=2e-5, atol=2e-6 * abs(h))


@pytest.mark.parametrize("per_sample", [False, True])
def test_nfe_is_what_the_network_saw(per_sample):
    """A score that steepens suddenly makes rejections: these evaluations count too."""
    sde, calls = VP(), []

    def score(x, t):
        jax.debug.callback(lambda _: calls.append(1), x)
        bump = jnp.tanh(30 * (t - 0.4))
        return isotropic(sde, MEAN, STD)(x, t) * (1 + 0.5 * bump)

    x = jnp.linspace(-1.0, 1.0, 3)[:, None]
    out = jax.jit(
        lambda x: sm.adaptive_multistep(
            sde, score, x, t_from=1.0, t_to=1e-3, rtol=1e-4, atol=1e-4, per_sample=per_sample
        )
    )(x)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert int(jnp.sum(out.rejected)) > 0
    if per_sample:
        # All evaluate as often as the slowest, and the callback is called for each of the three.
        assert out.nfe.shape == (3,) and abs(len(calls) / 3 - int(out.nfe.max())) < 1
    else:
        assert len(calls) == int(out.nfe)


@pytest.mark.slow
def test_norms_and_samples_of_their_own():
    """One hard sample among easy ones: the batch hides it, the worst-sample norm does not."""
    sde = VP()
    score = Mixture(*mixture(2, 5)).score(sde)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(32, 2)), jnp.float32)
    truth = reference(sde, mixture(2, 5), x, 1.0, 1e-3)

    def solver_with(**options):
        return jax.jit(
            lambda x: sm.adaptive_multistep(
                sde, score, x, t_from=1.0, t_to=1e-3, rtol=1e-4, atol=1e-4, **options
            )
        )

    worst = lambda out: np.sqrt(np.square(out.x - truth).mean(axis=1)).max()
    batch, careful = solver_with()(x), solver_with(norm=sm.worst_sample)(x)
    assert int(careful.nfe) > int(batch.nfe)
    assert worst(careful) < worst(batch) / 2
    alone = solver_with(per_sample=True)
    each, others = alone(x), alone(x.at[3:].multiply(-0.5))
    np.testing.assert_array_equal(each.x[:3], others.x[:3])
    np.testing.assert_array_equal(each.nfe[:3], others.nfe[:3])
    assert not np.array_equal(each.nfe, others.nfe)
    assert each.nfe.min() < each.nfe.max() and worst(each) < 2e-3


def test_a_tolerance_below_rounding_asks_for_no_more_than_rounding():
    """In single precision 1e-12 is what 1e-7 is: steps do not shrink for digits that are not there."""
    sde = VP()
    z = jax.random.normal(jax.random.key(0), (16, 3))
    solve = solver(sde)
    coarse, fine = solve(z, 1.0, 1e-3, 1e-7), solve(z, 1.0, 1e-3, 1e-12)
    assert int(fine.nfe) < 1.5 * int(coarse.nfe)
    np.testing.assert_allclose(fine.x, exact_flow(sde, z, 1.0, 1e-3), atol=5e-6)


@pytest.mark.optimized  # equal to rounding
def test_a_score_that_wiggles_in_time_is_followed():
    """Sines of 999 t, a network's noise input: 159 periods, which an error of 1e-4 has to resolve."""
    sde = VP()
    wiggle = lambda t, s, sin: 0.02 * sin(999 * t) / s

    def rhs(t, x):
        beta = 0.1 + 19.9 * t
        m2 = np.exp(-0.1 * t - 9.95 * t**2)
        score = -(x - np.sqrt(m2) * MEAN) / (m2 * STD**2 + 1 - m2)
        return -0.5 * beta * (x + score + wiggle(t, np.sqrt(1 - m2), np.sin))

    z = np.linspace(-2.0, 2.0, 5)
    truth = solve_ivp(rhs, (1.0, 1e-3), z, method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]

    def score(x, t):
        return isotropic(sde, MEAN, STD)(x, t) + wiggle(t, sde.std(t), jnp.sin)

    out = jax.jit(
        lambda x: sm.adaptive_multistep(sde, score, x, t_from=1.0, t_to=1e-3, rtol=1e-5, atol=1e-5)
    )(jnp.asarray(z[:, None], jnp.float32))
    assert 500 < int(out.nfe) < 2000 and int(out.rejected) < 0.2 * int(out.nfe)
    np.testing.assert_allclose(out.x[:, 0], truth, atol=2e-4)


@pytest.mark.slow
@pytest.mark.optimized  # equal to rounding
def test_images_batches_of_batches_and_compiled_once():
    sde, traced = SubVP(), []
    score = isotropic(sde, MEAN, STD)

    @jax.jit
    def solve(x, tol):
        traced.append(1)
        return sm.adaptive_multistep(sde, score, x, t_from=1.0, t_to=1e-3, rtol=tol, atol=tol)

    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    outs = [solve(x, tol) for tol in (1e-2, 1e-3, 1e-4)]
    assert len(traced) == 1
    np.testing.assert_allclose(outs[-1].x, exact_flow(sde, x, 1.0, 1e-3), atol=1e-3)
    both = jax.vmap(solve, in_axes=(0, None))(jnp.stack([x, -x]), 1e-4)
    np.testing.assert_allclose(both.x[0], outs[-1].x, atol=1e-5)
    assert both.nfe.shape == (2,)


@pytest.mark.slow
def test_forward_mode_goes_through_and_reverse_mode_says_so(x64):
    """d x(t0) / d (z, MEAN, t0) of a Gaussian's flow is known."""
    sde = VP()

    def end(z, mean, t0):
        return sm.adaptive_multistep(
            sde, isotropic(sde, mean, STD), z, t_from=1.0, t_to=t0, rtol=1e-8, atol=1e-8
        ).x

    z, t0 = jnp.array([[0.3]]), 0.1
    truth = lambda z, mean, t: (
        mean * sde.mean_coeff(t)
        + jnp.sqrt((STD * sde.mean_coeff(t)) ** 2 + sde.std(t) ** 2)
        * (z - mean * sde.mean_coeff(1.0))
        / jnp.sqrt((STD * sde.mean_coeff(1.0)) ** 2 + sde.std(1.0) ** 2)
    )
    got = jax.jit(jax.jacfwd(end, argnums=(0, 1, 2)))(z, MEAN, t0)
    exact = jax.jit(jax.jacfwd(truth, argnums=(0, 1, 2)))(z, MEAN, t0)
    for a, b in zip(got, exact, strict=True):
        np.testing.assert_allclose(np.ravel(a), np.ravel(b), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(lambda z: end(z, MEAN, t0).sum())(z)


@pytest.mark.slow
def test_no_way_to_go_and_half_precision():
    sde = VP()
    x = jnp.ones((2, 3))
    solve = jax.jit(
        lambda x, t_to: sm.adaptive_multistep(
            sde, isotropic(sde, MEAN, STD), x, t_from=0.5, t_to=t_to, rtol=1e-2
        )
    )
    still = solve(x, 0.5)
    np.testing.assert_allclose(still.x, x, rtol=1e-6)
    assert int(still.nfe) == 1
    half = solve(x.astype(jnp.bfloat16), 0.1)
    assert half.x.dtype == half.denoised.dtype == jnp.bfloat16


@pytest.mark.slow
def test_what_cannot_be_solved_says_why():
    sde = VP()
    x = jnp.ones((2, 3))

    @jax.jit
    def solve(x, broken_from):
        score = lambda x, t: jnp.where(t < broken_from, jnp.nan, isotropic(sde, MEAN, STD)(x, t))
        return sm.adaptive_multistep(sde, score, x, t_from=1.0, t_to=0.1, max_steps=100)

    assert jnp.isfinite(solve(x, 0.0).x).all()
    for broken_from in (2.0, 0.3):
        with pytest.raises(Exception, match="not finite"):
            jax.block_until_ready(solve(x, broken_from))
    with pytest.raises(Exception, match="max_steps=5"):
        sm.adaptive_multistep(sde, isotropic(sde, MEAN, STD), x, t_from=1.0, t_to=0.1, max_steps=5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rtol": 0.0}, "rtol"),
        ({"atol": -1.0}, "atol"),
        ({"order": 5}, "order"),
        ({"max_steps": 0}, "max_steps"),
        ({"t_to": 0.0}, "t_to .* std > 0"),
        ({"t_from": 1.5}, r"t_from must be in \[0"),
    ],
)
def test_bad_options_are_named(options, named):
    sde = VP()
    with pytest.raises(ValueError, match=named):
        sm.adaptive_multistep(
            sde,
            isotropic(sde, 0.0, 1.0),
            jnp.ones((2, 3)),
            **{"t_from": 1.0, "t_to": 0.1, **options},
        )


def test_integers_are_refused():
    with pytest.raises((ValueError, TypeError)):
        sm.adaptive_multistep(VP(), None, jnp.ones((2, 3), int), t_from=1.0, t_to=0.1)
