"""Identities, limits and parity of the SDEs."""

import dataclasses
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from score_jax._math import normal_logp
from score_jax.sde import (
    VE,
    VP,
    CosineVP,
    LinearLogSNR,
    LinearSDE,
    LinearVE,
    RectifiedFlow,
    SubVP,
    bridge,
    from_betas,
    from_marginals,
    reverse_drift,
)
from score_jax.types import SDE
from tests.helpers.golden_files import golden

COSINE = from_marginals(
    lambda t: jnp.cos(0.5 * math.pi * t), lambda t: jnp.sin(0.5 * math.pi * t), t1=0.98
)
SDES = [
    VP(),
    VP(0.05, 12.0, t1=0.9),
    SubVP(),
    SubVP(0.2, 5.0),
    VE(),
    VE(0.02, 348.0),
    VE(0.1, 3.0, t1=2.0),
    COSINE,
    CosineVP(),
    CosineVP(0.05, 500.0),
    LinearVE(),
    LinearVE(5.0),
    LinearLogSNR(),
    LinearLogSNR(-8.0, 3.0),
    RectifiedFlow(0.999),
    RectifiedFlow(0.9),
    from_betas(np.linspace(0.002, 0.3, 17)),
]
ids = [f"{type(s).__name__}{i}" for i, s in enumerate(SDES)]
every_sde = pytest.mark.parametrize("sde", SDES, ids=ids)


@every_sde
def test_drift_and_diffusion_follow_from_the_marginals(sde, x64):
    """d log m/dt = a and d s^2/dt - 2 a s^2 = g^2, by central differences in float64."""
    t, h = np.linspace(0.01, 0.99, 41) * sde.t1, 1e-5
    mean_coeff = jax.jit(lambda u: sde.mean_coeff(u))
    var = jax.jit(lambda u: jnp.square(sde.std(u)))
    a = (np.log(mean_coeff(t + h)) - np.log(mean_coeff(t - h))) / (2 * h)
    drift, diffusion = jax.jit(lambda x, u: (sde.drift(x, u), sde.diffusion(u)))(
        np.ones((41, 2, 1)), t
    )
    np.testing.assert_allclose(np.asarray(drift)[:, 0, 0], a, rtol=1e-6, atol=1e-8)
    g2 = (np.asarray(var(t + h)) - var(t - h)) / (2 * h) - 2 * a * var(t)
    np.testing.assert_allclose(np.square(diffusion), g2, rtol=1e-6)


@pytest.mark.slow
@every_sde
def test_protocol_shapes_and_dtypes(sde):
    assert isinstance(sde, SDE)
    t = np.array([0.3, 0.5, 0.9], np.float32) * np.float32(sde.t1)

    @jax.jit
    def of(xs, t):
        return [(sde.marginal(x, t), sde.drift(x, t[0]), sde.drift(x, t)) for x in xs]

    shapes = [(3, 2), (3, 4, 2), (3, 4, 4, 1), (3, 2, 2, 2, 1)]
    xs = [np.ones(shape, dtype) for shape in shapes for dtype in (np.float32, jnp.bfloat16)]
    for x, ((mean, std), drift, each) in zip(xs, of(xs, t), strict=True):
        assert mean.shape == x.shape and mean.dtype == x.dtype and std.shape == (3,)
        assert drift.shape == x.shape and drift.dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(drift)[0], np.asarray(each)[0])
    z = sde.prior_sample(jax.random.key(1), (4, 3))
    assert z.shape == (4, 3) and sde.prior_logp(z).shape == (4,)


@every_sde
def test_static_under_jit(sde):
    """An SDE is an argument of a jitted function, compiled once for equal parameters."""
    traces = []

    @jax.jit
    def f(s, t):
        traces.append(1)
        return s.std(t)

    for _ in range(3):
        f(sde, jnp.asarray(0.5))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        ("vp", VP()),
        ("subvp", SubVP()),
        ("ve", VE()),
        ("vp_b", VP(0.05, 12.0)),
        ("ve_b", VE(0.02, 348.0)),
    ],
)
def test_parity_with_the_authors_tables(name, sde, x64):
    table = golden("sde_tables")
    t = jnp.asarray(table["t"])
    x = jnp.ones((t.size, 1))
    np.testing.assert_allclose(sde.drift(x, t)[:, 0], table[f"{name}/drift"], rtol=1e-6)
    np.testing.assert_allclose(sde.diffusion(t), table[f"{name}/diffusion"], rtol=2e-6)
    np.testing.assert_allclose(sde.mean_coeff(t), table[f"{name}/mean"], rtol=1e-6)
    # The authors subtract in place of expm1: near t = 0 theirs is the less exact one.
    np.testing.assert_allclose(sde.std(t), table[f"{name}/std"], rtol=1e-6, atol=1e-9)
    z = jnp.asarray(table[f"{name}/prior_z"])
    np.testing.assert_allclose(sde.prior_logp(z), table[f"{name}/prior_logp"], rtol=1e-6)


@pytest.mark.parametrize("cls", [VP, SubVP])
def test_exact_near_zero_in_float32(cls):
    """float32 equals math.expm1 to rounding at times where 1 - exp(-B) has lost all digits."""
    for t in (1e-7, 1e-5, 1e-3):
        b = 0.1 * t + 0.5 * 19.9 * t * t
        s = -math.expm1(-b)
        g2 = (0.1 + 19.9 * t) * (-math.expm1(-2 * b))
        if cls is VP:
            s, g2 = math.sqrt(s), 0.1 + 19.9 * t
        assert float(cls().std(jnp.float32(t))) == pytest.approx(s, rel=1e-6)
        assert float(cls().diffusion(jnp.float32(t))) == pytest.approx(math.sqrt(g2), rel=1e-6)


def test_normal_logp_is_the_density():
    """Against scipy's normal density."""
    from scipy.stats import norm

    z = np.array([[[0.3], [-1.0]], [[2.0], [0.1]]], np.float32)
    expected = norm.logpdf(z, scale=3.0).sum((1, 2))
    np.testing.assert_allclose(normal_logp(jnp.asarray(z), 3.0), expected, rtol=1e-6)


def test_from_marginals_of_vp_is_vp():
    vp = VP()
    twin = from_marginals(vp.mean_coeff, vp.std)
    x, t = np.ones((20, 3), np.float32), np.linspace(0.05, 1.0, 20, dtype=np.float32)
    of = lambda x, t: [(sde.diffusion(t), sde.drift(x, t)) for sde in (twin, vp)]
    (diffusion, drift), (want_diffusion, want_drift) = jax.jit(of)(x, t)
    np.testing.assert_allclose(diffusion, want_diffusion, rtol=1e-3)
    np.testing.assert_allclose(drift, want_drift, rtol=1e-4)


@every_sde
def test_reverse_drift_moves_the_moments_of_a_gaussian(sde, x64):
    """For data N(0, c^2) both reverse drifts keep p_t: checked on the variance's derivative.

    With score -x / v, v = m^2 c^2 + s^2, a flow with velocity u(x) = k x changes the variance at
    the rate 2 k v; the SDE adds (in reverse time subtracts) g^2.
    """
    c2 = 0.7
    var = lambda t: jnp.square(sde.mean_coeff(t)) * c2 + jnp.square(sde.std(t))
    score = lambda x, t: -x / var(t)

    @jax.jit
    def sides(x, t):
        k_ode, k_sde = (reverse_drift(sde, score, x, t, ode=ode)[0, 0] for ode in (True, False))
        flow, noise = 2 * k_ode * var(t), 2 * k_sde * var(t) - sde.diffusion(t) ** 2
        return flow, noise, jax.grad(var)(t)

    flow, noise, dv = sides(np.ones((1, 1)), 0.6 * sde.t1)
    np.testing.assert_allclose(flow, dv, rtol=1e-8)
    np.testing.assert_allclose(noise, dv, rtol=1e-8)


@pytest.mark.slow
@every_sde
def test_log_snr_is_exact_in_float32(sde):
    """Against 2 log(m/s) in float64, from data to the prior; it falls all the way."""
    t = np.concatenate([np.geomspace(1e-6, 1e-2, 9), np.linspace(0.02, 1, 50)]) * sde.t1
    t = t.astype(np.float32)
    got = np.asarray(jax.jit(lambda t: sde.log_snr(t))(t), np.float64)
    slopes = jax.vmap(jax.grad(lambda u: sde.log_snr(u)))
    with jax.enable_x64(True):
        m, s, slope = jax.device_get(
            jax.jit(lambda t: (sde.mean_coeff(t), sde.std(t), slopes(t)))(t.astype(np.float64))
        )
        want = 2 * np.log(m / s)
    assert want.dtype == np.float64
    # A rounding of t, and of the largest number on the way.
    np.testing.assert_allclose(
        got, want, rtol=0, atol=np.max(1e-6 + 4e-7 * np.abs(want) + 1e-7 * np.abs(slope * t))
    )
    assert (np.diff(got) < 0).all()


@every_sde
def test_time_of_log_snr_is_the_inverse(sde):
    """Back to t, as exactly as the rounding of the log-SNR and of t allow."""
    t = np.concatenate([np.geomspace(1e-5, 1e-2, 9), np.linspace(0.02, 1, 50)]) * sde.t1
    t = t.astype(np.float32)
    slopes = jax.vmap(jax.grad(lambda u: sde.log_snr(u)))
    value, slope = jax.device_get(jax.jit(lambda t: (sde.log_snr(t), slopes(t)))(t))
    back = np.asarray(jax.jit(lambda v: sde.time_of_log_snr(v))(value))
    allowed = 4e-7 * t + 4e-7 * (np.abs(value) + 1) / np.abs(slope)
    excess = np.abs(back - t) / allowed
    assert excess.max() <= 2, (t[excess.argmax()], excess.max())


@every_sde
def test_time_of_log_snr_has_the_right_derivative(sde, x64):
    t, h = np.asarray([0.11, 0.52, 0.93]) * sde.t1, 1e-6 * sde.t1
    log_snr = jax.jit(lambda t: sde.log_snr(t))
    up = jax.jit(jax.vmap(jax.grad(lambda v: sde.time_of_log_snr(v))))(log_snr(t))
    slope = (np.asarray(log_snr(t + h)) - log_snr(t - h)) / (2 * h)
    np.testing.assert_allclose(up * slope, 1.0, rtol=1e-6)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Own(LinearSDE):
    """VP by nothing but its marginals."""

    t1: float = 1.0

    def mean_coeff(self, t):
        return VP().mean_coeff(t)

    def std(self, t):
        return VP().std(t)


@pytest.mark.slow
def test_an_sde_of_two_methods_has_all_others():
    """The bisection finds what VP knows in closed form, and so does the interval's transition."""
    own = Own()
    assert isinstance(own, SDE)
    t = np.asarray([1e-5, 1e-3, 0.1, 0.7, 1.0], np.float32)
    value, found = jax.jit(lambda t: (VP().log_snr(t), own.log_snr(t)))(t)
    np.testing.assert_allclose(found, value, atol=2e-5)
    # Beyond its range: the ends.
    back = jax.jit(own.time_of_log_snr)(np.append(value, np.float32([-50, 60])))
    back, ends = np.split(np.asarray(back), [5])
    np.testing.assert_allclose(back, t, rtol=5e-6)
    np.testing.assert_allclose(ends, [1.0, 0.0], atol=1e-20)


@every_sde
def test_transitions_and_posteriors_compose_the_marginals(sde, x64):
    """The marginal at t is the one at t' carried by the transition; the posterior undoes it."""
    t = np.asarray([0.2, 0.5, 0.97]) * sde.t1
    t_next = np.asarray([0.1, 0.499, 0.001]) * sde.t1

    @jax.jit
    def all_of(t, t_next):
        marginals = [(sde.mean_coeff(u), sde.std(u)) for u in (t, t_next)]
        return sde.transition(t, t_next), bridge(sde, t, t_next), *marginals

    (a, g2), found, (m, s), (m_next, s_next) = jax.device_get(all_of(t, t_next))
    np.testing.assert_allclose(a * m_next, m, rtol=1e-9)
    np.testing.assert_allclose(a**2 * s_next**2 + g2, s**2, rtol=1e-9)
    # E[x(t') | x0] and its variance through x(t) are those of the marginal.
    np.testing.assert_allclose(found.x0_coeff + found.x_coeff * m, m_next, rtol=1e-9)
    total = found.x_coeff**2 * s**2 + np.exp(found.small)
    np.testing.assert_allclose(total, s_next**2, rtol=1e-9)
    np.testing.assert_allclose(np.exp(found.large), g2, rtol=1e-9)


def test_from_betas_is_the_table():
    """At t = (i + 1)/N the marginals of the discrete process, to rounding, and its rate there."""
    betas = golden("iddpm_process")["betas/cosine/1000"]
    sde = from_betas(betas)
    i = np.array([0, 1, 499, 997, 998, 999])
    t = np.asarray((i + 1) / 1000, np.float32)
    alpha_bar = np.cumprod(1 - betas)[i]
    mean_coeff, std, rate = jax.jit(lambda t: (sde.mean_coeff(t), sde.std(t), sde.beta(t)))(t)
    np.testing.assert_allclose(np.square(mean_coeff), alpha_bar, rtol=3e-4)
    np.testing.assert_allclose(np.square(std), 1 - alpha_bar, rtol=2e-6)
    np.testing.assert_allclose(rate, -1000 * np.log(1 - betas[i]), rtol=1e-6)
    assert sde == from_betas(betas) and hash(sde) == hash(from_betas(betas))
    assert sde != from_betas(betas[:-1]) and sde.n == 1000
    np.testing.assert_array_equal(sde.betas, betas)


def test_from_linear_betas_tends_to_vp():
    """DDPM's table is VP as N grows: the distance falls like 1/N."""
    distance = []
    for n in (250, 1000):
        sde = from_betas(np.linspace(0.1 / n, 20 / n, n))
        stds = jax.jit(lambda t, sde=sde: (sde.std(t), VP().std(t)))
        found, limit = jax.device_get(stds(np.linspace(0.05, 1, 20, dtype=np.float32)))
        distance.append(np.abs(found - limit).max())
    assert distance[1] < 5e-3 and distance[0] / distance[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("n", [1000, 4000])
def test_cosine_vp_is_the_limit_of_the_papers_table(n):
    """alpha_bar of the authors' schedule at its own times, except at the end, where theirs is clipped."""
    betas = golden("iddpm_process")[f"betas/cosine/{n}"]
    t = (np.arange(n) + 1) / n
    want = np.cumprod(1 - betas)
    with jax.enable_x64(True):
        got = np.square(jax.jit(lambda t: CosineVP().mean_coeff(t))(t))
    before = t < 0.9994
    np.testing.assert_allclose(got[before], want[before], rtol=1e-8)
    # At the end: nothing left of the data, nothing infinite, and the clip in force.
    sde = CosineVP()
    names = ("mean_coeff", "std", "beta", "diffusion", "drift_coeff", "log_snr")
    at = jax.jit(lambda t: {name: getattr(sde, name)(t) for name in names})(np.float32(1.0))
    assert all(np.isfinite(value) for value in at.values())
    assert float(at["beta"]) == pytest.approx(0.999 * 4000, rel=1e-6)
    assert -17 < float(at["log_snr"]) < -16


def test_linear_ve_is_the_noise_itself():
    sde = LinearVE()
    t = jnp.asarray([0.002, 1.0, 80.0])
    np.testing.assert_array_equal(sde.std(t), t)
    assert float(sde.prior_sample(jax.random.key(0), (4096,)).std()) == pytest.approx(80, rel=0.05)


positive = st.floats(1e-3, 50.0)


@settings(max_examples=25, deadline=None)
@given(low=positive, ratio=st.floats(1.01, 100.0), t1=st.floats(0.1, 3.0))
def test_std_grows_and_stays_in_range(low, ratio, t1):
    t = np.linspace(0, t1, 50, dtype=np.float32)
    for sde in (VP(low, low * ratio, t1), SubVP(low, low * ratio, t1), VE(low, low * ratio, t1)):
        s = np.asarray(sde.std(jnp.asarray(t)))
        assert (np.diff(s) >= -1e-6 * s[1:]).all()
        assert s[-1] <= sde.prior_std * (1 + 1e-5)


BAD = [
    (VP, {"beta_min": -0.1}, "beta_min"),
    (VP, {"beta_min": 21.0}, "beta_min"),
    (VP, {"beta_max": math.nan}, "beta_max"),
    (VP, {"t1": 0.0}, "t1"),
    (SubVP, {"beta_max": math.inf}, "beta_max"),
    (SubVP, {"beta_min": 30.0}, "beta_max"),
    (VE, {"sigma_min": 0.0}, "sigma_min"),
    (VE, {"sigma_min": 60.0}, "sigma_max"),
    (VE, {"sigma_max": math.nan}, "sigma_max"),
    (CosineVP, {"offset": 0.0}, "offset"),
    (CosineVP, {"max_rate": 0.01}, "max_rate"),
    (LinearVE, {"t1": -1.0}, "t1"),
    (RectifiedFlow, {"t1": 1.5}, "t1"),
]


@pytest.mark.parametrize(
    ("betas", "named"),
    [
        ([0.1, 1.0], "got 1.0 at index 1"),
        ([0.0, 0.1], "got 0.0 at index 0"),
        ([0.1, math.nan], "got nan at index 1"),
        ([[0.1]], "shape"),
        ([], "at least one"),
    ],
)
def test_wrong_tables_are_named(betas, named):
    with pytest.raises(ValueError, match=named):
        from_betas(betas)


@pytest.mark.parametrize(("cls", "kwargs", "named"), BAD)
def test_wrong_parameters_are_named(cls, kwargs, named):
    with pytest.raises(ValueError, match=named) as error:
        cls(**kwargs)
    assert repr(next(iter(kwargs.values()))) in str(error.value)


def test_impossible_marginals_are_refused():
    one, growing = (lambda t: jnp.ones_like(t)), (lambda t: t + 0.1)
    with pytest.raises(ValueError, match="must not decrease"):
        from_marginals(one, lambda t: 2.0 - t)
    with pytest.raises(ValueError, match="mean_coeff must be finite"):
        from_marginals(lambda t: 0.5 - t, growing)
    with pytest.raises(ValueError, match="std must be finite"):
        from_marginals(one, lambda t: jnp.sqrt(t - 0.5))
    with pytest.raises(ValueError, match="the shape of mean_coeff"):
        from_marginals(lambda t: jnp.float32(1.0), growing)
    with pytest.raises(ValueError, match="t1"):
        from_marginals(one, growing, t1=-1.0)
