"""Methods against posteriors that are known: exact where they should be, their bias where not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import gaussian
from score_jax.inverse import (
    BlockAverage,
    Blur,
    Conditional,
    Fourier,
    Linear,
    Mask,
    Measurement,
    Nonlinear,
    dense,
    dps,
    exact_posterior,
    from_time,
    gaussian_kernel,
    measure,
    pigdm,
    posterior_sample,
    projection,
    repaint,
    replacement,
)
from score_jax.samplers import (
    ancestral,
    chain,
    dpmpp_2m,
    edm,
    heun,
    karras_grid,
    langevin,
    log_snr_grid,
    reverse_diffusion,
    simulate,
    tweedie,
    uniform_grid,
)
from score_jax.sde import VE, VP, SubVP

SDE = VP()
SDES = {"vp": SDE, "subvp": SubVP(), "ve": VE(0.01, 10.0)}
GRID = uniform_grid(SDE, 200)
SHORT = log_snr_grid(SDE, 50)
NUM = 4000

# Two numbers that know of each other: a method that does not let them is seen at once.
PAIR = gaussian(np.zeros(2), [[1.0, 0.9], [0.9, 1.0]])
FIRST = Mask([True, False])


def given(noise_std=0.0, num=NUM):
    """The first of the pair, measured as 1."""
    return Measurement(FIRST, jnp.broadcast_to(jnp.asarray([[1.0, 0.0]]), (num, 2)), noise_std)


TRUTH = exact_posterior(PAIR, given(num=1))  # mean (1, 0.9), variance (0, 0.19)
NOISY_TRUTH = exact_posterior(PAIR, given(0.3, 1))


def run(conditional, make, grid, sde=SDE, num=NUM, seed=0):
    """Draw with a method around the steps of `make`."""

    @jax.jit
    def draw(key, x):
        step = conditional.step(make(sde, conditional))
        last = tweedie(sde, conditional)
        return conditional.consistent(simulate(key, step, x, grid, final_denoising=last).x)

    x = sde.prior_sample(jax.random.key(seed), (num, 2))
    return np.asarray(draw(jax.random.key(seed + 1), x))


def test_the_posterior_of_the_pair_is_the_one_of_the_books():
    np.testing.assert_allclose(TRUTH.mean, [1, 0.9], atol=1e-12)
    np.testing.assert_allclose(TRUTH.cov, [[0, 0], [0, 0.19]], atol=1e-12)
    gain = np.array([1, 0.9]) / 1.09
    np.testing.assert_allclose(NOISY_TRUTH.mean, gain, atol=1e-12)
    want = PAIR.cov - np.outer(gain, [1, 0.9])
    np.testing.assert_allclose(NOISY_TRUTH.cov, want, atol=1e-12)


CORRECTED = lambda sde, s: chain(langevin(sde, s, snr=0.2), reverse_diffusion(sde, s))


@pytest.mark.parametrize(
    ("make", "grid"),
    [(CORRECTED, GRID), (heun, karras_grid(SDE, 30)), (dpmpp_2m, SHORT)],
    ids=["pc", "heun", "dpmpp_2m"],
)
def test_with_the_exact_score_every_sampler_reaches_the_posterior(make, grid):
    x = run(Conditional(NOISY_TRUTH.score(SDE)), make, grid)
    np.testing.assert_allclose(x.mean(axis=0), NOISY_TRUTH.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), NOISY_TRUTH.cov, atol=0.03)


WHITE = {  # measurements of data from N(1/2, tau^2 I)
    "mask": (Mask([[[True], [False]], [[False], [True]]]), (2, 2, 1)),
    "blocks": (BlockAverage(2), (2, 4, 1)),
    "blur": (Blur(gaussian_kernel(3, 0.7)), (3, 4, 1)),
    "fourier": (Fourier(np.arange(12).reshape(3, 4) % 3 == 0), (3, 4, 1)),
    "matrix": (dense([[1.0, 0.5, 0.0], [0.0, -0.3, 2.0]]), (3,)),
    "iterated": (Linear(lambda x: x[:, 1:] + x[:, :-1], (4,)), (4,)),
}


@pytest.mark.parametrize("name", WHITE)
def test_pigdm_and_projection_are_exact_for_white_data(name):
    """At every time, under every SDE: the posterior's own score."""
    operator, shape = WHITE[name]
    # Each operator with a part of the combinations; together they are all there.
    place = list(WHITE).index(name)
    noise_std, sde = (0.0, 0.4)[place % 2], list(SDES.values())[place // 2]
    tau, n = 0.7, int(np.prod(shape))
    data = gaussian(np.full(shape, 0.5), tau**2 * np.eye(n))
    y = measure(jax.random.key(1), operator, data.sample(jax.random.key(0), 1), noise_std=noise_std)
    truth = exact_posterior(data, y)
    x = jax.random.normal(jax.random.key(2), (3, *shape))
    y = Measurement(operator, jnp.repeat(y.y, 3, axis=0), noise_std)
    t = jnp.asarray([0.05, 0.4, 0.9])
    want = np.asarray(jax.jit(truth.score(sde))(x, t))
    size = abs(want).reshape(3, -1).max(axis=1).reshape((3,) + (1,) * len(shape))
    for method in (pigdm, projection):
        score = method(sde, data.score(sde), y, data_std=tau)
        found, one = jax.device_get(jax.jit(lambda x, t, f=score: (f(x, t), f(x, t[1])))(x, t))
        np.testing.assert_allclose(found / size, want / size, atol=2e-3)
        np.testing.assert_allclose(one[1] / size[1], want[1] / size[1], atol=2e-3)


def errors(x, truth):
    """Largest errors of mean and covariance."""
    return abs(x.mean(axis=0) - truth.mean).max(), abs(np.cov(x.T) - truth.cov).max()


SCORE = PAIR.score(SDE)
# Method, steps, grid, noise_std, bounds of the errors of mean and covariance. Seen: docs/guidance.md.
METHODS = {
    "pigdm_noisy": (pigdm, reverse_diffusion, GRID, 0.3, 0.09, 0.06),
    "corrected": (
        functools.partial(replacement, corrections=5, snr=0.3), reverse_diffusion, GRID, 0.0, 0.07, 0.05,
    ),
    "corrected_noisy": (
        functools.partial(replacement, corrections=5, snr=0.3), reverse_diffusion, GRID, 0.3, 0.04, 0.04,
    ),
    "repaint": (functools.partial(repaint, resamplings=10), ancestral, SHORT, 0.0, 0.07, 0.05),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_methods_reach_the_posterior_within_bounds(name):
    method, make, grid, noise_std, mean_bound, cov_bound = METHODS[name]
    truth = NOISY_TRUTH if noise_std else TRUTH
    mean, cov = errors(run(method(SDE, SCORE, given(noise_std)), make, grid), truth)
    assert mean < mean_bound and cov < cov_bound


@pytest.mark.slow
def test_the_bias_of_the_others_is_what_it_is():
    """Replacement alone underestimates the measurement; DPS trades its mean for its spread."""
    x = run(replacement(SDE, SCORE, given()), reverse_diffusion, GRID)
    assert 0.55 < x[:, 1].mean() < 0.75 and 0.48 < x[:, 1].std() < 0.65
    # The truth: mean 0.9 and std 0.436.
    x = run(dps(SDE, SCORE, given(), scale=0.1), ancestral, GRID)
    assert x[:, 1].mean() > 0.94 and x[:, 1].std() < 0.41
    x = run(dps(SDE, SCORE, given(), scale=0.005), ancestral, GRID)
    assert x[:, 1].mean() < 0.4 and x[:, 1].std() > 0.8


def test_costs_are_told():
    step = reverse_diffusion(SDE, SCORE)
    assert replacement(SDE, SCORE, given()).step(step).nfe == 1
    assert replacement(SDE, SCORE, given(), corrections=2).step(step).nfe == 3
    assert dps(SDE, SCORE, given()).step(step).nfe == 2
    assert repaint(SDE, SCORE, given(), resamplings=5, jump=4).step(step).nfe == 20


def test_repaint_takes_steps_whose_state_is_that_of_the_grid():
    """EDM keeps its churn per step, which is that of the times that RePaint visits."""
    conditional = repaint(SDE, SCORE, given(num=1), resamplings=2, jump=3)
    churned, grid = edm(SDE, SCORE, churn=0.9, s_noise=1e-6), jnp.asarray([1.0, 0.5, 0.1])
    step = conditional.step(churned)
    x = jnp.ones((1, 2))
    state = step.init(x, grid)
    assert float(state) == pytest.approx(0.9 / 7)
    _, after = step.update(jax.random.key(0), x, grid[0], grid[1], state)
    assert float(after) == float(state)


SQUARE = Measurement(Nonlinear(jnp.square, (2,)), jnp.ones((1, 2)))
SUMS = Measurement(Linear(lambda x: x[:, :1] + x[:, 1:], (2,)), jnp.ones((1, 1)), 0.1)


def drawn(**kwargs):
    return lambda: posterior_sample(jax.random.key(0), SDE, SCORE, given(num=3), **kwargs)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: pigdm(SDE, SCORE, SQUARE), "needs a linear operator, got Nonlinear"),
        (lambda: pigdm(SDE, SCORE, given(), data_std=0.0), "data_std must be"),
        (lambda: pigdm(SDE, SCORE, given(), data_std=[1.0, -1.0]), "data_std must be"),
        (lambda: pigdm(SDE, SCORE, given(), limit=0.0), "limit must be"),
        (lambda: dps(SDE, SCORE, given(), scale=-1.0), "scale must be"),
        (lambda: dps(SDE, SCORE, None), "measurement must be a Measurement"),
        (lambda: replacement(SDE, SCORE, SUMS), "no known singular vectors"),
        (lambda: replacement(SDE, SCORE, given(), strength=0.0), "strength must be"),
        (lambda: replacement(SDE, SCORE, given(), corrections=-1), "corrections must be"),
        (lambda: repaint(SDE, SCORE, given(), jump=0), "jump must be"),
        (lambda: repaint(SDE, SCORE, given(0.1)), "repaint is for noise_std 0"),
        (lambda: run(repaint(SDE, SCORE, given()), dpmpp_2m, GRID), "a state that changes"),
        (lambda: exact_posterior(PAIR, given(num=2)), "y must be of one example"),
        (drawn(grid=GRID, num=2), "one entry, or one for each of the num=2"),
        (drawn(grid=[0.1, 0.5]), "grid must decrease"),
        (drawn(grid=GRID, start=np.zeros((3, 4))), "start must have examples of shape"),
        (drawn(grid=GRID, start=np.zeros((3, 2), int)), "start must be floating"),
        (lambda: from_time(GRID, 2.0), "t must be in"),
    ],
)  # fmt: skip
def test_wrong_use_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
