"""Losses against values known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import losses
from score_jax.draws import Draw, draw_of
from score_jax.losses.times import unit_numbers
from score_jax.parametrization import DENOISED, NOISE, SCORE, StdInput, TimeInput
from score_jax.sde import VE, VP, SubVP
from tests.helpers.port import load

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(0.01, 5.0)}


def zero_net(params, x, given, **kwargs):
    return jnp.zeros_like(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_zero_noise_prediction_costs_one(name):
    """E||z||^2 = 1 per entry, or d/2 as a half sum, with noise weighting."""
    x = jnp.zeros((512, 4, 4, 2))
    run = lambda loss: float(jax.jit(loss)(None, jax.random.key(0), {"x": x})[0])
    mean = losses.dsm_loss(SDES[name], zero_net, noise_input=TimeInput())
    half = losses.dsm_loss(
        SDES[name], zero_net, noise_input=TimeInput(), reduction=losses.half_sum_reduction
    )
    assert run(mean) == pytest.approx(1.0, abs=0.03)
    assert run(half) == pytest.approx(16.0, abs=0.5)


@pytest.mark.parametrize("name", SDES)
def test_best_denoiser_reaches_the_known_minimum(name):
    """Data N(0, c^2): the least loss at t is E||z - E[z|x]||^2 = m^2 c^2 / (m^2 c^2 + s^2)."""
    sde, c2 = SDES[name], 0.5
    t = jnp.full((4096,), 0.3)
    x0 = jnp.sqrt(c2) * jax.random.normal(jax.random.key(1), (4096, 8))
    z = jax.random.normal(jax.random.key(2), x0.shape)
    m, s = float(sde.mean_coeff(0.3)), float(sde.std(0.3))
    v = m * m * c2 + s * s
    best = {
        NOISE: lambda p, x, given: s / v * x,
        SCORE: lambda p, x, given: -x / v,
        DENOISED: lambda p, x, given: m * c2 / v * x,
    }

    @jax.jit
    def all_of(x0, z):
        options = {"noise_input": TimeInput()}
        return [
            losses.dsm_per_example(sde, net, None, x0, t, z, parametrization=kind, **options).mean()
            for kind, net in best.items()
        ]

    for got in all_of(x0, z):
        assert float(got) == pytest.approx(m * m * c2 / v, rel=0.03)


@pytest.mark.parametrize("name", SDES)
def test_likelihood_weighting_is_g_squared(name):
    """A zero network's likelihood-weighted loss at t is g^2/s^2 times the noise-weighted one."""
    sde = SDES[name]
    t = jnp.array([0.1, 0.5, 0.9])
    x0, z = jnp.ones((3, 5)), jnp.ones((3, 5))

    @jax.jit
    def both(x0, z, t):
        loss = losses.dsm_per_example(
            sde, zero_net, None, x0, t, z,
            noise_input=TimeInput(), weighting=losses.likelihood_weighting,
        )  # fmt: skip
        return loss, sde.diffusion(t) ** 2 / sde.std(t) ** 2

    np.testing.assert_allclose(*both(x0, z, t), rtol=1e-5)


@pytest.mark.parametrize("stratified", [False, True])
def test_times_are_uniform_and_stratified_ones_cover_every_bin(stratified):
    def draw(key):
        u = unit_numbers(key, draw_of(key, {"x": jnp.zeros(64)}), stratified=stratified)
        return losses.uniform_times(u, 0.1, 0.9)

    t = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 200)))
    assert t.min() >= 0.1 and t.max() <= 0.9
    assert t.mean() == pytest.approx(0.5, abs=0.01)
    assert t.var() == pytest.approx(0.8**2 / 12, rel=0.05)
    # Every place in the batch is uniform on its own, so no example is tied to a time.
    np.testing.assert_allclose(t.mean(0), 0.5, atol=0.1)
    if stratified:
        bins = np.sort(((t - 0.1) / 0.8 * 64).astype(int), axis=1)
        assert (np.abs(bins - np.arange(64)) <= 1).all()
        assert t.mean(1).std() < 0.01
    else:
        assert t.mean(1).std() == pytest.approx(0.8 / np.sqrt(12 * 64), rel=0.3)


@pytest.mark.parametrize("stratified", [False, True])
def test_a_divided_batch_draws_what_the_whole_one_does(stratified):
    """Parts of a batch with their leaves of the draw: the same losses, in whichever order."""
    seen = []

    def objective(sample):
        seen.append(losses.dsm()(sample)[0])
        return seen[-1], {}

    loss = losses.training_loss(
        VP(), zero_net, objective, noise_input=TimeInput(), stratified=stratified
    )
    key = jax.random.key(3)
    batch = {"x": jnp.ones((8, 3))}
    batch["draw"] = draw_of(key, batch)
    for rows in (np.arange(8), np.arange(4), np.arange(1, 8, 2)):
        loss(None, key, {"x": batch["x"][rows], "draw": Draw(*(v[rows] for v in batch["draw"]))})
        np.testing.assert_allclose(seen[-1], seen[0][rows], rtol=1e-6)


@pytest.mark.slow
def test_labels_and_dropout_keys_reach_the_network():
    seen = {}

    def net(params, x, given, y=None, *, train=False, rngs=None):
        seen.update(y=y, train=train, rngs=rngs, given=given)
        return x * params

    batch = {"x": jnp.ones((2, 3)), "y": jnp.array([1, 2])}
    loss = losses.dsm_loss(VP(), net, noise_input=TimeInput())
    value, metrics = loss(jnp.float32(0.1), jax.random.key(0), batch)
    assert seen["train"] and "dropout" in seen["rngs"] and seen["y"] is batch["y"]
    assert metrics["loss"] == value
    losses.dsm_loss(VP(), net, noise_input=TimeInput(), train=False)(
        jnp.float32(0.1), jax.random.key(0), batch
    )
    grad = jax.grad(lambda p: loss(p, jax.random.key(0), batch)[0])(jnp.float32(0.1))
    assert jnp.isfinite(grad)


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match='"index"] needs an sde with timesteps'):
        losses.dsm_loss(VP(), zero_net, noise_input=TimeInput())(
            None, jax.random.key(0), {"x": jnp.zeros((2, 3)), "index": jnp.zeros(2, jnp.int32)}
        )
    with pytest.raises(ValueError, match="values must be a list of times"):
        losses.timesteps(0.5)
    with pytest.raises(ValueError, match="t0 must be in"):
        losses.dsm_loss(VP(), zero_net, noise_input=TimeInput(), t0=1.5)
    loss = losses.dsm_loss(VP(), zero_net, noise_input=TimeInput())
    with pytest.raises(ValueError, match="uint8"):
        loss(None, jax.random.key(0), {"x": jnp.zeros((2, 3), jnp.uint8)})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["vp_ddpmpp_continuous", "subvp_ddpmpp_continuous", "ve_ncsnpp_continuous"]
)
def test_parity_with_the_authors_losses(name):
    """Their four losses, for their weights, times and noise."""
    net, params, a = load(name)
    sde = {"vp": VP(), "su": SubVP(), "ve": VE()}[name[:2]]
    given, kind = (StdInput(), SCORE) if name.startswith("ve") else (TimeInput(), NOISE)
    x0, t, z = (jnp.asarray(a[f"loss/{k}"]) for k in ("x0", "t", "z"))
    predict = jax.jit(net.apply)
    for mean in (True, False):
        for likelihood in (True, False):
            got = losses.dsm_per_example(
                sde, predict, params, x0, t, z,
                noise_input=given,
                parametrization=kind,
                reduction=losses.mean_reduction if mean else losses.half_sum_reduction,
                weighting=losses.likelihood_weighting if likelihood else losses.noise_weighting,
            ).mean()  # fmt: skip
            want = a[f"loss/reduce_mean={mean},likelihood_weighting={likelihood}"]
            np.testing.assert_allclose(got, want, rtol=2e-5)
