"""Losses and the bound on a table: the authors' numbers, exact Gaussians, masses that sum to one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import discrete as d
from score_jax import losses
from score_jax.samplers import static
from tests.helpers.golden_files import golden
from tests.samplers.test_table_samplers import MEAN, SPREAD, gaussian_net
from tests.test_discrete import NAMES, arrays, close, table

BITS = math.log(2.0)


def sample(name):
    g = arrays(name)
    return losses.Sample(
        table(name),
        *(jnp.asarray(g[k]) for k in ("model_out", "x0", "x_t", "noise")),
        jnp.asarray(g["t"], jnp.int32),
    ), g


# The authors' numbers.


def test_decoder_is_the_authors():
    g = golden("iddpm_process")
    x = jnp.asarray(g["dgll/x"])
    mean, log_scale = (jnp.full_like(x, float(g[f"dgll/{k}"])) for k in ("mean", "log_scale"))
    got = losses.discretized_gaussian(256)(x, mean, 2 * log_scale)
    np.testing.assert_allclose(got, g["dgll/out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_authors(name):
    s, g = sample(name)
    hybrid, parts = losses.hybrid()(s)
    close(parts["mse"], g["hybrid_rescaled/mse"])
    close(hybrid, g["hybrid_rescaled/loss"])
    close(1e-3 * parts["vlb"], g["hybrid_rescaled/vb"])
    close(losses.variational()(s)[0], g["vlb_rescaled/loss"])
    reverse = d.p_mean_var(s.diffusion, s.value, s.x, s.i)
    term = losses.bound_term(s.diffusion, reverse, s.x0, s.x, s.i)
    np.testing.assert_allclose(term, g["vb_terms_bpd"], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_the_authors(name):
    """Their whole loop of 50 steps, for the noise that they drew."""
    diffusion, g = table(name), arrays(name)
    w = jnp.asarray(g["bpd_loop/W"])
    drawn = jnp.asarray(g["bpd_loop/noise_in_call_order_t_descending"])[::-1]

    def net(params, x, label):
        scale = 1 + label[:, None, None, None] / 50
        return scale * jnp.einsum("bhwc,oc->bhwo", x, params)

    reverse = d.reverse_fn(diffusion, net, w, clean=static())
    bound = jax.jit(
        functools.partial(losses.table_bound, diffusion, reverse, noise=lambda key, i, x0: drawn[i])
    )
    out = bound(jax.random.key(0), jnp.asarray(g["x0"]))
    close(out.total, g["bpd_loop/total_bpd"])
    close(out.terms, g["bpd_loop/vb"][:, ::-1])
    close(out.x0_mse, g["bpd_loop/xstart_mse"][:, ::-1])
    close(out.noise_mse, g["bpd_loop/mse"][:, ::-1])
    # Of order 1e-6, with the rounding of a difference of ones.
    np.testing.assert_allclose(out.prior, g["bpd_loop/prior_bpd"], atol=1e-7)


# Two steps and other truths by hand.


def test_bound_terms_of_two_steps_are_exact_kls():
    """beta = (1/2, 3/4): posterior variance 3/7; a network that says x0 = 0 with variance 3/4."""
    diffusion = d.Diffusion([0.5, 0.75])
    x0, x = jnp.array([[0.3, -0.1]]), jnp.array([[-0.8, 0.4]])
    reverse = d.p_mean_var(
        diffusion, 0 * x, x, jnp.array(1), prediction=d.X0, variance=d.FIXED_LARGE
    )
    got = losses.bound_term(diffusion, reverse, x0, x, jnp.array(1))
    gap = 2 * np.array([0.3, -0.1]) / math.sqrt(2) * 3 / 7  # the means differ by c0 x0
    kl = 0.5 * (math.log((3 / 4) / (3 / 7)) - 1 + (3 / 7 + gap**2) / (3 / 4))
    np.testing.assert_allclose(got, kl.mean() / BITS, rtol=1e-5)
    # KL(N(x0/sqrt8, 7/8) || N(0, 1)).
    prior = 0.5 * (-math.log(7 / 8) - 1 + 7 / 8 + np.array([0.3, -0.1]) ** 2 / 8)
    np.testing.assert_allclose(
        losses.prior_bits(diffusion, x0), prior.mean() / BITS, rtol=1e-5, atol=1e-8
    )


@functools.cache
def bound_of_a_gaussian(variance, n=12):
    """The bound of 20,000 points of N(0.3, 0.5^2) with the best network, in bits, and its error."""
    diffusion = d.cosine(n)
    net = gaussian_net(diffusion, variance.learned)
    reverse = d.reverse_fn(diffusion, net, None, variance=variance)
    run = functools.partial(losses.table_bound, diffusion, reverse, decoder=losses.density_decoder)
    x0 = MEAN + SPREAD * jax.random.normal(jax.random.key(5), (20_000, 1))
    out = jax.jit(run)(jax.random.key(6), x0)
    return losses.mean_and_error(out.total)


def test_with_the_right_variance_the_bound_is_the_entropy():
    """Of Gaussian data the reverse chain is Gaussian: with its own moments the bound is tight."""
    entropy = 0.5 * math.log2(2 * math.pi * math.e * SPREAD**2)
    mean, error = bound_of_a_gaussian(d.LEARNED)
    assert float(error) < 0.02
    assert float(mean) == pytest.approx(entropy, abs=4 * float(error))
    # A fixed variance costs what the divergence of its Gaussians from the right ones says.
    diffusion = d.cosine(12)
    left = (
        SPREAD**2
        * (1 - diffusion.alpha_bar)
        / (diffusion.alpha_bar * SPREAD**2 + 1 - diffusion.alpha_bar)
    )
    right = diffusion.posterior_variance + diffusion.posterior_x0_coef**2 * left
    for variance, fixed in (
        (d.FIXED_LARGE, np.append(diffusion.posterior_variance[1], diffusion.betas[1:])),
        (d.FIXED_SMALL, np.exp(diffusion.posterior_log_variance)),
    ):
        excess = (0.5 * (np.log(fixed / right) - 1 + right / fixed)).sum() / BITS
        mean, error = bound_of_a_gaussian(variance)
        assert excess > 0.05
        assert float(mean) == pytest.approx(entropy + excess, abs=4 * float(error))


@pytest.mark.parametrize("log_mass", [losses.tanh_log_mass, losses.normal_log_mass])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_masses_of_all_levels_sum_to_one(log_mass, levels, x64):
    low, high = -0.5, 2.0
    decoder = losses.discretized_gaussian(levels, low=low, high=high, log_mass=log_mass)
    x0 = jnp.linspace(low, high, levels)[:, None]
    for mean, std in ((0.3, 0.5), (2.4, 0.3), (-9.0, 2.0)):
        logp = decoder(x0, jnp.full_like(x0, mean), jnp.full_like(x0, 2 * math.log(std)))
        assert float(jnp.exp(logp).sum()) == pytest.approx(1.0, abs=1e-9)


def test_the_normal_mass_is_exact_far_out_and_its_gradient_finite():
    from scipy.stats import norm

    lower, upper = np.array([-0.1, 3.0, -12.0, 9.0]), np.array([0.1, 3.02, -11.9, 9.5])
    got = losses.normal_log_mass(jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))
    flip = lower + upper > 0
    a, b = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    want = norm.logcdf(b) + np.log1p(-np.exp(norm.logcdf(a) - norm.logcdf(b)))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    means, log_variances = jnp.array([-1.0, 0.0, 30.0]), jnp.array([-3.0, -14.0, -6.0])

    @jax.jit
    def grads(means, log_variances):
        def both(m, v):
            decoders = [
                losses.discretized_gaussian(17, log_mass=log_mass)
                for log_mass in (losses.normal_log_mass, losses.tanh_log_mass)
            ]
            return sum(decoder(jnp.full_like(m, -1.0), m, v).sum() for decoder in decoders)

        return jax.grad(both, argnums=(0, 1))(means, log_variances)

    assert np.isfinite(grads(means, log_variances)).all()


# The losses as losses.


def small_net(params, x, label, y=None, *, train=False, rngs=None):
    """Two numbers: one scales the predicted noise, the other is the variance."""
    shift = 0.0 if y is None else 0.0 * y.mean()
    return jnp.concatenate([params["mean"] * x + shift, params["variance"] + 0 * x], axis=-1)


PARAMS = {"mean": jnp.float32(0.6), "variance": jnp.float32(0.2)}


def test_the_variational_loss_estimates_the_bound():
    """Its mean over indices and noise is the sum of the terms, without the prior's."""
    diffusion = d.cosine(5)
    x0 = jnp.round(jax.random.uniform(jax.random.key(0), (4000, 2), minval=-1) * 8) / 8
    decoder = losses.discretized_gaussian(17)
    loss = losses.discrete_loss(diffusion, small_net, losses.variational(decoder=decoder))
    one = losses.discrete_loss(
        diffusion, small_net, losses.variational(decoder=decoder, rescaled=False), train=False
    )
    reverse = d.reverse_fn(diffusion, small_net, PARAMS)
    out = losses.table_bound(diffusion, reverse, jax.random.key(1), x0, decoder=decoder)
    want, error = losses.mean_and_error(out.total - out.prior)
    keys = jax.random.split(jax.random.key(2), 8)
    got = np.array(jax.jit(jax.vmap(lambda k: loss(PARAMS, k, {"x": x0})[0]))(keys))
    assert got.mean() == pytest.approx(float(want), abs=float(4 * (error + got.std() / 8**0.5)))
    single = one(PARAMS, jax.random.key(3), {"x": x0})
    np.testing.assert_allclose(5 * single[0], single[1]["vlb"], rtol=1e-5)


def test_the_hybrid_bound_teaches_the_variance_alone():
    diffusion = d.cosine(5)
    x0 = jax.random.normal(jax.random.key(0), (64, 2))
    objectives = (
        losses.simple(variance=d.LEARNED_RANGE), losses.variational(), losses.hybrid(weight=0.01)
    )  # fmt: skip

    def gradient(params, objective):
        loss = losses.discrete_loss(diffusion, small_net, objective)
        return jax.grad(lambda p: loss(p, jax.random.key(1), {"x": x0})[0])(params)

    grads = jax.jit(lambda params: [gradient(params, objective) for objective in objectives])
    simple, bound, hybrid = grads(PARAMS)
    np.testing.assert_allclose(hybrid["mean"], simple["mean"], rtol=1e-5)
    np.testing.assert_allclose(hybrid["variance"], 0.01 * bound["variance"], rtol=1e-5)
    assert simple["variance"] == 0 and abs(bound["mean"]) > 1e-3


def test_weights_of_steps_and_of_examples():
    """A table of weights multiplies the squares of its index; "weight" multiplies examples."""
    diffusion = d.cosine(3)
    batch = {
        "x": jnp.ones((3, 2)),
        "index": jnp.array([0, 1, 2]),
        "weight": jnp.array([1.0, 2.0, 4.0]),
    }
    zero = lambda params, x, label: 0 * x  # its error is the noise itself
    run = lambda w: losses.discrete_loss(
        diffusion, zero, losses.simple(weighting=losses.per_step(w)), train=False
    )(None, jax.random.key(0), batch)
    total, metrics = run([1.0, 1.0, 1.0])
    squares = np.asarray(metrics["per_example"])
    np.testing.assert_allclose(total, (squares * [1, 2, 4]).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], metrics["mse"], rtol=1e-6)
    total, metrics = run([0.0, 3.0, 5.0])
    np.testing.assert_allclose(metrics["per_example"], squares * [0, 3, 5], rtol=1e-6)


def test_labels_are_dropped_at_the_rate_asked_for_in_training_only():
    seen = []

    def net(params, x, label, y=None, **kwargs):
        seen.append((y, kwargs))
        return x

    x, y = jnp.zeros((4000, 1)), jnp.arange(4000) % 10
    for train in (True, False):
        loss = losses.discrete_loss(
            d.cosine(5), net, losses.simple(), label_dropout=0.2, null_class=10, train=train
        )
        loss(None, jax.random.key(0), {"x": x, "y": y})
    dropped = np.asarray(seen[0][0]) == 10
    assert dropped.mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(np.asarray(seen[0][0])[~dropped], np.asarray(y)[~dropped])
    np.testing.assert_array_equal(seen[1][0], y)
    assert seen[0][1]["train"] and "dropout" in seen[0][1]["rngs"] and seen[1][1] == {}


@pytest.mark.parametrize("prediction", d.PREDICTIONS, ids=lambda p: p.name)
def test_a_perfect_network_costs_nothing(prediction):
    diffusion = d.cosine(6)

    def objective(s):
        value = prediction.target(s.diffusion, s.x0, s.x, s.noise, s.i)
        return losses.simple(prediction=prediction)(s._replace(value=value))

    loss = losses.discrete_loss(diffusion, lambda p, x, label: x, objective, train=False)
    assert float(loss(None, jax.random.key(0), {"x": jnp.ones((8, 2))})[0]) < 1e-10
    zero = losses.discrete_loss(
        diffusion, lambda p, x, label: 0 * x, losses.simple(prediction=prediction), train=False
    )
    assert float(zero(None, jax.random.key(0), {"x": jnp.ones((8, 2))})[0]) > 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.discretized_gaussian(1), "levels must be at least 2"),
        (lambda: losses.discretized_gaussian(4, low=1.0, high=1.0), "low must be below high"),
        (lambda: losses.hybrid(weight=0.0), "weight must be > 0"),
        (lambda: losses.hybrid(variance=d.FIXED_LARGE), "variance must be a learned one"),
        (lambda: losses.per_step([1.0, -1.0]), "weights must be finite"),
        (lambda: losses.per_step([1.0])(d.cosine(5), jnp.array([0])), "weights must have one"),
        (
            lambda: losses.discrete_loss(
                d.cosine(5), small_net, losses.simple(), label_dropout=1.0
            ),
            "label_dropout must be in",
        ),
        (
            lambda: losses.discrete_loss(
                d.cosine(5), small_net, losses.simple(), label_dropout=0.1
            ),
            "null_class must be given",
        ),
        (
            lambda: losses.discrete_loss(d.cosine(5), small_net, losses.simple())(
                PARAMS, jax.random.key(0), {"x": jnp.ones((2, 3))}
            ),
            "fixed variance must return 3 channels",
        ),
        (
            lambda: losses.discrete_loss(d.cosine(5), small_net, losses.hybrid())(
                PARAMS, jax.random.key(0), {"x": jnp.ones((2, 3), jnp.uint8)}
            ),
            "must be floating, got uint8",
        ),
    ],
)
def test_wrong_use_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
