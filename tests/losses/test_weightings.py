"""Weights of the loss by log-SNR, whatever is predicted; times of flows; learned uncertainty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax import losses, training
from score_jax.draws import draw_of
from score_jax.model import Model
from score_jax.parametrization import (
    DENOISED,
    NOISE,
    SCALED_SCORE,
    SCORE,
    VELOCITY,
    TimeInput,
    V,
    edm,
)
from score_jax.sde import VE, VP, RectifiedFlow

SDES = {"vp": VP(), "ve": VE(0.01, 20.0), "flow": RectifiedFlow(0.999)}
KINDS = (NOISE, SCORE, SCALED_SCORE, DENOISED, V, VELOCITY, edm(0.5))
SNR = np.array([0.04, 1.0, 25.0])
# What each weight is at these signal-to-noise ratios, for the error of the noise.
WANTED = {
    "noise": (losses.noise_weighting, [1, 1, 1]),
    "min_snr": (losses.min_snr_weighting(5.0), [1, 1, 0.2]),
    "p2": (losses.p2_weighting(), [1 / 1.04, 1 / 2, 1 / 26]),
    "p2_half": (losses.p2_weighting(0.5, 2.0), [2.04**-0.5, 3**-0.5, 27**-0.5]),
    "velocity": (losses.velocity_weighting, [36, 4, 1.44]),
    "edm": (losses.edm_weighting(0.5), [101, 5, 1.16]),
}


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_weight_means_the_same_for_every_prediction(name, kind):
    """Of a network in error by 0.3 in the noise; min-SNR clips at 5 what x0 is weighted by."""
    sde = SDES[name]
    t = sde.time_of_log_snr(jnp.asarray(np.log(SNR), jnp.float32))
    x0, z = jnp.full((3, 2), 0.4), jnp.full((3, 2), -0.7)
    mean, std = sde.marginal(x0, t)
    x = mean + std[:, None] * z
    value = kind.from_noise(sde, z + 0.3, x, t)
    sample = losses.Sample(sde, kind, None, value, x0, x, z, t)
    for weighting, want in WANTED.values():
        got = losses.dsm(weighting=weighting)(sample)[0]
        np.testing.assert_allclose(got, 0.09 * np.array(want), rtol=2e-3)


def test_min_snr_is_the_clipped_ratio_for_x0():
    weight = losses.min_snr_weighting(5.0)(VP(), VP().time_of_log_snr(jnp.log(SNR)))
    np.testing.assert_allclose(weight * SNR, np.minimum(SNR, 5.0), rtol=1e-4)


@pytest.mark.parametrize("name", SDES)
def test_sigmoid_is_a_density_of_the_log_snr(name):
    """Its mean over uniform times is the integral of sigmoid(b - lambda): a softplus at both ends."""
    sde, t0, b = SDES[name], 1e-3, -0.5
    with jax.enable_x64(True):
        t = t0 + (sde.t1 - t0) * (np.arange(200_000) + 0.5) / 200_000
        mean = jax.jit(lambda t: losses.sigmoid_weighting(b)(sde, t).mean())
        got = float(mean(t)) * (sde.t1 - t0)
        ends = (b - float(sde.log_snr(jnp.asarray(u))) for u in (sde.t1, t0))
        want = np.subtract(*(np.logaddexp(0, u) for u in ends))
    assert got == pytest.approx(want, rel=1e-3)


def test_flow_matching_is_the_error_of_the_velocity_at_every_time():
    """At t = 1 too, where the noise says nothing of the velocity."""
    t = jnp.asarray([1e-5, 0.3, 1 - 2.0**-24, 1.0])
    x0, z = jnp.full((4, 2), 0.4), jnp.full((4, 2), -0.7)
    sde = RectifiedFlow()
    x = sde.mean_coeff(t)[:, None] * x0 + t[:, None] * z
    sample = losses.Sample(sde, VELOCITY, None, z - x0 + 0.5, x0, x, z, t)
    got = losses.dsm(weighting=losses.velocity_weighting)(sample)[0]
    np.testing.assert_allclose(got[:3], 0.25, rtol=1e-4)
    assert np.isfinite(got[3])


def test_times_of_flows():
    u = (jnp.arange(4_000) + 0.5) / 4_000
    t = np.asarray(losses.logit_normal_times(0.4, 0.8)(u, 1e-5, 1.0), np.float64)
    logit = np.log(t / (1 - t))
    assert logit.mean() == pytest.approx(0.4, abs=1e-2)
    assert logit.std() == pytest.approx(0.8, abs=1e-2)
    flow = RectifiedFlow()
    plain = losses.uniform_times(u, 1e-3, 0.999)
    moved = losses.shifted_times(3.0)(u, 1e-3, 1.0)
    plain = losses.uniform_times(u, 1e-3, 1.0)
    np.testing.assert_allclose(
        flow.log_snr(moved[:-9]), flow.log_snr(plain[:-9]) - 2 * np.log(3), atol=2e-2
    )
    both = losses.shifted_times(2.0, losses.logit_normal_times())(u, 1e-5, 0.5)
    assert float(jnp.median(both)) == pytest.approx(0.5 * 2 / 3, abs=1e-3)


def test_wrong_parameters_are_named():
    for make, name in (
        (lambda: losses.min_snr_weighting(0.0), "gamma"),
        (lambda: losses.p2_weighting(k=-1.0), "k"),
        (lambda: losses.sigmoid_weighting(np.nan), "bias"),
        (lambda: losses.logit_normal_times(std=0.0), "std"),
        (lambda: losses.shifted_times(0.0), "shift"),
        (lambda: losses.Uncertainty(0), "features"),
    ):
        with pytest.raises(ValueError, match=name):
            make()
    with pytest.raises(ValueError, match="params must have a collection 'uncertainty'"):
        losses.Uncertainty()({}, VP(), jnp.ones(2))


# Learned uncertainty, on a loss that is known at every time.

UNCERTAINTY = losses.Uncertainty(64)


def known(t):
    return jnp.exp(1.0 + 2 * t)


def net(params, x, given, **kwargs):
    return x * params["params"]["scale"]


def uncertain_loss(uncertainty=UNCERTAINTY):
    objective = lambda s: (known(s.t) + 0 * s.prediction()[0][:, 0], {})
    return Model(VP(), net, TimeInput()).loss(objective, uncertainty=uncertainty)


PARAMS = {"params": {"scale": jnp.ones(())}} | UNCERTAINTY.init()
BATCH = {"x": jnp.ones((64, 2))}


def test_the_least_uncertain_loss_is_at_the_logarithm_of_the_loss():
    """At u = log l the loss is 1 + log l, and its gradient in u, 1 - l exp(-u), is 0."""
    objective = lambda s: (0 * s.t + 3.0, {})
    loss = Model(VP(), net, TimeInput()).loss(objective, uncertainty=UNCERTAINTY)
    at = lambda u: PARAMS | {"uncertainty": PARAMS["uncertainty"] | {"bias": u}}
    value = jax.jit(lambda u: loss(at(u), jax.random.key(0), BATCH))
    found, slope = jax.value_and_grad(lambda u: value(u)[0])(jnp.log(3.0))
    assert float(found) == pytest.approx(1 + np.log(3.0), rel=1e-6)
    assert float(slope) == pytest.approx(0, abs=1e-6)
    start, metrics = value(jnp.zeros(()))
    assert float(start) == float(metrics["unweighted"]) == 3.0  # it begins as the plain loss


def test_it_learns_the_loss_of_every_level_and_says_nothing_to_samples():
    optimizer, loss = optax.adam(0.05), uncertain_loss()

    @jax.jit
    def train(params):
        def step(carry, i):
            params, state = carry
            key = jax.random.fold_in(jax.random.key(1), i)
            grads = jax.grad(lambda p: loss(p, key, BATCH)[0])(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(400))[0][0]

    params = train(PARAMS)
    t = jnp.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(UNCERTAINTY(params, VP(), t), 1 + 2 * t, atol=0.15)
    score = lambda params: Model(VP(), net, TimeInput()).score(params)(BATCH["x"], 0.3)
    np.testing.assert_array_equal(score(params), score({"params": params["params"]}))


def test_it_trains_under_every_mapping():
    """One step, the same parameters: those of the weight are parameters as all others."""
    optimizer = optax.sgd(0.1)
    make = lambda axis: training.make_train_step(uncertain_loss(), optimizer, axis_name=axis)
    mapped = {
        "jit": lambda: training.jit_step(make(None)),
        "pmap": lambda: training.pmap_step(make("devices")),
        "shard_map": lambda: training.shard_map_step(make("devices")),
        "global": lambda: training.global_step(make(None)),
    }
    found = {}
    for name, wrap in mapped.items():
        step = wrap()
        start = training.init_state(jax.random.key(0), PARAMS, optimizer)
        state, metrics = step.call(step.enter(start), step.place([BATCH]))
        assert step.read(metrics)["finite"].all()
        found[name] = step.leave(state)
    for name, state in found.items():
        learned = state.params["uncertainty"]
        assert float(learned["bias"]) > 0.1, name
        for other in (learned, state.ema_params["uncertainty"]):
            assert other.keys() == {"kernel", "bias"}
        np.testing.assert_allclose(
            learned["kernel"], found["jit"].params["uncertainty"]["kernel"], rtol=1e-5, atol=1e-7
        )


def test_noise_of_the_batch_is_taken():
    seen = []
    objective = lambda s: (seen.append(s.z) or s.z[:, 0], {})
    z = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    batch = {"x": jnp.ones((2, 2)), "z": z}
    batch["draw"] = draw_of(jax.random.key(0), batch)
    losses.training_loss(
        VP(), lambda params, x, given, **kwargs: x, objective, noise_input=TimeInput()
    )(None, jax.random.key(0), batch)
    assert seen[0] is z
