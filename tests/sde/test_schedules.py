"""Noise schedules: the authors' numbers, chains of two steps worked by hand, properties."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_jax import sde as d
from score_jax.parametrization import (
    LARGE,
    LEARNED_RANGE,
    PARAMETRIZATIONS,
    PREVIOUS,
    SMALL,
    VARIANCES,
    IndexInput,
    TimeInput,
)
from score_jax.samplers import static
from score_jax.score import reverse_fn, reverse_moments, score_fn
from tests.helpers.golden_files import golden
from tests.helpers.iddpm import NAMES, arrays, close, posterior_variance, schedule


def chain_posterior(sde, x0, x, i, i_next=None):
    """q(x_next | x, x0) from index i to i_next, by default the one before."""
    i = jnp.asarray(i)
    return d.posterior(sde, x0, x, sde.time_of(i), sde.time_of(i - 1 if i_next is None else i_next))


def noisy(sde, x0, i, z):
    t = sde.time_of(i)
    mean, std = sde.marginal(x0, t)
    return mean + jnp.reshape(std, (-1,) + (1,) * (x0.ndim - 1)) * z


# The authors' numbers.


@pytest.mark.parametrize("n", [100, 1000, 4000])
def test_betas_are_the_published_ones(n):
    g = golden("iddpm_process")
    np.testing.assert_allclose(d.LinearBetas(n).betas, g[f"betas/linear/{n}"], rtol=1e-12)
    np.testing.assert_allclose(d.CosineBetas(n).betas, g[f"betas/cosine/{n}"], rtol=1e-12)


def test_a_schedule_of_ten_is_cosine_or_nothing():
    """The published linear betas exceed 1 there; no Gaussian has such a variance."""
    g = golden("iddpm_process")
    np.testing.assert_allclose(d.CosineBetas(10).betas, g["betas/cosine/10"], rtol=1e-12)
    assert g["betas/linear/10"].max() > 1
    with pytest.raises(ValueError, match=r"betas must be in \(0, 1\), got 1.115"):
        d.LinearBetas(10)


@pytest.mark.parametrize("spelling", ["ddim5", "ddim25", "ddim50", "10,15,20", "250"])
def test_respacing_keeps_the_published_steps(spelling):
    want = golden("iddpm_process")[f"space_timesteps/300/{spelling}"]
    sde = d.LinearBetas(300)
    kept = d.spaced_indices(300, spelling)
    np.testing.assert_array_equal(kept, want)
    grid = d.schedule_grid(sde, kept)
    np.testing.assert_allclose(np.asarray(grid)[::-1], (want + 1) / 300, rtol=1e-7)
    m = np.asarray(jax.jit(lambda t: sde.mean_coeff(t))(np.asarray(grid)[::-1]))
    np.testing.assert_allclose(m**2, sde.alpha_bar[want], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_coefficients_are_the_authors(name, x64):
    sde, g = schedule(name), arrays(name)
    ones, options = jnp.ones((50, 1)), {"variance": SMALL, "first": sde.times[:2]}

    @jax.jit
    def all_of(i):
        t, t_next = sde.time_of(i), sde.time_of(i - 1)
        clipped = reverse_moments(sde, ones, None, ones, t, t_next, **options)
        return d.bridge(sde, t, t_next), sde.mean_coeff(t_next), clipped

    found, m_next, clipped = jax.device_get(all_of(np.arange(50)))
    assert found.small.dtype == jnp.float64 and sde.alpha_bar.dtype == np.float64
    pairs = {
        "alphas_cumprod": sde.alpha_bar,
        "alphas_cumprod_prev": m_next**2,
        "posterior_variance": posterior_variance(sde),
        "posterior_mean_coef1": found.x0_coeff,
        "posterior_mean_coef2": found.x_coeff,
    }
    for key, got in pairs.items():
        np.testing.assert_allclose(got, g[key], rtol=1e-12, atol=1e-15, err_msg=key)
    # The authors clip the first log variance, of a width of 0, to the second.
    want = g["posterior_log_variance_clipped"]
    np.testing.assert_allclose(found.small[1:], want[1:], rtol=1e-12, atol=1e-12)
    assert want[0] == want[1]
    np.testing.assert_allclose(clipped.log_variance[:, 0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_reverse_moments_are_the_authors(name):
    sde, g = schedule(name), arrays(name)
    x0, noise, i = jnp.asarray(g["x0"]), jnp.asarray(g["noise"]), jnp.asarray(g["t"], jnp.int32)
    x, t = jnp.asarray(g["x_t"]), sde.time_of(i)
    posterior = jax.jit(lambda x0, x, i: (noisy(sde, x0, i, noise), chain_posterior(sde, x0, x, i)))
    made, (mean, log_variance) = posterior(x0, x, i)
    close(made, g["x_t"])
    close(mean, g["q_posterior/mean"])
    width = np.broadcast_to(log_variance, x.shape)
    want = g["q_posterior/log_variance"]
    close(width[np.asarray(i) > 0], want[np.asarray(i) > 0])
    score = score_fn(
        sde, lambda p, x, index: jnp.asarray(g["model_out"]), None,
        noise_input=IndexInput(), variance=LEARNED_RANGE,
    )  # fmt: skip
    for flag, clean in (("True", static()), ("False", None)):
        reverse = reverse_fn(sde, score, variance=LEARNED_RANGE, clean=clean, first=sde.times[:2])
        out = jax.jit(reverse)(x, t, sde.time_of(i - 1))
        where = f"p_mean_variance/clip={flag}"
        close(out.mean, g[f"{where}/mean"])
        close(out.variance, g[f"{where}/variance"])
        close(out.log_variance, g[f"{where}/log_variance"])
        # Unclipped, x0 of the last index is a difference of numbers 1e4 times larger than it.
        close(out.x0, g[f"{where}/pred_xstart"])


# Two steps, by hand.


def test_two_steps_by_hand():
    """beta = (1/2, 3/4): alpha_bar = (1/2, 1/8); q(x_1 | x_2, x0) by the product of Gaussians."""
    sde = d.Betas([0.5, 0.75])
    np.testing.assert_allclose(sde.alpha_bar, [1 / 2, 1 / 8], rtol=1e-15)
    # Prior N(x0/sqrt2, 1/2) times the likelihood of x = x_1/2 + N(0, 3/4): precisions 2 and 1/3.
    x0, x = jnp.array([[0.3]]), jnp.array([[-0.8]])
    mean, log_variance = chain_posterior(sde, x0, x, 1)
    want = (2 * 0.3 / math.sqrt(2) + (-0.8) * 0.5 / 0.75) / (2 + 1 / 3)
    np.testing.assert_allclose(mean[0, 0], want, rtol=1e-6)
    np.testing.assert_allclose(log_variance, math.log(3 / 7), rtol=1e-6)
    # From the first index there is one way back: to x0 itself.
    mean, log_variance = chain_posterior(sde, x0, x, 0)
    np.testing.assert_allclose(mean, x0, rtol=1e-6)
    # No width is left; the logarithm of beta takes the place of that of 0.
    np.testing.assert_allclose(log_variance, math.log(0.5), rtol=1e-6)


@pytest.mark.parametrize("variance", VARIANCES, ids=lambda v: v.name)
def test_variances_by_hand(variance):
    """Of the same two steps: small 3/7, large 3/4, and what a network of two channels makes of it."""
    sde = d.Betas([0.5, 0.75])
    x = jnp.zeros((3, 1))
    values = jnp.array([[-1.0], [0.0], [1.0]]) if variance.learned else None
    out = reverse_moments(sde, x, values, x, 1.0, 0.5, variance=variance)
    want = {
        "small": [3 / 7] * 3,
        "large": [3 / 4] * 3,
        "learned": np.exp([-1.0, 0.0, 1.0]),
        "learned_range": [3 / 7, math.sqrt(3 / 7 * 3 / 4), 3 / 4],
    }[variance.name]
    np.testing.assert_allclose(out.variance[:, 0], want, rtol=1e-6)


# Properties.


@pytest.mark.parametrize("kind", PARAMETRIZATIONS, ids=lambda p: p.name)
def test_a_perfect_prediction_of_any_kind_gives_x0_and_the_posterior(kind):
    sde = d.CosineBetas(20)
    keys = jax.random.split(jax.random.key(0), 2)
    x0, noise = (jax.random.normal(k, (5, 2, 3)) for k in keys)

    @jax.jit
    def both(x0, noise, i):
        t, x = sde.time_of(i), noisy(sde, x0, i, noise)
        value = kind.target(sde, x0, noise, x, t)
        score = score_fn(
            sde, lambda p, x, index: value, None, noise_input=IndexInput(), parametrization=kind
        )
        out = reverse_fn(sde, score)(x, t, sde.time_of(i - 1))
        return out, chain_posterior(sde, x0, x, i)[0]

    out, posterior = both(x0, noise, np.array([0, 1, 7, 15, 19]))
    close(out.mean, posterior, 1e-4)
    # The last beta is 0.999 of an alpha_bar near 1e-6: x0 keeps three digits there.
    close(out.x0[:4], x0[:4], 1e-3)


def test_the_marginal_has_the_moments_of_the_chain():
    sde = d.LinearBetas(50)
    x0 = jnp.full((20_000, 1), 0.7)
    x = noisy(sde, x0, jnp.array(20), jax.random.normal(jax.random.key(0), x0.shape))
    mean, std = sde.marginal(x0, sde.time_of(jnp.array(20)))
    assert float(x.mean()) == pytest.approx(float(mean[0, 0]), abs=0.02)
    assert float(x.var()) == pytest.approx(float(std**2), rel=0.03)
    np.testing.assert_allclose(std**2, 1 - sde.alpha_bar[20], rtol=1e-6)


@given(
    betas=st.lists(st.floats(1e-4, 0.9), min_size=3, max_size=12),
    data=st.data(),
)
@settings(max_examples=20, deadline=None)
def test_a_posterior_over_any_interval_is_that_of_the_cut_schedule(betas, data):
    """q(x_j | x_i, x0) of the full schedule is the one-step posterior of the one with i and j."""
    full = d.Betas(betas)
    i = data.draw(st.integers(1, full.n - 1))
    j = data.draw(st.integers(0, i - 1))
    kept = full.alpha_bar[[j, i]]
    cut = d.Betas(1 - kept / np.append(1.0, kept[:1]))
    x0, x = jnp.array([[0.4, -1.2]]), jnp.array([[1.3, 0.2]])
    got = chain_posterior(full, x0, x, i, j)
    want = chain_posterior(cut, x0, x, 1)
    close(got[0], np.asarray(want[0]), 2e-5, scale=1.3)
    close(got[1], np.asarray(want[1]), 2e-5, scale=1.0)


def test_intervals_keep_their_digits_on_a_long_schedule():
    """Where alpha_bar is near 1, and where its logarithm is large: both lose digits in float32."""
    sde = d.CosineBetas(4000)
    x0, x = np.full((3, 1), 0.4, np.float32), np.full((3, 1), 1.3, np.float32)
    i = np.array([1, 2000, 3990])
    mean, log_variance = jax.jit(lambda *given: chain_posterior(sde, *given))(x0, x, i)
    before = np.append(1.0, sde.alpha_bar)[i]
    of_x0 = sde.betas[i] * np.sqrt(before) / (1 - sde.alpha_bar[i])
    of_x = (1 - before) * np.sqrt(1 - sde.betas[i]) / (1 - sde.alpha_bar[i])
    np.testing.assert_allclose(mean[:, 0], 0.4 * of_x0 + 1.3 * of_x, rtol=3e-6)
    want = np.log(posterior_variance(sde)[i])
    np.testing.assert_allclose(log_variance[:, 0], want, rtol=3e-6)


def test_coefficients_at_the_timesteps_are_the_float64_ones_rounded():
    """Whichever way a time was computed in float32, and for 4,000 steps."""
    sde = d.CosineBetas(4000)

    @jax.jit
    def all_of(t):
        _, g2 = sde.transition(t, jnp.maximum(t - 1 / 4000, 0))
        return sde.mean_coeff(t), sde.std(t), sde.index_of(t), sde.beta(t), g2

    for t in (sde.time_of(jnp.arange(4000)), 1 - jnp.arange(4000)[::-1] / 4000):
        mean_coeff, std, index, rate, g2 = all_of(t)
        np.testing.assert_allclose(mean_coeff, np.sqrt(sde.alpha_bar), rtol=2e-7)
        np.testing.assert_allclose(std, np.sqrt(1 - sde.alpha_bar), rtol=2e-7)
        np.testing.assert_array_equal(index, np.arange(4000))
        np.testing.assert_allclose(rate, -4000 * np.log1p(-sde.betas), rtol=2e-7)
        np.testing.assert_allclose(g2, sde.betas, rtol=2e-6)


@given(n=st.integers(21, 400), s=st.floats(0, 0.1), cut=st.integers(1, 21))
@settings(max_examples=25, deadline=None)
def test_every_schedule_is_a_chain(n, s, cut):
    for sde in (d.CosineBetas(n, s=s), d.LinearBetas(n), d.ScaledLinearBetas(n)):
        assert (np.diff(sde.alpha_bar) < 0).all() and sde.alpha_bar[0] < 1
        assert (posterior_variance(sde) <= sde.betas).all()
        kept = d.spaced_indices(sde.n, cut)
        assert len(kept) == cut and kept[0] == 0 and (np.diff(kept) > 0).all()


def test_linear_schedules_tend_to_vp():
    """alpha_bar of n linear betas is VP(0.1, 20)'s exp(-integral of beta), up to order 1/n."""
    sde, t = d.VP(0.1, 20.0), np.array([0.1, 0.4, 0.7, 1.0])
    want = np.asarray(sde.mean_coeff(jnp.asarray(t, jnp.float32))) ** 2

    def error(n):
        index = np.rint(t * n).astype(int) - 1
        return np.abs(np.log(d.LinearBetas(n).alpha_bar[index]) - np.log(want)).max()

    assert error(4000) < 0.02
    assert error(1000) / error(4000) == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("n", [200, 800])
def test_cosine_schedules_tend_to_cosine_vp(n):
    """log alpha_bar is CosineVP's wherever no beta is cut: a product of exact ratios."""
    t = np.array([0.1, 0.35, 0.6, 0.9])
    index = np.rint(t * n).astype(int) - 1
    want = 2 * np.log(np.asarray(d.CosineVP().mean_coeff(jnp.asarray(t, jnp.float32))))
    np.testing.assert_allclose(np.log(d.CosineBetas(n).alpha_bar[index]), want, rtol=2e-5)


def test_times_and_indices_are_inverse():
    sde = d.LinearBetas(1000)
    np.testing.assert_array_equal(sde.index_of(jnp.asarray(sde.times)), np.arange(1000))
    np.testing.assert_allclose(sde.time_of(jnp.arange(1000)), sde.times, rtol=1.2e-7)
    assert int(sde.index_of(jnp.array(0.0))) == -1 and float(sde.time_of(-1)) == 0
    given = IndexInput(top=500.0)(sde, sde.time_of(jnp.array([0, 60])))
    np.testing.assert_allclose(given, [0, 30])


def test_a_schedule_is_static_and_compiles_once():
    count = []

    @jax.jit
    def f(sde, x, t):
        count.append(1)
        return sde.marginal(x, t)[0]

    x = jnp.ones((2, 3))
    for _ in range(3):
        f(d.LinearBetas(100), x, jnp.float32(0.05))
        f(d.Betas([0.1, 0.2]), x, jnp.float32(0.05))
    assert len(count) == 2
    # Inside jit an index outside the schedule cannot raise: it is not silently another one.
    at = jax.jit(lambda i: d.LinearBetas(100).marginal(x, d.LinearBetas(100).time_of(i))[0])
    assert jnp.isnan(at(jnp.array(100))).all() and jnp.isnan(at(jnp.array(-2))).all()
    np.testing.assert_array_equal(at(jnp.array(-1)), x)
    assert d.LinearBetas(100) == d.LinearBetas(100) and d.LinearBetas(100) != d.CosineBetas(100)
    assert d.Betas([0.1]) == d.from_betas([0.1]) and hash(d.Betas([0.1])) == hash(d.Betas([0.1]))


def test_double_precision_is_used_where_it_is_on(x64):
    sde = d.CosineBetas(1000)
    got = float(sde.mean_coeff(sde.time_of(900))) ** 2
    np.testing.assert_allclose(got, sde.alpha_bar[900], rtol=1e-14)


def test_the_network_is_given_the_index_of_training():
    """On any grid: 108 of 300 timesteps is index 107."""
    sde = d.LinearBetas(300)
    grid = d.schedule_grid(sde, d.spaced_indices(300, "10,15,20"))
    seen = []

    def net(params, x, index, y=None):
        seen.append((index, y))
        return jnp.concatenate([x, x], axis=-1)

    score = score_fn(sde, net, None, noise_input=IndexInput(), variance=LEARNED_RANGE, y="classes")
    score(jnp.ones((2, 3)), grid[::-1][11])
    assert seen[0][1] == "classes"
    np.testing.assert_array_equal(seen[0][0], [107.0, 107.0])


# Wrong use.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: d.Betas([0.1, 0.0]), r"betas must be in \(0, 1\), got 0.0 at index 1"),
        (lambda: d.Betas([0.1, float("nan")]), "at index 1"),
        (lambda: d.Betas([[0.1]]), "betas must be a list"),
        (lambda: d.LinearBetas(0), "n must be at least 1, got 0"),
        (
            lambda: d.LinearBetas(100, start=0.02, end=0.01),
            r"\(start, end\) must be",
        ),
        (lambda: d.CosineBetas(10, s=-1.0), "s must be"),
        (lambda: d.CosineBetas(10, max_beta=1.0), r"max_beta must be in \(0, 1\)"),
        (lambda: d.from_alpha_bar(lambda t: 1 + 0 * t, 4), "alpha_bar must decrease"),
        (lambda: d.spaced_indices(100, "ddim33x"), "'ddim33x'"),
        (lambda: d.spaced_indices(100, "ddim60"), "no integer stride takes 60 of 100"),
        (lambda: d.spaced_indices(100, "10,60"), "cannot take 60 of a section of 50"),
        (lambda: d.spaced_indices(100, 0), "cannot take 0"),
        (lambda: d.schedule_grid(d.LinearBetas(100), [3, 3]), "indices must be different"),
        (lambda: d.schedule_grid(d.LinearBetas(100), [3, 100]), r"in 0..99, got \[3, 100\]"),
        (lambda: d.schedule_grid(d.LinearBetas(100), [3]), "at least two integers"),
        (lambda: d.LinearBetas(100).time_of(np.array([5, 100])), r"in \[-1, 100\), got \(5, 100\)"),
        (lambda: d.LinearBetas(100).time_of(0.5), "must be an integer, got float"),
    ],
)
def test_wrong_schedules_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_outputs_are_named():
    sde, x = d.LinearBetas(100), jnp.ones((2, 3))
    narrow, wide = (lambda p, x, i: x), (lambda p, x, i: jnp.ones((2, 6)))
    make = lambda net, **options: score_fn(sde, net, None, noise_input=IndexInput(), **options)
    with pytest.raises(ValueError, match="learned variance must return 6 channels for 3"):
        make(narrow, variance=LEARNED_RANGE)(x, 0.5)
    with pytest.raises(ValueError, match="fixed variance must return 3 channels for 3"):
        make(wide, variance=LARGE)(x, 0.5)
    with pytest.raises(ValueError, match="PREVIOUS needs a noise schedule"):
        score_fn(d.VP(), narrow, None, noise_input=TimeInput(), parametrization=PREVIOUS)(x, 0.5)
    with pytest.raises(ValueError, match="needs a score that returns a learned variance"):
        reverse_fn(sde, make(narrow), variance=LEARNED_RANGE)(x, 0.5, 0.4)
