"""Weights of Improved DDPM, ADM and its classifier: every tensor in its place, or refused by name."""

import functools

import jax
import numpy as np
import pytest

from score_jax.convert import from_guided_diffusion, from_improved_diffusion
from score_jax.nets import MLP, UNet
from score_jax.parametrization import LARGE, LEARNED_RANGE, IndexInput
from score_jax.sde import CosineBetas
from tests.helpers import port_unet
from tests.helpers.convert_files import name as global_name
from tests.helpers.convert_files import text, tuple_of, write_torch, write_zip

UNETS = [
    "adm_class", "adm_half", "plain_resampling", "series", "series_conv", "volume", "upsampler",
    "upsampler_improved",
]  # fmt: skip
POOLS = ["adaptive", "attention", "spatial", "spatial_v2"]
SMALL = "unet_variants/series"
SCHEDULE = CosineBetas(1000)


@functools.cache
def state(name):
    """The authors' state dict of a reference network, in float32."""
    _, tensors, _ = port_unet.read(name)
    return {key: np.asarray(value, np.float32) for key, value in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "convert"),
    [
        *((n, from_improved_diffusion) for n in ("iddpm_unet_additive", "iddpm_unet_scale_shift_class")),
        *((f"unet_variants/{v}", from_guided_diffusion) for v in UNETS),
        *((f"unet_variants/classifier_{p}", from_guided_diffusion) for p in POOLS),
    ],
)  # fmt: skip
def test_every_tensor_has_its_place(name, convert, tmp_path):
    """As `tests.helpers.port_unet` places them, with which the networks compute what the authors' do."""
    net, params, _, _ = port_unet.load(name)
    path = write_torch(tmp_path / "ema_0.9999_500000.pt", state(name))
    model, found, info = convert(path, net, SCHEDULE)
    assert model.apply == net.apply and model.sde is SCHEDULE and info == {}
    assert model.noise_input == IndexInput(top=1000.0)
    if isinstance(net, UNet):
        channels = jax.tree.leaves(found["params"]["out_2"]["bias"])[0].size
        seen = found["params"]["input_blocks_0_0"]["kernel"].shape[-2]
        seen //= 1 + net.super_resolution
        assert model.variance is (LEARNED_RANGE if channels == 2 * seen else LARGE)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, params)))
    assert {v.dtype for v in jax.tree.leaves(found)} == {np.dtype("float32")}


def test_wrappers_of_forks_are_taken_off(tmp_path):
    net, params, _, _ = port_unet.load(SMALL)
    average = {"ema_model.module." + k: v for k, v in state(SMALL).items()}
    online = {"online_model.module." + k: v * 2 for k, v in state(SMALL).items()}
    file = {
        "step": 3,
        "model": {k: v * 3 for k, v in state(SMALL).items()},
        "ema": average | online,
    }
    path = write_torch(tmp_path / "model-3.pt", file)
    _, found, info = from_guided_diffusion(path, net, SCHEDULE)
    assert info == {"unwrapped": ["ema", "ema_model.", "module."]}
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, params)))
    _, found, info = from_guided_diffusion(path, net, SCHEDULE, ema=False)
    assert info == {"unwrapped": ["model"]}
    three = jax.tree.map(lambda v: v * 3, params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, three)))


FIRST = "input_blocks.0.0.weight"
WRONG = {
    "has no tensors for parameters of the network: out_2/bias": {"out.2.bias": None},
    "that the network does not use: out.3.bias": {"out.3.bias": np.ones(3, "f4")},
    r"out.2.bias of .* has shape \(4,\), which does not fit out_2/bias of shape \(3,\)": {
        "out.2.bias": np.ones(4, "f4")
    },
    "out.2.bias of .* must be a floating-point tensor, got int64": {"out.2.bias": np.ones(3, int)},
    f"has no tensor '{FIRST}', so it is not a network of these programs": {FIRST: None},
    f"{FIRST} of .* has 2 spatial axes, but module.dims=1": {FIRST: np.ones((32, 3, 3, 3), "f4")},
}  # fmt: skip


@pytest.mark.parametrize("named", WRONG)
def test_a_tensor_that_does_not_fit_is_named(named, tmp_path):
    net, _, _ = port_unet.read(SMALL)
    tensors = {k: v for k, v in (state(SMALL) | WRONG[named]).items() if v is not None}
    path = write_torch(tmp_path / "model500000.pt", tensors)
    with pytest.raises(ValueError, match=named) as error:
        from_guided_diffusion(path, net, SCHEDULE)
    assert str(path) in str(error.value)


def test_other_files_and_networks_are_refused(tmp_path):
    net, _, _ = port_unet.read(SMALL)
    path = tmp_path / "model.pt"
    write_torch(path, [1])
    with pytest.raises(ValueError, match="holds a list of 1, not a state dict"):
        from_guided_diffusion(path, net, SCHEDULE)
    with pytest.raises(ValueError, match="must be a UNet or EncoderUNet, got MLP"):
        from_guided_diffusion(path, MLP(), SCHEDULE)
    classifier, _, _ = port_unet.read("unet_variants/classifier_spatial")
    with pytest.raises(ValueError, match="must be a UNet, got EncoderUNet"):
        from_improved_diffusion(path, classifier, SCHEDULE)
    raw = write_torch(path, state(SMALL)).read_bytes()
    path.write_bytes(raw[:-1000])
    with pytest.raises(ValueError, match=r"model\.pt cannot be read"):
        from_guided_diffusion(path, net, SCHEDULE)
    write_zip(path, global_name("os", "system") + tuple_of(text("true")) + b"R")
    with pytest.raises(ValueError, match=r"model\.pt .*os\.system"):
        from_guided_diffusion(path, net, SCHEDULE)
