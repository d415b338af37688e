"""Posterior samples in one call, what comes out exactly, and the old bug of noise that stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.analytic import gaussian
from score_jax.inverse import (
    BlockAverage,
    Blur,
    Mask,
    Measurement,
    dps,
    from_time,
    gaussian_kernel,
    grayscale,
    measure,
    pigdm,
    posterior_sample,
    projection,
    replacement,
)
from score_jax.samplers import (
    ancestral,
    ddim,
    dpmpp_2m,
    flow,
    log_snr_grid,
    simulate,
    tweedie,
    uniform_grid,
)
from score_jax.sde import VE
from tests.inverse.test_inverse import FIRST, GRID, SCORE, SDE, SHORT, given


def test_denoising_leaves_no_noise_in_what_was_not_known():
    """Data that are a constant: whatever differs from it at the end is noise (the old bug)."""
    sde, value = VE(0.01, 10.0), 0.5
    score = lambda x, t: -(x - value) / sde.std(t) ** 2
    y = Measurement(FIRST, jnp.full((500, 2), value))
    grid = uniform_grid(sde, 50, t0=0.3)
    left = float(sde.std(0.3))  # 0.08
    last = tweedie(sde, score)
    step = replacement(sde, score, y).step(ancestral(sde, score))
    x = sde.prior_sample(jax.random.key(0), (500, 2))
    noisy = simulate(jax.random.key(1), step, x, grid)
    clean = simulate(jax.random.key(1), step, x, grid, final_denoising=last)
    # Both, at the level after the step.
    np.testing.assert_allclose(noisy.x.std(axis=0), left, rtol=0.15)
    np.testing.assert_allclose(clean.x, value, atol=1e-5)
    # The mean of the last step: the known part without noise, the unknown as the step itself has it.
    np.testing.assert_allclose(noisy.x_mean[:, 0], value, atol=1e-6)
    t, t_next = jnp.asarray(0.5), jnp.asarray(0.4)
    x = value + sde.std(t) * jax.random.normal(jax.random.key(4), (500, 2))
    wrapped = step.update(jax.random.key(3), x, t, t_next, step.init(x, grid))[0]
    bare, _ = ancestral(sde, score).update(
        jax.random.split(jax.random.key(3), 3)[0], x, t, t_next, ()
    )
    np.testing.assert_array_equal(wrapped.x_mean[:, 1], bare.x_mean[:, 1])
    np.testing.assert_array_equal(wrapped.x[:, 1], bare.x[:, 1])
    assert float(jnp.abs(wrapped.x[:, 1] - wrapped.x_mean[:, 1]).mean()) > 0.01
    assert float(wrapped.x[:, 0].std()) == pytest.approx(float(sde.std(t_next)), rel=0.1)


def test_kept_noise_follows_the_flow():
    """Without fresh noise the known part goes down the very path of the probability flow."""
    y = given(num=50)
    x = SDE.prior_sample(jax.random.key(0), (50, 2))
    step = replacement(SDE, SCORE, y, fresh=False).step(ddim(SDE, SCORE))
    out = simulate(jax.random.key(1), step, x, SHORT, save_every=10)
    times = np.asarray(SHORT)[10::10]
    z = (x[:, 0] - SDE.mean_coeff(1.0)) / SDE.std(1.0)
    for t, state in zip(map(float, times), out.trajectory, strict=True):
        want = SDE.mean_coeff(t) + SDE.std(t) * z
        np.testing.assert_allclose(state[:, 0], want, atol=1e-5)


# A colour image of one row: channels and neighbours that know of each other.
def colours():
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(12, 12)) / np.sqrt(12)
    return gaussian(rng.normal(size=(2, 2, 3)) * 0.3, 0.5 * mix @ mix.T + 0.05 * np.eye(12))


COLOURS = colours()


TASKS = {
    "inpaint": (Mask(np.indices((2, 2, 3))[1] == 0), (pigdm, projection, dps, replacement)),
    "colorize": (grayscale(3), (replacement,)),
    "superres": (BlockAverage(2), (projection,)),
    "deblur": (Blur(gaussian_kernel(2, 0.6)), (pigdm,)),
}


@pytest.mark.parametrize("task", TASKS)
def test_what_was_measured_without_noise_comes_out(task):
    operator, methods = TASKS[task]
    x0 = COLOURS.sample(jax.random.key(7), 3)
    y = measure(jax.random.key(0), operator, x0)
    score = COLOURS.score(SDE)
    grid = log_snr_grid(SDE, 8)
    for method in methods:
        out = posterior_sample(
            jax.random.key(1), SDE, score, y, method, grid=grid, sampler=ddim, progress=False
        )
        measured = np.asarray(operator.forward(jnp.asarray(out.x)))
        np.testing.assert_allclose(measured, y.y, atol=2e-5, err_msg=method.__name__)
        if task == "inpaint":
            known = np.broadcast_to(operator.mask, x0.shape)
            np.testing.assert_array_equal(out.x[known], np.asarray(x0)[known])


def test_one_call_draws_the_same_whatever_the_chunk():
    y = given(0.3, 1)
    call = functools.partial(
        posterior_sample,
        jax.random.key(0),
        SDE,
        SCORE,
        grid=SHORT,
        sampler=dpmpp_2m,
        progress=False,
    )
    many = call(y, num=7, chunk=4)
    np.testing.assert_allclose(call(y, num=3, chunk=2).x, many.x[:3], atol=1e-5)
    each = call(Measurement(FIRST, np.repeat(np.float32([[1.0, 0.0]]), 7, axis=0), 0.3), chunk=4)
    np.testing.assert_allclose(each.x, many.x, atol=1e-5)
    assert set(many.nfe) == {51}
    assert many.x[:, 0].mean() == pytest.approx(0.9, abs=0.3)


def test_the_adaptive_solver_takes_the_methods_that_are_scores():
    out = posterior_sample(
        jax.random.key(0), SDE, SCORE, given(0.3, 1), projection, grid=[1.0, 1e-3],
        sampler=flow(rtol=1e-3, atol=1e-3), num=4, progress=False,
    )  # fmt: skip
    assert np.isfinite(out.x).all()
    with pytest.raises(ValueError, match="acts on the steps"):
        posterior_sample(
            jax.random.key(0), SDE, SCORE, given(num=1), replacement, grid=[1.0, 1e-3],
            sampler=flow(), num=4,
        )  # fmt: skip


def test_labels_and_a_start_go_with_the_measurement():
    """The score of a class, from data noised to the middle."""

    def maker(y):
        means = jnp.asarray([[-2.0, 0.0], [2.0, 0.0]])[y]
        m_s = lambda t: (SDE.mean_coeff(t), SDE.std(t))
        return lambda x, t: -(x - m_s(t)[0] * means) / (0.01 * m_s(t)[0] ** 2 + m_s(t)[1] ** 2)

    labels = np.array([0, 1, 1, 0, 1])
    second = Measurement(Mask([False, True]), jnp.zeros((5, 2)) + 0.05)
    out = posterior_sample(
        jax.random.key(0), SDE, maker, second, projection, grid=from_time(GRID, 0.6), y=labels,
        start=np.zeros((1, 2), np.float32), num=5, chunk=2, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(out.x[:, 0] > 0, labels == 1)
    np.testing.assert_array_equal(out.x[:, 1], np.float32(0.05))
