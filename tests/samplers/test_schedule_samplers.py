"""Samplers on noise schedules: the authors' steps, exact reversal of Gaussians, any grid of times."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers
from score_jax.parametrization import (
    DENOISED,
    LARGE,
    LEARNED,
    LEARNED_RANGE,
    SMALL,
    IndexInput,
)
from score_jax.samplers import schedule_grid, spaced_indices
from score_jax.score import denoise, score_fn
from score_jax.sde import CosineBetas, CosineVP, LinearBetas, posterior
from score_jax.types import ScoreOut
from tests.helpers.every_step import move
from tests.helpers.iddpm import MEAN, NAMES, SPREAD, arrays, close, gaussian_net, schedule


def gaussian_score(sde, variance=LEARNED):
    """The score of the best network for N(MEAN, SPREAD^2), with its reverse variance if learned."""
    net = gaussian_net(sde, variance.learned)
    return score_fn(sde, net, None, noise_input=IndexInput(), variance=variance)


def output_score(sde, value, variance):
    """The score of a network that returns `value`, with its estimate of x0 clipped."""
    value = value if variance.learned else value[..., :3]
    net = lambda params, x, index: value
    score = score_fn(sde, net, None, noise_input=IndexInput(), variance=variance)
    return samplers.threshold(sde, score, samplers.static())


def with_their_noise(step, x, t, t_next, z):
    """One update with given noise: random numbers differ between frameworks, their scale does not."""
    key = jax.random.key(7)
    out = move(step, key, x, t, t_next)
    scale = (out.x - out.x_mean) / jax.random.normal(jax.random.clone(key), x.shape)
    return out.x_mean + scale * z


# The authors' steps.


@pytest.mark.parametrize("name", NAMES)
def test_ancestral_steps_are_the_authors(name):
    sde, g = schedule(name), arrays(name)
    kinds = {"sample": LEARNED_RANGE, "fixed_large": LARGE, "fixed_small": SMALL}
    for kind, variance in kinds.items():

        @jax.jit
        def run(x, value, t, t_next, z, variance=variance):
            score = output_score(sde, value, variance)
            step = samplers.ancestral(sde, score, variance=variance)
            return with_their_noise(step, x, t, t_next, z)

        for k, i in enumerate(g["t"]):
            x, value, z = (jnp.asarray(g[n][k : k + 1]) for n in ("x_t", "model_out", "p_sample/z"))
            got = run(x, value, *jnp.asarray([(i + 1) / 50, i / 50], jnp.float32), z)
            close(got, g[f"p_sample/{kind}"][k : k + 1], 2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_ddim_steps_are_the_authors(name):
    sde, g = schedule(name), arrays(name)
    cases = [(eta, -1, f"ddim_sample/eta={eta}") for eta in (0.0, 0.5, 1.0)]
    for eta, way, wanted in [*cases, (0.0, 1, "ddim_reverse")]:

        @jax.jit
        def run(x, value, t, t_next, z, eta=eta):
            score = output_score(sde, value, LEARNED_RANGE)
            step = samplers.ddim(sde, score, eta=eta)
            return with_their_noise(step, x, t, t_next, z), score(x, t).score

        for k, i in enumerate(g["t"]):
            x, value, z = (jnp.asarray(g[n][k : k + 1]) for n in ("x_t", "model_out", "p_sample/z"))
            t, t_next = jnp.asarray([(i + 1) / 50, (i + 1 + way) / 50], jnp.float32)
            got, score = run(x, value, t, t_next, z)
            if (
                t_next > 1
            ):  # beyond the schedule, where nothing of the data is left: the noise alone
                got = -sde.std(t) * score
            close(got, g[wanted][k : k + 1], scale=np.abs(g[wanted]).max())


# Exact reversal.


@functools.cache
def moments(variance, n=12):
    """Mean and variance of 40,000 ancestral samples in n steps with the best network."""
    sde = CosineBetas(n)
    score = gaussian_score(sde, variance)
    run = jax.jit(
        lambda key, x: samplers.simulate(
            key,
            samplers.ancestral(sde, score, variance=variance),
            x,
            schedule_grid(sde),
            final_denoising=samplers.tweedie(sde, score),
        )
    )
    out = run(jax.random.key(1), jax.random.normal(jax.random.key(0), (40_000, 1)))
    assert int(out.nfe) == n
    return float(out.x.mean()), float(out.x.var())


def test_the_right_variance_reverses_a_gaussian_exactly_in_few_steps():
    """Of Gaussian data p(x_prev | x) is Gaussian: no error but the last step's missing noise."""
    ab = CosineBetas(12).alpha_bar[0]
    want = ab * SPREAD**4 / (ab * SPREAD**2 + 1 - ab)
    mean, var = moments(LEARNED)
    assert mean == pytest.approx(MEAN, abs=0.01)
    assert var == pytest.approx(want, rel=0.02)
    # The fixed ones err to their own sides: small is for data of no width, large for white data.
    assert moments(SMALL)[1] < 0.9 * want
    assert moments(LARGE)[1] > 1.1 * want


def test_a_grid_of_few_times_is_the_respaced_sampler():
    """A step of the coarse grid is the posterior of its interval, at the learned variance in range."""
    sde = CosineBetas(60)
    indices = spaced_indices(60, "3,4")
    score = gaussian_score(sde, LEARNED_RANGE)
    grid = schedule_grid(sde, indices)
    np.testing.assert_allclose(grid, (np.array(indices)[::-1] + 1) / 60, rtol=1e-6)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    ends = [
        samplers.simulate(jax.random.key(3), step, x, grid).x
        for step in (
            samplers.ancestral(sde, score, variance=LEARNED_RANGE),
            samplers.ddim(sde, score, eta=0.5),
        )
    ]
    assert np.abs(ends[0] - ends[1]).max() > 1e-2
    out = move(
        samplers.ancestral(sde, score, variance=LEARNED_RANGE),
        jax.random.key(0),
        x,
        grid[1],
        grid[2],
    )
    x0 = denoise(sde, score, x, grid[1])
    mean, small = posterior(sde, x0, x, grid[1], grid[2])
    close(out.x_mean, np.asarray(mean), 1e-5)
    # A schedule of the coarse grid alone has the same chain: betas of its alpha_bar.
    bars = np.append(1.0, sde.alpha_bar[list(indices)])
    betas = (1 - bars[1:] / bars[:-1])[-2]
    v = score(x, grid[1]).variance
    log_variance = small + (v + 1) / 2 * (np.log(betas) - small)
    std = (out.x - out.x_mean) / jax.random.normal(jax.random.key(0), x.shape)
    close(std, np.exp(0.5 * np.asarray(log_variance)), 1e-4)


# A score like any other.


def test_the_noise_half_is_a_score_for_every_solver():
    """DDIM by the chain's own formula, written out; Tweedie gives the x0 of the noise."""
    sde = CosineBetas(100)
    score = gaussian_score(sde)
    grid = schedule_grid(sde, spaced_indices(100, 12))
    x = jax.random.normal(jax.random.key(0), (6, 3))
    run = jax.jit(
        lambda step: samplers.simulate(jax.random.key(1), step, x, grid).x, static_argnums=0
    )
    ours, theirs = x, run(samplers.ddim(sde, score))
    for i, j in zip(
        *(spaced_indices(100, 12)[k] for k in (slice(None, 0, -1), slice(-2, None, -1))),
        strict=True,
    ):
        ab, ab_next = sde.alpha_bar[i], sde.alpha_bar[j]
        noise = np.sqrt(1 - ab) * (ours - np.sqrt(ab) * MEAN) / (ab * SPREAD**2 + 1 - ab)
        x0 = (ours - np.sqrt(1 - ab) * noise) / np.sqrt(ab)
        ours = np.sqrt(ab_next) * x0 + np.sqrt(1 - ab_next) * noise
    close(theirs, np.asarray(ours), 1e-4)
    t, ab = jnp.asarray(0.4), sde.alpha_bar[39]
    out = score(x, t)
    assert isinstance(out, ScoreOut)
    np.testing.assert_allclose(
        out.score, -(x - np.sqrt(ab) * MEAN) / (ab * SPREAD**2 + 1 - ab), rtol=1e-4
    )
    noise = gaussian_net(sde)(None, x, jnp.full(6, 39))[:, :3]
    x0 = (x - np.sqrt(1 - ab) * noise) / np.sqrt(ab)
    close(denoise(sde, score, x, t), np.asarray(x0), 1e-4)
    # A second-order solver evaluates between the indices, where the noise input is the place there.
    given = []
    between = score_fn(
        sde, lambda p, x, index: given.append(index) or x, None, parametrization=DENOISED,
        noise_input=IndexInput(top=1000.0),
    )  # fmt: skip
    between(x, jnp.asarray(0.405))
    np.testing.assert_allclose(given[0], 395.0, rtol=1e-5)


def test_encoding_and_sampling_undo_each_other():
    sde = CosineBetas(400)
    score = gaussian_score(sde)
    x = MEAN + SPREAD * jax.random.normal(jax.random.key(0), (200, 1))

    @functools.partial(jax.jit, static_argnums=1)
    def there_and_back(x, n):
        grid = schedule_grid(sde, spaced_indices(400, n))
        z = samplers.ddim_encode(sde, score, x, grid).z
        return z, samplers.simulate(jax.random.key(0), samplers.ddim(sde, score), z, grid).x

    (z, fine), (_, coarse) = there_and_back(x, 201), there_and_back(x, 51)
    assert float(z.std()) == pytest.approx(1.0, rel=0.1)
    error = [float(jnp.abs(y - x).mean()) for y in (fine, coarse)]
    assert error[0] < 0.02
    assert error[1] / error[0] == pytest.approx(4, rel=0.4)  # first order


def test_a_schedule_samples_in_one_line_with_its_trajectory():
    sde = CosineBetas(8)
    sampler = samplers.stepwise(samplers.ancestral, variance=LEARNED)
    out = samplers.sample(
        jax.random.key(0), sde, gaussian_score(sde), (6, 3), sampler=sampler,
        grid=schedule_grid(sde), save_every=1, chunk=4, progress=False,
    )  # fmt: skip
    assert out.x.shape == (6, 3) and out.trajectory.shape == (7, 6, 3)
    assert (out.nfe == 8).all()
    np.testing.assert_array_equal(out.trajectory[-1], out.x)
    assert sampler == samplers.stepwise(samplers.ancestral, variance=LEARNED)


def test_nfe_is_what_the_network_saw():
    """Counted by a callback: both samplers, with and without the last step, and encoding."""
    sde, seen = CosineBetas(7), []
    net = gaussian_net(sde)

    def counted(params, x, index):
        jax.debug.callback(lambda _: seen.append(1), x)
        return net(params, x, index)

    score = score_fn(sde, counted, None, noise_input=IndexInput(), variance=LEARNED)
    grid, x = schedule_grid(sde), jnp.ones((2, 3))
    end = samplers.tweedie(sde, score)
    step = samplers.ancestral(sde, score, variance=LEARNED)
    half = samplers.ddim(sde, score, eta=0.5)
    runs = {
        "ancestral": (lambda k, x: samplers.simulate(k, step, x, grid, final_denoising=end).nfe, 7),
        "ddim": (lambda k, x: samplers.simulate(k, half, x, grid).nfe, 6),
        "ddim_encode": (lambda k, x: samplers.ddim_encode(sde, score, x, grid), 6),
    }
    for name, (run, want) in runs.items():
        seen.clear()
        out = jax.block_until_ready(jax.jit(run)(jax.random.key(0), x))
        jax.effects_barrier()
        assert len(seen) == want == int(getattr(out, "nfe", out)), name


def test_wrappers_keep_a_learned_variance():
    sde = CosineBetas(20)
    score, x, t = gaussian_score(sde), jnp.ones((3, 2)), jnp.asarray(0.5)
    for wrapped in (
        samplers.threshold(sde, score, samplers.static()),
        samplers.threshold(sde, score, samplers.dynamic(0.9)),
    ):
        out = wrapped(x, t)
        np.testing.assert_array_equal(out.variance, score(x, t).variance)
        np.testing.assert_allclose(out.score, score(x, t).score, rtol=1e-5)


@pytest.mark.parametrize("n", [200, 800])
def test_cosine_schedules_tend_to_cosine_vp(n):
    """log alpha_bar is CosineVP's wherever no beta is cut: a product of exact ratios."""
    sde = CosineVP()
    t = np.array([0.1, 0.35, 0.6, 0.9])
    index = np.rint(t * n).astype(int) - 1
    want = 2 * np.log(np.asarray(sde.mean_coeff(jnp.asarray(t, jnp.float32))))
    np.testing.assert_allclose(np.log(CosineBetas(n).alpha_bar[index]), want, rtol=2e-5)


def test_the_coefficients_at_every_index_are_the_chains():
    sde = LinearBetas(1000)
    t = jnp.asarray(sde.times, jnp.float32)
    np.testing.assert_allclose(sde.mean_coeff(t), np.sqrt(sde.alpha_bar), rtol=1e-5)
    np.testing.assert_allclose(sde.std(t), np.sqrt(1 - sde.alpha_bar), rtol=1e-4)


def test_wrong_use_is_named():
    sde, x, t = LinearBetas(100), jnp.ones((2, 3)), jnp.asarray(0.5)
    fixed = lambda x, t: -x
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got 1.5"):
        samplers.ddim(sde, fixed, eta=1.5)
    with pytest.raises(ValueError, match="must return 3 channels"):
        net = lambda p, x, index: jnp.ones((2, 5))
        score_fn(sde, net, None, noise_input=IndexInput())(x, t)
    with pytest.raises(ValueError, match="variance=learned needs a score that returns a ScoreOut"):
        move(samplers.ancestral(sde, fixed, variance=LEARNED), jax.random.key(0), x, t, t / 2)
    with pytest.raises(ValueError, match="grid must decrease"):
        samplers.ddim_encode(sde, fixed, x, [0.1, 0.5])
