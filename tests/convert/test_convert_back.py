"""Our weights as files of other programs: the readers make the same parameters and model of them."""

import jax
import numpy as np
import pytest

from experiments import presets
from score_jax.convert import (
    Ingredients,
    from_diffusers,
    from_score_sde_pytorch,
    read_safetensors,
    read_torch,
    to_diffusers,
    to_score_sde_pytorch,
)
from score_jax.convert.assemble import template
from score_jax.convert.score_sde import default_model
from score_jax.convert.torch_writer import write_torch
from score_jax.nets import DDPM, MLP, NCSNpp, UNet
from score_jax.parametrization import (
    DENOISED,
    LEARNED_RANGE,
    TIMESTEP_NOISE,
    IndexInput,
    StdInput,
    TimeInput,
    edm,
)
from score_jax.sde import VE, VP, Betas, CosineBetas, LinearBetas, SubVP
from tests.convert.test_convert_score_sde import case, equal
from tests.helpers.convert_files import unpacked
from tests.helpers.fuzz import shapes_once


@pytest.fixture(autouse=True, scope="module")
def networks_known():
    with pytest.MonkeyPatch.context() as monkeypatch:
        shapes_once(monkeypatch)
        yield


def drawn(net, shape):
    """Random parameters of a network, without a program compiled."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    return {"params": jax.tree.map(draw, template(net, shape, classes=bool(net.num_classes)))}


def ingredients_of(net, sde):
    model = default_model(net, sde)
    return Ingredients(net, sde, model.noise_input, model.parametrization, model.variance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sde"),
    [
        ("vp_ddpm_continuous", LinearBetas(1000)),
        ("ve_ncsnpp_discrete", VE()),
        ("ve_ncsnpp_continuous", VE()),
    ],
)
def test_score_sde_pytorch(tmp_path, name, sde):
    net, params, state, size = case(name)
    half = jax.tree.map(lambda v: v / 2, params)
    given, path = ingredients_of(net, sde), tmp_path / "checkpoint_7.pth"
    to_score_sde_pytorch(path, given, params, averages=half, step=300, decay=0.99)
    # The order of the averages, which have no names, is that of the authors' state dict.
    buffers = {"sigmas"} if net.sigmas is None else set()
    file = read_torch(path)
    assert list(file["model"]) == [f"module.{k}" for k in state if k not in buffers]
    assert file["ema"]["decay"] == 0.99 and file["ema"]["num_updates"] == 300
    _, found, info = from_score_sde_pytorch(path, net, sde, ema=False, size=size)
    assert equal(found, params) and info["step"] == 300
    fixed = lambda names, a, b: a if names[-1].key == "frequency" else b
    _, found, _ = from_score_sde_pytorch(path, net, sde, size=size)
    assert equal(found, jax.tree.map_with_path(fixed, params, half))


@pytest.mark.parametrize("name", ["diffusers_ddpm", "diffusers_ncsnpp"])
def test_folders_of_diffusers(tmp_path, name):
    source = unpacked(name)
    model, params, info = from_diffusers(source)
    given = Ingredients(
        info["module"], model.sde, model.noise_input, model.parametrization, model.variance
    )
    to_diffusers(tmp_path / "new", given, params, info["shape"])
    again, found, back = from_diffusers(tmp_path / "new")
    assert equal(found, params) and back["module"] == info["module"]
    rest = lambda m: (m.noise_input, m.parametrization, m.variance)
    assert rest(again) == rest(model)
    weights = "unet/diffusion_pytorch_model.safetensors"
    theirs, ours = (read_safetensors(path / weights) for path in (source, tmp_path / "new"))
    assert {k for k in theirs if k != "time_proj.W"} == set(ours) or name == "diffusers_ddpm"


@pytest.mark.slow
def test_improved_ddpm_on_the_six_level_network(tmp_path):
    """The network of the preset, narrow, as a folder of diffusers and back."""
    config = presets.get("iddpm_unet2d_64")
    shape, net = (32, 32, 3), config.net.clone(channels=32, out_channels=6, num_classes=5)
    given = Ingredients(
        net, config.sde, config.noise_input, config.parametrization, config.variance
    )
    params = drawn(net, shape)
    to_diffusers(tmp_path / "new", given, params, shape)
    model, found, info = from_diffusers(tmp_path / "new")
    assert equal(found, params) and info["module"] == net
    assert model.variance is LEARNED_RANGE and model.noise_input == config.noise_input
    np.testing.assert_array_equal(model.sde.betas, CosineBetas(1000).betas)
    full = config.net
    assert [int(m * full.channels) for m in full.channel_mult] == [128, 128, 256, 256, 512, 512]
    assert info["config"]["block_out_channels"] == [32, 32, 64, 64, 128, 128]
    assert info["config"]["down_block_types"] == ["DownBlock2D"] * 4 + [
        "AttnDownBlock2D",
        "DownBlock2D",
    ]
    assert info["config"]["out_channels"] == 6
    assert not [p for p in tmp_path.iterdir() if p.name != "new"]


FLAT = UNet(channels=32, channel_mult=(1, 1), num_blocks=1, num_heads=1, scale_shift_norm=False)
WIDENING = FLAT.clone(channel_mult=(1, 2), attention_factors=(1,), num_heads=2)
TABLE = {"sde": LinearBetas(1000), "noise_input": IndexInput()}


def test_noise_schedules_are_written_exactly(tmp_path):
    """By their name where diffusers has it, as a list of betas otherwise."""
    net, shape = FLAT.clone(num_heads=4), (8, 8, 1)
    params = drawn(net, shape)
    for n, sde in enumerate([LinearBetas(1000), LinearBetas(50), Betas([0.1, 0.3, 0.2])]):
        given = Ingredients(net, sde, IndexInput(top=float(sde.n)), TIMESTEP_NOISE)
        to_diffusers(tmp_path / str(n), given, params, shape)
        model, found, info = from_diffusers(tmp_path / str(n))
        np.testing.assert_array_equal(model.sde.betas, sde.betas)
        assert equal(found, params) and info["module"].num_head_channels == 8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"net": FLAT.clone(scale_shift_norm=True)}, "net.scale_shift_norm must be False"),
        ({"net": WIDENING}, "net.num_heads must be 1"),
        ({"net": FLAT.clone(groups=None)}, "net.groups must be 32"),
        ({"net": DDPM(channels=32, channel_mult=(1, 1))}, "net.attend_every_block must be True"),
        ({"net": NCSNpp(channels=32)}, "net.embedding must be 'fourier'"),
        ({"net": MLP()}, "net must be one of UNet, DDPM or NCSNpp"),
        ({"sde": SubVP(), "noise_input": TimeInput()}, "sde must be a noise schedule, a VE or a VP"),
        ({"noise_input": IndexInput(top=500.0)}, "noise_input must be"),
        ({"sde": VP(t1=0.9), "noise_input": TimeInput()}, "sde must be"),
        ({"parametrization": edm()}, "parametrization must be one of"),
    ],
)  # fmt: skip
def test_what_diffusers_does_not_have_is_named(tmp_path, change, named):
    given = Ingredients(**({"net": FLAT} | TABLE | change))
    with pytest.raises(ValueError, match=named):
        to_diffusers(tmp_path / "new", given, {"params": {}}, (8, 8, 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"net": UNet()}, "module must be one of NCSNpp or DDPM, got UNet"),
        ({"net": NCSNpp(condition_first=True)}, "net.condition_first must be False"),
        ({"net": NCSNpp(embedding="plain_fourier")}, "net.embedding must be one of"),
        ({"net": DDPM(fir=True)}, "net.fir must be False"),
        ({"noise_input": StdInput()}, r"noise_input must be TimeInput\(scale=999.0\)"),
        ({"parametrization": DENOISED}, "parametrization must be noise"),
        ({}, "has no last/extra"),
    ],
)
def test_what_score_sde_does_not_have_is_named(tmp_path, change, named):
    net = NCSNpp(channels=8, channel_mult=(1,), num_blocks=1, attention=())
    given = Ingredients(**({"net": net, "sde": VP(), "noise_input": TimeInput()} | change))
    params = {"params": {"last": {"extra": np.zeros(3, "f4")}}}
    with pytest.raises(ValueError, match=named):
        to_score_sde_pytorch(tmp_path / "x.pth", given, params)
    assert not list(tmp_path.iterdir())


def test_other_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="tree must hold dictionaries"):
        write_torch(tmp_path / "x.pth", {"a": [object()]})
    assert not list(tmp_path.iterdir())
    path = tmp_path / "x.pth"
    write_torch(path, {"a": [], "b": {}, "c": -300, "d": 0.5, "e": np.zeros((), "f4")})
    file = read_torch(path)
    assert file["c"] == -300 and file["d"] == 0.5 and file["e"].shape == ()
