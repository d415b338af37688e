"""The part "mesh" of a config: how a state is divided on many devices, and batches per device."""

import dataclasses
import re
from unittest import mock

import jax
import pytest
from jax.sharding import AbstractMesh

from experiments import cli, presets, runs, train
from experiments.parts import mapping
from experiments.run_config import Config
from score_jax import training

LARGE = ["vp_cifar10_ddpmpp_continuous", "ve_ffhq_ncsnpp_continuous"]  # the second has 1024 pixels


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_device_holds_its_share_on_any_number_of_devices(name):
    state = runs.build(presets.get(name)).shapes
    whole = training.share_of(state, training.replicated(AbstractMesh((1,), ("data",)))).whole
    held = []
    for n in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        fsdp = training.division(state, n)
        lies = training.divided(AbstractMesh((n // fsdp, fsdp), ("data", "fsdp")))
        found = training.share_of(state, lies)
        assert (fsdp, found.whole) == (min(n, 32), whole)
        assert found.held <= 1.2 * whole / fsdp
        held.append(found.held)
    assert held == sorted(held, reverse=True)


def of(config=None, **mesh):
    config = presets.get("digits_vp") if config is None else config
    return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **mesh))


def test_states_are_divided_by_themselves_on_many_devices():
    run = runs.build(of(mapping="jit"))
    assert mapping.sharding_of(run, jax.devices()) is None
    with mock.patch.object(mapping, "MANY", 2):
        lies = mapping.sharding_of(run, jax.devices())
        assert dict(lies(jax.ShapeDtypeStruct((), "float32")).mesh.shape) == {"data": 1, "fsdp": 2}
        none = runs.build(of(mapping="jit", shard="none"))
        assert mapping.sharding_of(none, jax.devices()) is None
        assert mapping.sharding_of(runs.build(of()), jax.devices()) is None


def with_batch(size, micro=1, **mesh) -> Config:
    config = of(**mesh)
    sizes = dataclasses.replace(config.train, batch_size=size, microbatches=micro)
    return dataclasses.replace(config, train=sizes)


ADVICE = {
    "three": (with_batch(3), "by the 2 devices, got 3: --per-device 1 makes it 2"),
    "one": (
        with_batch(1),
        "got 1: --per-device 1 makes it 2, or --mesh.mapping jit --mesh.space 2 gives every image to 2 "
        "devices",
    ),
    "microbatches": (
        with_batch(3, 3),
        "by the 2 devices times train.microbatches=3, got 3: --per-device 3",
    ),
    "space": (of(mapping="jit", space=3), "mesh.space must be a divisor of the 2 devices, got 3"),
}


@pytest.mark.parametrize(("config", "text"), ADVICE.values(), ids=ADVICE)
def test_a_batch_that_does_not_fit_the_devices_is_answered_with_what_does(config, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        mapping.check_devices(config)


def test_batches_per_device(tmp_path):
    assert mapping.with_batch_per_device(of(), None) == of()
    assert mapping.with_batch_per_device(of(), 8).train.batch_size == 16
    assert mapping.with_batch_per_device(of(mapping="jit", space=2), 8).train.batch_size == 8
    with pytest.raises(ValueError, match="--per-device must be at least 1, got 0"):
        mapping.with_batch_per_device(of(), 0)
    words = ["--workdir", str(tmp_path), "--per-device", "8", "--train.steps-per-call", "5"]
    with (
        mock.patch.object(cli, "start"),
        mock.patch.object(train, "train", side_effect=InterruptedError) as called,
        pytest.raises(InterruptedError),
    ):
        train.main(words)
    assert called.call_args.args[0].train.batch_size == 16
