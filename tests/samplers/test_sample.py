"""`sample`: the same pictures whatever the chunk and the devices, labels in place, nothing twice."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.samplers import sampling as module
from score_jax.sde import VE, VP
from tests.docs.test_docs import run_blocks
from tests.helpers import ROOT
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
    """Each sample drawn by itself, on one device."""
    return {k: draw(s, chunk=1, devices=jax.devices()[:1]) for k, s in SAMPLERS.items()}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("chunk", "count"), [(3, 1), (8, 1), (1, 2), (3, 2), (8, 2)])
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


def scaled(params, x, t):
    """A score whose parameters are arguments."""
    return params["w"] * SCORE(x, t)


def test_compiled_once_for_keys_grids_parameters_and_equal_samplers(monkeypatch):
    compiled, lower = [], module._compile

    @functools.lru_cache
    def counting(*args):
        compiled.append(1)
        return lower(*args)

    monkeypatch.setattr(module, "_kept", counting)
    drawn = [
        module.sample(
            jax.random.key(i), VE(0.01, 5.0 if i < 9 else 6.0),
            jax.tree_util.Partial(scaled, {"w": jnp.float32(1 + i)}), (4 + 4 * (i % 2), 2),
            sampler=module.stepwise(sm.euler_maruyama, ode=True), grid=np.linspace(1, 0.01 * (i + 1), 5),
            chunk=4, progress=False,
        )
        for i in range(10)
    ]  # fmt: skip
    assert len(compiled) == 2  # the last is of another SDE
    assert len({out.x.tobytes() for out in drawn}) == 10


def test_devices_do_not_wait_for_each_other():
    """No collective operation in the program, not even in the loop of the adaptive solver."""
    key, y = jax.random.key(0), None
    plan = module._Plan(
        SAMPLERS["ode"], SDE, module._apart(SCORE)[1], (2,), False, None, False,
        tuple(jax.devices()),
    )  # fmt: skip
    mesh = jax.sharding.Mesh(np.array(jax.devices()), (module.AXIS,))
    place = lambda *names: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names))
    fixed = jax.device_put((key, jnp.asarray([1.0, 0.1]), []), place())
    numbers = jax.device_put(np.arange(4, dtype=np.uint32), place(module.AXIS))
    text = module._program(plan, (*fixed, numbers, y)).as_text()
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


def test_what_cannot_be_compared_is_compiled_each_time():
    """An SDE of the user's without a hash still samples."""

    class Mine(VP):
        __hash__ = None

    out = module.sample(
        jax.random.key(0), Mine(), SCORE, (2, 2), sampler=sm.euler_maruyama, grid=GRID, progress=False
    )
    assert np.isfinite(out.x).all()


@pytest.mark.slow
def test_the_examples_of_the_documentation(tmp_path, monkeypatch):
    run_blocks(ROOT / "docs" / "samplers.md", tmp_path, monkeypatch)
