"""The readers of published files: every type and layout, and the refusal of everything else."""

import io
import os
import pickle
import random
import struct
import zipfile

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from score_jax._pickles import read_pickle
from score_jax.convert import read_flax_msgpack, read_torch
from tests.helpers.convert_files import (
    dictionary,
    name,
    ndarray,
    program,
    storage,
    tensor,
    text,
    tuple_of,
    unpacked,
    whole,
    write_legacy,
    write_msgpack,
    write_zip,
)
from tests.helpers.golden_files import golden

ORDERED = name("collections", "OrderedDict")
SIX = np.arange(6, dtype="<f4")


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a, b)


# What the authors' own program wrote.


def test_a_checkpoint_of_the_authors_is_read():
    file = read_torch(unpacked("vp_ddpmpp_continuous.pth"))
    assert set(file) == {"optimizer", "model", "ema", "step"} and file["step"] == 1234
    reference = {
        key.removeprefix("state_dict/"): value
        for key, value in golden("vp_ddpmpp_continuous").items()
        if key.startswith("state_dict/")
    }
    weights = dict(file["model"])
    assert set(weights) == set(reference)
    sigmas, stored = weights.pop("module.sigmas"), reference.pop("module.sigmas")
    np.testing.assert_allclose(sigmas, stored, rtol=1e-3)  # rounded in the reference
    assert sigmas.dtype == np.float64
    for key, value in weights.items():
        same(value, reference[key].astype(np.float32))
    assert len(file["ema"]["shadow_params"]) == len(weights)


# Types, strides, byte orders and layouts.


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "f8"), ("FloatStorage", "f4"), ("HalfStorage", "f2"),
        ("BFloat16Storage", jnp.bfloat16), ("LongStorage", "i8"), ("IntStorage", "i4"),
        ("ShortStorage", "i2"), ("CharStorage", "i1"), ("ByteStorage", "u1"),
        ("BoolStorage", "?"), ("ComplexFloatStorage", "c8"), ("ComplexDoubleStorage", "c16"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["zip", "big", "legacy"])
def test_every_type_in_every_layout(tmp_path, kind, dtype, layout):
    values = np.array([0, 1, 1, 0, 1, 0]).astype(dtype)
    if values.dtype.kind not in "?":
        values = (values * 3 + values[::-1]).astype(dtype)
    body = dictionary(w=tensor(kind, "0", 6, (2, 3), (3, 1)))
    raw = values.tobytes()
    if layout == "legacy":
        path = write_legacy(tmp_path / "x.pth", body, {"0": (6, raw)})
    elif layout == "big":
        part = values.dtype.itemsize // (2 if values.dtype.kind == "c" else 1)
        raw = np.frombuffer(raw, np.uint8).reshape(-1, part)[:, ::-1].tobytes()
        path = write_zip(tmp_path / "x.pth", body, {"0": raw}, order=b"big")
    else:
        path = write_zip(tmp_path / "x.pth", body, {"0": raw}, order=None)
    same(read_torch(path)["w"], values.reshape(2, 3))


def test_views_share_a_storage(tmp_path):
    body = dictionary(
        transposed=tensor("FloatStorage", "0", 6, (3, 2), (1, 3)),
        shifted=tensor("FloatStorage", "0", 6, (2,), (2,), offset=3),
        scalar=tensor("FloatStorage", "0", 6, (), (), offset=5),
        empty=tensor("FloatStorage", "0", 6, (0, 4), (4, 1)),
    )
    file = read_torch(write_zip(tmp_path / "x.pth", body, {"0": SIX.tobytes()}))
    same(file["transposed"], SIX.reshape(2, 3).T)
    same(file["shifted"], SIX[3::2])
    same(file["scalar"], SIX[5].reshape(()))
    assert file["empty"].shape == (0, 4)
    assert np.shares_memory(file["transposed"], file["shifted"])


def test_a_legacy_view_of_a_storage(tmp_path):
    view = tuple_of(text("1"), whole(2), whole(3))
    body = dictionary(
        all=tensor("FloatStorage", "0", 6, (6,), (1,), view=b"N"),
        part=tensor("FloatStorage", "0", 6, (3,), (1,), view=view),
    )
    file = read_torch(write_legacy(tmp_path / "x.pth", body, {"0": (6, SIX.tobytes())}))
    same(file["all"], SIX)
    same(file["part"], SIX[2:5])


def test_containers_parameters_sizes_and_dtypes(tmp_path):
    parameter = (
        name("torch._utils", "_rebuild_parameter")
        + tuple_of(tensor("FloatStorage", "0", 6, (6,), (1,)), b"\x88", b"N")
        + b"R"
    )
    ordered = name("collections", "OrderedDict") + b")R" + text("w") + parameter + b"s"
    metadata = ordered + dictionary(_metadata=b"}") + b"b"
    body = dictionary(
        model=metadata,
        size=name("torch", "Size") + tuple_of(tuple_of(whole(2), whole(3))) + b"R",
        dtype=name("torch", "float16"),
        bytes=name("_codecs", "encode") + tuple_of(text("a\xff"), text("latin1")) + b"R",
        set=name("__builtin__", "set") + tuple_of(b"](" + text("a") + whole(1) + b"e") + b"R",
        number=b"G" + struct.pack(">d", 0.5),
    )
    file = read_torch(write_zip(tmp_path / "x.pth", body, {"0": SIX.tobytes()}))
    same(file["model"]["w"], SIX)
    assert file["size"] == (2, 3) and file["dtype"] == np.float16
    assert file["bytes"] == b"a\xff" and file["set"] == {"a", 1} and file["number"] == 0.5


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_containers_of_every_protocol(protocol):
    big = 2**200
    value = {
        "a": [1, -2, 70_000, big, -big, 0.5, True, False, None, "text", b"bytes", ()],
        "tuples": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        5: {"nested": [[], {}, "x" * 300]},
    }
    value["shared"] = value["a"]
    found = read_pickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert found == value
    assert found["shared"] is found["a"]
    assert read_pickle(io.BytesIO(pickle.dumps({1, "a"}, protocol))) == {1, "a"}


def test_random_containers_are_read_as_pickle_reads_them():
    draw = random.Random(0)

    def value(depth):
        kinds = [int, float, str, bytes] + [list, tuple, dict, set] * (depth > 0)
        kind = draw.choice(kinds)
        many = range(draw.randrange(5))
        if kind in (list, tuple):
            return kind(value(depth - 1) for _ in many)
        if kind is dict:
            return {str(draw.random()): value(depth - 1) for _ in many}
        if kind is set:
            return {draw.randrange(100) for _ in many}
        return kind(draw.randrange(2**40)) if kind is not bytes else draw.randbytes(300)

    for _ in range(50):
        made = value(4)
        assert read_pickle(io.BytesIO(pickle.dumps(made, draw.randrange(2, 6)))) == made


# Refusals.


class Payload:
    """What an attacker would send."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("place", ["zip", "legacy", "legacy system", "legacy magic", "legacy keys"])
def test_a_payload_is_refused_by_name_and_not_run(tmp_path, protocol, place):
    witness = tmp_path / "witness"
    bad = pickle.dumps({"model": Payload(os.system, f"touch {witness}")}, protocol)[2:-1]
    path = tmp_path / "x.pth"
    if place == "zip":
        write_zip(path, bad)
    elif place == "legacy":
        write_legacy(path, bad, {})
    elif place == "legacy system":
        write_legacy(path, dictionary(), {}, system=bad)
    else:
        write_legacy(path, dictionary(), {})
        raw = path.read_bytes()
        start = 0 if place == "legacy magic" else raw.rindex(b"\x80\x02")
        path.write_bytes(raw[:start] + program(bad))
    with pytest.raises(ValueError, match=r"(posix|nt)\.system") as error:
        read_torch(path)
    assert str(path) in str(error.value)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        (name("builtins", "eval") + tuple_of(text("1")) + b"R", "builtins.eval"),
        (name("torch.storage", "_load_from_bytes") + tuple_of(text("1")) + b"R", "_load_from_bytes"),
        (name("numpy.core.multiarray", "_reconstruct"), "numpy.core.multiarray._reconstruct"),
        (name("torch._utils", "_rebuild_tensor_v2.__globals__"), "__globals__"),
        (b"(" + text("ls") + b"ios\nsystem\n", "os.system"),
        (name("torch", "FloatStorage") + b")R", "_Kind"),
        (text("ls") + tuple_of() + b"R", "str"),
        (ORDERED + b")R" + dictionary(__class__=text("x")) + b"b", "attributes"),
        (b"\x82\x01", "EXT1"),
        (ORDERED + b")\x81", "NEWOBJ"),
        (tuple_of(text("module"), text("x")) + b"Q", "outside"),
        (dictionary(a=text("x"))[:-1] + tuple_of(tuple_of()) + text("v") + b"u", "key"),
        (tensor("FloatStorage", "0", 6, (2, 3), (3, 2)), "strides"),
        (tensor("FloatStorage", "0", 6, (6,), (1,), offset=1), "offset 1"),
        (tensor("FloatStorage", "0", 6, (2**50, 2**10), (0, 0)), "size"),
        (tensor("FloatStorage", "0", 6, (-1,), (1,)), "-1"),
        (tensor("FloatStorage", "0", 6, (2,), (-1,), offset=3), "-1"),
        (tensor("FloatStorage", "0", 2**50, (6,), (1,)), "1125899906842624"),
        (tensor("FloatStorage", "1", 6, (6,), (1,)), "archive/data/1"),
        (tensor("DoubleStorage", "0", 6, (6,), (1,)), "24 bytes"),
        (b"h\x05", "damaged"),
        (b"0", "damaged"),
        (b"", "damaged"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(tmp_path, body, asks):
    path = write_zip(tmp_path / "x.pth", body, {"0": SIX.tobytes()})
    with pytest.raises(ValueError, match=asks) as error:
        read_torch(path)
    assert str(path) in str(error.value)


def test_deep_keys_are_refused_before_they_are_hashed():
    deep = b")" + b"".join(b"q\x01h\x01\x86" for _ in range(5_000))
    with pytest.raises(ValueError, match="key"):
        read_pickle(io.BytesIO(program(b"}" + deep + b"Ns")))


def test_a_zip_that_lies_about_sizes_is_refused(tmp_path):
    path = write_zip(tmp_path / "x.pth", dictionary(), {"0": b"1234"})
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="claim"):
        read_torch(path)


def test_a_legacy_storage_longer_than_the_file_is_refused(tmp_path):
    body = dictionary(w=tensor("FloatStorage", "0", 2**50, (6,), (1,)))
    path = write_legacy(tmp_path / "x.pth", body, {"0": (2**50, SIX.tobytes())})
    with pytest.raises(ValueError, match="ends within storage"):
        read_torch(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_zips_of_others_are_refused(tmp_path, compressed):
    if compressed:
        path = write_zip(tmp_path / "x.pth", dictionary(), compression=zipfile.ZIP_DEFLATED)
    else:
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "text")
    with pytest.raises(ValueError, match="compressed" if compressed else r"not of torch\.save"):
        read_torch(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    body = dictionary(w=tensor("FloatStorage", "0", 6, (6,), (1,)))
    path = write_zip(tmp_path / "x.pth", body, {"0": SIX.tobytes()})
    raw = bytearray(path.read_bytes())
    raw[raw.index(SIX.tobytes()) + 5] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"CRC.*archive/data/0"):
        read_torch(path)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path, layout):
    body = dictionary(w=tensor("FloatStorage", "0", 6, (6,), (1,)))
    path = tmp_path / "x.pth"
    if layout == "zip":
        write_zip(path, body, {"0": SIX.tobytes()})
    else:
        write_legacy(path, body, {"0": (6, SIX.tobytes())})
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match=r"x\.pth"):
            read_torch(path)


def test_files_damaged_at_random_never_crash(tmp_path):
    body = dictionary(w=tensor("FloatStorage", "0", 6, (6,), (1,)), s=storage("IntStorage", "1", 2))
    path = tmp_path / "x.pth"
    good = write_legacy(path, body, {"0": (6, SIX.tobytes()), "1": (2, b"12345678")}).read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        raw = bytearray(good)
        raw[draw.randrange(len(raw))] = draw.randrange(256)
        path.write_bytes(bytes(raw))
        try:
            read_torch(path)
        except ValueError as error:
            assert "x.pth" in str(error)


# Flax.


def chunked(value, size):
    flat = value.reshape(-1)
    parts = [flat[i : i + size] for i in range(0, flat.size, size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(value.shape)},
        "chunks": {str(i): ndarray(part) for i, part in enumerate(parts)},
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "uint32", "int8", "bool"])
def test_flax_arrays(tmp_path, dtype):
    values = (np.arange(6).reshape(2, 3) % 2).astype(jnp.dtype(dtype))
    tree = {"optimizer": {"target": {"w": ndarray(values)}}, "step": 7, "model_state": {}}
    found = read_flax_msgpack(write_msgpack(tmp_path / "checkpoint_1", tree))
    same(found["optimizer"]["target"]["w"], values)
    assert found["step"] == 7 and found["model_state"] == {}


def test_flax_chunks_scalars_and_complex_numbers(tmp_path):
    values = np.arange(10, dtype=np.float32).reshape(2, 5)
    scalar = msgpack.ExtType(3, ndarray(np.float32(2.5)).data)
    number = msgpack.ExtType(2, msgpack.packb((1.0, -2.0)))
    tree = {"w": chunked(values, 3), "s": scalar, "c": number, "t": [1, "a", b"b", None]}
    found = read_flax_msgpack(write_msgpack(tmp_path / "checkpoint_1", tree))
    same(found["w"], values)
    assert found["s"] == 2.5 and found["c"] == 1 - 2j and found["t"] == [1, "a", b"b", None]


def test_what_flax_writes_today_is_read(tmp_path):
    from flax import serialization

    tree = {"a": np.arange(3.0), "b": {"c": np.float32(1), "d": 3}, "e": jnp.ones(2, jnp.bfloat16)}
    path = tmp_path / "checkpoint_1"
    path.write_bytes(serialization.msgpack_serialize(dict(tree)))
    found = read_flax_msgpack(path)
    same(found["a"], tree["a"])
    same(found["e"], np.asarray(tree["e"]))
    assert found["b"] == {"c": 1.0, "d": 3}


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"w": msgpack.ExtType(9, b"x")}, "extension 9"),
        ({"w": msgpack.ExtType(1, msgpack.packb(((2**50,), "float32", b"1234")))}, "4 bytes"),
        ({"w": msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))}, "object"),
        ({"w": chunked(np.arange(4.0), 2) | {"shape": {"0": 2**50}}}, "chunks"),
        ({"w": msgpack.Timestamp(1)}, "Timestamp"),
    ],
)
def test_bad_flax_files_are_refused(tmp_path, tree, says):
    path = write_msgpack(tmp_path / "checkpoint_1", tree)
    with pytest.raises(ValueError, match=says) as error:
        read_flax_msgpack(path)
    assert str(path) in str(error.value)


def test_a_flax_file_cut_anywhere_is_an_error_that_names_it(tmp_path):
    tree = {"a": ndarray(np.arange(3.0)), "b": chunked(np.arange(4.0), 3)}
    path = write_msgpack(tmp_path / "checkpoint_1", tree)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match="checkpoint_1"):
            read_flax_msgpack(path)


def test_missing_files_are_os_errors(tmp_path):
    for read in (read_torch, read_flax_msgpack):
        with pytest.raises(OSError, match="nowhere"):
            read(tmp_path / "nowhere")
