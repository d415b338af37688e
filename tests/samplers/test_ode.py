"""The probability flow by diffrax: its coordinates, norms, adjoints, and the way itself."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.samplers.ode import solve_forward
from score_jax.sde import VE, VP, SubVP
from tests.helpers.closed_form import isotropic

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 10.0)}
MEAN, STD = 0.8, 0.5


def law(sde, t, mean=MEAN):
    """Mean and standard deviation of N(mean, STD^2) carried to t."""
    m, s = sde.mean_coeff(t), sde.std(t)
    return mean * m, jnp.sqrt((STD * m) ** 2 + s**2)


@functools.partial(jax.jit, static_argnums=0)
def exact_flow(sde, x, t_from, t_to, mean=MEAN):
    """The flow of a Gaussian: x stays the quantile that it is."""
    (mean_from, std_from), (mean_to, std_to) = law(sde, t_from, mean), law(sde, t_to, mean)
    return mean_to + std_to * (x - mean_from) / std_from


@pytest.mark.slow
def test_all_coordinates_solve_the_same_flow_and_count_their_evaluations(x64):
    for sde in SDES.values():
        calls = []

        def score(x, t, sde=sde, calls=calls):
            jax.debug.callback(lambda _: calls.append(1), t)
            return isotropic(sde, MEAN, STD)(x, t)

        z = sde.prior_std * jnp.linspace(-2.0, 2.0, 5)[:, None]
        for coordinate in (sm.IN_TIME, sm.IN_LOG_NOISE, sm.IN_ANGLE):
            calls.clear()
            out = jax.jit(
                lambda z, sde=sde, score=score, c=coordinate: sm.probability_flow(
                    sde, score, z, t_from=1.0, t_to=1e-2, coordinate=c, rtol=1e-8, atol=1e-8
                )
            )(z)
            jax.block_until_ready(out)
            jax.effects_barrier()
            np.testing.assert_allclose(out.x, exact_flow(sde, z, 1.0, 1e-2), rtol=1e-6, atol=1e-6)
            assert len(calls) == int(out.nfe)


@pytest.mark.slow
def test_for_ve_the_coordinates_coincide():
    """Geometric VE: log sigma is linear in t, so that the same steps are taken."""
    sde = SDES["ve"]
    z = 10 * jnp.linspace(-2.0, 2.0, 5)[:, None]
    outs = [
        sm.probability_flow(sde, isotropic(sde, MEAN, STD), z, t_from=1.0, t_to=1e-2, coordinate=c)
        for c in (sm.IN_TIME, sm.IN_LOG_NOISE)
    ]
    assert int(outs[0].accepted) == int(outs[1].accepted)
    np.testing.assert_allclose(outs[0].x, outs[1].x, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_worst_sample_norm_is_stricter_for_the_one_that_is_hard():
    """A lone sample far from equilibrium hides in a batch of easy ones."""

    def field(t, y):
        return jnp.sin(20 * t) * jnp.where(jnp.arange(64)[:, None] == 0, 10.0, 0.01)

    start = jnp.zeros((64, 1))
    exact = 10 * (1 - np.cos(20.0)) / 20
    worst = {}
    for norm in (sm.batch_rms, sm.worst_sample):
        y, nfe, _, _ = solve_forward(field, start, 0.0, 1.0, rtol=1e-4, atol=1e-4, norm=norm)
        worst[norm] = abs(float(y[0, 0]) - exact), int(nfe)
    (loose, few), (strict, many) = worst[sm.batch_rms], worst[sm.worst_sample]
    assert many > few and strict < loose
    tree = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array([4.0, 0.0])}
    assert float(sm.batch_rms(tree)) == pytest.approx(2.5)
    assert float(sm.worst_sample(jnp.array([[1.0, 1.0], [3.0, 4.0]]))) == pytest.approx(12.5**0.5)


@pytest.mark.slow
@pytest.mark.parametrize("coordinate", [sm.IN_TIME, sm.IN_LOG_NOISE])
def test_gradients_of_latent_parameter_and_times(coordinate, x64):
    sde, z = VP(), jnp.array([[0.3], [-1.2]])
    options = {"coordinate": coordinate, "rtol": 1e-8, "atol": 1e-8, "max_steps": 256}

    def end(z, mean, t_from, t_to, **more):
        score = isotropic(sde, mean, STD)
        return sm.probability_flow(
            sde, score, z, t_from=t_from, t_to=t_to, **options, **more
        ).x.sum()

    truth = lambda z, mean, t_from, t_to: exact_flow(sde, z, t_from, t_to, mean).sum()
    at = (z, jnp.asarray(MEAN), jnp.asarray(0.9), jnp.asarray(0.1))
    exact = jax.jit(jax.grad(truth, argnums=(0, 1, 2, 3)))(*at)
    got = jax.jit(jax.grad(end, argnums=(0, 1, 2, 3)))(*at)
    for a, b in zip(got, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    forward = lambda mean: end(at[0], mean, *at[2:], adjoint=diffrax.ForwardMode())
    np.testing.assert_allclose(jax.jit(jax.jacfwd(forward))(at[1]), exact[1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("coordinate", [sm.IN_TIME, sm.IN_LOG_NOISE])
def test_the_path_knows_the_state_at_every_time(coordinate, x64):
    sde = VP()
    x = jnp.linspace(-1.0, 2.0, 4)[:, None]
    path = jax.jit(
        lambda x: sm.probability_path(
            sde, isotropic(sde, MEAN, STD), x, t_from=1e-2, t_to=1.0, coordinate=coordinate,
            rtol=1e-7, atol=1e-7,
        )
    )(x)  # fmt: skip
    ts = jnp.array([1e-2, 0.05, 0.3, 0.77, 1.0])
    states = jax.jit(jax.vmap(path.at))(ts)
    for t, state in zip(ts, states, strict=True):
        np.testing.assert_allclose(state, exact_flow(sde, x, 1e-2, t), atol=2e-5)
    np.testing.assert_allclose(states[-1], path.x, rtol=1e-12)
    assert int(path.nfe) > 10


def test_bad_options_are_named():
    sde, x = VP(), jnp.ones((2, 3))
    score = isotropic(sde, MEAN, STD)
    flow = lambda **options: sm.probability_flow(
        sde, score, x, **{"t_from": 1.0, "t_to": 0.1, **options}
    )
    with pytest.raises(ValueError, match="norm must be None where a controller is given"):
        flow(norm=sm.batch_rms, controller=diffrax.ConstantStepSize(), dt0=0.1)
    with pytest.raises(ValueError, match=r"t_to .* std > 0"):
        flow(t_to=0.0, coordinate=sm.IN_LOG_NOISE)
    with pytest.raises(ValueError, match="t_to must be in"):
        flow(t_to=-0.1)
    with pytest.raises(ValueError, match="atol must be > 0"):
        sm.probability_path(sde, score, x, t_from=1.0, t_to=0.1, atol=0.0)
