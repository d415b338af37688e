"""Hostile and damaged files of weights: bounded time and memory, one line that names the file."""

import io
import json
import resource
import struct
import time

import msgpack
import numpy as np
import pytest

from score_jax._pickles import read_pickle
from score_jax.convert import (
    from_diffusers,
    from_improved_diffusion,
    from_score_sde_jax,
    from_score_sde_pytorch,
    read_safetensors,
    read_torch,
)
from score_jax.convert.records import Ingredients, read_json
from score_jax.nets import NCSNpp, UNet
from score_jax.sde import VP, CosineBetas
from tests.helpers.convert_files import (
    dictionary,
    name,
    program,
    storage,
    tensor,
    text,
    tuple_of,
    unpacked,
    whole,
    write_legacy,
    write_zip,
)
from tests.helpers.fuzz import fault, faults, refused, shapes_once, weight_files

SIX = np.arange(6, dtype="<f4")


@pytest.fixture(autouse=True, scope="module")
def networks_known():
    with pytest.MonkeyPatch.context() as monkeypatch:
        shapes_once(monkeypatch)
        yield


@pytest.fixture(autouse=True)
def bounded():
    """No case may take more than two seconds or 300 MB more than there were."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def laughs(depth, width=10):
    """Nested tuples, each of the one before `width` times: width ** depth leaves in a few bytes."""
    return b")" + b"".join(b"q\x01(" + b"h\x01" * width + b"t" for _ in range(depth))


def deep(depth):
    return b")" + b"\x85" * depth


ORDERED = name("collections", "OrderedDict")
HOSTILE = {
    "laughs as a size": tensor("FloatStorage", "0", 6, (), ())[:-1].replace(b"((", b"("),
    "laughs as an offset": name("torch._utils", "_rebuild_tensor_v2")
    + tuple_of(storage("FloatStorage", "0", 6), laughs(60), tuple_of(), tuple_of())
    + b"R",
    "laughs as sizes": name("torch._utils", "_rebuild_tensor_v2")
    + tuple_of(storage("FloatStorage", "0", 6), whole(0), tuple_of(laughs(60)), tuple_of(whole(1)))
    + b"R",
    "laughs as a persistent id": laughs(60) + b"Q",
    "laughs as a storage's key": tuple_of(
        text("storage"), name("torch", "FloatStorage"), laughs(60), text("cpu"), whole(6)
    )
    + b"Q",
    "laughs as a key": b"}" + laughs(60) + b"Ns",
    "deep tuples as a key": b"}" + deep(20_000) + b"Ns",
    "deep tuples as a view": storage("FloatStorage", "0", 6, view=deep(20_000)),
    "colliding keys": b"}("
    + b"".join(
        b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(20_000)
    )
    + b"u",
    "one long list again and again": b"](" + (text("a") + b"N\x86") * 4_000 + b"eq\x01"
    + (ORDERED + b"h\x01\x85R0") * 4_000,
    "one long text again and again": text("a" * 100_000) + b"q\x01"
    + (name("_codecs", "encode") + b"h\x01" + text("latin1") + b"\x86R0") * 4_000,
    "an endless name": name("a" * 100_000, "b"),
    "an offset outside": tensor("FloatStorage", "0", 6, (6,), (1,), offset=2**62),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_hostile_pickles_are_refused_in_one_line(tmp_path, case, layout):
    path = tmp_path / "x.pth"
    if layout == "zip":
        write_zip(path, HOSTILE[case], {"0": SIX.tobytes()})
    else:
        write_legacy(path, HOSTILE[case], {"0": (6, SIX.tobytes())})
    refused(read_torch, path, r"x\.pth cannot be read")


@pytest.mark.parametrize(
    "value", [laughs(60), deep(20_000), dictionary(w=laughs(60)), dictionary(w=deep(10_000))]
)
@pytest.mark.parametrize("place", ["model", "ema", "step", "all"])
def test_plain_objects_in_the_place_of_tensors_are_refused(tmp_path, value, place):
    """Laughs that the reader accepts, as plain containers, and that nothing may walk through."""
    parts = {"model": dictionary(w=tensor("FloatStorage", "0", 6, (6,), (1,)))}
    parts["ema"] = dictionary(shadow_params=b"]")
    body = value if place == "all" else dictionary(**(parts | {place: value}))
    path = write_zip(tmp_path / "x.pth", body, {"0": SIX.tobytes()})
    net = NCSNpp(channels=8, channel_mult=(1,), num_blocks=1, attention=())
    for ema in (True, False):
        assert fault(lambda p: from_score_sde_pytorch(p, net, VP(), ema=ema), path) is None  # noqa: B023
    unet = UNet(channels=32, channel_mult=(1,), num_blocks=1)
    assert fault(lambda p: from_improved_diffusion(p, unet, CosineBetas(10)), path) is None


def test_keys_that_share_all_low_bits_take_linear_time():
    keys = b"".join(b"\x8a\x08" + (k << 40).to_bytes(8, "little") + b"N" for k in range(30_000))
    assert len(read_pickle(io.BytesIO(program(b"}(" + keys + b"u")))) == 30_000


def test_an_encrypted_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.pth", dictionary(), {"0": b"1234"})
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = raw.find(mark)
        while start >= 0:
            raw[start + offset] |= 1
            start = raw.find(mark, start + 1)
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"x\.pth cannot be read.*encrypted"):
        read_torch(path)


HOSTILE_FLAX = {
    "claimed lists": b"\xdd\x00\x00\xff\xff" * 900,
    "deep maps": b"\x81\xa1a" * 600 + b"\xc0",
    "a text as an axis": msgpack.packb(
        {"w": msgpack.ExtType(1, msgpack.packb((["ab", 2**40], "float32", b"1234")))}
    ),
    "a list as a type": msgpack.packb(
        {"w": msgpack.ExtType(1, msgpack.packb(([1], ["float32"], b"1234")))}
    ),
    "colliding complex keys": b"\xdf\x00\x00\x00\x02\xc7\x02\x02\x00\x00\xc0\xc7\x02\x02\x00\x00\xc0",
    "chunks of text": msgpack.packb(
        {"w": {"__msgpack_chunked_array__": True, "shape": {"0": 1}, "chunks": {"0": "a"}}}
    ),
    "nothing": b"\xc0",
    "a tree of numbers": msgpack.packb({"params_ema": {"a": 1}}),
}


@pytest.mark.parametrize("case", HOSTILE_FLAX)
def test_hostile_flax_files_are_refused_in_one_line(tmp_path, case):
    path = tmp_path / "checkpoint_1"
    path.write_bytes(HOSTILE_FLAX[case])
    net = NCSNpp(channels=8, channel_mult=(1,), num_blocks=1, attention=())
    refused(lambda p: from_score_sde_jax(p, net, VP()), path, "checkpoint_1")


def safetensors_of(**tensors):
    """A file of safetensors with a header of one's own."""
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + SIX.tobytes()


@pytest.mark.parametrize(
    "raw",
    [
        safetensors_of(w={"dtype": "F8_E4M3", "shape": [24], "data_offsets": [0, 24]}),
        safetensors_of(w={"dtype": "F4", "shape": [48], "data_offsets": [0, 24]}),
        safetensors_of(w={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 24]}),
        safetensors_of(w={"dtype": "F32", "shape": [6], "data_offsets": [8, 32]}),
        safetensors_of(w=None),
        struct.pack("<Q", 2**63) + b"{}",
        b"",
    ],
    ids=["F8", "F4", "large", "outside", "null", "header", "empty"],
)
def test_safetensors_of_other_types_and_places(tmp_path, raw):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    type_of = ".*the type F8_E4M3, which NumPy does not know" if b"F8" in raw else ""
    refused(read_safetensors, path, r"x\.safetensors cannot be read" + type_of)


HUGE = 10**12
BAD_JSON = {
    "layers_per_block": (HUGE, None, 0, True, "2"),
    "block_out_channels": ([32, None], [HUGE], [32] * 1000, None, 3, {}),
    "down_block_types": (None, [None], ["DownBlock2D"] * 1000, 5),
    "sample_size": (HUGE, -1, [8], [8, None], "8"),
    "in_channels": (HUGE, None),
    "num_class_embeds": (HUGE, "a"),
    "norm_eps": (None, float("nan"), [1e-6]),
    "dropout": (None, float("inf")),
    "act_fn": (None, ["silu"] * 1000, {}),
}
BAD_SCHEDULER = {
    "num_train_timesteps": (HUGE, None, 0, 2.5),
    "beta_start": (None, "a", float("nan")),
    "beta_schedule": (None, [], "log"),
    "trained_betas": (3, [None], ["a"], [2.0], [[0.1]]),
    "prediction_type": (None, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A flat diffusers folder that may be changed."""
    path = tmp_path_factory.mktemp("ddpm")
    source = unpacked("diffusers_ddpm")
    for file in (*(source / "unet").iterdir(), *(source / "scheduler").iterdir()):
        (path / file.name).write_bytes(file.read_bytes())
    return path


def refused_with(path, text):
    """The folder of the file with this text in its place is refused in one line that names it."""
    good = path.read_text()
    path.write_text(text)
    try:
        refused(lambda p: from_diffusers(p.parent), path, path.name)
    finally:
        path.write_text(good)


@pytest.mark.parametrize("file", ["config.json", "scheduler_config.json"])
def test_json_of_other_kinds_is_refused(folder, file):
    deep = "[" * 100_000 + "]" * 100_000
    for bad in ("", "{", "[]", "null", deep, '{"a": ' + deep + "}", '{"a": ' + "9" * 5_000 + "}"):
        refused_with(folder / file, bad)


@pytest.mark.parametrize("file", ["config.json", "scheduler_config.json"])
def test_numbers_of_json_are_checked(folder, file):
    cases = BAD_JSON if file == "config.json" else BAD_SCHEDULER
    good = json.loads((folder / file).read_text())
    for field, values in cases.items():
        for value in values:
            refused_with(folder / file, json.dumps(good | {field: value}))


@pytest.mark.parametrize(
    "bad",
    ["[" * 100_000, '{"net": ' + "[" * 5_000 + "]" * 5_000 + "}", '{"net": {"kind": null}}',
     '{"net": {"kind": "MLP"}, "noise_input": {"kind": "TimeInput"}, '
     '"sde": {"kind": "LinearBetas", "n": 1000000000000}}'],
    ids=["deep", "deep net", "null", "n"],
)  # fmt: skip
def test_records_of_models_are_checked(bad):
    with pytest.raises(ValueError, match=r"\A.{,1000}\Z"):
        read_json(Ingredients, bad, "model.json")


@pytest.mark.slow
def test_files_damaged_at_random_are_refused_or_read(tmp_path):
    """The long form is `python -m benchmarks.fuzz`."""
    for n, (read, path) in enumerate(weight_files(tmp_path)):
        for bad, what in faults(read, path, 150, n):
            pytest.fail(f"{path.name}: {what}; the file: {bad!r}")
