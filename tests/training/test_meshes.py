"""A divided state: which axes are cut, what a device holds, and what a compiled step communicates."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh

from benchmarks.compiled import Program
from score_jax import training
from score_jax.draws import draw_of

SHAPES = {
    "kernel": ((3, 3, 64, 64), 3),
    "more inputs than outputs": ((3, 3, 512, 32), 3),
    "inputs alone": ((3, 3, 64, 6), None),
    "dense, outputs": ((64, 128), 1),
    "dense, inputs": ((128, 6), 0),
    "series": ((5, 64, 64), 2),
    "small": ((8,), None),
}


@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_input_channels_are_never_divided(shape, axis):
    lies = training.divided(AbstractMesh((4, 16), ("data", "fsdp")), smallest=64)
    spec = tuple(lies(jax.ShapeDtypeStruct(shape, jnp.float32)).spec)
    assert spec == (() if axis is None else (*[None] * axis, "fsdp"))


def test_the_state_is_divided_where_a_device_holds_the_least():
    state = {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32)}
    # 24 does not divide the channels, 32 does; 100 = 4 * 25.
    found = {n: training.division(state, n) for n in (1, 2, 7, 64, 96, 100, 1024)}
    assert found == {1: 1, 2: 2, 7: 1, 64: 32, 96: 32, 100: 4, 1024: 32}
    assert training.division(state, 1024, most=8) == 8
    held = training.share_of(state, training.divided(AbstractMesh((32, 32), ("data", "fsdp"))))
    assert held == (3 * 3 * 64 * 128 * 4, 3 * 3 * 64 * 4 * 4, 32)
    assert held.ratio == 1


def test_meshes_refuse_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match="fsdp must be a divisor of the 2 devices"):
        training.make_mesh(fsdp=3)
    with pytest.raises(ValueError, match="space must be a divisor of 2 devices"):
        training.make_mesh(space=4)
    with pytest.raises(ValueError, match="n_devices"):
        training.division({}, 0)


def loss(params, key, batch):
    """A little convolutional network in bfloat16 that predicts the noise on an image."""
    noise = draw_of(key, batch).each(lambda k: jax.random.normal(k, (8, 8, 4)))
    h = (batch["x"] + noise).astype(jnp.bfloat16)
    for name in ("a", "b", "c"):
        h = jax.lax.conv_general_dilated(
            jnp.tanh(h), params[name].astype(jnp.bfloat16), (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
    return jnp.mean(jnp.square(h.astype(jnp.float32) + params["bias"] - noise)), {}


@pytest.fixture(scope="module")
def start():
    """(optimiser, state, a batch of four images)."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(0.1 * rng.normal(size=shape), jnp.float32)
    shapes = {"a": (3, 3, 4, 24), "b": (3, 3, 24, 24), "c": (3, 3, 24, 4)}
    params = {name: draw(*shape) for name, shape in shapes.items()} | {"bias": draw(1, 1, 1, 4)}
    optimizer = optax.sgd(1.0)
    state = training.init_state(jax.random.key(1), params, optimizer)
    return optimizer, state, {"x": rng.normal(size=(4, 8, 8, 4)).astype(np.float32)}


def steps(optimizer):
    """The step on two devices by every mapping with an average of its own, by name."""
    axis = training.make_train_step(loss, optimizer, axis_name="devices")
    plain = training.make_train_step(loss, optimizer)
    divided = training.divided(training.make_mesh(fsdp=2), smallest=64)
    return {
        "pmap": lambda: training.pmap_step(axis),
        "shard_map": lambda: training.shard_map_step(axis),
        "fsdp": lambda: training.global_step(plain, sharding_of=divided),
        "space": lambda: training.global_step(
            plain, sharding_of=training.replicated(training.make_mesh(space=2))
        ),
    }


@pytest.fixture(scope="module")
def found(start):
    """{mapping: (compiled text, parameters after a step, loss)}."""
    optimizer, state, batch = start
    out = {}
    for name, make in steps(optimizer).items():
        step = make()
        placed = step.place([batch])
        text = step.program.lower(step.enter(state), placed).compile().as_text()
        after, metrics = step.call(step.enter(state), placed)
        out[name] = text, step.leave(after).params, float(step.read(metrics)["loss"][0])
    return out


def collectives(text):
    """{(kind, type): bytes} of what a compiled program communicates."""
    counted = Program(text).collectives()
    return {(kind, dtype): size for (kind, dtype, _), size in counted.items()}


@pytest.mark.slow
def test_parameters_are_gathered_and_gradients_scattered_in_float32(found):
    """The three kernels are divided by their output channels; the bias and the metrics are whole."""
    counted, kernels = collectives(found["fsdp"][0]), 4 * 3 * 3 * (4 * 24 + 24 * 24 + 24 * 4)
    assert counted.pop(("all-gather", "f32")) == kernels
    assert counted.pop(("reduce-scatter", "f32")) == kernels / 2
    # A convolution divided by its channels would permute or gather activations.
    assert {kind for kind, _ in counted} <= {"all-reduce"}
    assert "f64" not in found["fsdp"][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pmap", "shard_map", "fsdp"])
def test_gradients_are_averaged_in_float32(found, name):
    assert {dtype for _, dtype in collectives(found[name][0])} <= {"f32", "pred"}


@pytest.mark.slow
def test_halves_of_images_exchange_their_borders(found):
    counted = collectives(found["space"][0])
    border = 4 * 8 * 4 * 2  # a row of four images with four channels in bfloat16
    assert sum(n for (kind, _), n in counted.items() if kind == "collective-permute") >= border
    # No device holds the activations of a whole image.
    heights = set(re.findall(r"\w+\[4,(\d),8,24\]", found["space"][0]))
    assert "4" in heights and "8" not in heights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shard_map", "fsdp", "space"])
def test_every_mesh_takes_the_same_step(start, found, name):
    _, expected, loss = found["pmap"]
    assert found[name][2] == pytest.approx(loss, rel=1e-3)
    for key, before in start[1].params.items():
        update = expected[key] - before
        differ = np.linalg.norm(found[name][1][key] - expected[key])
        assert differ <= 0.02 * np.linalg.norm(update), key  # activations are rounded to 8 bits


def test_a_batch_fits_the_groups_of_devices(start):
    optimizer, *_ = start
    plain = training.make_train_step(loss, optimizer)
    mesh = training.make_mesh(space=2)
    step = training.global_step(plain, sharding_of=training.replicated(mesh))
    with pytest.raises(ValueError, match="space must be a divisor of the height of images, 7"):
        step.place([{"x": np.zeros((3, 7, 8, 4), np.float32)}])
    placed = step.place([{"x": np.zeros((3, 8, 8, 4), np.float32), "y": np.zeros(3, np.int32)}])
    shapes = {name: leaf.addressable_shards[1].data.shape for name, leaf in placed.items()}
    assert shapes == {"x": (3, 4, 8, 4), "y": (3,)}
