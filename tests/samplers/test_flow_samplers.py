"""Every sampler, guidance, measurement and likelihood on rectified flow, from pure noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.analytic import gaussian
from score_jax.guidance import classifier_free, guide, on_x, projected
from score_jax.inverse import Mask, Measurement, mmps, pigdm, projection, tmpd
from score_jax.likelihood import log_likelihood
from score_jax.score import from_denoiser
from score_jax.sde import RectifiedFlow
from tests.helpers.every_step import EXPORTED

FLOW = RectifiedFlow()
MEAN, STD = np.array([0.8, -0.3]), 0.5
DATA = gaussian(MEAN, STD**2 * np.eye(2))
T0 = 1e-3
N = 2048
# They evaluate the drift or the diffusion at the first time.
BEFORE_THE_END = {"euler_maruyama"}
CORRECTORS = {"langevin", "annealed_langevin"}
# Without noise of their own: the state at the end is a function of the latent.
EXACT = {
    name for name in EXPORTED
    if name in {"ddim", "heun", "edm", "unipc"} or name.startswith(("dpmpp", "dpm_solver"))
}  # fmt: skip


def latents(sde=FLOW):
    z = np.random.default_rng(0).normal(size=(N, 2))
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    return jnp.asarray(sde.prior_std * z, jnp.float32)


def flow_of(x, mean=MEAN, std=STD, t=T0):
    """Where the probability flow carries pure noise x to at t."""
    return (1 - t) * mean + np.sqrt(((1 - t) * std) ** 2 + t**2) * np.asarray(x)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_every_step_reaches_the_data(name):
    """Mean and deviation of a Gaussian; deterministic steps also its flow, sample by sample."""
    sde = RectifiedFlow(0.999) if name in BEFORE_THE_END else FLOW
    score = DATA.score(sde)
    if name == "consistency":
        score = from_denoiser(sde, DATA.consistency(sde, T0))
    step = EXPORTED[name](sde, score)
    if name in CORRECTORS:
        step = sm.chain(step, sm.ddim(sde, score))
    out = jax.jit(lambda key, x: sm.simulate(key, step, x, sm.uniform_grid(sde, 60, t0=T0)).x)(
        jax.random.key(1), latents(sde)
    )
    np.testing.assert_allclose(out.mean(axis=0), MEAN, atol=0.05)
    np.testing.assert_allclose(out.std(axis=0), STD, rtol=0.12)
    if name in EXACT:
        error = np.abs(out - flow_of(latents()))
        assert error.max() < (0.08 if name == "ddim" else 0.02)


@pytest.mark.slow
def test_an_interpolants_diffusion_changes_no_moment():
    """Epsilon 0 is the flow, 1 the reverse SDE, step by step; any other has their moments."""
    score, x = DATA.score(FLOW), latents()
    half = lambda t: t / (1 - t)  # g^2 / 2
    rates = {
        "none": 0.0,
        "reverse": 1.0,
        "some": 0.3,
        "own": lambda t: 0.2 * t,
        "fast": lambda t: 5 * t,
    }

    @jax.jit
    def run(key, x):
        made = {name: sm.interpolant(FLOW, score, epsilon=rate) for name, rate in rates.items()}
        grid = sm.uniform_grid(FLOW, 60, t0=T0)
        out = {name: sm.simulate(key, step, x, grid).x for name, step in made.items()}
        fine = sm.uniform_grid(FLOW, 240, t0=T0)
        out["finer"] = sm.simulate(key, made["fast"], x, fine).x
        ddim = {"none": sm.ddim(FLOW, score), "reverse": sm.ddim(FLOW, score, eta=1.0)}
        pairs = {n: (out[n], sm.simulate(key, step, x, grid).x) for n, step in ddim.items()}
        # By quadrature, in the middle, where one interval is a fraction of the time.
        quadrature = sm.interpolant(FLOW, score, epsilon=half)
        at = lambda step: sm.simulate(key, step, x, grid[20:50]).x
        pairs["half"] = at(quadrature), at(made["reverse"])
        return out, pairs

    out, pairs = run(jax.random.key(1), x)
    error = {name: np.abs(found.std(axis=0) / STD - 1).max() for name, found in out.items()}
    for name, found in out.items():
        np.testing.assert_allclose(found.mean(axis=0), MEAN, atol=0.05, err_msg=name)
        assert error[name] < (0.25 if name == "fast" else 0.12), (name, error)
    # Order 1; the recursion of the variance gives 0.133 and 0.046.
    assert error["finer"] < 0.5 * error["fast"]
    for one, other in pairs.values():
        np.testing.assert_allclose(one, other, atol=2e-4)
    with pytest.raises(ValueError, match="epsilon must be"):
        sm.interpolant(FLOW, score, epsilon=-1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["in_time", "in_angle", "adaptive"])
def test_adaptive_solvers_are_exact_from_pure_noise_and_back(name):
    score = DATA.score(FLOW)
    solvers = {
        "in_time": sm.probability_flow,
        "in_angle": lambda *args, **kw: sm.probability_flow(*args, coordinate=sm.IN_ANGLE, **kw),
        "adaptive": sm.adaptive_multistep,
    }

    # One program for both ways: the ends are arguments.
    run = jax.jit(lambda x, a, b: solvers[name](FLOW, score, x, t_from=a, t_to=b).x)
    x = latents()[:64]
    down = run(x, 1.0, T0)
    np.testing.assert_allclose(down, flow_of(x), atol=1e-4)
    np.testing.assert_allclose(run(down, T0, 1.0), x, atol=1e-4)


@pytest.mark.slow
def test_the_reverse_sde_of_diffrax_before_the_end():
    sde = RectifiedFlow(0.999)
    grid = sm.log_snr_grid(sde, 80, t0=T0)
    out = jax.jit(lambda key, x: sm.diffrax_sde(key, sde, DATA.score(sde), x, grid))(
        jax.random.key(1), latents(sde)[:256]
    )
    np.testing.assert_allclose(out.x.mean(axis=0), MEAN, atol=0.1)
    np.testing.assert_allclose(out.x.std(axis=0), STD, rtol=0.2)


@pytest.mark.slow
def test_the_likelihood_is_exact():
    """The prior has no error: log p at t0 of the Gaussian, to the solver's tolerance."""
    x = jnp.asarray(DATA.sample(jax.random.key(0), 16))
    out = jax.jit(lambda key, x: log_likelihood(key, FLOW, DATA.score(FLOW), x, t0=T0))(
        jax.random.key(0), x
    )
    np.testing.assert_allclose(out.logp, DATA.logp(FLOW, x, T0), atol=2e-3)


TRUTH = 0.5  # of both axes, measured on the first one


def _evidence(sde):
    """log p_t(y | x) of a measurement y = x0 + noise of deviation STD on the first axis, exact."""

    def logp(x, t):
        m, s2 = sde.mean_coeff(t), sde.std(t) ** 2
        v = m**2 * STD**2 + s2
        mean = MEAN[0] + m * STD**2 / v * (x[:, 0] - m * MEAN[0])
        return -0.5 * jnp.square(TRUTH - mean) / (STD**2 * s2 / v + STD**2)

    return logp


SEEN = jnp.tile(jnp.asarray([[TRUTH, 0.0]]), (N, 1))
MEASURED = Measurement(Mask(np.array([True, False])), SEEN, noise_std=STD)
HALFWAY = (TRUTH + MEAN[0]) / 2


def _shifted(mean):
    return gaussian(mean, STD**2 * np.eye(2)).score(FLOW)


GUIDED = {
    # Scale w moves the mean along the difference of the two.
    "classifier_free": (
        lambda: classifier_free(_shifted(MEAN), _shifted([0.0, 0.0]), scale=2.0),
        2 * MEAN, [STD, STD],
    ),
    "projected": (
        lambda: projected(FLOW, _shifted(MEAN), _shifted([0.0, 0.0]), scale=2.0, parallel=1.0),
        2 * MEAN, [STD, STD],
    ),
    "classifier": (
        lambda: guide(FLOW, DATA.score(FLOW), on_x(_evidence(FLOW))),
        [HALFWAY, MEAN[1]], [STD / np.sqrt(2), STD],
    ),
    "pigdm": (
        lambda: pigdm(FLOW, DATA.score(FLOW), MEASURED, data_std=STD, limit=np.inf),
        [HALFWAY, MEAN[1]], [STD / np.sqrt(2), STD],
    ),
    "mmps": (
        lambda: mmps(FLOW, DATA.score(FLOW), MEASURED, limit=np.inf),
        [HALFWAY, MEAN[1]], [STD / np.sqrt(2), STD],
    ),
    "tmpd": (
        lambda: tmpd(FLOW, DATA.score(FLOW), MEASURED, limit=np.inf),
        [HALFWAY, MEAN[1]], [STD / np.sqrt(2), STD],
    ),
    # Known to be no posterior: only the mean.
    "projection": (
        lambda: projection(FLOW, DATA.score(FLOW), MEASURED, data_std=STD),
        [HALFWAY, MEAN[1]], None,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDED)
def test_guidance_from_pure_noise(name):
    """Each is exact for normal data, so that the samples are those of a known Gaussian."""
    make, mean, std = GUIDED[name]
    out = jax.jit(
        lambda key, x: (
            sm.simulate(key, sm.dpmpp_2m(FLOW, make()), x, sm.uniform_grid(FLOW, 60, t0=T0)).x
        )
    )(jax.random.key(1), latents())
    np.testing.assert_allclose(out.mean(axis=0), mean, atol=0.03)
    if std is not None:
        np.testing.assert_allclose(out.std(axis=0), std, rtol=0.05)
