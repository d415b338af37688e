"""`train --init` from files of other programs, and weights with or without a learned uncertainty."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import presets, runs
from experiments.config import DataConfig, LossConfig
from experiments.parts import origins
from experiments.run_config import Config
from score_jax import convert
from score_jax.convert import published
from score_jax.convert.assemble import template
from score_jax.losses import Uncertainty
from score_jax.nets import NCSNpp, UNet
from score_jax.parametrization import SMALL, IndexInput, TimeInput
from score_jax.sde import VP, LinearBetas

RGB = DataConfig(name="tfds", builder="cifar10", size=(8,), channels=3)
DDPMPP = NCSNpp(channels=8, channel_mult=(1,), num_blocks=1, attention=())
FLAT = UNet(channels=32, channel_mult=(1,), num_blocks=1, num_heads=4, scale_shift_norm=False)
SCHEDULE = {"sde": LinearBetas(), "noise_input": IndexInput(), "variance": SMALL}


def drawn(net, seed):
    """Random parameters of a network for images of 8 x 8 pixels, without a program compiled."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    return {"params": jax.tree.map(draw, template(net, (8, 8, 3), classes=False))}


@pytest.fixture(autouse=True)
def drawn_at_once(monkeypatch):
    new = lambda run, key: run.with_uncertainty(drawn(run.net, 9))
    monkeypatch.setattr(runs.Run, "init_params", new)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(np.array_equal, a, b)
    )


def ingredients_of(config):
    return convert.Ingredients(
        config.net, config.sde, config.noise_input, config.parametrization, config.variance
    )


def test_a_published_file_with_its_preset(tmp_path, monkeypatch):
    """Averages or, on request, the weights of the last step; a network of other channels is named."""
    config, path = Config(data=RGB, net=DDPMPP), tmp_path / "checkpoint_3.pth"
    given = convert.Ingredients(DDPMPP, VP(), TimeInput())
    raw, averages = drawn(DDPMPP, 0), drawn(DDPMPP, 1)
    convert.to_score_sde_pytorch(path, given, raw, averages=averages, step=300)
    monkeypatch.setitem(published.PUBLISHED, "small", given)
    run = runs.build(config)
    for start, wanted in (
        (origins.Start(str(path), "small"), averages),
        (origins.Start(str(path), "small", raw=True), raw),
    ):
        state, record = origins.state_of(run, start)
        assert same(state.params, wanted) and same(state.ema_params, wanted)
        assert state.step == 0 and record["anew"] == record["changed"] == {}
        assert len(record["sha256"]) == 64
    with pytest.raises(ValueError, match="preset must name the network of the file"):
        origins.state_of(run, origins.Start(str(path)))
    other = runs.build(
        dataclasses.replace(config, data=dataclasses.replace(RGB, channels=3), net=FLAT)
    )
    with pytest.raises(ValueError, match=r"no leaf fits|leaves fit"):
        origins.state_of(other, origins.Start(str(path), "small"))


def test_a_folder_of_diffusers(tmp_path):
    """Its weights start a run; one of another objective says what differs."""
    config = Config(data=RGB, net=FLAT, loss=LossConfig(objective="simple"), **SCHEDULE)
    params = drawn(FLAT, 0)
    convert.to_diffusers(tmp_path / "new", ingredients_of(config), params, (8, 8, 3))
    start = origins.Start(str(tmp_path / "new"))
    state, record = origins.state_of(runs.build(config), start)
    assert same(state.params, params) and record["anew"] == {}
    assert same(state.ema_params, params)
    continuous = Config(data=RGB, net=FLAT)
    state, record = origins.state_of(runs.build(continuous), start)
    assert same(state.params, params) and {"sde", "noise_input"} <= set(record["changed"])


def test_weights_with_and_without_a_learned_uncertainty():
    """Of the loss: it is taken where both have it, untrained where it is missing, or left out."""
    plain = runs.build(Config(data=RGB, net=DDPMPP))
    learning = runs.build(Config(data=RGB, net=DDPMPP, loss=LossConfig(uncertainty=True)))
    start, params = origins.Start("x"), drawn(DDPMPP, 0)
    learned = {"uncertainty": {"kernel": np.ones(128, np.float32), "bias": np.float32(2)}}
    key = jax.random.key(0)
    found, missing = origins.fitted(learning.init_params(key), params, start)
    assert same(found, params | Uncertainty().init())
    assert {w: set(n) for w, n in missing.items()} == {
        "missing there": {"uncertainty/bias", "uncertainty/kernel"}
    }
    found, unused = origins.fitted(plain.init_params(key), params | learned, start)
    assert same(found, params) and list(unused) == ["not used here"]
    found, wrong = origins.fitted(learning.init_params(key), params | learned, start)
    assert same(found, params | learned) and wrong == {}
    assert same(learning.with_uncertainty(params | learned), params | learned)


def test_the_presets_of_edm2_learn_it():
    learn = {n for n in presets.CONFIGS if presets.get(n).loss.uncertainty}
    assert learn == {"digits_edm2", "imagenet64_edm2_s"}
