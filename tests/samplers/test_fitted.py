"""Grids fitted to a score: costs that are true errors, paths of least cost, fewer errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VP
from tests.helpers.closed_form import isotropic
from tests.samplers.test_fewstep import flow, rms

SDE, MEAN, STD, T0 = VP(), 0.7, 0.3, 0.01


@pytest.fixture(scope="module")
def costs():
    """Of a Gaussian, whose flow is known, on 32 fine steps."""
    grid = sm.log_snr_grid(SDE, 32, t0=T0)
    score = isotropic(SDE, MEAN, STD)
    return sm.step_costs(
        jax.random.key(0), SDE, score, (32, 3), grid=grid, chunk=32, progress=False
    )


@pytest.mark.slow
def test_costs_are_the_errors_of_single_steps(costs):
    """A step of DDIM, and one of 2M after another, from the exact flow, in units of the state."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(32))
    z = jax.vmap(lambda key: SDE.prior_sample(jax.random.split(key)[0], (1, 3))[0])(keys)
    score, t = isotropic(SDE, MEAN, STD), [jnp.float32(v) for v in costs.times]
    at = lambda i: flow(SDE, z, t[0], t[i], STD)
    size = lambda i: float(jnp.hypot(SDE.mean_coeff(t[i]), SDE.std(t[i])))
    key, step = jax.random.key(1), sm.dpmpp_2m(SDE, score)
    for k, i, j in ((6, 12, 18), (0, 4, 10), (18, 24, 32)):
        state = step.init(z, jnp.stack([t[k], t[i], t[j]]))
        out, _ = step.update(key, at(i), t[i], t[j], state)
        assert costs.first[i, j] == pytest.approx(rms(out.x, at(j)) / size(j), rel=0.05)
        _, state = step.update(key, at(k), t[k], t[i], state)
        out, _ = step.update(key, at(i), t[i], t[j], state)
        assert costs.second[k, i, j] == pytest.approx(rms(out.x, at(j)) / size(j), rel=0.05)
    assert np.isinf(costs.first[5, 5]) and np.isinf(costs.second[5, 4, 8])


@pytest.mark.parametrize("order", [1, 2])
def test_the_path_is_the_cheapest_of_all(order):
    """Against all grids of four steps over eight times, with costs at random."""
    n = 8
    rng = np.random.default_rng(0)
    later = np.triu(np.ones((n, n)), 1) > 0
    first = np.where(later, rng.uniform(size=(n, n)), np.inf)
    second = np.where(later[:, :, None] & later[None], rng.uniform(size=(n, n, n)), np.inf)
    times = np.linspace(1, 0.1, n)

    def cost(path):
        pairs = list(itertools.pairwise(path))
        if order == 1:
            return sum(first[p] for p in pairs)
        return first[pairs[0]] + sum(
            second[k, i, j] for (k, i), (_, j) in itertools.pairwise(pairs)
        )

    paths = [(0, *p, n - 1) for p in itertools.combinations(range(1, n - 1), 3)]
    best = min(paths, key=cost)
    found = sm.fitted_grid(sm.StepCosts(times, first, second), 4, order=order)
    np.testing.assert_allclose(found, times[list(best)], rtol=1e-6)


@pytest.mark.slow
def test_a_fitted_grid_has_smaller_errors():
    """On two modes, against the flow from the same latents; and of labels, which leave one mode each."""

    def score(x, t):
        m, v = SDE.mean_coeff(t), jnp.square(SDE.mean_coeff(t) * 0.4) + jnp.square(SDE.std(t))
        return (m * jnp.tanh(m * x / v) - x) / v

    def labelled(y):
        mean = 1 - 2.0 * y[:, None]
        return lambda x, t: isotropic(SDE, mean, 0.4)(x, t)

    options = {"chunk": 128, "progress": False}
    key, shape, grid = jax.random.key(0), (128, 2), sm.log_snr_grid(SDE, 40, t0=T0)
    fit = sm.step_costs(jax.random.key(1), SDE, score, shape, grid=grid, **options)
    y = np.arange(128) % 2
    one = sm.step_costs(jax.random.key(1), SDE, labelled, shape, grid=grid, y=y, **options)
    # Half way between noise and data the mode is open, unless a label says which it is.
    assert one.first[15, 22] < 0.8 * fit.first[15, 22]
    end = {"final_denoising": sm.as_it_is}
    draw = lambda make, grid: (
        sm.sample(key, SDE, score, shape, sampler=sm.stepwise(make, **end), grid=grid, **options).x
    )
    exact = draw(sm.dpmpp_2m, sm.log_snr_grid(SDE, 400, t0=T0))
    for make, n, order in ((sm.ddim, 8, 1), (sm.dpmpp_2m, 12, 2)):
        grids = sm.log_snr_grid(SDE, n, t0=T0), sm.fitted_grid(fit, n, order=order)
        errors = [rms(draw(make, grid), exact) for grid in grids]
        assert errors[1] < 0.75 * errors[0], (make, errors)


TIMES = np.linspace(1, 0.1, 4)
COSTS = sm.StepCosts(TIMES, np.ones((4, 4)), np.ones((4, 4, 4)))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sm.fitted_grid(COSTS, 4), "n must be at most 3, the steps of the fine grid, got 4"),
        (lambda: sm.fitted_grid(COSTS, 0), "n must be at least 1, got 0"),
        (lambda: sm.fitted_grid(COSTS, 2, order=3), "order must be 1 or 2, got 3"),
        (
            lambda: sm.step_costs(
                jax.random.key(0), SDE, isotropic(SDE, 0.0, 1.0), (2, 2), grid=[1.0, 0.5]
            ),
            "grid must be at least three times, got 2",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
