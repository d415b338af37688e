"""Diffusion on a table: the authors' numbers, chains of two steps worked by hand, properties."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_jax import discrete as d
from score_jax.samplers import static
from score_jax.sde import VP
from tests.helpers.golden_files import golden

NAMES = ("cosine50", "linear50")


def table(name):
    return {"cosine50": d.cosine, "linear50": d.linear}[name](50)


def arrays(name):
    prefix = f"{name}/"
    found = golden("iddpm_process").items()
    return {k.removeprefix(prefix): v for k, v in found if k.startswith(prefix)}


def close(got, want, rtol=1e-5, scale=None):
    """Equal to a relative 1e-5 of each number, or of the largest where terms cancel."""
    atol = rtol * (np.abs(want).max() if scale is None else scale)
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=atol)


# The authors' numbers.


@pytest.mark.parametrize("n", [100, 1000, 4000])
def test_betas_are_the_published_ones(n):
    g = golden("iddpm_process")
    np.testing.assert_allclose(d.linear(n).betas, g[f"betas/linear/{n}"], rtol=1e-12)
    np.testing.assert_allclose(d.cosine(n).betas, g[f"betas/cosine/{n}"], rtol=1e-12)


def test_a_table_of_ten_is_cosine_or_nothing():
    """The published linear betas exceed 1 there; no Gaussian has such a variance."""
    g = golden("iddpm_process")
    np.testing.assert_allclose(d.cosine(10).betas, g["betas/cosine/10"], rtol=1e-12)
    assert g["betas/linear/10"].max() > 1
    with pytest.raises(ValueError, match=r"betas must be in \(0, 1\), got 1.115"):
        d.linear(10)


@pytest.mark.parametrize("spelling", ["ddim5", "ddim25", "ddim50", "10,15,20", "250"])
def test_respacing_keeps_the_published_steps(spelling):
    want = golden("iddpm_process")[f"space_timesteps/300/{spelling}"]
    full = d.linear(300)
    cut = d.respace(full, spelling)
    np.testing.assert_array_equal(cut.index_map, want)
    np.testing.assert_allclose(cut.alpha_bar, full.alpha_bar[want], rtol=1e-12)
    np.testing.assert_allclose(cut.times, (want + 1) / 300, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_the_authors(name):
    diffusion, g = table(name), arrays(name)
    pairs = {
        "alphas_cumprod": diffusion.alpha_bar,
        "alphas_cumprod_prev": diffusion.alpha_bar_prev,
        "posterior_variance": diffusion.posterior_variance,
        "posterior_log_variance_clipped": diffusion.posterior_log_variance,
        "posterior_mean_coef1": diffusion.posterior_x0_coef,
        "posterior_mean_coef2": diffusion.posterior_x_coef,
    }
    for key, got in pairs.items():
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, g[key], rtol=1e-12, atol=1e-15, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_reverse_moments_are_the_authors(name):
    diffusion, g = table(name), arrays(name)
    x0, noise, i = jnp.asarray(g["x0"]), jnp.asarray(g["noise"]), jnp.asarray(g["t"], jnp.int32)
    x = jnp.asarray(g["x_t"])
    close(d.q_sample(diffusion, x0, i, noise), g["x_t"])
    mean, log_variance = d.q_posterior(diffusion, x0, x, i)
    close(mean, g["q_posterior/mean"])
    close(np.broadcast_to(log_variance, x.shape), g["q_posterior/log_variance"])
    for flag, clean in (("True", static()), ("False", None)):
        out = d.p_mean_var(diffusion, jnp.asarray(g["model_out"]), x, i, clean=clean)
        where = f"p_mean_variance/clip={flag}"
        close(out.mean, g[f"{where}/mean"])
        close(out.variance, g[f"{where}/variance"])
        close(out.log_variance, g[f"{where}/log_variance"])
        # Unclipped, x0 of the last index is a difference of numbers 1e4 times larger than it.
        close(out.x0, g[f"{where}/pred_xstart"])


# Two steps, by hand.


def test_two_steps_by_hand():
    """beta = (1/2, 3/4): alpha_bar = (1/2, 1/8); q(x_1 | x_2, x0) by the product of Gaussians."""
    diffusion = d.Diffusion([0.5, 0.75])
    np.testing.assert_allclose(diffusion.alpha_bar, [1 / 2, 1 / 8], rtol=1e-15)
    # Prior N(x0/sqrt2, 1/2) times the likelihood of x = x_1/2 + N(0, 3/4): precisions 2 and 1/3.
    np.testing.assert_allclose(diffusion.posterior_variance, [0, 1 / (2 + 1 / 3)], rtol=1e-15)
    x0, x = jnp.array([[0.3]]), jnp.array([[-0.8]])
    mean, log_variance = d.q_posterior(diffusion, x0, x, jnp.array(1))
    want = (2 * 0.3 / math.sqrt(2) + (-0.8) * 0.5 / 0.75) / (2 + 1 / 3)
    np.testing.assert_allclose(mean[0, 0], want, rtol=1e-6)
    np.testing.assert_allclose(log_variance, math.log(3 / 7), rtol=1e-6)
    # From the first index there is one way back: to x0 itself.
    mean, _ = d.q_posterior(diffusion, x0, x, jnp.array(0))
    np.testing.assert_allclose(mean, x0, rtol=1e-6)


@pytest.mark.parametrize("variance", d.VARIANCES, ids=lambda v: v.name)
def test_variances_by_hand(variance):
    """Of the same two steps: small 3/7, large 3/4, and what a network of two channels makes of it."""
    diffusion = d.Diffusion([0.5, 0.75])
    x = jnp.zeros((3, 1))
    values = jnp.array([[-1.0], [0.0], [1.0]])
    value = jnp.concatenate([x, values], axis=1) if variance.learned else x
    out = d.p_mean_var(diffusion, value, x, jnp.array(1), variance=variance)
    want = {
        "fixed_small": [3 / 7] * 3,
        "fixed_large": [3 / 4] * 3,
        "learned": np.exp([-1.0, 0.0, 1.0]),
        "learned_range": [3 / 7, math.sqrt(3 / 7 * 3 / 4), 3 / 4],
    }[variance.name]
    np.testing.assert_allclose(out.variance[:, 0], want, rtol=1e-6)


# Properties.


@pytest.mark.parametrize("prediction", d.PREDICTIONS, ids=lambda p: p.name)
def test_a_perfect_prediction_of_any_kind_gives_x0_and_the_posterior(prediction):
    diffusion = d.cosine(20)
    keys = jax.random.split(jax.random.key(0), 2)
    x0, noise = (jax.random.normal(k, (5, 2, 3)) for k in keys)
    i = jnp.array([0, 1, 7, 15, 19])
    x = d.q_sample(diffusion, x0, i, noise)
    value = prediction.target(diffusion, x0, x, noise, i)
    out = d.p_mean_var(diffusion, value, x, i, prediction=prediction, variance=d.FIXED_SMALL)
    posterior, _ = d.q_posterior(diffusion, x0, x, i)
    close(out.mean, posterior, 1e-4)
    # The last beta is 0.999 of an alpha_bar near 1e-6: x0 keeps three digits there.
    close(out.x0[:4], x0[:4], 1e-3)


def test_q_sample_has_the_moments_of_q():
    diffusion = d.linear(50)
    x0 = jnp.full((20_000, 1), 0.7)
    x = d.q_sample(diffusion, x0, jnp.array(20), jax.random.normal(jax.random.key(0), x0.shape))
    mean, log_variance = d.q_mean_var(diffusion, x0, jnp.array(20))
    assert float(x.mean()) == pytest.approx(float(mean[0, 0]), abs=0.02)
    assert float(x.var()) == pytest.approx(float(jnp.exp(log_variance)), rel=0.03)


@given(
    betas=st.lists(st.floats(1e-4, 0.9), min_size=3, max_size=12),
    data=st.data(),
)
@settings(max_examples=20, deadline=None)
def test_a_posterior_over_any_interval_is_that_of_the_cut_table(betas, data):
    """q(x_j | x_i, x0) of the full table is the one-step posterior of the table with i and j."""
    full = d.Diffusion(betas)
    i = data.draw(st.integers(1, full.n - 1))
    j = data.draw(st.integers(0, i - 1))
    cut = d.take(full, [j, i])
    x0, x = jnp.array([[0.4, -1.2]]), jnp.array([[1.3, 0.2]])
    got = d.q_posterior(full, x0, x, jnp.array(i), jnp.array(j))
    want = d.q_posterior(cut, x0, x, jnp.array(1))
    close(got[0], np.asarray(want[0]), 2e-5, scale=1.3)
    close(got[1], np.asarray(want[1]), 2e-5, scale=1.0)


def test_intervals_keep_their_digits_on_a_long_table():
    """Where alpha_bar is near 1, and where its logarithm is large: both lose digits in float32."""
    diffusion = d.cosine(4000)
    x0, x = jnp.array([[0.4], [0.4], [0.4]]), jnp.array([[1.3], [1.3], [1.3]])
    i = jnp.array([1, 2000, 3990])
    for a, b in zip(
        d.q_posterior(diffusion, x0, x, i, i - 1), d.q_posterior(diffusion, x0, x, i), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=3e-6)


@given(n=st.integers(21, 400), s=st.floats(0, 0.1), cut=st.integers(1, 21))
@settings(max_examples=25, deadline=None)
def test_every_table_is_a_chain(n, s, cut):
    for diffusion in (d.cosine(n, s=s), d.linear(n), d.scaled_linear(n)):
        assert (np.diff(diffusion.alpha_bar) < 0).all() and diffusion.alpha_bar[0] < 1
        assert (diffusion.posterior_variance <= diffusion.betas).all()
        short = d.respace(diffusion, cut)
        assert short.n == cut and short.n_original == n
        again = d.respace(short, max(1, cut // 2))
        np.testing.assert_allclose(again.alpha_bar, diffusion.alpha_bar[again.index_map])


def test_linear_tables_tend_to_vp():
    """alpha_bar of n linear betas is VP(0.1, 20)'s exp(-integral of beta), up to order 1/n."""
    sde, t = VP(0.1, 20.0), np.array([0.1, 0.4, 0.7, 1.0])
    want = np.asarray(sde.mean_coeff(jnp.asarray(t, jnp.float32))) ** 2

    def error(n):
        index = np.rint(t * n).astype(int) - 1
        return np.abs(np.log(d.linear(n).alpha_bar[index]) - np.log(want)).max()

    assert error(4000) < 0.02
    assert error(1000) / error(4000) == pytest.approx(4, rel=0.15)


def test_times_and_indices_are_inverse():
    for diffusion in (d.linear(1000), d.respace(d.cosine(1000), "10,15,20")):
        got = diffusion.index_of(jnp.asarray(diffusion.times, jnp.float32))
        np.testing.assert_array_equal(got, np.arange(diffusion.n))
        assert int(diffusion.index_of(jnp.array(0.0))) == -1
    label = d.label_index(d.respace(d.linear(1000), "ddim50"), top=500.0)
    np.testing.assert_allclose(label(jnp.array([0, 3])), [0, 30])


def test_a_table_is_static_and_compiles_once():
    count = []

    @jax.jit
    def f(diffusion, x, i):
        count.append(1)
        return d.q_mean_var(diffusion, x, i)[0]

    x = jnp.ones((2, 3))
    for _ in range(3):
        f(d.linear(100), x, jnp.array(5))
    assert len(count) == 1 and d.linear(100) == d.linear(100) and d.linear(100) != d.cosine(100)
    # Inside jit an index outside the table cannot raise: it is not silently another one.
    assert jnp.isnan(f(d.linear(100), x, jnp.array(100))).all()
    assert jnp.isnan(f(d.linear(100), x, jnp.array(-1))).all()


def test_double_precision_is_used_where_it_is_on(x64):
    diffusion = d.cosine(1000)
    x0 = jnp.ones((1, 1))
    mean, _ = d.q_mean_var(diffusion, x0, jnp.array(900))
    np.testing.assert_allclose(float(mean[0, 0]) ** 2, diffusion.alpha_bar[900], rtol=1e-14)


def test_the_network_is_told_the_index_of_training():
    cut = d.respace(d.linear(300), "10,15,20")
    told = []

    def net(params, x, label, y=None):
        told.append((label, y))
        return jnp.concatenate([x, x], axis=-1)

    reverse = d.reverse_fn(cut, net, None, y="classes")
    reverse(jnp.ones((2, 3)), jnp.array(11))
    assert told[0][1] == "classes"
    np.testing.assert_array_equal(told[0][0], [107.0, 107.0])


# Wrong use.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: d.Diffusion([0.1, 0.0]), r"betas must be in \(0, 1\), got 0.0 at index 1"),
        (lambda: d.Diffusion([0.1, float("nan")]), "at index 1"),
        (lambda: d.Diffusion([[0.1]]), "betas must be a list"),
        (lambda: d.Diffusion([0.1, 0.2], [3, 1], 5), "index_map must increase"),
        (lambda: d.Diffusion([0.1, 0.2], [1, 5], 5), "index_map must increase"),
        (lambda: d.Diffusion([0.1, 0.2], [1], 5), "one integer per beta"),
        (lambda: d.linear(0), "n must be an integer >= 1"),
        (lambda: d.linear(100, start=0.02, end=0.01), "betas must not decrease"),
        (lambda: d.cosine(10, s=-1.0), "s must be"),
        (lambda: d.cosine(10, max_beta=1.0), r"max_beta must be in \(0, 1\)"),
        (lambda: d.from_alpha_bar(lambda t: 1 + 0 * t, 4), "alpha_bar must decrease"),
        (lambda: d.respace(d.linear(100), "ddim33x"), "'ddim33x'"),
        (lambda: d.respace(d.linear(100), "ddim60"), "no integer stride takes 60 of 100"),
        (lambda: d.respace(d.linear(100), "10,60"), "cannot take 60 of a section of 50"),
        (lambda: d.respace(d.linear(100), 0), "cannot take 0"),
        (lambda: d.take(d.linear(100), [3, 2]), "indices must increase"),
        (lambda: d.take(d.linear(100), [3, 100]), "indices must increase"),
    ],
)
def test_wrong_tables_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_wrong_reading_is_named():
    diffusion, x = d.linear(100), jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"index must be in \[0, 99\].*got 5 to 100"):
        d.q_sample(diffusion, x, jnp.array([5, 100]), x)
    with pytest.raises(ValueError, match="must be an integer, got float32"):
        d.q_sample(diffusion, x, jnp.array(0.5), x)
    with pytest.raises(ValueError, match="learned variance must return 6 channels for 3"):
        d.p_mean_var(diffusion, x, x, jnp.array(1))
    with pytest.raises(ValueError, match="fixed variance must return 3 channels for 3"):
        d.p_mean_var(diffusion, jnp.ones((2, 6)), x, jnp.array(1), variance=d.FIXED_LARGE)
    with pytest.raises(ValueError, match="PREVIOUS predicts"):
        d.p_mean_var(
            d.respace(diffusion, 10), x, x, jnp.array(1),
            prediction=d.PREVIOUS, variance=d.FIXED_SMALL,
        )  # fmt: skip
