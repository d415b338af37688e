"""Swapped arguments, names and lists in place of objects get an error that names the argument.

The types of the signatures are checked in the tests, so the functions are called unwrapped here.
"""

import inspect
import types

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import score_jax as sj
from score_jax.losses.training import draw_noised, dsm
from score_jax.parametrization import NOISE
from score_jax.samplers.simulate import denoised
from score_jax.types import SampleOut

KEY, SDE, TIME, X = jax.random.key(0), sj.VP(), sj.TimeInput(), jnp.ones((2, 3))
GRID = jnp.array([1.0, 0.5])


class Net:
    """A network by the names of its methods."""

    def init(self, key, x, noise_input):
        return {}

    def apply(self, params, x, noise_input):
        return x

    def __call__(self, x, noise_input):
        return x


NET = Net()


def score(x, t):
    return -x


STEP = sj.euler_maruyama(SDE, score)
MODEL_ERRORS = [
    ({"sde": NET.apply, "apply": SDE}, r"sde must be an SDE, such as VP\(\), got <bound method"),
    ({"sde": "vp"}, "sde must be an SDE.*got 'vp'"),
    ({"sde": sj.VP}, "sde must be an SDE.*got <class"),
    ({"apply": NET}, "apply must be a function .*such as net.apply, got <"),
    ({"apply": {}}, "apply must be a function .*got {}"),
    ({"noise_input": "time"}, r"noise_input must be .*such as TimeInput\(\), got 'time'"),
    ({"noise_input": sj.TimeInput}, "noise_input must be .*got <class"),
    ({"parametrization": "v"}, "parametrization must be a Parametrization .*got 'v'"),
    ({"variance": "learned"}, "variance must be a Variance .*got 'learned'"),
]


@pytest.mark.parametrize(("given", "named"), MODEL_ERRORS, ids=[n[:25] for _, n in MODEL_ERRORS])
@pytest.mark.parametrize("make", ["Model", "score_fn", "training_loss"])
def test_of_a_model(make, given, named):
    fields = {"sde": SDE, "apply": NET.apply, "noise_input": TIME} | given
    with pytest.raises(ValueError, match=named):
        if make == "Model":
            rest = {"parametrization": NOISE, "variance": None}
            inspect.unwrap(sj.Model.__post_init__)(types.SimpleNamespace(**(rest | fields)))
        elif make == "score_fn":
            inspect.unwrap(sj.score_fn)(params={}, **fields)
        else:
            inspect.unwrap(sj.training_loss)(**fields)


@pytest.mark.parametrize("option", ["times", "weighting", "reduction"])
def test_of_a_loss(option):
    given, of_loss = {option: "uniform"}, option == "times"
    with pytest.raises(ValueError, match=f"{option} must be a function.*got 'uniform'"):
        if of_loss:
            inspect.unwrap(sj.training_loss)(SDE, NET.apply, noise_input=TIME, **given)
        else:
            inspect.unwrap(dsm)(**given)


BATCH_ERRORS = [
    (({}, {"x": X}), r"key must be one typed key.*got {}; the order is loss\(params, key"),
    ((0, {"x": X}), "key must be one typed key.*got 0"),
    ((KEY, X), 'batch must be a dict with "x"'),
    ((KEY, {"x": [[0.0]]}), r'batch\["x"\] must be an array, got a list'),
]


@pytest.mark.parametrize(("given", "named"), BATCH_ERRORS, ids=[n[:25] for _, n in BATCH_ERRORS])
def test_of_the_arguments_of_a_loss(given, named):
    with pytest.raises(ValueError, match=named):
        inspect.unwrap(draw_noised)(SDE, *given, times=None, t0=1e-5, stratified=True)


RUN_ERRORS = [
    (sj.simulate, (STEP, KEY, X, GRID), r"key must .*got Step.*the order is simulate\(key, step"),
    (sj.simulate, (KEY, sj.euler_maruyama, X, GRID), "step must be a Step"),
    (sj.simulate, (KEY, "heun", X, GRID), "step must be a Step.*got 'heun'"),
    (sj.simulate, (KEY, STEP, [[0.0]], GRID), "x must be an array, got a list"),
    (sj.simulate, (KEY, STEP, X, "uniform"), "grid must be a list of times.*got 'uniform'"),
    (sj.simulate, (KEY, STEP, X, sj.uniform_grid), "grid must be a list of times.*got <function"),
    (sj.log_likelihood, (SDE, KEY, score, X), r"key must .*the order is log_likelihood\(key, sde"),
    (sj.log_likelihood, (KEY, "vp", score, X), "sde must be an SDE.*got 'vp'"),
    (sj.log_likelihood, (KEY, SDE, X, score), "score must be a function"),
    (sj.log_likelihood, (KEY, SDE, NET.apply, X), "got Net.apply, which needs parameters"),
    (sj.log_likelihood, (KEY, SDE, NET, X), "score must be a function"),
    (sj.log_likelihood, (KEY, SDE, score, [[0.0]]), "x must be an array, got a list"),
    (sj.stepwise, ("heun",), "make must be a factory of steps.*got 'heun'"),
    (sj.flow, ("rk45",), "solve must be a solver.*got 'rk45'"),
]


@pytest.mark.parametrize(
    ("run", "given", "named"), RUN_ERRORS, ids=[n[:25] for *_, n in RUN_ERRORS]
)
def test_of_a_run(run, given, named):
    with pytest.raises(ValueError, match=named):
        inspect.unwrap(run)(*given)


@pytest.mark.parametrize(
    "given",
    ["tweedie", True, lambda sde, score: lambda out, t: (out.x, 0)],
    ids=["a name", "a flag", "a factory"],  # the same in every worker
)
def test_of_a_final_denoising(given):
    """The factory instead of what it makes, too."""
    out = SampleOut(X, X, 1, None)
    with pytest.raises(
        ValueError, match=r"final_denoising must be .*such as tweedie\(sde, score\)"
    ):
        inspect.unwrap(denoised)(out, given, jnp.asarray(0.5))


FACTORIES = {
    name: make
    for name, make in vars(sj.samplers).items()
    if inspect.isfunction(make)
    and list(inspect.signature(make).parameters)[:2] == ["sde", "score"]
    and name not in ("identity", "last_mean", "as_it_is")  # which ignore both
}


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_of_a_sampler(name, monkeypatch):
    """Before it runs: swapped arguments, and a network's apply in place of its score."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    needed = inspect.signature(FACTORIES[name]).parameters.values()
    rest = dict.fromkeys(p.name for p in list(needed)[2:] if p.default is p.empty)
    rest.pop("options", None)
    with pytest.raises(ValueError, match=r"sde must be an SDE.*got <function score"):
        FACTORIES[name](score, SDE, **rest)
    with pytest.raises(ValueError, match=r"got Net.apply, which needs parameters: use model.score"):
        FACTORIES[name](SDE, NET.apply, **rest)
