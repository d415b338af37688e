"""Samplers on a table: the authors' steps, exact reversal of Gaussians, one sampler in many spellings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import discrete as d
from score_jax import samplers
from score_jax.score import DENOISED, denoise
from score_jax.sde import CosineVP, from_betas
from tests.test_discrete import NAMES, arrays, close, table

MEAN, SPREAD = 0.3, 0.5  # the Gaussian data


def gaussian_net(diffusion, variance=True):
    """The best network for N(MEAN, SPREAD^2): the noise, and the exact reverse variance."""

    def net(params, x, label):
        i = label.astype(jnp.int32)
        ab = d.read(diffusion.alpha_bar, i, x)
        noise = jnp.sqrt(1 - ab) * (x - jnp.sqrt(ab) * MEAN) / (ab * SPREAD**2 + 1 - ab)
        if not variance:
            return noise
        # Var(x_prev | x) = beta~ + c0^2 Var(x0 | x).
        left = (
            SPREAD**2
            * (1 - diffusion.alpha_bar)
            / (diffusion.alpha_bar * SPREAD**2 + 1 - diffusion.alpha_bar)
        )
        exact = diffusion.posterior_variance + diffusion.posterior_x0_coef**2 * left
        log_variance = d.read(np.log(exact), i, x) * jnp.ones_like(x)
        return jnp.concatenate([noise, log_variance], axis=-1)

    return net


# The authors' steps.


@pytest.mark.parametrize("name", NAMES)
def test_ancestral_steps_are_the_authors(name):
    diffusion, g = table(name), arrays(name)
    z = g["p_sample/z"]
    kinds = {"sample": d.LEARNED_RANGE, "fixed_large": d.FIXED_LARGE, "fixed_small": d.FIXED_SMALL}
    for kind, variance in kinds.items():

        @jax.jit
        def move(key, x, out, t, t_next, variance=variance):
            value = out if variance.learned else out[..., :3]
            reverse = d.reverse_fn(
                diffusion, lambda p, x, label: value, None,
                variance=variance, clean=samplers.static(),
            )  # fmt: skip
            return samplers.table_ancestral(diffusion, reverse).update(key, x, t, t_next, ())[0]

        for k, i in enumerate(g["t"]):
            key = jax.random.key(7)
            x, value = (jnp.asarray(g[n][k : k + 1]) for n in ("x_t", "model_out"))
            times = jnp.asarray([(i + 1) / 50, i / 50], jnp.float32)
            out = move(key, x, value, *times)
            # Random numbers differ between frameworks: the scale of ours, with their noise.
            std = (out.x - out.x_mean) / jax.random.normal(jax.random.clone(key), x.shape)
            close(out.x_mean + std * z[k : k + 1], g[f"p_sample/{kind}"][k : k + 1], 2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_ddim_steps_are_the_authors(name):
    diffusion, g = table(name), arrays(name)
    x, i, z = jnp.asarray(g["x_t"]), jnp.asarray(g["t"], jnp.int32), g["p_sample/z"]
    out = d.p_mean_var(diffusion, jnp.asarray(g["model_out"]), x, i, clean=samplers.static())
    for eta in (0.0, 0.5, 1.0):
        mean, sd = samplers.ddim_move(diffusion, out.x0, x, i, i - 1, eta=eta)
        close(mean + sd * z, g[f"ddim_sample/eta={eta}"])
    # Towards noise; the last example leaves the table, to where nothing of the data is left.
    close(samplers.ddim_move(diffusion, out.x0, x, i, i + 1)[0], g["ddim_reverse"])


# Exact reversal.


@functools.cache
def moments(variance, n=12):
    """Mean and variance of 40,000 ancestral samples in n steps with the best network."""
    diffusion = d.cosine(n)
    net = gaussian_net(diffusion, variance.learned)
    reverse = d.reverse_fn(diffusion, net, None, variance=variance)
    run = jax.jit(
        lambda key, x: samplers.simulate(
            key,
            samplers.table_ancestral(diffusion, reverse),
            x,
            samplers.table_grid(n),
            final_denoising=samplers.table_denoise(diffusion, reverse),
        )
    )
    out = run(jax.random.key(1), jax.random.normal(jax.random.key(0), (40_000, 1)))
    assert int(out.nfe) == n
    return float(out.x.mean()), float(out.x.var())


def test_the_right_variance_reverses_a_gaussian_exactly_in_few_steps():
    """Of Gaussian data p(x_prev | x) is Gaussian: no error but the last step's missing noise."""
    ab = d.cosine(12).alpha_bar[0]
    want = ab * SPREAD**4 / (ab * SPREAD**2 + 1 - ab)
    mean, var = moments(d.LEARNED)
    assert mean == pytest.approx(MEAN, abs=0.01)
    assert var == pytest.approx(want, rel=0.02)
    # The fixed ones err to their own sides: small is for data of no width, large for white data.
    assert moments(d.FIXED_SMALL)[1] < 0.9 * want
    assert moments(d.FIXED_LARGE)[1] > 1.1 * want


def test_a_grid_on_the_full_table_is_the_respaced_sampler():
    full = d.cosine(60)
    cut = d.respace(full, "3,4")
    net = gaussian_net(full)
    grid = samplers.table_grid(full.n, cut.index_map)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    got = []
    for diffusion in (full, cut):
        reverse = d.reverse_fn(diffusion, net, None, variance=d.LEARNED_RANGE)
        for make in (
            samplers.table_ancestral,
            functools.partial(samplers.table_ddim, eta=0.5),
        ):
            step = make(diffusion, reverse)
            got.append(samplers.simulate(jax.random.key(3), step, x, grid).x)
    close(got[0], np.asarray(got[2]), 1e-5)
    close(got[1], np.asarray(got[3]), 1e-5)
    assert np.abs(got[0] - got[1]).max() > 1e-2
    # And a step of the cut table is the one of its exact table.
    reverse = d.reverse_fn(cut, net, None)
    step = samplers.table_ancestral(cut, reverse).update(
        jax.random.key(0), x, grid[1], grid[2], ()
    )[0]
    i = cut.n - 2
    close(step.x_mean, np.asarray(reverse(x, jnp.array(i)).mean), 1e-5)


# A score like any other.


def test_the_noise_half_is_a_score_for_every_solver():
    """DDIM of the continuous library with it is DDIM on the table; Tweedie gives the same x0."""
    diffusion = d.cosine(100)
    sde = from_betas(diffusion.betas)
    net = gaussian_net(diffusion)
    score = samplers.table_score(diffusion, net, None)
    reverse = d.reverse_fn(diffusion, net, None, variance=d.LEARNED)
    grid = samplers.table_grid(100, samplers.even_indices(100, 12))
    x = jax.random.normal(jax.random.key(0), (6, 3))
    run = jax.jit(
        lambda step: samplers.simulate(jax.random.key(1), step, x, grid).x, static_argnums=0
    )
    ours = run(samplers.table_ddim(diffusion, reverse))
    theirs = run(samplers.ddim(sde, score))
    close(ours, np.asarray(theirs), 1e-4)
    t, i = jnp.asarray(0.4), jnp.array(39)
    ab = diffusion.alpha_bar[39]
    np.testing.assert_allclose(
        score(x, t), -(x - np.sqrt(ab) * MEAN) / (ab * SPREAD**2 + 1 - ab), rtol=1e-4
    )
    close(denoise(sde, score, x, t), np.asarray(reverse(x, i).x0), 1e-4)
    # A second-order solver, which asks between the indices, where the network is told the place.
    told = []
    between = samplers.table_score(
        diffusion, lambda p, x, label: told.append(label) or x, None, output=DENOISED, top=1000.0
    )
    between(x, jnp.asarray(0.405))
    np.testing.assert_allclose(told[0], 395.0, rtol=1e-5)


def test_encoding_and_sampling_undo_each_other():
    diffusion = d.cosine(400)
    reverse = d.reverse_fn(diffusion, gaussian_net(diffusion), None, variance=d.LEARNED)
    x = MEAN + SPREAD * jax.random.normal(jax.random.key(0), (200, 1))
    step = samplers.table_ddim(diffusion, reverse)

    @functools.partial(jax.jit, static_argnums=1)
    def there_and_back(x, n):
        grid = samplers.table_grid(400, samplers.even_indices(400, n))
        z = samplers.table_encode(diffusion, reverse, x, grid).z
        return z, samplers.simulate(jax.random.key(0), step, z, grid).x

    (z, fine), (_, coarse) = there_and_back(x, 201), there_and_back(x, 51)
    assert float(z.std()) == pytest.approx(1.0, rel=0.1)
    error = [float(jnp.abs(y - x).mean()) for y in (fine, coarse)]
    assert error[0] < 0.02
    assert error[1] / error[0] == pytest.approx(4, rel=0.4)  # first order


def test_a_table_samples_in_one_line_with_its_trajectory():
    diffusion = d.cosine(8)
    reverse = d.reverse_fn(diffusion, gaussian_net(diffusion), None, variance=d.LEARNED)
    sampler = samplers.tablewise(samplers.table_ancestral, diffusion)
    out = samplers.sample(
        jax.random.key(0), from_betas(diffusion.betas), reverse, (6, 3), sampler=sampler,
        grid=samplers.table_grid(8), save_every=1, chunk=4, progress=False,
    )  # fmt: skip
    assert out.x.shape == (6, 3) and out.trajectory.shape == (7, 6, 3)
    assert (out.nfe == 8).all()
    np.testing.assert_array_equal(out.trajectory[-1], out.x)
    assert sampler == samplers.tablewise(samplers.table_ancestral, d.cosine(8))


def test_nfe_is_what_the_network_saw():
    """Counted by a callback: both samplers with their last step, encoding, and a score's solver."""
    diffusion, seen = d.cosine(7), []
    net = gaussian_net(diffusion)

    def counted(params, x, label):
        jax.debug.callback(lambda _: seen.append(1), x)
        return net(params, x, label)

    reverse = d.reverse_fn(diffusion, counted, None, variance=d.LEARNED)
    score, sde = samplers.table_score(diffusion, counted, None), from_betas(diffusion.betas)
    grid, x = samplers.table_grid(7), jnp.ones((2, 3))
    end = samplers.table_denoise(diffusion, reverse)
    step = samplers.table_ancestral(diffusion, reverse)
    half = samplers.table_ddim(diffusion, reverse, eta=0.5)
    runs = {
        "ancestral": (lambda k, x: samplers.simulate(k, step, x, grid, final_denoising=end).nfe, 7),
        "ddim": (lambda k, x: samplers.simulate(k, half, x, grid).nfe, 6),
        "table_encode": (lambda k, x: samplers.table_encode(diffusion, reverse, x, grid), 6),
        "ddim_encode": (lambda k, x: samplers.ddim_encode(sde, score, x, grid), 6),
    }
    for name, (run, want) in runs.items():
        seen.clear()
        out = jax.block_until_ready(jax.jit(run)(jax.random.key(0), x))
        jax.effects_barrier()
        assert len(seen) == want == int(getattr(out, "nfe", out)), name


@pytest.mark.parametrize("n", [200, 800])
def test_cosine_tables_tend_to_cosine_vp(n):
    """log alpha_bar of the table is CosineVP's wherever no beta is cut: a product of exact ratios."""
    sde = CosineVP()
    t = np.array([0.1, 0.35, 0.6, 0.9])
    index = np.rint(t * n).astype(int) - 1
    want = 2 * np.log(np.asarray(sde.mean_coeff(jnp.asarray(t, jnp.float32))))
    np.testing.assert_allclose(np.log(d.cosine(n).alpha_bar[index]), want, rtol=2e-5)


def test_the_table_and_its_sde_agree_at_every_index():
    diffusion = d.linear(1000)
    sde = from_betas(diffusion.betas)
    t = jnp.asarray(diffusion.times, jnp.float32)
    np.testing.assert_allclose(sde.mean_coeff(t), np.sqrt(diffusion.alpha_bar), rtol=1e-5)
    np.testing.assert_allclose(sde.std(t), np.sqrt(1 - diffusion.alpha_bar), rtol=1e-4)


def test_wrong_use_is_named():
    diffusion, x = d.linear(100), jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got 1.5"):
        samplers.table_ddim(diffusion, lambda x, i: x, eta=1.5)
    with pytest.raises(ValueError, match="must be the table of training"):
        samplers.table_score(d.respace(diffusion, 10), lambda p, x, label: x, None)
    with pytest.raises(ValueError, match="must return 3 channels"):
        score = samplers.table_score(diffusion, lambda p, x, label: jnp.ones((2, 5)), None)
        score(x, jnp.asarray(0.5))
    with pytest.raises(ValueError, match=r"index must be in \[-1, 100\]"):
        samplers.ddim_move(diffusion, x, x, jnp.array(3), jnp.array(101))
    with pytest.raises(ValueError, match="grid must decrease"):
        samplers.table_encode(diffusion, lambda x, i: x, x, [0.1, 0.5])
