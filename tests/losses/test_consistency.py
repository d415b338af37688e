"""Consistency models on Gaussians, whose consistency function is known: losses, gradients, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax import samplers, training
from score_jax.analytic import Mixture, gaussian
from score_jax.losses import (
    consistency_matching,
    doubling_intervals,
    gap_weighting,
    log_normal_times,
    mean_reduction,
    pair_of,
    pseudo_huber_reduction,
    training_loss,
)
from score_jax.model import Model
from score_jax.parametrization import DENOISED, LogSigmaInput, consistency, parametrization_of
from score_jax.score import denoise, from_denoiser
from score_jax.sde import VE, VP, LinearVE, RectifiedFlow, SubVP
from score_jax.types import StepOut, stateless
from tests.helpers.closed_form import random_normal

T0 = 0.02
SDES = {
    "linear_ve": LinearVE(10.0),
    "ve": VE(0.01, 10.0),
    "vp": VP(),
    "subvp": SubVP(),
    "flow": RectifiedFlow(),
}
ALL = pytest.mark.parametrize("name", SDES)
WHOLE = DENOISED._replace(t0=T0)  # of a network that is the consistency function itself


def late(sde, share):
    """A time as a share of the way from t0 to t1: (5,)."""
    return jnp.full((5,), T0 + share * (sde.t1 - T0))


def plain_time(sde, t):
    return jnp.asarray(t)


@ALL
def test_at_the_first_time_it_is_the_identity_whatever_the_network_returns(name):
    sde, form = SDES[name], consistency(0.7, T0)
    x, value = (jax.random.normal(jax.random.key(i), (5, 3)) for i in range(2))
    first = late(sde, 0.0)
    m = sde.mean_coeff(first)[:, None]
    np.testing.assert_allclose(form.to_x0(sde, value, x, first), x / m, rtol=1e-5)
    np.testing.assert_allclose(form.to_noise(sde, value, x, first), 0, atol=1e-4)
    for share in (0.3, 1.0):
        t = late(sde, share)
        m, s = sde.mean_coeff(t)[:, None], sde.std(t)[:, None]
        f, z = form.to_x0(sde, value, x, t), form.to_noise(sde, value, x, t)
        np.testing.assert_allclose(m * f + s * z, x, rtol=1e-4, atol=1e-4)
        # The target of known data and noise is the value that gives them back.
        target = form.target(sde, f, z, x, t)
        np.testing.assert_allclose(target, value, rtol=1e-3, atol=1e-3)


@ALL
def test_the_exact_function_ends_the_path_of_the_flow(name):
    """The ratio of the test's own closed form, for a full covariance; constant along the path."""
    sde, data = SDES[name], random_normal(3)
    cov = (data.basis * data.spread[None]) @ data.basis.T
    f = gaussian(data.mean, np.asarray(cov)).consistency(sde, T0)
    x, end = jax.random.normal(jax.random.key(0), (5, 3)), sde.mean_coeff(jnp.asarray(T0))
    for share in (0.4, 1.0):
        t = late(sde, share)[0]
        want = data.flow(sde, x, t, jnp.asarray(T0)) / end
        np.testing.assert_allclose(f(x, t), want, rtol=2e-4, atol=2e-4)
        score = from_denoiser(sde, f)
        np.testing.assert_allclose(denoise(sde, score, x, t), want, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(f(x, jnp.asarray(T0)), x / end, rtol=1e-4, atol=1e-5)


@ALL
def test_pairs_are_neighbours_on_karras_grid(name):
    """n moves from t1 visit the grid of n intervals, and the weights are the gaps of sigma."""
    sde, n = SDES[name], 6
    grid = samplers.karras_grid(sde, n, t0=T0)
    t_next, sigma, sigma_next = pair_of(sde, grid[:-1], n, t0=T0)
    np.testing.assert_allclose(t_next, grid[1:], rtol=2e-4)
    true = sde.std(grid[1:]) / sde.mean_coeff(grid[1:])
    np.testing.assert_allclose(sigma_next, true, rtol=2e-3)
    np.testing.assert_allclose(sigma[1:], true[:-1], rtol=2e-3)
    short, *_ = pair_of(sde, grid[-2:], 1, t0=T0)
    np.testing.assert_allclose(short, [T0, T0], rtol=1e-6)
    same = gap_weighting(jnp.ones(2), jnp.asarray([1.0, 0.5]))
    np.testing.assert_array_equal(same, [0, 2])


def exact_flow(data, sde):
    """A step of the flow of a Gaussian without error."""

    def update(key, x, t, t_next):
        return StepOut(*(data.flow(sde, x, t, t_next),) * 2)

    return stateless(update, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ve", "vp", "flow"])
def test_the_exact_function_has_no_loss_and_a_solver_that_of_its_order(name):
    """With an exact step for any length of interval; with Heun's, errors h^3 fall by 64 in squares."""
    sde, data = SDES[name], random_normal(3)
    cov = np.asarray((data.basis * data.spread[None]) @ data.basis.T)
    exact = gaussian(data.mean, cov)
    f, batch = exact.consistency(sde, T0), {"x": data.sample(16)}

    def loss(n, teacher):
        objective = consistency_matching(
            intervals=n, teacher=teacher, reduction=mean_reduction, weighting=lambda a, b: 0 * a + 1
        )
        # The long intervals of the noisy end are of another order for Heun's method.
        made = training_loss(
            sde, lambda params, x, t: f(x, t), objective, noise_input=plain_time, train=False,
            parametrization=WHOLE, times=lambda u, t0, t1: jnp.clip(0.5 * t1 * u, t0, t1),
        )  # fmt: skip
        return float(made({}, jax.random.key(0), batch)[0])

    assert loss(2, lambda: exact_flow(data, sde)) < 1e-9
    heun = lambda: samplers.heun(sde, exact.score(sde))
    if name != "ve":
        assert 0 < loss(40, heun) < loss(20, heun) / 20


V, SIGMA = 0.6, 2.0  # variance of the data, and the noise level at which gradients are taken


def gradient(n, teacher):
    """The gradient of f = (a + w (sigma - t0)) x at w = 0.3, exact: four points with the moments."""
    sde = LinearVE(10.0)
    a = lambda t: jnp.sqrt((V + T0**2) / (V + jnp.square(t)))
    points = np.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    batch = {
        "x": jnp.asarray(np.sqrt(V) * points[:, :1], jnp.float32),
        "z": jnp.asarray(points[:, 1:]),
    }
    loss = training_loss(
        sde, lambda w, x, t: (a(t) + w * (t - T0))[:, None] * x,
        consistency_matching(intervals=n, teacher=teacher, reduction=mean_reduction),
        noise_input=plain_time, parametrization=WHOLE, train=False,
        times=lambda u, t0, t1: jnp.full_like(u, SIGMA),
    )  # fmt: skip
    return float(jax.grad(lambda w: loss(w, jax.random.key(0), batch)[0])(jnp.asarray(0.3)))


@pytest.mark.slow
def test_the_gradient_of_training_tends_to_that_of_distillation():
    """Its closed form at every n, and the difference falls with the length of the interval."""
    sde, zero = LinearVE(10.0), jnp.zeros(1)
    exact = gaussian(np.zeros(1), V * np.eye(1))

    def update(key, x, t, t_next):
        ratio = jnp.sqrt((V + jnp.square(t_next)) / (V + jnp.square(t)))
        return StepOut(*(ratio * x,) * 2)

    teacher = lambda: stateless(update, 1)
    gaps = []
    for n in (50, 100, 200):
        _, sigma, after = (float(v[0]) for v in pair_of(sde, zero + SIGMA, n, t0=T0))
        b = lambda s: np.sqrt((V + T0**2) / (V + s**2)) + 0.3 * (s - T0)
        # 2 w E[(f - f') df/dw], with E[x^2] = V + sigma^2 and E[x x'] = V + sigma sigma'.
        moment = b(sigma) * (V + sigma**2) - b(after) * (V + sigma * after)
        want = 2 * (SIGMA - T0) * moment / (sigma - after)
        assert gradient(n, None) == pytest.approx(want, rel=1e-3, abs=1e-3)
        gaps.append(gradient(n, teacher) - gradient(n, None))
    heun = gradient(200, lambda: samplers.heun(sde, exact.score(sde)))
    assert heun == pytest.approx(gradient(200, teacher), rel=1e-3)
    assert abs(gaps[2]) < 0.05 * abs(heun)
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.1)


MEAN, STD, KNOTS = 0.4, 0.6, 9


def linear_net(params, x, noise_input, train=False, rngs=None):
    """Linear in x, with a slope and an offset that are piecewise linear in the noise input."""
    place = jnp.clip((noise_input + 1.0) / 1.8, 0, 1) * (KNOTS - 1)
    hats = jnp.maximum(0, 1 - jnp.abs(place[:, None] - jnp.arange(KNOTS)[None]))
    slope, offset = (hats @ params[:, None, i] for i in range(2))
    return slope * x + offset


@functools.cache
def trained(name, distilled):
    """The parameters of the linear network after training on N(MEAN, STD^2), and its model."""
    sde, data = SDES[name], gaussian([MEAN], [[STD**2]])
    model = Model(sde, linear_net, LogSigmaInput(), consistency(0.5, T0))
    steps = 1_500
    teacher = (lambda: samplers.heun(sde, data.score(sde))) if distilled else None
    loss = model.loss(
        consistency_matching(
            intervals=40 if distilled else doubling_intervals(10, 160, steps=steps), teacher=teacher
        ),
        times=log_normal_times(sde, -1.1, 2.0),
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))
    step = training.make_train_step(loss, optimizer, ema_decay=0.99)
    state = training.init_state(jax.random.key(1), jnp.zeros((KNOTS, 2)), optimizer)

    def body(state, key):
        return step(state, {"x": data.sample(key, 128)})[0], None

    state, _ = jax.jit(lambda s, keys: jax.lax.scan(body, s, keys))(
        state, jax.random.split(jax.random.key(2), steps)
    )
    return model, state.ema_params, data


@pytest.mark.slow
@pytest.mark.parametrize(("name", "distilled"), [("linear_ve", False), ("vp", True)])
def test_a_linear_network_learns_the_function_and_samples_in_one_and_two_steps(name, distilled):
    model, params, data = trained(name, distilled)
    sde = model.sde
    f, exact = model.denoiser(params), data.consistency(sde, T0)
    for share in (0.05, 0.3, 0.9):
        t = late(sde, share)[0]
        m, s = sde.mean_coeff(t), sde.std(t)
        width = jnp.sqrt(m**2 * STD**2 + s**2)
        x = m * MEAN + width * jnp.asarray([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
        np.testing.assert_allclose(f(x, t), exact(x, t), atol=0.08)
    for grid in ([sde.t1, T0], [sde.t1, 0.2 * sde.t1, T0]):
        out = samplers.sample(
            jax.random.key(3), sde, model.score(params), (4_000, 1), grid=grid, progress=False,
            sampler=samplers.stepwise(samplers.consistency, final_denoising=samplers.last_mean),
            chunk=4_000, devices=jax.devices()[:1],
        )  # fmt: skip
        assert (out.nfe == len(grid) - 1).all()
        assert out.x.mean() == pytest.approx(MEAN, abs=0.07)
        assert out.x.std() == pytest.approx(STD, abs=0.05)


def test_the_number_of_intervals_doubles_with_the_step():
    n = doubling_intervals(10, 1280, steps=800)
    steps = jnp.asarray([0, 99, 100, 350, 799, 10**6])
    np.testing.assert_array_equal(n(steps), [10, 10, 20, 80, 1280, 1280])
    assert float(n(None)) == 1280
    assert float(doubling_intervals(7, 7, steps=1)(jnp.asarray([5]))[0]) == 7


def test_a_loss_is_given_the_number_of_the_step():
    def loss(params, key, batch):
        assert batch["step"].shape == batch["x"].shape[:1]
        return jnp.sum(params) * 0, {"seen": batch["step"].astype(jnp.float32).mean()}

    optimizer = optax.sgd(0.1)
    step = jax.jit(training.make_train_step(loss, optimizer, microbatches=2))
    state = training.init_state(jax.random.key(0), jnp.ones(2), optimizer)
    for number in range(3):
        state, metrics = step(state, {"x": jnp.ones((4, 2))})
        assert int(metrics["seen"]) == number


def test_teacher_and_network_are_given_the_same_and_masked_entries_do_not_count():
    seen, classes = [], []
    sde = SDES["vp"]

    def net(params, x, t, y):
        seen.append(y)
        return params * x

    def teacher(**given):
        # One example at a time.
        jax.debug.callback(lambda y: classes.append(int(y[0])), given["y"], ordered=False)
        return stateless(lambda key, x, t, t_next: StepOut(x, x), 1)

    loss = training_loss(
        sde, net, consistency_matching(teacher=teacher), noise_input=plain_time,
        parametrization=WHOLE, train=False,
    )  # fmt: skip
    batch = {"x": jnp.ones((2, 3)), "y": jnp.asarray([4, 7])}
    loss(jnp.ones(()), jax.random.key(0), batch)
    jax.effects_barrier()
    assert sorted(classes) == [4, 7]
    assert [y.tolist() for y in seen] == [[4, 7]] * 2
    squares, mask = jnp.asarray([[4.0, 9.0, 1e6]]), jnp.asarray([[True, True, False]])
    c = 0.00054 * np.sqrt(3)
    want = np.sqrt(13 + c**2) - c
    assert float(pseudo_huber_reduction()(squares, mask)[0]) == pytest.approx(want, rel=1e-6)


def run_loss(form=WHOLE, **options):
    sde = SDES["vp"]
    made = training_loss(
        sde, lambda params, x, t: x, consistency_matching(**options), noise_input=plain_time,
        parametrization=form, train=False,
    )  # fmt: skip
    return made({}, jax.random.key(0), {"x": jnp.ones((2, 3))})


two = Mixture([0.5, 0.5], [[0.0], [1.0]], np.ones((2, 1, 1)))
BAD = {
    "intervals": (lambda: consistency_matching(intervals=0), "intervals must be at least 1, got 0"),
    "rho": (lambda: consistency_matching(rho=-1.0), "rho must be > 0"),
    "teacher": (lambda: run_loss(teacher=lambda: 3), "teacher must return a Step"),
    "parametrization": (lambda: run_loss(DENOISED), "parametrization must be consistency"),
    "t0": (
        lambda: training_loss(
            VP(), lambda p, x, t: x, noise_input=plain_time, parametrization=WHOLE, t0=1e-3
        ),
        "t0 must be at least 0.02, that of denoised, got 0.001",
    ),
    "sigma_data": (lambda: consistency(0.0), "sigma_data must be > 0"),
    "first": (lambda: doubling_intervals(20, 10, steps=5), "increasing order"),
    "steps": (lambda: doubling_intervals(steps=0), "steps must be at least 1"),
    "scale": (lambda: pseudo_huber_reduction(0.0), "scale must be > 0"),
    "mixture": (lambda: two.consistency(VP(), T0), "the number of components must be 1, got 2"),
    "first time": (
        lambda: gaussian([0.0], [[1.0]]).consistency(VP(), 2.0),
        r"t0 must be in \(0, t1=1.0\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_names_of_the_parametrization():
    assert parametrization_of("consistency") is consistency()
    form = consistency(0.75, 0.01)
    assert form.name == "consistency(0.75, 0.01)" and parametrization_of(form.name) is form
    assert parametrization_of("consistency(1, 2, 3)") is None
    assert parametrization_of("consistency(-1)") is None
