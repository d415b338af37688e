"""Networks and SDEs as JSON records, and published files as models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import score_jax as sj
from score_jax.convert import PUBLISHED_FILES, from_score_sde_pytorch, published
from score_jax.convert.published import PUBLISHED, lookup
from score_jax.convert.records import (
    NETS,
    NOISE_INPUTS,
    SDES,
    Ingredients,
    from_record,
    read_json,
    to_json,
)
from score_jax.nets import MLP, NCSNpp
from score_jax.parametrization import (
    LEARNED_RANGE,
    IndexInput,
    LogSigmaInput,
    Parametrization,
    TimeInput,
    V,
    edm,
)
from score_jax.sde import VP, Betas, LinearVE
from score_jax.types import SDE
from tests.helpers.convert_files import unpacked


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_ingredients_survive_json(name):
    assert read_json(Ingredients, to_json(PUBLISHED[name])) == PUBLISHED[name]


def test_every_exported_class_is_known_by_its_name():
    assert {"NCSNpp", "DDPM", "UNet", "MLP"} <= set(NETS) and "EncoderUNet" not in NETS
    assert {"VP", "VE", "SubVP", "CosineBetas", "Betas"} <= set(SDES) and "Marginals" not in SDES
    assert set(NOISE_INPUTS) == {
        "TimeInput", "StdInput", "LogSigmaInput", "IndexInput", "LevelInput",
    }  # fmt: skip


def test_precision_betas_and_a_learned_variance_survive_json():
    given = Ingredients(
        MLP(dtype=jnp.bfloat16), Betas([0.1, 0.2]), IndexInput(top=10.0), V, LEARNED_RANGE
    )
    assert read_json(Ingredients, to_json(given)) == given


def test_the_number_of_a_preconditioning_survives_json():
    for given in (edm(), edm(0.75)):
        made = Ingredients(MLP(), LinearVE(), LogSigmaInput(), given)
        assert read_json(Ingredients, to_json(made)) == made
    assert edm(1) is edm(1.0) and edm(0.75).name == "edm(0.75)"
    for bad in ("edm(x)", "edm(-1)", "edm()", "edm(" + "9" * 100 + ")", "Edm"):
        with pytest.raises(ValueError, match="parametrization must be one of"):
            from_record(Parametrization, bad, "parametrization")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"kind": "VPP"}', "sde.kind must be one of"),
        ('{"beta_min": 1.0}', "sde.kind must be one of"),
        (
            '{"kind": "VP", "sigma": 1.0}',
            r"sde has unknown fields \['sigma'\]; known: \['beta_max'",
        ),
        ('{"kind": "VP", "beta_min": "a"}', "sde.beta_min must be float, got 'a'"),
        ('{"kind": "Betas"}', r"sde needs the fields \['betas'\]"),
        ("[]", "sde must be an object"),
        ("{", "the sde is not JSON"),
    ],
)
def test_a_wrong_record_is_named(text, named):
    with pytest.raises(ValueError, match=named):
        read_json(SDE, text, "sde")


def test_a_network_that_is_not_exported_cannot_be_written():
    class Own(MLP):
        pass

    with pytest.raises(ValueError, match=r"net must be one of .*MLP.*, got Own"):
        to_json(Ingredients(Own(), VP(), TimeInput()))


@pytest.mark.slow
def test_a_published_file_is_a_model_by_the_name_of_its_preset(monkeypatch):
    net = NCSNpp(channels=16, channel_mult=(1, 2), num_blocks=1, attention=(4,))
    small = {"vp_cifar10_ddpmpp_continuous": Ingredients(net, VP(), TimeInput())}
    monkeypatch.setattr("score_jax.convert.pretrained.PUBLISHED", small)
    file = unpacked("vp_ddpmpp_continuous.pth")
    model, params = sj.load_pretrained(file, "cifar10_ddpmpp_continuous")
    _, expected, _ = from_score_sde_pytorch(file, net, VP())
    assert jax.tree.all(jax.tree.map(np.array_equal, params, expected))
    assert jax.eval_shape(model.score(params), jnp.zeros((1, 8, 8, 3)), 0.5).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="preset must name the network of the file"):
        sj.load_pretrained(file)
    with pytest.raises(ValueError, match=r"unknown preset 'cifar10_ddpmp'.*known: vp_cifar10"):
        sj.load_pretrained(file, "cifar10_ddpmp")


def test_a_diffusers_folder_is_a_model():
    model, params = sj.load_pretrained(unpacked("diffusers_ddpm"))
    assert model.sde.n == 1000
    assert jax.eval_shape(model.score(params), jnp.zeros((1, 16, 16, 3)), 0.5).shape[0] == 1


def test_names_have_aliases_of_the_paper():
    for alias, name in published.ALIASES.items():
        assert lookup(alias, PUBLISHED) is PUBLISHED[name]


def test_published_files_that_are_not_there_are_named_with_their_source():
    assert {f.preset for f in PUBLISHED_FILES.values()} - {None} <= set(PUBLISHED)
    for path, preset, says in (
        (
            "edm-cifar10-32x32-uncond-vp.pkl",
            None,
            r"pretrained/edm-cifar10-32x32-uncond-vp\.pkl and",
        ),
        (
            "here/checkpoint_24.pth",
            "cifar10_ddpmpp_continuous",
            "1xYjVMx10N9ivQQBIsEoXEeu9nvSGTBrC",
        ),
        ("ddpm-cifar10-32", None, r"huggingface\.co/google/ddpm-cifar10-32 and .*\(PATH\)"),
        ("cifar10_uncond_50M_500K.pt", None, r'\(PATH, "iddpm_cifar10"\)'),
        ("nothing.pth", None, r"no file or folder 'nothing\.pth'$"),
    ):
        with pytest.raises(FileNotFoundError, match=says):
            sj.load_pretrained(path, preset)
