"""Losses and the bound on a table: the authors' numbers, exact Gaussians, masses that sum to one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import losses
from score_jax.model import Model
from score_jax.parametrization import (
    DENOISED,
    LARGE,
    LEARNED,
    LEARNED_RANGE,
    NOISE,
    PARAMETRIZATIONS,
    SMALL,
    IndexInput,
)
from score_jax.samplers import static
from score_jax.score import reverse_moments, score_fn
from score_jax.sde import VP, Betas, CosineBetas
from tests.helpers.golden_files import golden
from tests.helpers.iddpm import (
    MEAN,
    NAMES,
    SPREAD,
    arrays,
    close,
    exact_variance,
    gaussian_net,
    posterior_variance,
    schedule,
)

BITS = math.log(2.0)


def sample(name):
    sde, g = schedule(name), arrays(name)
    value, x0, x, z = (jnp.asarray(g[k]) for k in ("model_out", "x0", "x_t", "noise"))
    t = sde.time_of(jnp.asarray(g["t"], jnp.int32))
    return losses.Sample(sde, NOISE, LEARNED_RANGE, value, x0, x, z, t), g


def reverse_of(s):
    """p(x_prev | x) of a sample, with the first variance clipped."""
    value, values = s.prediction()
    z = s.parametrization.to_noise(s.sde, value, s.x, s.t)
    t_next = s.sde.time_of(s.sde.index_of(s.t) - 1)
    x0 = DENOISED.from_noise(s.sde, z, s.x, s.t)
    return reverse_moments(
        s.sde, x0, values, s.x, s.t, t_next, variance=s.variance, first=s.sde.times[:2]
    ), t_next


# The authors' numbers.


def test_decoder_is_the_authors():
    g = golden("iddpm_process")
    x = jnp.asarray(g["dgll/x"])
    mean, log_scale = (jnp.full_like(x, float(g[f"dgll/{k}"])) for k in ("mean", "log_scale"))
    got = jax.jit(losses.discretized_gaussian(256))(x, mean, 2 * log_scale)
    np.testing.assert_allclose(got, g["dgll/out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_authors(name):
    fixed, g = sample(name)

    @jax.jit
    def values(drawn):
        s = fixed._replace(**drawn)
        reverse, t_next = reverse_of(s)
        term = losses.bound_term(s.sde, reverse, s.x0, s.x, s.t, t_next)
        return losses.hybrid()(s), losses.variational()(s)[0], term

    drawn = {name: getattr(fixed, name) for name in ("value", "x0", "x", "z", "t")}
    (hybrid, parts), variational, term = values(drawn)
    close(parts["mse"], g["hybrid_rescaled/mse"])
    close(hybrid, g["hybrid_rescaled/loss"])
    close(1e-3 * parts["vlb"], g["hybrid_rescaled/vb"])
    close(variational, g["vlb_rescaled/loss"])
    np.testing.assert_allclose(term, g["vb_terms_bpd"], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_the_authors(name):
    """Their whole loop of 50 steps, for the noise that they drew."""
    sde, g = schedule(name), arrays(name)
    w = jnp.asarray(g["bpd_loop/W"])
    drawn = jnp.asarray(g["bpd_loop/noise_in_call_order_t_descending"])[::-1]

    def net(params, x, index):
        scale = 1 + index[:, None, None, None] / 50
        return scale * jnp.einsum("bhwc,oc->bhwo", x, params)

    model = Model(sde, net, IndexInput(), variance=LEARNED_RANGE)
    bound = jax.jit(
        lambda key, x0: losses.schedule_bound(
            key, sde, model.score(w), x0, variance=model.variance, clean=static(),
            noise=lambda key, i, x0: drawn[i],
        )
    )  # fmt: skip
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
    sde = Betas([0.5, 0.75])
    x0, x = jnp.array([[0.3, -0.1]]), jnp.array([[-0.8, 0.4]])

    @jax.jit
    def values(x0, x, t, t_next):
        reverse = reverse_moments(sde, 0 * x, None, x, t, t_next, variance=LARGE)
        return losses.bound_term(sde, reverse, x0, x, t, t_next), losses.prior_bits(sde, x0)

    got, at_the_end = values(x0, x, 1.0, 0.5)
    gap = 2 * np.array([0.3, -0.1]) / math.sqrt(2) * 3 / 7  # the means differ by c0 x0
    kl = 0.5 * (math.log((3 / 4) / (3 / 7)) - 1 + (3 / 7 + gap**2) / (3 / 4))
    np.testing.assert_allclose(got, kl.mean() / BITS, rtol=1e-5)
    # KL(N(x0/sqrt8, 7/8) || N(0, 1)).
    prior = 0.5 * (-math.log(7 / 8) - 1 + 7 / 8 + np.array([0.3, -0.1]) ** 2 / 8)
    np.testing.assert_allclose(at_the_end, prior.mean() / BITS, rtol=1e-5, atol=1e-8)


@functools.cache
def bound_of_a_gaussian(variance, n=12):
    """The bound of 20,000 points of N(0.3, 0.5^2) with the best network, in bits, and its error."""
    sde = CosineBetas(n)
    score = score_fn(
        sde, gaussian_net(sde, variance.learned), None, noise_input=IndexInput(), variance=variance
    )
    run = functools.partial(
        losses.schedule_bound, sde=sde, score=score, variance=variance,
        decoder=losses.density_decoder,
    )  # fmt: skip
    x0 = MEAN + SPREAD * jax.random.normal(jax.random.key(5), (20_000, 1))
    out = jax.jit(lambda key, x0: run(key, x0=x0))(jax.random.key(6), x0)
    return losses.mean_and_error(out.total)


def test_with_the_right_variance_the_bound_is_the_entropy():
    """Of Gaussian data the reverse chain is Gaussian: with its own moments the bound is tight."""
    entropy = 0.5 * math.log2(2 * math.pi * math.e * SPREAD**2)
    mean, error = bound_of_a_gaussian(LEARNED)
    assert float(error) < 0.02
    assert float(mean) == pytest.approx(entropy, abs=4 * float(error))
    # A fixed variance costs what the divergence of its Gaussians from the right ones says.
    sde = CosineBetas(12)
    right, small = exact_variance(sde), posterior_variance(sde)
    for variance, fixed in (
        (LARGE, np.append(small[1], sde.betas[1:])),
        (SMALL, np.append(small[1], small[1:])),
    ):
        excess = (0.5 * (np.log(fixed / right) - 1 + right / fixed)).sum() / BITS
        mean, error = bound_of_a_gaussian(variance)
        assert excess > 0.05
        assert float(mean) == pytest.approx(entropy + excess, abs=4 * float(error))


def test_the_bound_of_a_grid_is_that_of_the_cut_schedule():
    """Every second timestep is a chain of its own: same terms as its own schedule has."""
    sde, kept = CosineBetas(8), [1, 3, 5, 7]
    alpha_bar = sde.alpha_bar[kept]
    cut = Betas(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))
    x0 = jnp.round(jax.random.uniform(jax.random.key(0), (16, 2), minval=-1) * 8) / 8
    half = lambda params, x, index: 0.5 * x
    bounds = jax.jit(
        lambda x0: [
            losses.schedule_bound(
                jax.random.key(1), schedule, Model(schedule, half, IndexInput()).score(None), x0,
                grid=grid, variance=LARGE, decoder=losses.discretized_gaussian(17),
            )
            for schedule, grid in ((sde, jnp.asarray([8, 6, 4, 2]) / 8), (cut, None))
        ]
    )  # fmt: skip
    for a, b in zip(*bounds(x0), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def _masses(log_mass):
    return functools.partial(losses.discretized_gaussian, log_mass=log_mass)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(
    "make",
    [_masses(losses.tanh_log_mass), _masses(losses.normal_log_mass), losses.level_decoder],
    ids=["tanh", "normal", "levels"],
)
def test_masses_of_all_levels_sum_to_one(make, levels, x64):
    low, high = -0.5, 2.0
    decoder = jax.jit(make(levels, low=low, high=high))
    x0 = np.linspace(low, high, levels)[:, None]
    for mean, std in ((0.3, 0.5), (2.4, 0.3), (-9.0, 2.0)):
        logp = decoder(x0, np.full_like(x0, mean), np.full_like(x0, 2 * math.log(std)))
        assert np.exp(logp).sum() == pytest.approx(1.0, abs=1e-9)


def test_the_normal_mass_is_exact_far_out_and_its_gradient_finite():
    from scipy.stats import norm

    lower, upper = np.array([-0.1, 3.0, -12.0, 9.0]), np.array([0.1, 3.02, -11.9, 9.5])
    got = jax.jit(losses.normal_log_mass)(*np.array([lower, upper], np.float32))
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


def small_net(params, x, index, y=None, *, train=False, rngs=None):
    """Two numbers: one scales the predicted noise, the other is the variance."""
    shift = 0.0 if y is None else 0.0 * y.mean()
    return jnp.concatenate([params["mean"] * x + shift, params["variance"] + 0 * x], axis=-1)


PARAMS = {"mean": jnp.float32(0.6), "variance": jnp.float32(0.2)}
FIVE = Model(CosineBetas(5), small_net, IndexInput(), variance=LEARNED_RANGE)


@pytest.mark.slow
def test_the_variational_loss_estimates_the_bound():
    """Its mean over indices and noise is the sum of the terms, without the prior's."""
    x0 = jnp.round(jax.random.uniform(jax.random.key(0), (4000, 2), minval=-1) * 8) / 8
    decoder = losses.discretized_gaussian(17)
    loss = FIVE.loss(losses.variational(decoder=decoder))
    one = FIVE.loss(losses.variational(decoder=decoder, rescaled=False), train=False)
    bound = jax.jit(
        lambda key, x0: losses.schedule_bound(
            key, FIVE.sde, FIVE.score(PARAMS), x0, variance=FIVE.variance, decoder=decoder
        )
    )
    out = bound(jax.random.key(1), x0)
    want, error = losses.mean_and_error(out.total - out.prior)
    keys = jax.random.split(jax.random.key(2), 8)
    got = np.array(jax.jit(jax.vmap(lambda k: loss(PARAMS, k, {"x": x0})[0]))(keys))
    assert got.mean() == pytest.approx(float(want), abs=float(4 * (error + got.std() / 8**0.5)))
    single = jax.jit(one)(PARAMS, jax.random.key(3), {"x": x0})
    np.testing.assert_allclose(5 * single[0], single[1]["vlb"], rtol=1e-5)


def test_the_hybrid_bound_teaches_the_variance_alone():
    x0 = jax.random.normal(jax.random.key(0), (64, 2))
    objectives = losses.simple(), losses.variational(), losses.hybrid(weight=0.01)

    def gradient(params, objective):
        loss = FIVE.loss(objective)
        return jax.grad(lambda p: loss(p, jax.random.key(1), {"x": x0})[0])(params)

    grads = jax.jit(lambda params: [gradient(params, objective) for objective in objectives])
    simple, bound, hybrid = grads(PARAMS)
    np.testing.assert_allclose(hybrid["mean"], simple["mean"], rtol=1e-5)
    np.testing.assert_allclose(hybrid["variance"], 0.01 * bound["variance"], rtol=1e-5)
    assert simple["variance"] == 0 and abs(bound["mean"]) > 1e-3


def test_weights_of_steps_and_of_examples():
    """A weight of each index multiplies its squares; "weight" multiplies examples."""
    batch = {
        "x": jnp.ones((3, 2)),
        "index": jnp.array([0, 1, 2]),
        "weight": jnp.array([1.0, 2.0, 4.0]),
    }
    zero = lambda params, x, index: 0 * x  # its error is the noise itself
    model = Model(CosineBetas(3), zero, IndexInput())
    loss = lambda w: model.loss(losses.simple(weighting=losses.per_step(w)), train=False)
    run = lambda w: jax.jit(loss(w))(None, jax.random.key(0), batch)
    total, metrics = run([1.0, 1.0, 1.0])
    squares = np.asarray(metrics["per_example"])
    np.testing.assert_allclose(total, (squares * [1, 2, 4]).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], metrics["mse"], rtol=1e-6)
    total, metrics = run([0.0, 3.0, 5.0])
    np.testing.assert_allclose(metrics["per_example"], squares * [0, 3, 5], rtol=1e-6)


def test_indices_are_uniform_and_networks_get_them():
    seen = []
    net = lambda params, x, index: seen.append(index) or x
    for stratified in (True, False):
        loss = Model(CosineBetas(5), net, IndexInput()).loss(stratified=stratified, train=False)
        loss(None, jax.random.key(1), {"x": jnp.zeros((4000, 1))})
        counts = np.bincount(np.asarray(seen[-1], int), minlength=5)
        assert set(np.asarray(seen[-1])) == {0, 1, 2, 3, 4}
        np.testing.assert_allclose(counts, 800, atol=1 if stratified else 120)


def test_labels_are_dropped_at_the_rate_asked_for_in_training_only():
    seen = []

    def net(params, x, index, y=None, **kwargs):
        seen.append((y, kwargs))
        return x

    x, y = jnp.zeros((4000, 1)), jnp.arange(4000) % 10
    for train in (True, False):
        loss = Model(CosineBetas(5), net, IndexInput()).loss(
            losses.simple(), label_dropout=0.2, null_class=10, train=train
        )
        loss(None, jax.random.key(0), {"x": x, "y": y})
    dropped = np.asarray(seen[0][0]) == 10
    assert dropped.mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(np.asarray(seen[0][0])[~dropped], np.asarray(y)[~dropped])
    np.testing.assert_array_equal(seen[1][0], y)
    assert seen[0][1]["train"] and "dropout" in seen[0][1]["rngs"] and seen[1][1] == {}


@pytest.mark.parametrize("kind", PARAMETRIZATIONS, ids=lambda p: p.name)
def test_a_perfect_network_costs_nothing(kind):
    def objective(s):
        value = kind.target(s.sde, s.x0, s.z, s.x, s.t)
        return losses.simple()(s._replace(value=value))

    model = lambda net: Model(CosineBetas(6), net, IndexInput(), kind)
    loss = model(lambda p, x, index: x).loss(objective, train=False)
    zero = model(lambda p, x, index: 0 * x).loss(losses.simple(), train=False)
    both = jax.jit(lambda key, batch: [f(None, key, batch)[0] for f in (loss, zero)])
    perfect, poor = both(jax.random.key(0), {"x": np.ones((8, 2), np.float32)})
    assert perfect < 1e-10 and poor > 0.1


def run_loss(objective, x=None, variance=None, sde=FIVE.sde, **options):
    x = jnp.ones((2, 3)) if x is None else x
    model = Model(sde, small_net, lambda sde, t: t, variance=variance)
    return model.loss(objective, **options)(PARAMS, jax.random.key(0), {"x": x})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: losses.discretized_gaussian(1), "levels must be at least 2"),
        (lambda: losses.discretized_gaussian(4, low=1.0, high=1.0), "low must be below high"),
        (lambda: losses.hybrid(weight=0.0), "weight must be > 0"),
        (lambda: run_loss(losses.hybrid()), "variance must be a learned one"),
        (lambda: losses.per_step([1.0, -1.0]), "weights must be finite"),
        (lambda: losses.per_step([1.0])(CosineBetas(5), jnp.array([0.2])), "weights must have one"),
        (lambda: run_loss(losses.simple(), label_dropout=1.0), "label_dropout must be in"),
        (lambda: run_loss(losses.simple(), label_dropout=0.1), "null_class must be given"),
        (lambda: run_loss(losses.simple()), "fixed variance must return 3 channels"),
        (
            lambda: run_loss(losses.variational(), variance=LEARNED, sde=VP()),
            "sde must be a noise schedule",
        ),
        (
            lambda: run_loss(losses.hybrid(), jnp.ones((2, 3), jnp.uint8), LEARNED_RANGE),
            "must be floating point, got dtype uint8",
        ),
    ],
)
def test_wrong_use_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
