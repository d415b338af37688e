"""Folders of diffusers: they compute what they computed there, in both formats; the rest is named."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from experiments import presets, runs
from score_jax.convert import from_diffusers, read_safetensors
from score_jax.convert.assemble import FREE
from score_jax.convert.diffusers import DEFAULTS, network
from score_jax.convert.schedulers import read_scheduler
from score_jax.parametrization import DENOISED, SMALL
from score_jax.sde import VE, VP, from_betas
from tests.helpers.convert_files import unpacked, write_torch

FAST = {"xla_backend_optimization_level": 0}
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULERS = {
    "diffusers_ncsnpp": {"sigma_min": 0.01, "sigma_max": 348.0, "snr": 0.16},
    "diffusers_ddpm": {"prediction_type": "epsilon", "variance_type": "fixed_small"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
def test_folders_compute_what_they_computed(name):
    folder = unpacked(name)
    model, params, info = from_diffusers(folder)
    with np.load(folder / "reference.npz") as file:
        x, label, out = (jnp.asarray(file[key]) for key in ("x", "t", "out"))
    label = jnp.broadcast_to(label.astype(jnp.float32), x.shape[:1])
    found = jax.jit(model.apply).lower(params, x, label).compile(FAST)(params, x, label)
    assert float(jnp.abs(found - out).max() / jnp.abs(out).max()) <= 2e-5
    assert info["shape"] == x.shape[1:]
    assert {key: info[key] for key in SCHEDULERS[name]} == SCHEDULERS[name]
    if name == "diffusers_ddpm":
        betas = info["betas"]
        assert betas.shape == (1000,) and (betas[0], betas[-1]) == (1e-4, 0.02)
        np.testing.assert_allclose(np.diff(betas), 0.0199 / 999, rtol=1e-9)


def folder_with(path, *, weights=None, suffix=None, name="diffusers_ddpm", **fields):
    """A copy of a folder, flat, with other fields (None: left out) or weights."""
    home = unpacked(name) / "unet"
    config = json.loads((home / "config.json").read_text()) | fields
    config = {k: v for k, v in config.items() if v != "absent"}
    (path / "config.json").write_text(json.dumps(config))
    tensors = read_safetensors(home / WEIGHTS) | (weights or {})
    tensors = {k: v for k, v in tensors.items() if v is not None}
    if suffix == ".bin":
        write_torch(path / "diffusion_pytorch_model.bin", tensors)
    else:
        safetensors.numpy.save_file(tensors, path / WEIGHTS)
    return path


def old_name(name):
    """The name of a tensor before version 0.17, in which the published files are."""
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        name = name.replace(new, old)
    return name.replace("to_out.0", "proj_attn")


def test_files_of_torch_and_names_of_old_versions_are_the_same(tmp_path):
    model, params, info = from_diffusers(unpacked("diffusers_ddpm"))
    home = unpacked("diffusers_ddpm") / "unet"
    tensors = read_safetensors(home / WEIGHTS)
    renamed = dict.fromkeys(tensors) | {old_name(k): v for k, v in tensors.items()}
    assert renamed.keys() != tensors.keys()
    path = folder_with(tmp_path, weights=renamed, suffix=".bin")
    with pytest.raises(ValueError, match=r"no scheduler_config\.json, which has the SDE: give sde"):
        from_diffusers(path)
    again, found, without = from_diffusers(path, model.sde)
    assert without["module"] == info["module"]
    rest = lambda m: (m.sde, m.noise_input, m.parametrization, m.variance)
    assert rest(again) == rest(model)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, params)))
    assert "betas" in info and "betas" not in without  # no scheduler beside it


KEY = "mid_block.resnets.0.conv1.bias"
WRONG = {
    f"lacks tensors that the network needs: {KEY}": {"weights": {KEY: None}},
    "that the network does not use: extra": {"weights": {"extra": np.ones(2, "f4")}},
    rf"{KEY} of .* has shape \(3,\), which does not fit mid0/conv0/bias of shape \(32,\)": {
        "weights": {KEY: np.ones(3, "f4")}
    },
    rf"{KEY} of .* must be a floating-point tensor, got int32": {
        "weights": {KEY: np.ones(32, "i4")}
    },
    "has blocks .*'CrossAttnDownBlock2D'": {
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]
    },
    "downsample_padding of .* must be one of .1,., got 0": {"flip_sin_to_cos": True},
    "freq_shift of .* must be one of .1,., got 0": {"freq_shift": "absent"},  # the default there
    "act_fn of .* must be one of .*, got 'mish'": {"act_fn": "mish"},
    "mid_block_scale_factor of .* must be 1, got 2": {"mid_block_scale_factor": 2},
    "in_channels and out_channels of .* must be equal, got 3 and 6": {"out_channels": 6},
    "attention at the same levels": {"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]},
    "block_out_channels of .* must be multiples": {"block_out_channels": [32, 48]},
    "sample_size of .* is needed": {"sample_size": None},
}


@pytest.mark.parametrize("named", WRONG)
def test_what_does_not_fit_is_named(named, tmp_path):
    path = folder_with(tmp_path, **WRONG[named])
    with pytest.raises(ValueError, match=named) as error:
        from_diffusers(path)
    assert str(path) in str(error.value)


def test_folders_without_weights_or_with_half_of_them(tmp_path):
    path = folder_with(tmp_path)
    raw = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=f"{WEIGHTS} cannot be read"):
        from_diffusers(path)
    (path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"has none of .*{WEIGHTS}"):
        from_diffusers(path)
    (path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read as JSON"):
        from_diffusers(path)
    (path / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json"):
        from_diffusers(path)
    with pytest.raises(OSError, match="nowhere"):
        read_safetensors(tmp_path / "nowhere")


def test_published_folders_are_the_networks_of_the_presets():
    """google/ncsnpp-ffhq-1024, its config.json, and our preset of that run."""
    down = ["SkipDownBlock2D"] * 6 + ["AttnSkipDownBlock2D", "SkipDownBlock2D"]
    up = ["SkipUpBlock2D", "AttnSkipUpBlock2D"] + ["SkipUpBlock2D"] * 6
    config = {
        "attention_head_dim": None, "block_out_channels": [16, 32, 64, 128, 256, 512, 512, 512],
        "center_input_sample": True, "down_block_types": down, "up_block_types": up,
        "layers_per_block": 1, "mid_block_scale_factor": 1.41421356237, "norm_eps": 1e-6,
        "norm_num_groups": None, "sample_size": 1024, "time_embedding_type": "fourier",
    }  # fmt: skip
    net, shape = network(DEFAULTS | config, pathlib.Path("config.json"))
    assert shape == (1024, 1024, 3)
    preset = runs.build(presets.get("ve_ffhq_ncsnpp_continuous"))
    assert type(net) is type(preset.net)
    names = [f.name for f in dataclasses.fields(net) if f.name not in FREE]
    assert {n: getattr(net, n) for n in names} == {n: getattr(preset.net, n) for n in names}


def test_schedulers_become_noise_schedules_or_sdes():
    table = read_scheduler({"beta_schedule": "scaled_linear", "beta_start": 0.04, "beta_end": 0.16,
                            "num_train_timesteps": 3}, "x").info  # fmt: skip
    np.testing.assert_allclose(table["betas"], [0.04, 0.09, 0.16])
    given = read_scheduler({"trained_betas": [0.5, 0.25], "prediction_type": "sample"}, "x")
    assert given.info["betas"].tolist() == [0.5, 0.25]
    assert given.info["prediction_type"] == "sample" and given.parametrization is DENOISED
    assert given.sde == from_betas([0.5, 0.25]) and given.variance is SMALL
    # arXiv:2102.09672, eq. 17: the products are squared cosines.
    cosine = read_scheduler(
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 10}, "x"
    ).info
    f = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - cosine["betas"])[4], f(0.5) / f(0), rtol=1e-9)
    assert cosine["betas"][-1] == 0.999
    middle = read_scheduler({"beta_schedule": "sigmoid", "num_train_timesteps": 3}, "x").info[
        "betas"
    ]
    np.testing.assert_allclose(middle[1], (1e-4 + 0.02) / 2, rtol=1e-9)
    ve = read_scheduler({"_class_name": "ScoreSdeVeScheduler"}, "x")
    assert ve.sde == VE(0.01, 1348.0)
    assert ve.info == {"sigma_min": 0.01, "sigma_max": 1348.0, "snr": 0.15}
    vp = read_scheduler({"_class_name": "ScoreSdeVpScheduler", "beta_max": 10}, "x")
    assert vp.sde == VP(0.1, 10.0)
    assert vp.info == {"beta_min": 0.1, "beta_max": 10.0}
    with pytest.raises(ValueError, match=r"beta_schedule of x must be one of .* got 'log'"):
        read_scheduler({"beta_schedule": "log"}, "x")
    with pytest.raises(ValueError, match="rescale_betas_zero_snr of x must be false"):
        read_scheduler({"rescale_betas_zero_snr": True}, "x")
