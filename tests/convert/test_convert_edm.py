"""Files of EDM: the networks compute what the authors' program computed, and no source is run."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import pytest

from score_jax.convert import from_edm, load_pretrained
from score_jax.convert.published import PUBLISHED
from score_jax.nets import EDM2, NCSNpp
from score_jax.parametrization import LEARNED_RANGE, edm
from score_jax.sde import VE, VP, CosineBetas, LinearVE
from tests.golden import make_edm2
from tests.golden.make_edm import CASES
from tests.helpers.convert_files import dictionary, name, program, text, tuple_of
from tests.helpers.edm_files import edm2_snapshot, persistent, snapshot
from tests.helpers.fuzz import faults, refused, shapes_once
from tests.helpers.golden_files import golden

FAST = {"xla_backend_optimization_level": 0}
PROCESSES = {
    "EDMPrecond": LinearVE(), "VPPrecond": VP(0.1, 20.0), "VEPrecond": VE(0.02, 100.0),
    "iDDPMPrecond": CosineBetas(1000, 0.008, 0.999),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def networks_known():
    with pytest.MonkeyPatch.context() as monkeypatch:
        shapes_once(monkeypatch)
        yield


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def applied(module, params, x, given, **kwargs):
    """The network, compiled once for equal modules."""
    return module.apply(params, x, given, **kwargs)


def shapes_of(case):
    return json.loads(str(golden("edm")[f"{case}/shapes"]))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_networks_compute_what_they_computed(tmp_path, case):
    path = snapshot(tmp_path / "network-snapshot-1.pkl", case, shapes_of(case))
    model, params, info = from_edm(path)
    kind, fields = CASES[case]
    assert model.sde == PROCESSES[kind] and info["preconditioning"] == kind
    assert info["shape"] == (8, 8, 3)
    x, sigma, out = (jnp.asarray(golden("edm")[f"{case}/{k}"]) for k in ("x", "sigma", "out"))
    y = jnp.array([1, 3]) if "label_dim" in fields else None
    t = model.sde.time_of_log_snr(-2 * jnp.log(sigma))
    if kind == "iDDPMPrecond":
        t = model.sde.time_of(model.sde.index_of(t))
        assert model.variance is LEARNED_RANGE
    x = x * model.sde.mean_coeff(t)[:, None, None, None]
    model = dataclasses.replace(model, apply=functools.partial(applied, info["module"]))
    found = model.denoiser(params, y)(x, t)
    assert float(jnp.abs(found - out).max() / jnp.abs(out).max()) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", make_edm2.CASES)
def test_edm2_computes_what_it_computed(tmp_path, case):
    fields = make_edm2.CASES[case]
    shapes = json.loads(str(golden("edm2")[f"{case}/shapes"]))
    path = edm2_snapshot(tmp_path / f"{case}.pkl", case, shapes)
    model, params, info = from_edm(path)
    assert isinstance(info["module"], EDM2) and info["shape"] == (8, 8, 3)
    assert model.parametrization is edm(fields.get("sigma_data", 0.5))
    x, sigma, out = (jnp.asarray(golden("edm2")[f"{case}/{k}"]) for k in ("x", "sigma", "out"))
    y = jnp.array([1, 3]) if fields["label_dim"] else None
    model = dataclasses.replace(model, apply=functools.partial(applied, info["module"]))
    found = model.denoiser(params, y)(x, sigma)
    assert float(jnp.abs(found - out).max() / jnp.abs(out).max()) <= 2e-5
    for changes, named in (
        ({"label_balance": 2}, "label_balance must be a number in"),
        ({"channels_per_head": "a"}, "channels_per_head must be"),
        ({"clip_act": 0}, "clip_act must be > 0"),
        ({"resample_filter": [1, 3, 3, 1]}, "resample_filter must be"),
        ({"channel_mult_emb": 0}, "channel_mult_emb must be"),
        ({"in_channels": 3}, "an argument of UNet must be one of"),
        ({"model_channels": 24}, "which does not fit"),
    ):
        with pytest.raises(ValueError, match=named):
            from_edm(edm2_snapshot(tmp_path / "wrong.pkl", case, shapes, **changes))


def test_a_file_is_a_model_without_a_preset(tmp_path):
    path = snapshot(tmp_path / "x.pkl", "ve", shapes_of("ve"))
    model, _ = load_pretrained(path)
    assert model.parametrization is edm(0.6)
    with pytest.raises(ValueError, match="preset must be None"):
        load_pretrained(path, "cifar10_edm_ve")


def test_the_published_networks_are_those_of_the_presets():
    """The arguments with which the published CIFAR-10 network was trained, and our preset of it."""
    from score_jax.convert.edm import SONG, _song
    from score_jax.convert.nvidia import Fields

    given = SONG | {"channel_mult": [2, 2, 2], "dropout": 0.13}
    net = PUBLISHED["cifar10_edm_vp"].net
    assert _song(Fields(given, 32, 3)) == net
    given |= {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
              "resample_filter": [1, 3, 3, 1]}  # fmt: skip
    assert _song(Fields(given, 32, 3)) == PUBLISHED["cifar10_edm_ve"].net
    assert isinstance(net, NCSNpp)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_blocks": 10**12}, "num_blocks of SongUNet must be from 1 to 64"),
        ({"model_channels": None}, "model_channels of SongUNet must be"),
        ({"channel_mult": [1] * 100}, "channel_mult of SongUNet must be"),
        ({"channel_mult": []}, "channel_mult must be not empty"),
        ({"resample_filter": [1, 1, 1]}, "resample_filter must be"),
        ({"channel_mult_noise": 3}, "channel_mult_noise must be 1"),
        ({"encoder_type": "other"}, "encoder_type must be one of"),
        ({"dropout": "a"}, "dropout of SongUNet"),
        ({"shape": 1}, "an argument of SongUNet must be one of"),
        pytest.param({"channel_mult": [2, 2]}, "lacks tensors", marks=pytest.mark.slow),
        pytest.param({"model_channels": 32}, "which does not fit", marks=pytest.mark.slow),
        pytest.param({"num_blocks": 2}, "lacks tensors", marks=pytest.mark.slow),
    ],
)
def test_other_arguments_are_named(tmp_path, changes, named):
    # The tensors are looked at last.
    shapes = shapes_of("vp") if "lacks" in named or "fit" in named else {}
    path = snapshot(tmp_path / "x.pkl", "vp", shapes, **changes)
    with pytest.raises(ValueError, match=named) as error:
        from_edm(path)
    assert str(path) in str(error.value)


ITSELF = b"}" + b"q\x01"  # a dictionary, kept
OTHERS = {
    "nothing": b"}",
    "a text": text("x"),
    "another class": dictionary(ema=persistent("SongUNet", b"}")),
    "a payload": dictionary(ema=name("os", "system") + tuple_of(text("touch /tmp/x")) + b"R"),
    "a class of payloads": dictionary(
        ema=name("builtins", "eval") + tuple_of(text("1/0")) + b"\x81" + b"}b"
    ),
    "no state": dictionary(ema=persistent("EDMPrecond", b"N")),
    "no modules": dictionary(ema=persistent("EDMPrecond", b"}")),
    "a list of modules": dictionary(ema=persistent("EDMPrecond", dictionary(_modules=b"]"))),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_objects_are_refused_and_nothing_is_run(tmp_path, case):
    path = tmp_path / "x.pkl"
    path.write_bytes(program(OTHERS[case]))
    refused(from_edm, path, r"x\.pkl cannot be read as a network of EDM")


def test_a_module_that_contains_itself_is_refused(tmp_path):
    shared = name("torch.nn", "M") + b")\x81q\x02" + dictionary(
        _modules=dictionary(a=b"h\x02", b=b"h\x02")
    ) + b"b"  # fmt: skip
    net = persistent("SongUNet", dictionary(
        _modules=dictionary(x=shared), _init_kwargs=b"}(" + text("img_resolution")
        + b"K\x08" + text("in_channels") + b"K\x03u",
    ))  # fmt: skip
    outer = persistent("EDMPrecond", dictionary(_modules=dictionary(model=net)))
    path = tmp_path / "x.pkl"
    path.write_bytes(program(dictionary(ema=outer)))
    with pytest.raises(ValueError, match=r"x\.pkl cannot be read as a network of EDM"):
        from_edm(path)


def test_damaged_files_are_refused_or_read(tmp_path):
    small = {k: v for k, v in shapes_of("vp").items() if "map_" in k}
    path = snapshot(tmp_path / "x.pkl", "vp", small)
    for bad, what in faults(from_edm, path, 25, 5):
        pytest.fail(f"{what}; the file: {bad!r}")
