"""A run folder of the version before the redraw is resumed: commit 8e14a58, 20 steps on two moons."""

import itertools
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax.checkpoints import open_checkpoints, restore_params
from score_jax.data import batches, two_moons
from score_jax.draws import draw_of
from score_jax.nets import MLP
from score_jax.training import fit, init_state, jit_step, make_optimizer, make_train_step, power
from tests.helpers import ROOT

FOLDER = ROOT / "tests" / "helpers" / "data" / "run_8e14a58.tar.xz"


@pytest.fixture
def old_run(tmp_path):
    with tarfile.open(FOLDER) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.mark.slow
def test_its_training_state_is_restored_and_training_goes_on(old_run):
    net = MLP(width=8, num_blocks=1)
    params = jax.jit(net.init)(jax.random.key(5), jnp.zeros((1, 2)), jnp.ones(1))
    optimizer = make_optimizer(learning_rate=2e-3, warmup=200)
    state = init_state(jax.random.key(6), params, optimizer, averages=["power_0.1"])

    def loss(params, key, batch):
        z = draw_of(key, batch).each(lambda key: jax.random.normal(key, (2,)))
        out = net.apply(params, batch["x"] + z, jnp.full(len(z), 500.0))
        return jnp.mean(jnp.square(out - z)), {}

    step = make_train_step(loss, optimizer, averages={"power_0.1": power(0.1)})
    examples = batches(two_moons(200), 16)
    with open_checkpoints(old_run / "checkpoints") as store:
        found = store.restore_latest(state)
        assert found.step == 20 == int(found.state.step) and store.best_step() == 20
        assert found.extra["net"]["width"] == 8 and found.progress["skipped"] == 0
        result = fit(state, jit_step(step), examples, steps=25, checkpoints=store)
        assert store.steps() == [20, 25]
    assert result.step == 25 and np.isfinite(result.metrics["loss"])
    # The data went on from the twentieth batch, and the optimiser from its twentieth update.
    again = next(itertools.islice(batches(two_moons(200), 16), 25, None))
    np.testing.assert_array_equal(next(examples)["x"], again["x"])
    counts = [leaf for leaf in jax.tree.leaves(result.state.opt_state) if leaf.dtype == jnp.int32]
    assert all(int(count) == 25 for count in counts) and counts
    assert jax.random.key_data(found.state.key).tolist() != jax.random.key_data(state.key).tolist()


def test_its_averaged_parameters_are_read_without_a_template(old_run):
    params = restore_params(old_run / "checkpoints")["params"]
    assert params["Dense_0"]["kernel"].shape == (8, 8) and len(params) == 6
    # Its checksums are those of whole leaves, which are read and then divided.
    lies = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("d",)), PartitionSpec())
    half = NamedSharding(lies.mesh, PartitionSpec(None, "d"))
    template = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=half if v.ndim == 2 else lies),
        {"params": params},
    )
    split = restore_params(old_run / "checkpoints", template)["params"]
    assert split["Dense_0"]["kernel"].sharding == half
    jax.tree.map(np.testing.assert_array_equal, split, params)
