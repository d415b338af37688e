"""Guidance gives exact conditionals where the classifier is exact, whatever takes the score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import guidance, likelihood, losses
from score_jax.analytic import Mixture
from score_jax.guidance import classifier_free, classifier_guidance, guide, on_x, on_x0
from score_jax.parametrization import LARGE, TimeInput
from score_jax.samplers import (
    ancestral,
    chain,
    ddim,
    dpmpp_2m,
    heun,
    karras_grid,
    langevin,
    probability_flow,
    reverse_diffusion,
    schedule_grid,
    simulate,
    stepwise,
    uniform_grid,
)
from score_jax.score import denoise
from score_jax.sde import VE, VP, LinearBetas, SubVP
from score_jax.types import ScoreOut
from tests.helpers import closed_form
from tests.helpers.every_step import move

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 10.0)}
DATA = Mixture(
    [0.3, 0.7],
    [[-1.0, 0.5], [1.0, 0.0]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]],
)
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)) * 2, jnp.float32)
TIMES = jnp.asarray([0.01, 0.1, 0.3, 0.5, 0.8, 1.0])


@pytest.mark.slow
def test_the_mixture_is_the_one_of_the_closed_forms():
    other = closed_form.Mixture(
        *(jnp.asarray(v, jnp.float32) for v in (DATA.weights, DATA.means, DATA.covs))
    )
    logps = jax.jit(lambda x, t: (DATA.logp(VP(), x, t), other.logp(VP(), x, t)))
    scores = jax.jit(lambda x, t: (DATA.score(VP())(x, t), other.score_fn(VP())(x, t)))
    for t in np.float32([0.01, 0.5]):
        np.testing.assert_allclose(*logps(X, t), rtol=1e-4)
        np.testing.assert_allclose(*scores(X, t), rtol=1e-4, atol=1e-4)
    drawn = np.asarray(DATA.sample(jax.random.key(0), 20_000))
    np.testing.assert_allclose(drawn.mean(axis=0), DATA.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), DATA.cov, atol=0.03)


@pytest.mark.parametrize("noise_std", [0.2, 0.0])
def test_the_posterior_of_a_mixture_is_that_of_bayes(noise_std):
    """By brute force on a grid; without noise on the line that was measured."""
    a, y = np.array([0.6, -0.8]), 0.4
    truth = DATA.posterior(a[None], [y], noise_std)
    along, across = np.array([0.6, -0.8]), np.array([0.8, 0.6])
    u, v = np.meshgrid(np.linspace(-2, 2, 801) if noise_std else [y], np.linspace(-6, 6, 2401))
    points = u.reshape(-1, 1) * along + v.reshape(-1, 1) * across
    density = sum(
        w * np.exp(-0.5 * np.einsum("ni,ij,nj->n", points - mu, np.linalg.inv(c), points - mu))
        / np.sqrt(np.linalg.det(c))
        for w, mu, c in zip(DATA.weights, DATA.means, DATA.covs, strict=True)
    )  # fmt: skip
    if noise_std:
        density *= np.exp(-0.5 * ((points @ a - y) / noise_std) ** 2)
    density /= density.sum()
    mean = density @ points
    np.testing.assert_allclose(truth.mean, mean, atol=1e-4)
    away = points - mean
    np.testing.assert_allclose(truth.cov, (density[:, None] * away).T @ away, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_an_exact_classifier_gives_the_exact_conditional(name):
    sde = SDES[name]
    wanted = [DATA.component(k).score(sde) for k in (0, 1)]
    guided = [
        classifier_guidance(sde, DATA.score(sde), DATA.logits(sde), y)
        for y in (0, 1, jnp.arange(6) % 2)
    ]

    @jax.jit
    def both(x, times, t):
        at_t = guided[2](x, t), [want(x, t) for want in wanted]
        return [g(x, times) for g in guided[:2]], [want(x, times) for want in wanted], *at_t

    one_class, wants, each, wants_at_t = jax.device_get(both(X, TIMES, np.float32(0.3)))
    for k in (0, 1):
        np.testing.assert_allclose(one_class[k], wants[k], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(each[k::2], wants_at_t[k][k::2], rtol=1e-3, atol=1e-3)


def test_guidance_with_and_without_a_classifier_agree_at_every_scale():
    """score(x | y) - score(x) is the gradient of the exact classifier: two ways to the same."""
    sde = VP()
    score, class_1 = DATA.score(sde), DATA.component(1).score(sde)
    scales = (0.0, 1.0, 3.0, lambda t: 1 + t)

    @jax.jit
    def both(x, times, t):
        free = [classifier_free(class_1, score, scale=s) for s in scales]
        logits = DATA.logits(sde)
        classified = [classifier_guidance(sde, score, logits, 1, scale=s) for s in scales]
        ways = [[guided(x, times) for guided in way] for way in (free, classified)]
        return *ways, free[1](x, t), class_1(x, t)

    free, classified, one, want = both(X, TIMES, np.float32(0.4))
    for scale, a, b in zip(scales, free, classified, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3, err_msg=str(scale))
    np.testing.assert_array_equal(one, want)


def test_temperature_divides_the_logits():
    """At a high temperature the gradient is that of the logits' difference over 2 classes, shared."""
    sde, t = VP(), jnp.asarray(0.3)
    logits = lambda x, t: jnp.stack([x[:, 0], -x[:, 0]], axis=1)
    zero = lambda x, t: jnp.zeros_like(x)
    for temperature in (0.5, 1.0, 100.0):
        got = classifier_guidance(sde, zero, logits, 0, temperature=temperature)(X, t)
        # log sigmoid(2 x / T) has the slope (2 / T) sigmoid(-2 x / T).
        want = 2 / temperature / (1 + np.exp(2 * np.asarray(X[:, 0]) / temperature))
        np.testing.assert_allclose(got[:, 0], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got[:, 1], 0)


def test_outside_the_interval_nothing_else_is_evaluated():
    def broken(x, t):
        """Would be seen if its result were used; in a branch not taken it is not."""
        return jnp.full_like(x, jnp.nan)

    sde, score = VP(), DATA.score(VP())
    guided = jax.jit(classifier_free(score, broken, scale=2.0, interval=(0.2, 0.6)))
    seen = []
    logits = lambda x, t: jax.debug.callback(lambda: seen.append(1)) or DATA.logits(sde)(x, t)
    by_classifier = jax.jit(classifier_guidance(sde, score, logits, 0, interval=(0.2, 0.6)))
    for t, inside in ((0.1, False), (0.2, True), (0.4, True), (0.7, False)):
        t = jnp.asarray(t)
        assert bool(jnp.isnan(guided(X, t)).any()) == inside
        seen.clear()
        changed = not np.allclose(by_classifier(X, t), score(X, t), rtol=1e-4)
        jax.effects_barrier()
        assert changed == inside and bool(seen) == inside
    each = by_classifier(X, TIMES)  # 0.01, 0.1, 0.3, 0.5, 0.8, 1
    outside = np.array([True, True, False, False, True, True])
    np.testing.assert_allclose(each[outside], score(X, TIMES)[outside], rtol=1e-4)
    assert (np.abs(each - score(X, TIMES))[~outside].max(axis=1) > 0.1).all()


def test_terms_on_noisy_and_on_clean_data_add_up():
    """Unit normal data under VP: x0(x, t) = m x, so that every gradient is known by hand."""
    sde, unit = VP(), lambda x, t: -x
    goal, width = 0.7, 0.5
    near = on_x0(lambda x0, t: -0.5 * ((x0[:, 0] - goal) / width) ** 2, weight=lambda t: 1 + t)
    low = on_x(lambda x, t: -3.0 * x[:, 1], weight=2.0)
    for t in (jnp.asarray(0.3), TIMES):
        got = jax.jit(guide(sde, unit, near, low))(X, t)
        m = sde.mean_coeff(t)
        pull = (1 + t) * m * (goal - m * X[:, 0]) / width**2
        np.testing.assert_allclose(got[:, 0], -X[:, 0] + pull, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got[:, 1], -X[:, 1] - 6.0, rtol=1e-5)
    np.testing.assert_array_equal(guide(sde, unit)(X, TIMES), -X)


STEPS = {
    "pc": (lambda sde, s: chain(langevin(sde, s, snr=0.2), reverse_diffusion(sde, s)), 200),
    "heun": (heun, 25),
    "dpmpp_2m": (dpmpp_2m, 25),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_every_sampler_draws_the_conditional(name):
    sde = VP()
    make, n = STEPS[name]
    guided = classifier_guidance(sde, DATA.score(sde), DATA.logits(sde), 0)
    grid = uniform_grid(sde, n) if name == "pc" else karras_grid(sde, n)
    run = jax.jit(lambda key, x: simulate(key, make(sde, guided), x, grid).x)
    x = np.asarray(run(jax.random.key(1), sde.prior_sample(jax.random.key(0), (8000, 2))))
    np.testing.assert_allclose(x.mean(axis=0), DATA.means[0], atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), DATA.covs[0], atol=0.03)


@pytest.mark.slow
def test_the_flow_and_the_likelihood_take_a_guided_score():
    sde = VP()
    guided = classifier_guidance(sde, DATA.score(sde), DATA.logits(sde), 1)
    class_1 = DATA.component(1)
    z = sde.prior_sample(jax.random.key(0), (50, 2))
    options = {"t_from": 1.0, "t_to": 1e-3, "rtol": 1e-5, "atol": 1e-5}
    flow = jax.jit(lambda s, z: probability_flow(sde, s, z, **options).x, static_argnums=0)
    np.testing.assert_allclose(flow(guided, z), flow(class_1.score(sde), z), atol=2e-3)
    x = class_1.sample(jax.random.key(2), 20)
    found = jax.jit(
        lambda x: likelihood.log_likelihood(jax.random.key(3), sde, guided, x, t0=1e-4).logp
    )
    want = class_1.logp(sde, x, 1e-4)
    np.testing.assert_allclose(found(x), want, atol=0.05)


N = 50
SCHEDULE = LinearBetas(N)


def conditional_parts(k):
    """The scores without and with the class on a noise schedule, and the classifier's gradient."""
    logp = guidance.class_logp(DATA.logits(SCHEDULE), k)
    return DATA.score(SCHEDULE), DATA.component(k).score(SCHEDULE), logp


@pytest.mark.slow
def test_on_a_schedule_the_exact_classifier_gives_the_exact_conditional():
    plain, wanted, logp = conditional_parts(0)
    guided = guide(SCHEDULE, plain, on_x(logp))
    step = lambda score, **options: ancestral(SCHEDULE, score, variance=LARGE, **options)
    gradient = guidance.gradient_of(logp)
    denoised = jax.jit(lambda x, t: [denoise(SCHEDULE, s, x, t) for s in (guided, wanted)])
    for k, i in enumerate((1, 3, 6, 15, 30, 49)):
        t = SCHEDULE.time_of(i)
        np.testing.assert_allclose(*denoised(X, t), rtol=2e-3, atol=5e-3)
        mean = lambda made, t_next, t=t: move(made, jax.random.key(0), X, t, t_next).x_mean
        for t_next in (SCHEDULE.time_of(i - 1), SCHEDULE.time_of(0)):
            got, want = (mean(step(s), t_next) for s in (guided, wanted))
            np.testing.assert_allclose(got, want, rtol=2e-3, atol=5e-3)
        if i == 1:
            continue
        # Algorithm 1 of arXiv:2105.05233 moves the mean by beta g, the score by beta g / sqrt(alpha).
        before = mean(step(plain), t_next := SCHEDULE.time_of(i - 1))
        moved = mean(step(plain, gradient=gradient), t_next) - before
        ratio = ((mean(step(guided), t_next) - before) / moved)[k]
        np.testing.assert_allclose(ratio, 1 / np.sqrt(1 - SCHEDULE.betas[i]), rtol=2e-2)


def test_ddim_on_a_schedule_draws_the_conditional_as_the_conditional_network_does():
    plain, wanted, logp = conditional_parts(1)
    guided = guide(SCHEDULE, plain, on_x(logp))
    z = jax.random.normal(jax.random.key(0), (50, 2))
    sampler, grid = stepwise(ddim), schedule_grid(SCHEDULE)
    run = lambda score, z: sampler.run(jax.random.key(1), SCHEDULE, score, z, grid).x
    np.testing.assert_allclose(*jax.jit(lambda z: (run(guided, z), run(wanted, z)))(z), atol=5e-3)


def test_guidance_keeps_the_learned_variance_of_the_conditional():
    """A network whose variance states its label; two calls and one of a doubled batch agree."""
    sde = VP()
    maker = lambda y: lambda x, t: ScoreOut(x * y[:, None], x + y[:, None])
    y, none = jnp.arange(6), jnp.full(6, 9)
    for t in (TIMES, jnp.asarray(0.3)):
        for interval in (None, (0.2, 0.6)):
            options = {"scale": 2.5, "interval": interval}
            two = classifier_free(maker(y), maker(none), **options)(X, t)
            both = maker(jnp.concatenate([y, none]))
            one = classifier_free(maker(y), maker(none), both=both, **options)(X, t)
            np.testing.assert_allclose(one.score, two.score, rtol=1e-6)
            for out in (one, two):
                np.testing.assert_array_equal(out.variance, maker(y)(X, t).variance)
        if t.ndim == 0:
            want = X * 9 + 2.5 * X * (y[:, None] - 9.0)
            np.testing.assert_allclose(two.score, want, rtol=1e-5, atol=1e-5)
        for term in (
            on_x(lambda x, t: x[:, 0]),
            on_x0(lambda x0, t: x0[:, 0], interval=(0.2, 0.6)),
        ):
            out = guide(sde, maker(y), term)(X, t)
            np.testing.assert_array_equal(out.variance, maker(y)(X, t).variance)


def test_a_doubled_score_is_two_calls_in_one():
    maker = lambda y: lambda x, t: x * (1 + y[:, None]) + jnp.broadcast_to(t, y.shape)[:, None]
    y = jnp.arange(6)
    two = classifier_free(maker(y), maker(jnp.full_like(y, 7)), scale=3.0)
    both = maker(jnp.concatenate([y, jnp.full_like(y, 7)]))
    one = classifier_free(maker(y), maker(jnp.full_like(y, 7)), both=both, scale=3.0)
    for t in (TIMES, jnp.asarray(0.3)):
        np.testing.assert_allclose(one(X, t), two(X, t), rtol=1e-6)


@pytest.mark.slow
def test_labels_are_dropped_in_training_and_only_there():
    seen = []

    def net(params, x, label, y=None, **kwargs):
        seen.append(np.asarray(y))
        return x

    batch = {"x": jnp.zeros((4000, 1)), "y": jnp.arange(4000) % 10}
    for train in (True, False):
        loss = losses.dsm_loss(
            VP(), net, noise_input=TimeInput(), label_dropout=0.2, null_class=10, train=train
        )
        loss(None, jax.random.key(0), batch)
    dropped = seen[0] == 10
    assert dropped.mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(seen[0][~dropped], batch["y"][~dropped])
    np.testing.assert_array_equal(seen[1], batch["y"])
    with pytest.raises(ValueError, match="null_class must be given"):
        losses.dsm_loss(VP(), net, noise_input=TimeInput(), label_dropout=0.1)


def guided_at(*args, **kwargs):
    return lambda: classifier_guidance(VP(), DATA.score(VP()), *args, **kwargs)(X, jnp.asarray(0.5))


LOGITS = DATA.logits(VP())


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (guided_at(LOGITS, 2), r"y must be in \[0, 2\), got 2"),
        (guided_at(LOGITS, jnp.asarray([0, 1, 0, -1, 0, 0])), r"y must be in \[0, 2\), got -1"),
        (guided_at(LOGITS, 0.5), "y must be integer"),
        (guided_at(LOGITS, 0, temperature=0.0), "temperature must be > 0"),
        (guided_at(LOGITS, 0, scale=float("nan")), "scale must be a finite number"),
        (guided_at(LOGITS, 0, scale="2"), "scale must be a finite number"),
        (guided_at(LOGITS, 0, interval=(0.5, 0.1)), "interval must be"),
        (guided_at(LOGITS, 0, interval=0.5), "interval must be"),
        (guided_at(lambda x, t: x[:, 0], 0), "must return logits"),
        (lambda: guide(VP(), LOGITS, LOGITS), "terms must be made by on_x"),
        (lambda: on_x(LOGITS, weight="1"), "weight must be"),
        (lambda: guide(VP(), DATA.score(VP()), on_x(lambda x, t: x.sum()))(X, 0.5), "one value"),
        (lambda: classifier_free(LOGITS, LOGITS, scale=None), "scale must be"),
        (lambda: Mixture([1.0], [[0.0, 0.0]], [np.eye(3)]), "weights, means, covs must be"),
        (lambda: Mixture([1.0], [[0.0, 0.0]], [-np.eye(2)]), "positive semi-definite"),
        (lambda: Mixture([-1.0], [[0.0, 0.0]], [np.eye(2)]), "weights must be > 0"),
        (lambda: DATA.posterior(np.eye(3), [1.0]), "matrix must have shape"),
        (lambda: DATA.posterior(np.eye(2), [1.0, 2.0], -1.0), "noise_std must be"),
    ],
)  # fmt: skip
def test_wrong_use_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
