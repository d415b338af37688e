"""`sample`: the same pictures whatever the chunk and the devices, labels in place, nothing twice."""

import gc
import inspect
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import _batched
from score_jax import samplers as sm
from score_jax.samplers import sampling as module
from score_jax.sde import VE, VP
from tests.helpers.closed_form import isotropic

SDE = VP()
SCORE = isotropic(SDE, 0.8, 0.5)
GRID = np.linspace(1.0, 1e-2, 9)
SHAPE = (7, 2, 3, 1)


def predictor_corrector(sde, score):
    """The corrector's step comes from norms: those of a batch would tell a sample's neighbours."""
    return sm.chain(sm.langevin(sde, score), sm.reverse_diffusion(sde, score))


SAMPLERS = {
    "predictor_corrector": module.stepwise(predictor_corrector),
    "ode": module.flow(rtol=1e-4, atol=1e-4),
}


def draw(sampler, num=7, **options):
    """Seven small pictures of the Gaussian."""
    shape = (num, *SHAPE[1:])
    return module.sample(
        jax.random.key(3), SDE, SCORE, shape, sampler=sampler, grid=GRID, progress=False, **options
    )


@pytest.fixture(scope="module")
def alone():
    """Each sample drawn by itself, on one device, compiled as users have it (see `optimized`)."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    drawn = {k: draw(s, chunk=1, devices=jax.devices()[:1]) for k, s in SAMPLERS.items()}
    jax.config.update("jax_disable_most_optimizations", before)
    return drawn


@pytest.mark.slow
@pytest.mark.optimized  # equal to rounding
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("chunk", "count"), [(8, 1), (1, 2), (3, 2)])
def test_the_key_alone_decides_the_picture(alone, name, chunk, count):
    """Up to rounding, which the tolerances of an adaptive solver turn into steps a bit different."""
    out = draw(SAMPLERS[name], chunk=chunk, devices=jax.devices()[:count])
    assert out.x.shape == SHAPE and out.x.std() > 0.3
    np.testing.assert_allclose(out.x, alone[name].x, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out.nfe, alone[name].nfe)


def test_sample_i_is_a_plain_simulation_with_its_own_key(alone):
    """The definition, written out: key i, split into prior and steps, a batch of one."""
    got = alone["predictor_corrector"]
    step = predictor_corrector(SDE, SCORE)

    @jax.jit
    def one(i):
        prior_key, step_key = jax.random.split(jax.random.fold_in(jax.random.key(3), i))
        x = SDE.prior_sample(prior_key, (1, *SHAPE[1:]))
        finish = sm.tweedie(SDE, SCORE)
        return sm.simulate(step_key, step, x, GRID, final_denoising=finish)

    for i in (0, 6):
        want = one(i)
        np.testing.assert_allclose(got.x[i], want.x[0], atol=2e-6)
        assert got.nfe[i] == want.nfe == 17


def test_later_samples_and_fewer_of_them_have_the_same_bits():
    """`first` goes on with the numbers, and a shorter draw is the head of a longer one: one program."""
    want = draw(predictor_corrector, chunk=2).x
    np.testing.assert_array_equal(draw(predictor_corrector, num=3, chunk=2).x, want[:3])
    np.testing.assert_array_equal(draw(predictor_corrector, num=3, chunk=2, first=4).x, want[4:])


@pytest.mark.slow
def test_together_is_the_batch_of_the_paper(alone):
    """With norms over the batch the samples of a chunk depend on each other, and say so."""
    one = jax.devices()[:1]
    whole = draw(predictor_corrector, chunk=7, together=True, devices=one)
    parts = draw(predictor_corrector, chunk=4, together=True, devices=one)
    assert np.abs(whole.x - parts.x).max() > 1e-2
    prior_key, step_key = jax.random.split(jax.random.fold_in(jax.random.key(3), 0))
    x = SDE.prior_sample(prior_key, SHAPE)
    step = predictor_corrector(SDE, SCORE)
    want = sm.simulate(step_key, step, x, GRID, final_denoising=sm.tweedie(SDE, SCORE))
    np.testing.assert_allclose(whole.x, want.x, atol=2e-6)


@pytest.mark.parametrize("chunk", [2, 3, 16])
@pytest.mark.parametrize("together", [False, True])
def test_labels_reach_their_samples(chunk, together):
    """Every label is a mean of its own; the last chunk is partial."""
    labels = {"mean": np.array([5.0, -3, 2, 7, 11], np.float32)}
    score = lambda y: isotropic(SDE, y["mean"][:, None], 1e-3)
    out = module.sample(
        jax.random.key(0), SDE, score, (5, 2), sampler=sm.euler_maruyama, grid=np.linspace(1, 1e-3, 40),
        y=labels, chunk=chunk, together=together, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(out.x, labels["mean"][:, None] + np.zeros((5, 2)), rtol=0.02)


def test_trajectories_end_in_the_samples_and_belong_to_them(alone):
    out = draw(predictor_corrector, chunk=4, save_every=3)
    assert out.trajectory.shape == (3, *SHAPE)
    np.testing.assert_allclose(out.x, alone["predictor_corrector"].x, atol=2e-6)
    np.testing.assert_array_equal(out.trajectory[-1], out.x)
    # Closer to the data's mean (0.8) as the noise goes.
    gaps = np.abs(out.trajectory.mean(axis=(1, 2, 3, 4)) - 0.8)
    assert gaps[-1] < gaps[0]


@pytest.mark.slow
def test_endings(alone):
    """With and without the noise of the last step, whose size is known; Tweedie costs one more."""
    step = sm.euler_maruyama
    ends = {f: draw(module.stepwise(step, final_denoising=f)) for f in (sm.as_it_is, sm.last_mean)}
    noise = ends[sm.as_it_is].x - ends[sm.last_mean].x
    t, t_next = GRID[-2], GRID[-1]
    want = float(SDE.diffusion(t)) * np.sqrt(t - t_next)
    assert noise.std() == pytest.approx(want, rel=0.25) and abs(noise.mean()) < want
    assert {int(out.nfe[0]) for out in ends.values()} == {8}
    assert int(draw(step).nfe[0]) == 9


@pytest.mark.slow
def test_nfe_is_what_the_network_saw():
    """A callback sees every evaluation of a chunk; the slowest sample decides how many there are."""
    seen = []

    def counted(x):
        seen.append(x.shape)
        return np.asarray(x)

    def score(x, t):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        x = jax.pure_callback(counted, shape, x, vmap_method="broadcast_all")
        return SCORE(x, t)

    for sampler in SAMPLERS.values():
        seen.clear()
        out = module.sample(
            jax.random.key(0), SDE, score, (3, 2), sampler=sampler, grid=GRID,
            devices=jax.devices()[:1], progress=False,
        )  # fmt: skip
        assert set(seen) == {(3, 1, 2)}  # one call for the whole chunk
        assert len(seen) == out.nfe.max()


def test_traced_once_for_keys_grids_parameters_and_equal_samplers():
    """The parameters of a tree are arguments; as often as for the first call, for another SDE."""
    traced = []

    def scaled(params, x, t):
        traced.append(1)
        return params["w"] * SCORE(x, t)

    def draw(i, sde):
        return sm.sample(
            jax.random.key(i), sde, jax.tree_util.Partial(scaled, {"w": jnp.float32(1 + i)}),
            (4 + 4 * (i % 2), 2), sampler=sm.stepwise(sm.euler_maruyama, ode=True),
            grid=np.linspace(1, 0.01 * (i + 1), 5), chunk=4, progress=False,
        )  # fmt: skip

    drawn = [draw(0, VE(0.01, 5.0))]
    once = len(traced)
    drawn += [draw(i, VE(0.01, 5.0)) for i in range(1, 9)]
    assert len(traced) == once > 0
    drawn.append(draw(9, VE(0.01, 6.0)))
    assert len(traced) == 2 * once
    assert len({out.x.tobytes() for out in drawn}) == 10


def closure():
    """A score that closes over an array, a weak reference to the array, and the traces of it."""
    weights, traced = jnp.ones((1000, 1000)), []

    def score(x, t):
        traced.append(1)
        return SCORE(x, t) * weights[0, 0]

    return score, weakref.ref(weights), traced


@pytest.mark.slow
def test_a_closure_is_compiled_once_and_dies_with_its_arrays():
    """Nothing holds a score or what it closes over after the caller has dropped it."""
    score, weights, traced = closure()
    draw_with = lambda seed: sm.sample(
        jax.random.key(seed), SDE, score, (4, 2), sampler=sm.euler_maruyama, grid=GRID,
        progress=False,
    )  # fmt: skip
    first = draw_with(0)
    once = len(traced)
    second = draw_with(1)
    assert len(traced) == once > 0
    assert second.compile_seconds < first.compile_seconds
    alive = weakref.ref(score)
    del score, draw_with
    gc.collect()
    assert alive() is None and weights() is None


@pytest.mark.slow
def test_parameters_of_a_tree_die_after_the_call():
    held, inner = jnp.ones((1000, 1000)), jnp.ones(3)
    given = jax.tree_util.Partial(lambda w, x, t: SCORE(x, t) * w[0, 0] * inner[0], held)
    sm.sample(
        jax.random.key(0), SDE, given, (4, 2), sampler=sm.euler_maruyama, grid=GRID, progress=False
    )
    alive = weakref.ref(held), weakref.ref(inner)
    del held, inner, given
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_a_method_is_compiled_once_and_dies_with_its_object():
    traced = []

    class Known:
        def score(self, x, t):
            traced.append(1)
            return SCORE(x, t)

    data = Known()
    for seed in range(2):
        sm.sample(
            jax.random.key(seed), SDE, data.score, (4, 2), sampler=sm.euler_maruyama, grid=GRID,
            progress=False,
        )  # fmt: skip
        once = len(traced) if seed == 0 else once
    assert len(traced) == once > 0
    alive = weakref.ref(data)
    del data
    gc.collect()
    assert alive() is None


@pytest.mark.slow
def test_devices_do_not_wait_for_each_other():
    """No collective operation in the program, not even in the loop of the adaptive solver."""
    drawing = module._Drawing(
        jax.random.key(0), jnp.asarray([1.0, 0.1]), np.uint32(0), SCORE, SAMPLERS["ode"], SDE, (2,),
        False, None, False,
    )  # fmt: skip
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("examples",))
    run, arguments = _batched.program(module._draw, drawing, mesh)
    numbers = jax.device_put(
        np.arange(4, dtype=np.uint32),
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples")),
    )
    text = run.lower(*arguments, numbers, None).compile().as_text()
    assert "while" in text
    for name in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert name not in text


BAD = [
    ({"shape": (0, 2)}, "shape must be"),
    ({"shape": ()}, "shape must be"),
    ({"chunk": 0}, "chunk must be at least 1, got 0"),
    ({"first": -1}, "first must be in"),
    ({"save_every": 0}, "save_every must be at least 1"),
    ({"grid": [0.1, 1.0]}, "grid must decrease strictly"),
    ({"grid": [1.5, 0.1]}, "grid must not start above t1"),
    ({"devices": []}, "devices must hold at least one"),
    ({"y": np.zeros(3)}, "y must have one entry for each of the 4 samples"),
    ({"y": np.zeros(4), "score": lambda y: y}, "score must return a ScoreFn"),
    ({"sampler": module.flow(), "save_every": 2}, "save_every must be None"),
]


@pytest.mark.parametrize(("given", "named"), BAD, ids=[named for _, named in BAD])
def test_bad_input_is_named(given, named):
    options = {"shape": (4, 2), "sampler": sm.euler_maruyama, "grid": GRID, "score": SCORE} | given
    with pytest.raises(ValueError, match=named):
        module.sample(jax.random.key(0), SDE, progress=False, **options)


class Net:
    """A network by the names of its methods."""

    def apply(self, params, x, noise_input):
        return x


MEANT = [
    (
        {"key": SDE, "sde": jax.random.key(0)},
        r"key must be one typed key.*got VP.*the order is sample",
    ),
    ({"key": jax.random.PRNGKey(0)}, "key must be one typed key"),
    ({"sde": SCORE, "score": SDE}, r"sde must be an SDE, such as VP\(\), got <function"),
    ({"score": SHAPE}, r"score must be a function \(x, t\) -> array, got \(7, 2, 3, 1\)"),
    ({"score": Net().apply}, r"got Net.apply, which needs parameters"),
    ({"sampler": "dpmpp_2m"}, "pass score_jax.samplers.dpmpp_2m, without quotes"),
    ({"sampler": sm.heun(SDE, SCORE)}, "got a Step: pass the factory"),
    ({"sampler": GRID, "grid": sm.heun}, "sampler must be a Sampler or a factory.*got array"),
    ({"y": [0, 1, 2, 3]}, "y must be an array, got a list"),
]


@pytest.mark.parametrize(("given", "named"), MEANT, ids=[named[:20] for _, named in MEANT])
def test_what_was_meant_is_said(given, named):
    """The types of the signature are checked in the tests; users have the errors alone."""
    options = {
        "key": jax.random.key(0), "sde": SDE, "score": SCORE, "shape": (4, 2), "grid": GRID,
        "sampler": sm.euler_maruyama, "progress": False,
    } | given  # fmt: skip
    with pytest.raises(ValueError, match=named):
        inspect.unwrap(sm.sample)(**options)


def test_what_cannot_be_compared_samples_too():
    """An SDE of the user's without a hash still samples."""

    class Mine(VP):
        __hash__ = None

    out = module.sample(
        jax.random.key(0),
        Mine(),
        SCORE,
        (2, 2),
        sampler=sm.euler_maruyama,
        grid=GRID,
        progress=False,
    )
    assert np.isfinite(out.x).all()
