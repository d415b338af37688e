"""Weights of score_sde's two programs: every tensor in its place, the average by default, no guessing.

`tests.helpers.port` says where a tensor belongs: it was written apart from the converter, and the parity
tests of the networks show that it is right. Files of the authors are compared by what they compute.
"""

import functools
import json

import jax
import numpy as np
import pytest

from score_jax.convert import from_score_sde_jax, from_score_sde_pytorch
from score_jax.convert.published import PUBLISHED as PRESETS
from score_jax.convert.score_sde import default_model
from score_jax.nets import MLP, NCSNpp
from score_jax.parametrization import (
    NOISE,
    SCORE,
    TIMESTEP_NOISE,
    IndexInput,
    LevelInput,
    LogSigmaInput,
    StdInput,
    TimeInput,
    edm,
)
from score_jax.sde import VE, VP, LinearBetas, LinearVE
from tests.helpers import port
from tests.helpers.convert_files import (
    drawn,
    state_of_2021,
    state_of_2023,
    unpacked,
    write_msgpack,
    write_torch,
)
from tests.helpers.golden_files import golden
from tests.nets.test_nets_ncsn import load as load_refinenet

FAST = {"xla_backend_optimization_level": 0}
PUBLISHED = [
    "vp_ddpm_continuous", "vp_ddpmpp_continuous", "subvp_ddpmpp_continuous", "ve_ncsnpp_continuous",
    "ve_ncsnpp_discrete",
]  # fmt: skip
RARER = [f"variants/{v}" for v in ("skips_cat", "residuals", "ddpm", "ddpm_fir", "ddpm_bare")]


def error_of(net, params, x, label, expected):
    """Largest difference over largest output."""
    out = jax.jit(net.apply).lower(params, x, label).compile(FAST)(params, x, label)
    return float(np.abs(out - expected).max() / np.abs(expected).max())


def equal(a, b):
    """Whether two trees have the same names and numbers."""
    same = lambda u, v: u.dtype == v.dtype and np.array_equal(u, v)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        jax.tree.leaves(jax.tree.map(same, a, b))
    )


@functools.cache
def case(name):
    """(module, our parameters, the authors' state dict, size) of a reference network."""
    net, params, arrays = port.load(name)
    state = {
        k.removeprefix("state_dict/module."): v.astype(np.float32)
        for k, v in arrays.items()
        if k.startswith("state_dict/")
    }
    if "sigmas" in state:  # rounded in the reference
        levels = json.loads(str(arrays["meta"]))["config"]["model"]
        ends = np.log([levels["sigma_max"], levels["sigma_min"]])
        state["sigmas"] = np.exp(np.linspace(*ends, levels["num_scales"]))
    return net, params, state, arrays["net/x"].shape[1]


def averaged(name):
    """The names that score_sde averages: parameters with a gradient, so not the frequencies."""
    net, _, state, _ = case(name)
    fourier = getattr(net, "embedding", "positional") == "fourier"
    fixed = {"sigmas", *(["all_modules.0.W"] if fourier else [])}
    return [key for key in state if key not in fixed]


def checkpoint(name, *, prefix="module.", **changes):
    """What the authors' program saves, the average being half the weights."""
    _, _, state, _ = case(name)
    shadows = [state[key] / 2 for key in averaged(name)]
    model = {prefix + key: value for key, value in state.items()}
    ema = {"shadow_params": shadows, "num_updates": 7}
    return {"optimizer": {}, "model": model, "ema": ema, "step": 7} | changes


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED + RARER)
def test_every_tensor_has_its_place(name, tmp_path):
    net, params, _, size = case(name)
    named = {"prefix": "" if name in RARER else "module."}  # both are published
    path = write_torch(tmp_path / "checkpoint_8.pth", checkpoint(name, **named))
    model, found, info = from_score_sde_pytorch(path, net, VP(), ema=False, size=size)
    assert model == default_model(net, VP()) and model.apply == net.apply
    assert info["step"] == 7 and info["ema"] is False
    assert equal(found, params)
    _, found, info = from_score_sde_pytorch(path, net, VP(), size=size)
    half = lambda names, v: v if names[-1].key == "frequency" else v / 2
    assert info["ema"] is True
    assert equal(found, jax.tree.map_with_path(half, params))


@pytest.mark.slow
def test_files_of_the_authors_compute_what_they_computed():
    """The size of the images is found from the file."""
    name = "vp_ddpmpp_continuous"
    net, params, _, _ = case(name)
    path = unpacked(f"{name}.pth")
    assert equal(from_score_sde_pytorch(path, net, VP(), ema=False)[1], params)
    _, average, info = from_score_sde_pytorch(path, net, VP())
    out = golden(f"{name}_ema_out")
    assert error_of(net, average, out["x"], out["label"], out["out"]) <= 2e-5
    assert info["step"] == 1234 and info["sigmas"].shape == (1000,)


# Refusals.


def changed(**tensors):
    """A checkpoint with other tensors; None takes one away."""
    file = checkpoint("vp_ddpmpp_continuous")
    for key, value in tensors.items():
        if value is None:
            del file["model"][f"module.{key}"]
        else:
            file["model"][f"module.{key}"] = value
    return file


LAST = "all_modules.0.weight"
WRONG = {
    f"lacks tensors that the network needs: {LAST}": lambda: changed(**{LAST: None}),
    "that the network does not use: all_modules.99.weight": lambda: changed(
        **{"all_modules.99.weight": np.ones(3, "f4")}
    ),
    rf"{LAST} of .* has shape \(3, 4\), which does not fit embed0/kernel": lambda: changed(
        **{LAST: np.ones((3, 4), "f4")}
    ),
    rf"{LAST} of .* has shape \(64,\), which does not fit": lambda: changed(
        **{LAST: np.ones(64, "f4")}
    ),
    f"{LAST} of .* must be a floating-point tensor, got int64": lambda: changed(
        **{LAST: np.ones((64, 16), "i8")}
    ),
}


@pytest.mark.parametrize("named", WRONG)
def test_a_tensor_that_does_not_fit_is_named(named, tmp_path):
    net, _, _, size = case("vp_ddpmpp_continuous")
    path = write_torch(tmp_path / "x.pth", WRONG[named]())
    with pytest.raises(ValueError, match=named) as error:
        from_score_sde_pytorch(path, net, VP(), ema=False, size=size)
    assert str(path) in str(error.value)


def test_an_average_that_does_not_fit_is_named(tmp_path):
    name = "vp_ddpmpp_continuous"
    net, _, _, size = case(name)
    path = tmp_path / "x.pth"
    shadows = checkpoint(name)["ema"]["shadow_params"]
    turned = [shadows[1], shadows[0], *shadows[2:]]
    for ema, named in [
        ({}, "has no average of its weights: ema=False"),
        ({"shadow_params": shadows[1:]}, f"{len(shadows) - 1} tensors for {len(shadows)} param"),
        ({"shadow_params": turned}, r"shadow_params/0 of .*x\.pth has shape \(64,\), but all_mod"),
    ]:
        write_torch(path, checkpoint(name, ema=ema))
        with pytest.raises(ValueError, match=named):
            from_score_sde_pytorch(path, net, VP(), size=size)
    write_torch(path, checkpoint(name, ema={}))
    from_score_sde_pytorch(path, net, VP(), ema=False, size=size)


def test_other_files_and_networks_are_refused(tmp_path):
    net, _, _, size = case("vp_ddpmpp_continuous")
    path = write_torch(tmp_path / "x.pth", {"weights": {}})
    with pytest.raises(ValueError, match=r"has no weights; it holds weights"):
        from_score_sde_pytorch(path, net, VP())
    write_torch(path, {"model": {"a": np.ones(2, "f4")}})
    with pytest.raises(ValueError, match="no convolution, so it is not a network of score_sde"):
        from_score_sde_pytorch(path, net, VP(), ema=False)
    with pytest.raises(ValueError, match="must be one of NCSNpp or DDPM, got MLP"):
        from_score_sde_pytorch(path, MLP(), VP())
    raw = write_torch(path, checkpoint("vp_ddpmpp_continuous")).read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"x\.pth cannot be read"):
        from_score_sde_pytorch(path, net, VP(), size=size)
    other = net.clone(channel_mult=(1, 2, 2))
    write_torch(path, checkpoint("vp_ddpmpp_continuous"))
    with pytest.raises(ValueError, match=r"x\.pth lacks tensors that the network needs"):
        from_score_sde_pytorch(path, other, VP(), size=size)


def test_noise_levels_must_be_those_of_the_network(tmp_path):
    """A network given an index divides by its own noise levels, which must be those of the weights."""
    net, _, _, size = case("ve_ncsnpp_discrete")
    path = write_torch(tmp_path / "x.pth", checkpoint("ve_ncsnpp_discrete"))
    largest, smallest, number = net.sigmas
    for wrong in ((largest * 1.01, smallest, number), (largest, smallest, number + 1)):
        with pytest.raises(ValueError, match=r"sigmas of .* are not the network's"):
            from_score_sde_pytorch(path, net.clone(sigmas=wrong), VP(), size=size)


def test_noise_input_and_parametrization_follow_from_network_and_sde():
    divides = NCSNpp(scale_by_sigma=True)
    for net, sde, noise_input, parametrization in [
        (NCSNpp(), VP(), TimeInput(), NOISE),
        (NCSNpp(), LinearBetas(1000), IndexInput(), TIMESTEP_NOISE),
        (divides, VE(), StdInput(), SCORE),
        (divides.clone(sigmas=(50.0, 0.01, 1000)), VE(), LevelInput(1000), SCORE),
    ]:
        model = default_model(net, sde)
        assert (model.sde, model.noise_input, model.parametrization) == (
            sde, noise_input, parametrization,
        )  # fmt: skip


# The JAX program.


@functools.cache
def flax_case(name):
    """(module, {path: shape}, x, label, output) of the authors' JAX program."""
    arrays = {
        k.removeprefix(f"{name}/"): v
        for k, v in golden("score_sde_jax").items()
        if k.startswith(f"{name}/")
    }
    model = json.loads(str(arrays["config"]))
    meta = {"model": model, "data": {"centered": True}, "training": {"continuous": True}}
    net = port.network({"config": meta})
    return net, json.loads(str(arrays["shapes"])), *(arrays[k] for k in ("x", "label", "out"))


def flax_file(path, name, change=lambda flat: flat):
    """A checkpoint of 2021 whose average is what the reference was computed with."""
    shapes = flax_case(name)[1]
    average = {k: drawn(k, shape) for k, shape in shapes.items()}
    raw = {k: v + 1 for k, v in average.items()}
    return write_msgpack(path, state_of_2021(change(raw), change(average)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residuals", "skips"])
def test_checkpoints_of_the_jax_program_compute_what_it_computed(name, tmp_path):
    net, shapes, x, label, out = flax_case(name)
    path = flax_file(tmp_path / "checkpoint_8", name)
    _, average, info = from_score_sde_jax(path, net, VP(), size=x.shape[1])
    assert info["step"] == 1_300_000 and info["ema"] is True
    assert error_of(net, average, x, label, out) <= 2e-5
    assert sum(v.size for v in jax.tree.leaves(average)) == sum(map(np.prod, shapes.values()))
    _, raw, info = from_score_sde_jax(path, net, VP(), ema=False, size=x.shape[1])
    assert info["ema"] is False
    near = lambda a, b: np.allclose(a, b + 1, atol=1e-6)
    assert all(jax.tree.leaves(jax.tree.map(near, raw, average)))


def test_checkpoints_of_the_jax_program_that_do_not_fit(tmp_path):
    net, shapes, x, _, _ = flax_case("residuals")
    path, size = tmp_path / "checkpoint_8", x.shape[1]
    kernel = "ResnetBlockBigGANpp_0/Conv_0/kernel"
    assert kernel in shapes
    without = lambda flat: {k: v for k, v in flat.items() if k != kernel}
    for change, named in [
        (without, f"lacks tensors that the network needs: {kernel}"),
        (lambda flat: flat | {"Conv_77/bias": np.ones(2, "f4")}, "does not use: Conv_77/bias"),
        (lambda flat: flat | {kernel: np.ones((3, 3), "f4")}, f"{kernel} of .* has shape"),
    ]:
        flax_file(path, "residuals", change)
        with pytest.raises(ValueError, match=named) as error:
            from_score_sde_jax(path, net, VP(), size=size)
        assert str(path) in str(error.value)
    path.write_bytes(flax_file(path, "residuals").read_bytes()[:-20])
    with pytest.raises(ValueError, match="checkpoint_8"):
        from_score_sde_jax(path, net, VP(), size=size)
    write_msgpack(path, {"step": 3})
    with pytest.raises(ValueError, match=r"has no 'params_ema'; it holds step"):
        from_score_sde_jax(path, net, VP())


@pytest.mark.parametrize("wrapper", ["compiled", "state_dict", "average", "process"])
def test_wrappers_of_forks_are_taken_off(tmp_path, wrapper):
    name = "vp_ddpmpp_continuous"
    net, params, state, size = case(name)
    half = {k: v / 2 for k, v in state.items()}
    file, said = {
        "compiled": ({"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
                     ["model", "module.", "_orig_mod."]),
        "state_dict": ({"state_dict": {f"net.{k}": v for k, v in state.items()}, "epoch": 3},
                       ["state_dict", "net."]),
        "average": ({"ema": half, "model": state}, ["model"]),
        "process": ({"model": {"betas": np.ones(3, "f4")} | {f"model.{k}": v for k, v in state.items()}},
                    ["model", "model."]),
    }[wrapper]  # fmt: skip
    path = write_torch(tmp_path / "x.pth", file)
    _, found, info = from_score_sde_pytorch(path, net, VP(), ema=False, size=size)
    assert equal(found, params) and info["unwrapped"] == said
    if wrapper == "average":
        _, found, info = from_score_sde_pytorch(path, net, VP(), size=size)
        assert equal(found, jax.tree.map(lambda v: v / 2, params)) and info["unwrapped"] == ["ema"]


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2_64", "ncsnv2_128", "ncsnv2_256"])
def test_refinenets_of_the_jax_program(tmp_path, name):
    """The parameters are those that the parity test of these networks uses."""
    net, params, _, _, _ = load_refinenet(name)
    flat = {
        k.removeprefix(f"{name}/params/"): v.astype(np.float32)
        for k, v in golden("refinenets").items()
        if k.startswith(f"{name}/params/")
    }
    file = write_msgpack(tmp_path / "checkpoint_8", state_of_2021(flat, flat))
    model, found, info = from_score_sde_jax(file, net, VE(0.01, 50.0))
    assert info["step"] == 1300000 and model.parametrization is SCORE
    assert model.noise_input == LevelInput(10)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, params)))
    small = net.clone(channels=2)
    with pytest.raises(ValueError, match="checkpoint_8 has shape"):
        from_score_sde_jax(file, small, VE(0.01, 50.0))


@pytest.mark.slow
def test_consistency_models_of_openai_compute_what_they_computed(tmp_path):
    """Their State names its weights otherwise, and the preconditioning is EDM's."""
    arrays = golden("consistency_jax")
    shapes = json.loads(str(arrays["shapes"]))
    average = {k: drawn(k, shape) for k, shape in shapes.items()}
    raw = {k: v + 1 for k, v in average.items()}
    path = write_msgpack(tmp_path / "checkpoint_80", state_of_2023(raw, average))
    fields = {"channels": 8, "channel_mult": (2, 2), "num_blocks": 1, "attention": (4,)}
    net = PRESETS["cifar10_consistency"].net.clone(**fields)
    model, params, info = from_score_sde_jax(path, net, LinearVE(), size=8)
    assert info["ema"] and model.parametrization is edm(0.5)
    assert model.noise_input == LogSigmaInput()
    assert error_of(net, params, *(arrays[k] for k in ("x", "noise_input", "out"))) <= 2e-5
    last = from_score_sde_jax(path, net, LinearVE(), ema=False, size=8)[1]
    near = lambda a, b: np.allclose(a, b + 1, atol=1e-6)
    assert all(jax.tree.leaves(jax.tree.map(near, last, params)))
