"""One step of the authors' programs, with their weights and their noise, number for number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import parametrization as pz
from score_jax import samplers as sm
from score_jax import score as sc
from score_jax.sde import VE, VP, CosineVP, SubVP
from tests.helpers.every_step import move
from tests.helpers.golden_files import golden
from tests.helpers.port import load

N = 1000  # num_scales of every reference file
SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
FILES = {
    "vp_ddpm_continuous": "vp",
    "vp_ddpmpp_continuous": "vp",
    "subvp_ddpmpp_continuous": "subvp",
    "ve_ncsnpp_continuous": "ve",
}


def entered_at(t):
    """The grid of a run that passes the times t, with the authors' rule for the index."""
    index = (t * np.float32(N - 1)).astype(np.int32)
    return sm.SongGrid(np.append(t, t[-1] / 2), index, 1 / N, N)


def given_noise(monkeypatch, *arrays):
    """The next draws of noise are these."""
    left = list(arrays)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.asarray(left.pop(0)))


def steps(sde, score, grid):
    """The Steps by the names of the reference files."""
    return {
        "euler_maruyama": lambda: sm.song_euler_maruyama(sde, score, grid),
        "reverse_diffusion": lambda: sm.song_reverse_diffusion(sde, score, grid),
        "reverse_diffusion_pf": lambda: sm.song_reverse_diffusion(sde, score, grid, ode=True),
        "ancestral_sampling": lambda: sm.song_ancestral(sde, score, grid),
    }


@pytest.mark.parametrize("file", FILES)
def test_predictors(file, monkeypatch):
    """Every predictor of every file: x_mean, and x with the noise given; sub-VP too."""
    a, sde = golden(file), SDES[FILES[file]]
    x, t = a["score/x"], jnp.asarray(a["score/t"])
    score = lambda x, t: jnp.asarray(a["score/out"])
    names = [k.split("/")[1] for k in a if k.startswith("predictor/") and k.endswith("/x")]
    assert len(names) == (3 if FILES[file] == "subvp" else 4)
    for name in names:
        ref = {k: a[f"predictor/{name}/{k}"] for k in ("x", "x_mean", "z")}
        given_noise(monkeypatch, ref["z"])
        step = steps(sde, score, entered_at(a["score/t"]))[name]()
        # (b,) times are not a sampler's, but the formulas take them all the same.
        out = move(step, jax.random.key(0), jnp.asarray(x), t, t - 1e-3)
        for got, want in ((out.x_mean, ref["x_mean"]), (out.x, ref["x"])):
            # One time for each example, and VE's scales differ a thousandfold. Their differences of
            # sigma^2 are rounded in float32.
            scale = np.abs(want).max(axis=(1, 2, 3), keepdims=True)
            np.testing.assert_allclose(got / scale, want / scale, atol=1e-5, err_msg=name)


def scored(file):
    """(SDE, the score in the authors' network with their weights, arrays) of a file."""
    net, params, a = load(file)
    sde = SDES[FILES[file]]
    label, output = (pz.StdInput(), pz.SCORE) if file[:2] == "ve" else (pz.TimeInput(), pz.NOISE)
    return sde, sc.score_fn(sde, net.apply, params, noise_input=label, parametrization=output), a


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.slow if "pp" in file else ()) for file in FILES]
)
def test_ode_samples(file):
    """Their latents down to t = 0.2 as their RK45 goes, then their last denoising step.

    They solved at 1e-4; the network is of random weights and so anything but smooth.
    """
    sde, score, a = scored(file)
    t0 = a["ode_sample/eps"].astype(np.float32)
    last = sm.song_reverse_diffusion(sde, score, entered_at(t0[None]))

    @jax.jit
    def draw(z, tol):
        out = sm.probability_flow(sde, score, z, t_from=1.0, t_to=t0, rtol=tol, atol=tol)
        end = move(last, jax.random.key(0), out.x, jnp.asarray(t0), jnp.asarray(t0) / 2)
        return (end.x_mean + 1) / 2, out.nfe

    want = a["ode_sample/x_denoised_unscaled01"]
    scale, z = np.abs(want).max(), jnp.asarray(a["ode_sample/z"])
    np.testing.assert_allclose(draw(z, 1e-5)[0] / scale, want / scale, atol=3e-3)
    x, nfe = draw(z, 1e-4)
    np.testing.assert_allclose(x / scale, want / scale, atol=5e-3)
    assert int(nfe) <= int(a["ode_sample/nfe"])


@pytest.mark.slow
@pytest.mark.parametrize("file", ["vp_ddpmpp_continuous", "ve_ncsnpp_continuous"])
def test_correctors(file, monkeypatch):
    """Two moves of both correctors, through the network: norms over the batch, alpha of the table."""
    sde, score, a = scored(file)
    score = jax.jit(score)
    t, grid = jnp.asarray(a["score/t"]), entered_at(a["score/t"])
    for name, make in (("langevin", sm.song_langevin), ("ald", sm.song_annealed_langevin)):
        ref = {k: a[f"corrector/{name}/{k}"] for k in ("x", "x_mean", "z", "snr")}
        given_noise(monkeypatch, *ref["z"])
        one = make(sde, score, grid, snr=float(ref["snr"]))
        out = move(sm.chain(one, one), jax.random.key(0), jnp.asarray(a["score/x"]), t, t)
        for got, want in ((out.x_mean, ref["x_mean"]), (out.x, ref["x"])):
            scale = np.abs(want).max(axis=(1, 2, 3), keepdims=True)
            np.testing.assert_allclose(got / scale, want / scale, atol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SDES)
def test_discretised_coefficients_are_the_authors(name):
    """f and G of their `discretize` at eleven times, read off a step with a score of zero."""
    table, sde = golden("sde_tables"), SDES[name]
    t = table["t"][::-1].astype(np.float32)
    keep = t > 0
    step = sm.song_reverse_diffusion(sde, lambda x, t: 0 * x, entered_at(t[keep]))
    x = jnp.ones((int(keep.sum()), 1))
    out = move(step, jax.random.key(0), x, jnp.asarray(t[keep]), jnp.asarray(t[keep]))
    f = table[f"{name}/discretize_f"][::-1][keep]
    np.testing.assert_allclose(x - out.x_mean, f[:, None], rtol=1e-3, atol=2e-7)
    z = jax.random.normal(jax.random.key(0), x.shape, x.dtype)
    noise = np.asarray((out.x - out.x_mean) / z)[:, 0]
    np.testing.assert_allclose(noise, table[f"{name}/discretize_G"][::-1][keep], rtol=2e-3)


@pytest.mark.parametrize("name", SDES)
def test_the_clean_step_is_close_to_theirs(name):
    """What users get by default differs from the authors' steps by less than 5 % of a move."""
    sde, grid = SDES[name], sm.song_grid(N, 1e-3)
    score = lambda x, t: -2 * x / sde.std(t) ** 2
    x = jnp.asarray([[0.5, -1.0]])
    theirs = sm.song_reverse_diffusion(sde, score, grid, ode=True)
    ours = sm.reverse_diffusion(sde, score, ode=True)
    for i in (0, 300, 700):
        t, t_next = jnp.asarray(grid.times[i]), jnp.asarray(grid.times[i + 1])
        a, b = (move(s, jax.random.key(0), x, t, t_next).x - x for s in (theirs, ours))
        np.testing.assert_allclose(a, b, rtol=0.05)


def test_their_whole_run_as_one_scan():
    """`simulate` over the times: as a loop over their N entries, each entered at its own index."""
    sde, grid = VP(), sm.song_grid(40, 1e-3)
    score = lambda x, t: -x
    x = jnp.asarray([[1.0, -2.0]])
    out = sm.simulate(
        jax.random.key(0), sm.song_reverse_diffusion(sde, score, grid, ode=True), x, grid.times
    )
    beta = np.linspace(0.1 / 40, 20 / 40, 40)[grid.index]
    want = np.prod(2 - np.sqrt(1 - beta) - 0.5 * beta)
    np.testing.assert_allclose(out.x / x, want, rtol=1e-5)
    assert out.nfe == 40


def test_what_the_authors_cannot_do_is_named():
    score, grid = lambda x, t: -x, sm.song_grid(100)
    with pytest.raises(ValueError, match="ancestral sampling is for VP and VE only, got SubVP"):
        sm.song_ancestral(SubVP(), score, grid)
    for make in (sm.song_reverse_diffusion, sm.song_ancestral, sm.song_langevin):
        with pytest.raises(ValueError, match="tables for VP, SubVP and VE only"):
            make(CosineVP(), score, grid)
    with pytest.raises(ValueError, match="n=5 steps are too few"):
        sm.song_reverse_diffusion(VP(), score, sm.song_grid(5))
    with pytest.raises(ValueError, match="snr"):
        sm.song_langevin(VP(), score, grid, snr=0.0)
