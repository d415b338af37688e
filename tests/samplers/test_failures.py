"""What a solver returns depends on its checks, and a command or a caller is told what failed."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import samplers as sm
from score_jax.sde import VP
from tests.helpers.closed_form import isotropic

SDE = VP()
SCORE = isotropic(SDE, 0.8, 0.5)
ENDS = {"t_from": 1.0, "t_to": 0.1}
SOLVERS = {
    "adaptive": lambda x: sm.adaptive_multistep(SDE, SCORE, x, max_steps=3, **ENDS),
    "each": lambda x: sm.adaptive_multistep(SDE, SCORE, x, max_steps=3, per_sample=True, **ENDS),
    "flow": lambda x: sm.probability_flow(SDE, SCORE, x, max_steps=3, **ENDS),
    "path": lambda x: sm.probability_path(SDE, SCORE, x, max_steps=3, **ENDS),
    "sde": lambda x: sm.diffrax_sde(
        jax.random.key(0), SDE, SCORE, x, jnp.asarray([1.0, 0.5, 0.1]), max_steps=2,
        controller=diffrax.PIDController(rtol=1e-3, atol=1e-3),
        solver=diffrax.ShARK(),
    ),
}  # fmt: skip
OUTPUTS = [
    ("adaptive", "x"), ("adaptive", "denoised"), ("adaptive", "nfe"), ("adaptive", "accepted"),
    ("adaptive", "rejected"), ("each", "denoised"), ("flow", "x"), ("flow", "nfe"),
    ("path", "x"), ("path", "inner"), ("sde", "x"), ("sde", "nfe"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "output"), OUTPUTS)
def test_every_output_depends_on_the_checks(solver, output):
    """A program that returns one output alone raises too."""

    @jax.jit
    def solve(x):
        arrays = jax.tree.leaves(getattr(SOLVERS[solver](x), output))
        return [leaf for leaf in arrays if isinstance(leaf, jax.Array)]

    with pytest.raises(Exception, match=r"max_steps|maximum number"):
        jax.block_until_ready(solve(jnp.ones((2, 3))))


@pytest.mark.parametrize(
    ("sampler", "named"),
    [
        (sm.flow(rtol=1e-12, atol=1e-12, max_steps=8), "probability_flow: max_steps=8 reached"),
        (
            sm.flow(sm.adaptive_multistep, max_steps=3, final_denoising=sm.last_mean),
            "adaptive_multistep: max_steps=3 reached before t_to",
        ),
    ],
    ids=["flow", "adaptive"],
)
def test_sampling_names_what_a_solver_did_not_reach(sampler, named, caplog):
    with pytest.raises(sm.SolverError, match=named) as raised:
        sm.sample(
            jax.random.key(0), SDE, SCORE, (4, 2), sampler=sampler, grid=[1.0, 0.1], progress=False
        )
    assert "\n" not in str(raised.value)
    assert not caplog.records


def test_samples_that_are_not_finite_are_counted():
    def broken(y):
        return lambda x, t: jnp.where((y == 1)[:, None], jnp.nan, -x)

    with pytest.raises(FloatingPointError, match="2 of 4 samples are not finite"):
        sm.sample(
            jax.random.key(0), SDE, broken, (4, 2), y=np.asarray([0, 1, 1, 0]),
            sampler=sm.ddim, grid=[1.0, 0.1], progress=False,
        )  # fmt: skip
