"""The loss by noise level: sums and counts that add up to the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import losses
from score_jax.parametrization import IndexInput, TimeInput
from score_jax.sde import VE, VP, CosineBetas
from score_jax.training.hooks import Rows


@pytest.mark.parametrize("sde", [VP(), VE(), CosineBetas(50)], ids=["vp", "ve", "betas"])
def test_levels_divide_the_log_snr(sde):
    edges = losses.level_edges(sde, 1e-3, 4)
    times = sde.time_of_log_snr(jnp.asarray((edges[1:] + edges[:-1]) / 2, jnp.float32))
    values = jnp.array([1.0, 2.0, 3.0, 4.0])
    found = losses.by_level(sde, times, values, t0=1e-3, n=4)
    np.testing.assert_array_equal(found, [values, jnp.ones(4)])
    # The ends, and what lies beyond them, are counted at the ends.
    found = losses.by_level(sde, jnp.array([sde.t1, 1e-3, 0.0]), values[:3], t0=1e-3, n=4)
    np.testing.assert_array_equal(found, [[1, 0, 0, 5], [1, 0, 0, 2]])


@pytest.mark.parametrize("sde", [VP(), CosineBetas(50)], ids=["vp", "betas"])
def test_a_loss_is_the_sum_of_its_levels(sde, key):
    given = IndexInput() if isinstance(sde, CosineBetas) else TimeInput()
    apply = lambda params, x, noise_input, **kwargs: params * x
    loss = losses.training_loss(sde, apply, noise_input=given, noise_levels=8, t0=1e-3)
    total, metrics = jax.jit(loss)(jnp.float32(0.5), key, {"x": jnp.ones((64, 3))})
    sums, counts = metrics["loss_by_level"]
    assert sums.shape == (8,) and counts.sum() == 64 and (counts > 0).sum() > 4
    np.testing.assert_allclose(sums.sum() / 64, total, rtol=1e-5)
    assert (
        "loss_by_level"
        not in losses.training_loss(sde, apply, noise_input=given)(
            jnp.float32(0.5), jax.random.fold_in(key, 1), {"x": jnp.ones((4, 3))}
        )[1]
    )


def test_rows_have_the_quotients_since_the_row_before():
    rows = Rows(2)
    level = np.array(
        [[[2.0, 0], [1, 0]], [[4, 0], [1, 0]], [[np.nan, 1], [1, 1]], [[9, 0], [3, 0]]]
    )
    metrics = {"loss": np.array([1.0, 2, np.nan, 4]), "by": level, "finite": np.ones(4, bool)}
    found = list(rows.of(1, metrics))
    assert found == [
        (2, {"loss": 2.0, "by": [3.0, None]}),
        (4, {"loss": 4.0, "by": [3.0, None]}),
    ]
    assert list(rows.of(5, {"fid": np.array([7.0]), "each": np.array([[1.0, np.inf]])})) == [
        (5, {"fid": 7.0, "each": [1.0, None]})
    ]
