"""Bad input to the public functions: a ValueError that names the argument. One line a case.

To add one: (name, call, pattern of the message). The commands' table is in tests/experiments.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import data, guidance, inverse, likelihood, losses, metrics, training, viz
from score_jax import samplers as sm
from score_jax._check import check_count, check_finite, check_positive, is_number, plain
from score_jax.analytic import Mixture, gaussian, importance_posterior
from score_jax.nets import MLP, UNet
from score_jax.parametrization import LevelInput
from score_jax.sde import VE, VP, LinearBetas, LinearVE, SubVP, spaced_indices

KEY, NAN, INF = jax.random.key(0), float("nan"), float("inf")
SDE = VP()
X = jnp.ones((2, 3))
HOLES = X.at[0, 0].set(NAN)
IMAGES = jnp.zeros((2, 4, 4, 1))
GRID = [1.0, 0.5, 0.1]
MASK = np.asarray([True, False, True])


def score(x, t):
    return -x


def given(y=X, noise_std=0.0, operator=None):
    return inverse.Measurement(inverse.Mask(MASK) if operator is None else operator, y, noise_std)


class Doubled(inverse.LinearOperator):
    """An adjoint with a factor too much."""

    def forward(self, x):
        return x[:, :2]

    def adjoint(self, v):
        return 2 * jnp.pad(v, ((0, 0), (0, 1)))

    def data_shape(self, out):
        return (3,)


class Longer(Doubled):
    """An adjoint that is too long."""

    def adjoint(self, v):
        return jnp.pad(v, ((0, 0), (0, 2)))


ROW = inverse.dense([[1.0, 2.0, 0.0]])
MASKS = inverse.each(inverse.Mask(np.stack([MASK] * 3)))
NORMAL = gaussian(np.zeros(3), np.eye(3))
SQUARE = given(operator=inverse.Nonlinear(jnp.square, (3,)))
COUNTS = inverse.Measurement(ROW, X[:, :1], noise=inverse.Poisson(3.0))


def restored(measurement, **kwargs):
    return inverse.posterior_sample(KEY, SDE, score, measurement, grid=GRID, **kwargs)


def lost(x):
    return jnp.full(len(x), -INF)


def particles(measurement):
    return inverse.twisted_smc(KEY, SDE, score, measurement, grid=GRID)


def draw(**changes):
    options = {"shape": (2, 3), "sampler": sm.ddim, "grid": GRID, "progress": False} | changes
    return sm.sample(KEY, SDE, options.pop("score", score), options.pop("shape"), **options)


def flow(x=X, **changes):
    return sm.probability_flow(SDE, score, x, **{"t_from": 1.0, "t_to": 0.1, **changes})


def step(make, **options):
    return make(SDE, score, **options)


CASES = [
    # Processes and schedules
    ("vp_t1", lambda: VP(t1=-1.0), "t1 must be > 0"),
    ("vp_beta", lambda: VP(beta_min=NAN), "beta_min"),
    ("vp_order", lambda: VP(beta_min=5.0, beta_max=1.0), "beta_m"),
    ("subvp_beta", lambda: SubVP(beta_max=INF), "beta_max"),
    ("ve_sigma", lambda: VE(sigma_min=0.0), "sigma_min"),
    ("ve_order", lambda: VE(sigma_min=2.0, sigma_max=1.0), "sigma_m"),
    ("edm_t1", lambda: LinearVE(t1=0.0), "t1"),
    ("betas_n", lambda: LinearBetas(0), "n must be"),
    ("indices_more", lambda: spaced_indices(10, 11), "steps"),
    ("indices_zero", lambda: spaced_indices(10, 0), "steps"),
    ("levels", lambda: LevelInput(0), "n must be"),
    # Grids
    ("grid_rises", lambda: sm.check_grid([0.1, 0.5]), "grid must decrease"),
    ("grid_nan", lambda: sm.check_grid([1.0, NAN]), "grid must be finite"),
    ("grid_zero", lambda: sm.check_grid([1.0, 0.0]), "grid must stay above 0"),
    ("grid_one", lambda: sm.check_grid([1.0]), "grid must be a list of at least two"),
    ("grid_late", lambda: sm.check_grid([2.0, 1.0], 1.0), "grid must not start above t1"),
    ("grid_n", lambda: sm.log_snr_grid(SDE, 0), "n, the number of steps"),
    ("grid_t0", lambda: sm.uniform_grid(SDE, 5, t0=2.0), "t0 must be in"),
    ("grid_rho", lambda: sm.karras_grid(SDE, 5, rho=-1.0), "rho must be"),
    ("grid_power", lambda: sm.power_grid(SDE, 5, power=0.0), "power must be > 0"),
    # Steps
    ("ddim_eta", lambda: step(sm.ddim, eta=1.5), "eta must be in"),
    ("edm_churn", lambda: step(sm.edm, churn=-1.0), "churn must be"),
    ("edm_range", lambda: step(sm.edm, s_min=2.0, s_max=1.0), "s_min must be in"),
    ("edm_noise", lambda: step(sm.edm, s_noise=0.0), "s_noise must be"),
    ("unipc_order", lambda: step(sm.unipc, order=4), "order must be 1, 2 or 3"),
    ("sde_order", lambda: step(sm.sde_dpmpp_2m, order=3), "order must be 1 or 2"),
    ("langevin_snr", lambda: step(sm.langevin, snr=NAN), "snr must be > 0"),
    ("langevin_steps", lambda: step(sm.langevin, n_steps=0), "n_steps must be"),
    ("ncsn_epsilon", lambda: step(sm.langevin_dynamics, epsilon=0.0, n_steps=2), "epsilon"),
    ("static", lambda: sm.static(1.0, -1.0), "low must be smaller"),
    ("dynamic", lambda: sm.dynamic(1.5), "quantile must be in"),
    ("threshold", lambda: sm.threshold(SDE, score, 3), "rule must be a function"),
    ("song_n", lambda: sm.song_grid(0, 0.1), "n"),
    # Simulation and sampling
    ("simulate_nan", lambda: sm.simulate(KEY, step(sm.ddim), HOLES, GRID), "x must be finite"),
    ("simulate_int", lambda: sm.simulate(KEY, step(sm.ddim), X.astype(int), GRID), "x must be floa"),
    ("simulate_save", lambda: sm.simulate(KEY, step(sm.ddim), X, GRID, save_every=0), "save_every"),
    ("encode_nan", lambda: sm.ddim_encode(SDE, score, HOLES, GRID), "x must be finite"),
    ("sample_shape", lambda: draw(shape=(0, 3)), "shape must be"),
    ("sample_chunk", lambda: draw(chunk=0), "chunk must be"),
    ("sample_first", lambda: draw(first=-1), "first must be in"),
    ("sample_y", lambda: draw(y=np.zeros(3)), "y must have one entry"),
    ("sample_save", lambda: draw(save_every=0), "save_every must be"),
    ("sample_devices", lambda: draw(devices=[]), "devices must hold"),
    ("sample_grid", lambda: draw(grid=[0.1, 1.0]), "grid must decrease"),
    ("flow_nan", lambda: flow(HOLES), "x must be finite"),
    ("flow_rtol", lambda: flow(rtol=0.0), "rtol must be > 0"),
    ("flow_atol", lambda: flow(atol=jnp.float32(-1)), "atol must be > 0"),
    ("flow_time", lambda: flow(t_to=-0.1), "t_to must be in"),
    ("flow_max", lambda: flow(max_steps=0), "max_steps must be"),
    (
        "adaptive_order",
        lambda: sm.adaptive_multistep(SDE, score, X, t_from=1.0, t_to=0.1, order=5),
        "order must be",
    ),
    (
        "adaptive_nan",
        lambda: sm.adaptive_multistep(SDE, score, HOLES, t_from=1.0, t_to=0.1),
        "x must be finite",
    ),
    ("diffrax_nan", lambda: sm.diffrax_sde(KEY, SDE, score, HOLES, GRID), "x must be finite"),
    (
        "compare_nothing",
        lambda: sm.compare_samplers(KEY, SDE, score, (2, 3), {}),
        "exact or distances",
    ),
    # Likelihood and losses
    ("logp_nan", lambda: likelihood.log_likelihood(KEY, SDE, score, HOLES), "x must be finite"),
    ("logp_t0", lambda: likelihood.log_likelihood(KEY, SDE, score, X, t0=0.0), "t0 must be"),
    ("probes", lambda: likelihood.hutchinson(0), "n_probes must be"),
    ("temperature", lambda: likelihood.decode(SDE, score, X, temperature=0.0), "temperature"),
    ("bpd_levels", lambda: likelihood.bits_per_dim(X[:, 0], (3,), levels=1), "levels must be"),
    ("decoder", lambda: losses.discretized_gaussian(1), "levels must be"),
    ("hybrid", lambda: losses.hybrid(weight=-1.0, decoder=losses.density_decoder), "weight"),
    # Guidance
    ("classes", lambda: guidance.check_classes(np.asarray([0, 3]), 3), r"y must be in \[0, 3\)"),
    ("class_dtype", lambda: guidance.check_classes(np.asarray([0.5]), 3), "y must be integer"),
    ("guide_term", lambda: guidance.guide(SDE, score, score), "terms must be made by"),
    ("term_weight", lambda: guidance.on_x(score, weight=np.float32(NAN)), "weight must be a finite"),
    ("term_interval", lambda: guidance.on_x(score, interval=(0.5, 0.1)), "interval must be"),
    ("free_scale", lambda: guidance.classifier_free(score, score, scale=NAN), "scale must be"),
    ("class_temperature", lambda: guidance.class_logp(score, 0, temperature=0.0), "temperature"),
    # Inverse problems
    ("noise_negative", lambda: given(noise_std=np.float32(-1)), "noise_std must be a finite"),
    ("noise_jax", lambda: given(noise_std=jnp.asarray(NAN)), "noise_std must be a finite"),
    ("y_nan", lambda: given(HOLES), "y must be finite, got 1 entries"),
    ("y_int", lambda: given(np.ones((2, 3), int)), "y must be floating point"),
    ("mask_dtype", lambda: inverse.Mask(np.ones(3)), "mask must be boolean"),
    ("mask_none", lambda: inverse.Mask(np.zeros(3, bool)), "mask must be True"),
    ("factor", lambda: inverse.BlockAverage(0), "factor must be"),
    ("kernel", lambda: inverse.gaussian_kernel(0, 1.0), "size must be"),
    ("kernel_std", lambda: inverse.gaussian_kernel(3, -1.0), "std"),
    ("cutoff", lambda: inverse.Blur(np.ones((3, 3)), cutoff=1.5), "cutoff must be in"),
    ("pigdm_std", lambda: inverse.pigdm(SDE, score, given(), data_std=0.0), "data_std must be"),
    ("pigdm_scale", lambda: inverse.pigdm(SDE, score, given(), scale=-1.0), "scale must be"),
    ("dps_scale", lambda: inverse.dps(SDE, score, given(), scale=0.0), "scale must be"),
    ("strength", lambda: inverse.replacement(SDE, score, given(), strength=2.0), "strength must"),
    ("resamplings", lambda: inverse.repaint(SDE, score, given(), resamplings=0), "resamplings"),
    ("y_shape", lambda: inverse.pigdm(SDE, score, given(X[:, :2])), "y has a wrong shape"),
    ("y_flat", lambda: inverse.mmps(SDE, score, given(X[0])), "y has a wrong shape"),
    ("y_entries", lambda: inverse.dps(SDE, score, given(X, operator=ROW)), r"y must have shape \(b, "),
    ("y_residual", lambda: inverse.measured_stds(ROW, X[:, :2]), "matrix is for shape"),
    ("y_number", lambda: restored(given(X), num=5), "y of the measurement must have one entry"),
    ("y_operators", lambda: restored(given(X, operator=MASKS)), "the operators of the measurement"),
    ("y_particles", lambda: particles(given(X[:, :2], 0.1)), "y has a wrong shape"),
    ("y_evidence", lambda: inverse.log_evidence(NORMAL, given(X[:, :2], 0.1)), "y has a wrong shape"),
    ("y_exact", lambda: inverse.exact_posterior(NORMAL, given(X[:, :2], 0.1)), "y has a wrong shape"),
    ("smc_noise", lambda: particles(given()), "noise_std must be > 0"),
    ("logp_noise", lambda: inverse.measurement_logp(given()), "noise_std must be > 0"),
    ("daps_noise", lambda: inverse.daps(SDE, score, SQUARE), "noise_std must be > 0"),
    ("dps_noise", lambda: inverse.dps(SDE, score, COUNTS), "noise_std must be > 0 beside a noise"),
    ("no_likelihood", lambda: importance_posterior(KEY, NORMAL, lost, 3), "weights are all 0"),
    ("mask_each", lambda: inverse.each(inverse.Mask(np.zeros((2, 3), bool))), "mask must be True"),
    ("y_all_missing", lambda: inverse.without_missing(ROW, np.full((1, 1), NAN)), "only NaN in exa"),
    ("adjoint", lambda: inverse.check_adjoint(Doubled(), (3,)), "adjoint of Doubled is not one"),
    ("adjoint_shape", lambda: inverse.check_adjoint(Longer(), (3,)), "the shape of an example"),
    ("repaint_noise", lambda: inverse.repaint(SDE, score, given(noise_std=0.1)), "noise_std 0"),
    ("from_time", lambda: inverse.from_time(GRID, 2.0), "t must be in"),
    ("edit_nan", lambda: inverse.edit(KEY, SDE, score, HOLES, grid=GRID), "start must be finite"),
    ("edit_int", lambda: inverse.edit(KEY, SDE, score, X.astype(int), grid=GRID), "start must be f"),
    ("mixture_weights", lambda: Mixture([0.0], [[1.0]], [[[1.0]]]), "weights must be > 0"),
    # Data
    ("data_nan", lambda: data.from_arrays(np.asarray(HOLES)), "x"),
    ("data_empty", lambda: data.from_arrays(np.zeros((0, 3), np.float32)), "x"),
    ("data_levels", lambda: data.from_arrays(np.full((3, 2), 9, np.uint8), levels=4), "x"),
    ("labels_number", lambda: data.from_arrays(np.ones((3, 2), np.float32), [0, 1]), "y"),
    ("labels_negative", lambda: data.from_arrays(np.ones((2, 2), np.float32), [0, -1]), "y"),
    ("labels_float", lambda: data.from_arrays(np.ones((2, 2), np.float32), [0.5, 1.0]), "y"),
    # Networks
    (
        "net_class",
        lambda: MLP(width=8, num_classes=3).init(KEY, X, jnp.ones(2), jnp.asarray([0, 3])),
        r"y must be in \[0, 3\), got 3",
    ),
    ("net_no_class", lambda: MLP(width=8, num_classes=3).init(KEY, X, jnp.ones(2)), "y="),
    ("net_width", lambda: MLP(width=0).init(KEY, X, jnp.ones(2)), "width must be"),
    ("unet_channels", lambda: UNet(channels=0).init(KEY, IMAGES, jnp.ones(2)), "channels"),
    # Training
    ("lr", lambda: training.make_optimizer(learning_rate=-1.0), "learning_rate"),
    ("warmup", lambda: training.make_optimizer(learning_rate=0.1, warmup=-1), "warmup"),
    ("clip", lambda: training.make_optimizer(learning_rate=0.1, grad_clip=0.0), "grad_clip"),
    ("decay", lambda: training.exponential(1.5), "decay"),
    ("power", lambda: training.power(-0.1), "0.28|std|width"),
    # Metrics
    ("frechet", lambda: metrics.frechet(np.ones((1, 2)), np.ones((3, 2))), "x|a|features|example"),
    ("wasserstein", lambda: metrics.sliced_wasserstein(np.ones((3, 2)), np.ones((3, 4))), "shape|dim"),
    # Pictures
    ("picture_empty", lambda: viz.picture(np.zeros((0, 3))), "x must be data"),
    ("picture_scalar", lambda: viz.picture(np.zeros(3)), "x must be data"),
    ("range", lambda: viz.to_uint8(IMAGES, (1.0, 1.0)), "range must be"),
    ("columns", lambda: viz.image_grid(np.zeros((2, 4, 4, 1)), columns=0), "columns"),
    ("intervals", lambda: viz.intervals(X, X, X[:, :2]), "of one shape"),
    ("animation", lambda: viz.save_animation([], "a.gif"), "images must be"),
    # The vocabulary itself
    ("count", lambda: check_count(n=jnp.asarray(2.0)), "n must be an integer"),
    ("count_bool", lambda: check_count(n=True), "n must be an integer"),
    ("positive", lambda: check_positive(rate=jnp.asarray(INF)), "rate must be > 0 and finite, got inf"),
    ("finite", lambda: check_finite("x", HOLES), "x must be finite, got 1 entries"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "named"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_argument_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_names_of_cases_are_unique():
    names = [case[0] for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "kind", [float, np.float32, np.asarray, jnp.asarray], ids=["python", "numpy", "array", "jax"]
)
def test_numbers_of_every_kind_are_numbers(kind):
    assert is_number(kind(0.5)) and plain(kind(0.5)) == 0.5
    check_positive(rate=kind(0.5))
    assert given(noise_std=kind(0.5)).noise_std == 0.5
    guidance.on_x(score, weight=kind(0.5))
    assert not is_number(kind(NAN)) and not is_number(np.ones(2))


def test_whole_numbers_of_every_kind_count():
    check_count(a=3, b=np.int32(3), c=np.asarray(3), d=jnp.asarray(3))


def test_hidden_entries_may_be_nan():
    hidden = X.at[:, 1].set(NAN)
    assert np.isfinite(given(hidden).residual(X)).all()
