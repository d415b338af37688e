"""What every Step promises: its cost, any rank, jit, vmap, one compilation; over one list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VE, VP, SubVP
from score_jax.types import Step
from tests.helpers.closed_form import isotropic
from tests.helpers.every_step import EXACT, EXPORTED, STEPS, move

SDES = {"vp": VP(0.1, 5.0), "subvp": SubVP(0.1, 5.0), "ve": VE(0.01, 10.0)}
TIMES = np.float32([1.0, 0.7, 0.4, 0.2])


def counting(score, seen):
    """The same score, adding to `seen` whenever it is evaluated, compiled or not."""

    def count(x):
        seen.append(1)
        return np.asarray(x)

    def counted(x, t):
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return score(jax.pure_callback(count, spec, x, vmap_method="expand_dims"), t)

    return counted


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_cost_compilation_and_vmap(step):
    """nfe is what the network saw; ten keys and grids, one trace; vmapped, each is what it was."""
    sde, seen, traces = SDES["vp"], [], []
    made = STEPS[step](sde, counting(isotropic(sde, 0.8, 0.5), seen))
    assert isinstance(made, Step)

    @jax.jit
    def sample(keys, x, grid):
        traces.append(1)
        run = lambda key, x: sm.simulate(key, made, x, grid)
        first = run(keys[0], x[0])
        return first, first.nfe

    keys = lambda: jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 2))
    for times in (TIMES, TIMES * 0.9):
        out, nfe = jax.block_until_ready(sample(keys(), x, times))
        assert int(nfe) == len(seen) == made.nfe * 3 + made.nfe_extra
        seen.clear()
    assert len(traces) == 1
    assert out.x.shape == (3, 2, 2) and out.x.dtype == x.dtype and np.isfinite(out.x).all()

    plain = STEPS[step](sde, isotropic(sde, 0.8, 0.5))
    both = jax.jit(
        jax.vmap(lambda key, x: sm.simulate(key, plain, x, TIMES * 0.9), in_axes=(0, 0))
    )(keys(), x)
    np.testing.assert_allclose(both.x[0], out.x, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(both.x_mean[0], out.x_mean, rtol=2e-5, atol=2e-5)
    if step not in EXACT:
        assert float(jnp.abs(both.x - both.x_mean).max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["subvp", "ve"])
@pytest.mark.parametrize("step", [s for s in STEPS if s not in ("langevin_dynamics",)])
def test_on_the_other_sdes(name, step):
    """One move keeps shape and type at any rank; x_mean does not see the key, x does."""
    sde = SDES[name]
    exact = isotropic(sde, 0.8, 0.5)
    made = STEPS[step](sde, lambda x, t: exact(x, t).astype(x.dtype))
    t, t_next = jnp.float32(0.7), jnp.float32(0.55)
    for shape, dtype in (((4, 3), jnp.float32), ((2, 2, 2, 1), jnp.bfloat16)):
        x = jax.random.normal(jax.random.key(1), shape, dtype)
        one, two = (move(made, jax.random.key(k), x, t, t_next) for k in (1, 2))
        assert one.x.shape == one.x_mean.shape == shape
        assert one.x.dtype == one.x_mean.dtype == dtype
        assert np.isfinite(np.asarray(one.x, np.float32)).all()
        if step in EXACT:
            np.testing.assert_array_equal(one.x, two.x)
        else:
            assert float(jnp.abs(one.x - two.x).max()) > 0


@pytest.mark.parametrize("last", [(4, 1), (2,), ()])
def test_a_score_of_another_shape_is_refused_while_tracing(last):
    """Each of these shapes broadcasts to (4, 2), and would go unnoticed."""
    sde, key, x = SDES["vp"], jax.random.key(0), jnp.ones((4, 2))
    wrong = lambda x, t: jnp.ones(last)
    assert EXPORTED.keys() >= {"ancestral", "ddim", "dpmpp_2m", "edm", "heun", "unipc"}
    ends = {"t_from": 1.0, "t_to": 0.1}
    moves = {
        name: lambda make=make: sm.simulate(key, make(sde, wrong), x, TIMES)
        for name, make in (STEPS | EXPORTED).items()
        if name not in ("identity", "empty_chain")
    }
    moves["flow"] = lambda: sm.probability_flow(sde, wrong, x, **ends)
    moves["log flow"] = lambda: sm.probability_flow(
        sde, wrong, x, coordinate=sm.IN_LOG_NOISE, **ends
    )
    moves["adaptive"] = lambda: sm.adaptive_multistep(sde, wrong, x, **ends)
    moves["diffrax"] = lambda: sm.diffrax_sde(key, sde, wrong, x, TIMES)
    for name, tried in moves.items():
        with pytest.raises(ValueError, match=r"score must return the shape of x, \(4, 2\)"):
            jax.eval_shape(tried)
            pytest.fail(f"{name} took a score of shape {last}")
    sampler = sm.euler_maruyama
    with pytest.raises(ValueError, match="score must return the shape of x"):
        sm.sample(
            key, sde, lambda x, t: x[:, :1], (4, 2), sampler=sampler, grid=TIMES, progress=False
        )
