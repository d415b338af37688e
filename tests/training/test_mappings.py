"""The three mappings are one step: the same numbers on any devices, in microbatches, divided."""

import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax.draws import Draw, draw_of, number, row_key
from score_jax.nets.layers import Conv, Dense, Dropout
from score_jax.training import (
    divided,
    global_step,
    init_state,
    make_mesh,
    make_train_step,
    pmap_step,
    shard_map_step,
)
from tests.helpers import ROOT

SHORT = ["pmap/1/1", "pmap/8/1", "shard_map/4/1", "jit/8/1", "fsdp/8/1", "space/8/1", "both/8/1"]
SHORT += ["pmap/2/4"]
RESUMED = [f"shard_map/4/1+{second}" for second in ("pmap/1/1", "pmap/2/4", "fsdp/8/1")]
RESUMED += [f"fsdp/8/1+fsdp/{n}/1" for n in (4, 16)]  # each part is read onto the other mesh
LONG = [f"{m}/{n}/1" for m in ("pmap", "shard_map", "jit") for n in (1, 2, 4, 8)]
LONG += ["fsdp/1/1", "fsdp/4/1", "fsdp/8/1", "shard_map/2/2", "jit/4/2", "pmap/2/4"]


def outcomes(folder, names):
    """What the script writes for these runs."""
    subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "mappings_script.py", folder, *names],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=800,
    )
    with np.load(folder / "out.npz") as file:
        return dict(file)


def assert_one_run(found, names):
    first = names[0]
    assert (np.diff(found[f"{first}/loss"]) != 0).all()  # each step draws anew
    for name in names[1:]:
        for what in ("loss", "params"):
            np.testing.assert_allclose(
                found[f"{name}/{what}"], found[f"{first}/{what}"], rtol=2e-5, atol=2e-6, err_msg=name
            )  # fmt: skip


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return outcomes(tmp_path_factory.mktemp("mappings"), [*SHORT, *RESUMED])


@pytest.mark.slow
def test_mappings_and_device_counts_agree(short):
    """Losses and parameters of four steps with stratified times, noise on the data, and dropout."""
    assert_one_run(short, SHORT)


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices(short):
    """Two steps on four or eight devices, saved; two more on others, by the same and other mappings."""
    assert all(len(short[f"{name}/loss"]) == 4 for name in RESUMED)
    assert_one_run(short, [SHORT[0], *RESUMED])


@pytest.mark.slow
def test_dividing_the_state_saves_the_memory_it_should(short):
    whole, divided = short["jit/8/1/memory"], short["fsdp/8/1/memory"]
    # Nearly all of this state is in leaves that 8 divides.
    assert divided < 0.3 * whole


@pytest.mark.skipif("SCORE_JAX_LONG" not in os.environ, reason="set SCORE_JAX_LONG=1: two minutes")
def test_every_mapping_on_every_number_of_devices(tmp_path):
    assert_one_run(outcomes(tmp_path, LONG), LONG)


@pytest.fixture
def reuse():
    """The same key on purpose: what is drawn twice must be the same."""
    with jax.debug_key_reuse(False):
        yield


def test_examples_draw_by_their_place_in_the_whole_batch(key, reuse):
    whole = draw_of(key, {"x": jnp.zeros((8, 3))})
    normal = lambda key: jax.random.normal(key, (3,))
    part = number(key, 3, first=2, total=8)
    np.testing.assert_array_equal(part.each(normal), whole.each(normal)[2:5])
    np.testing.assert_array_equal(part.place, whole.place[2:5])
    assert len(np.unique(whole.each(normal))) == 24
    assert len(np.unique([whole.fold(i).each(normal) for i in range(2)])) == 48
    carried = {"x": jnp.zeros((2, 3)), "draw": part}
    assert draw_of(jax.random.key(5), carried) is part


@pytest.mark.parametrize("shape", [(), (5, 7), (4, 6)], ids=str)
def test_rows_are_drawn_by_their_place_in_the_whole_batch(key, reuse, shape):
    whole = number(key, 8)
    bits = jax.jit(
        lambda draw, kind: jax.random.bits(row_key(key, draw), (len(draw.row), *shape), kind),
        static_argnums=1,
    )
    for kind in (jnp.uint8, jnp.uint32):
        expected = np.asarray(bits(whole, kind))
        np.testing.assert_array_equal(bits(number(key, 3, first=2, total=8), kind), expected[2:5])
        odd = Draw(*(leaf[1::2] for leaf in whole))
        np.testing.assert_array_equal(bits(odd, kind), expected[1::2])
    assert len(np.unique(expected)) == expected.size


def test_keys_of_rows_are_folded_and_split_as_others_are(key, reuse):
    rows = row_key(key, number(key, 8))
    u = jax.random.uniform(rows, (8, 20_000))
    assert np.abs(np.corrcoef(u) - np.eye(8)).max() < 5 / np.sqrt(20_000)
    assert float(u.mean()) == pytest.approx(0.5, abs=5 / np.sqrt(12 * u.size))
    others = [*jax.random.split(rows, 2), jax.random.fold_in(rows, 9), rows]
    assert len(np.unique([jax.random.bits(k, (8, 3)) for k in others])) == 4 * 24


def test_dropout_keeps_the_mean(key):
    layer, x = Dropout(0.25), jnp.ones((64, 200))
    out = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert float(out.mean()) == pytest.approx(1, abs=4 * np.sqrt(0.25 / 0.75 / out.size))
    np.testing.assert_array_equal(layer.apply({}, x), x)


class Counting(nn.Module):
    """A convolution and a linear map in bfloat16, beside each other."""

    @nn.compact
    def __call__(self, x):
        """The sum of both."""
        layers = Conv(2, 1, dtype=jnp.bfloat16, name="conv"), Dense(2, dtype=jnp.bfloat16)
        return sum(layer(x).astype(jnp.float32).sum(axis=(1, 2)) for layer in layers)


@pytest.mark.slow
def test_every_mapping_averages_gradients_in_float32():
    """A layer that counts 257 places on each of two devices: bfloat16 would make 256 of them.

    On NVIDIA GPUs, where a convolution's gradient is made in bfloat16, the program says what is averaged.
    """
    x = np.ones((2, 257, 1), np.float32)
    params = jax.tree.map(jnp.zeros_like, Counting().init(jax.random.key(0), jnp.asarray(x)))
    loss = lambda params, key, batch: (Counting().apply(params, batch["x"]).mean(), {})
    plain, mapped = (make_train_step(loss, optax.sgd(1.0), axis_name=n) for n in (None, "devices"))
    mappings = {
        "pmap": pmap_step(mapped),
        "shard_map": shard_map_step(mapped),
        "jit": global_step(plain),
        "fsdp": global_step(plain, sharding_of=divided(make_mesh(), smallest=1)),
    }
    for name, step in mappings.items():
        state = step.enter(init_state(jax.random.key(0), params, optax.sgd(1.0)))
        placed = step.place([{"x": x}])
        if name != "pmap":  # the body of shard_map, and compiled for devices that are there alone
            cuda = step.program.trace(state, placed).lower(lowering_platforms=("cuda",)).as_text()
            assert averaged(cuda) == ["f32"] * (len(jax.tree.leaves(params)) + 1), name
        state = step.leave(step.call(state, placed)[0])
        for leaf in jax.tree.leaves(state.params):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, -257.0), err_msg=name)


def averaged(text):
    """The types of what a lowered program adds up over devices."""
    return re.findall(
        r'"stablehlo\.(?:all_reduce|reduce_scatter)".*?\}\) : \(tensor<[\dx]*(\w+)>',
        text,
        re.DOTALL,
    )


def squares(params, key, batch):
    return jnp.mean(jnp.square(batch["x"] @ params["w"])), {}


def test_the_new_mappings_refuse_what_would_go_wrong_silently():
    optimizer = optax.sgd(0.1)
    plain = make_train_step(squares, optimizer)
    mapped = make_train_step(squares, optimizer, axis_name="devices")
    with pytest.raises(ValueError, match="axis_name"):
        shard_map_step(plain)
    with pytest.raises(ValueError, match="axis_name"):
        global_step(mapped)
    for step in (shard_map_step(mapped), global_step(plain), pmap_step(mapped)):
        with pytest.raises(ValueError, match="batch of 7 does not divide evenly over 2"):
            step.place([{"x": np.zeros((7, 2), np.float32)}])
    with pytest.raises(ValueError, match="microbatches"):
        make_train_step(squares, optimizer, microbatches=0)
    parts = jax.jit(make_train_step(squares, optimizer, microbatches=3))
    state = init_state(jax.random.key(0), {"w": jnp.ones((2, 1))}, optimizer)
    with pytest.raises(ValueError, match="multiple of microbatches=3"):
        parts(state, {"x": jnp.ones((7, 2))})
