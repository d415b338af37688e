"""Files for the tests of score_jax.convert: the authors' own, unpacked, and some written by hand."""

import functools
import lzma
import pathlib
import shutil
import struct
import tempfile
import zipfile
import zlib

import msgpack
import numpy as np
from flax import traverse_util

from tests.helpers.golden_files import FOLDER

TEMPORARY = tempfile.TemporaryDirectory(prefix="score_jax_convert_")


@functools.cache
def unpacked(name):
    """The path of a reference file or folder, unpacked; kept as .xz because of its size."""
    target = pathlib.Path(TEMPORARY.name) / name
    if (FOLDER / name).is_dir():
        shutil.copytree(FOLDER / name, target, ignore=shutil.ignore_patterns("*.xz"))
        packed = (FOLDER / name).rglob("*.xz")
    else:
        packed = [FOLDER / f"{name}.xz"]
    for path in packed:
        out = pathlib.Path(TEMPORARY.name) / path.relative_to(FOLDER).with_suffix("")
        out.write_bytes(lzma.decompress(path.read_bytes()))
    return target


# Opcodes of pickle, by hand: what torch.save writes, and what nobody should.


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value):
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def storage(kind, key, count, *, view=b""):
    return (
        tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), whole(count), view)
        + b"Q"
    )


def tensor(kind, key, count, size, stride, offset=0, view=b""):
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + tuple_of(
            storage(kind, key, count, view=view),
            whole(offset),
            tuple_of(*map(whole, size)),
            tuple_of(*map(whole, stride)),
            b"\x89",
            name("collections", "OrderedDict") + b")R",
        )
        + b"R"
    )


def dictionary(**values):
    items = b"".join(text(key) + value for key, value in values.items())
    return b"}(" + items + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


def write_zip(
    path, body, storages=None, order=b"little", extra=None, compression=zipfile.ZIP_STORED
):
    """A file in the newer layout of torch.save."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program(body))
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, raw in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", raw)
        for key, raw in (extra or {}).items():
            archive.writestr(key, raw)
    return path


def legacy(body, storages, *, system=None, magic=0x1950A86A20F9469CFC6C):
    """The bytes of a file in the older layout: {key: (count, raw bytes)} after the pickles."""
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    system = dictionary(little_endian=b"\x88") if system is None else system
    large = b"\x8a\x0b" + magic.to_bytes(11, "little")
    pickles = [large, whole(1001), system, body, keys]
    raw = [struct.pack("<q", count) + values for count, values in storages.values()]
    return b"".join(map(program, pickles)) + b"".join(raw)


def write_legacy(path, body, storages, **parts):
    """A file in the older layout."""
    path.write_bytes(legacy(body, storages, **parts))
    return path


def write_torch(path, tree):
    """Dictionaries, lists, whole numbers and float or int64 arrays, in the newer layout."""
    kinds, storages = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}, {}

    def body(value):
        if isinstance(value, dict):
            items = b"".join(text(key) + body(part) for key, part in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(body, value)) + b"e"
        if isinstance(value, int):
            return whole(value)
        key = str(len(storages))
        storages[key] = np.ascontiguousarray(value).tobytes()
        stride = [s // value.itemsize for s in np.ascontiguousarray(value).strides]
        return tensor(kinds[value.dtype.str[1:]], key, value.size, value.shape, stride)

    raw = body(tree)  # fills the storages
    return write_zip(path, raw, storages)


# Weights drawn from their names, so that only names, shapes and outputs need to be kept.


def drawn(path, shape):
    """Weights of one tensor of the authors' JAX program: scales near 1, all else near 0."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    return (rng.normal(0, 0.1, shape) + path.endswith("scale")).astype(np.float32)


def ndarray(value):
    """An array as Flax packs it."""
    value = np.asarray(value)
    shape = tuple(value.shape)
    data = msgpack.packb((shape, value.dtype.name, value.tobytes()), use_bin_type=True)
    return msgpack.ExtType(1, data)


def write_msgpack(path, tree):
    """A file of msgpack, as Flax's checkpoints are."""
    path.write_bytes(msgpack.packb(tree, strict_types=True))
    return path


def state_of_2023(raw, average):
    """The State of OpenAI's consistency models, of {path: array} as the one below."""
    old = state_of_2021(raw, average)
    keep = ("step", "lr", "ema_rate", "params_ema", "model_state")
    state = {k: old[k] for k in keep} | {"params": old["optimizer"]["target"], "opt_state": {}}
    return state | {"target_params": state["params"], "rng_state": old["rng"]}


def state_of_2021(raw, average):
    """The State of score_sde's JAX program: {path: array} of the weights and of their average."""
    pack = lambda flat: {
        k: ndarray(v) if not isinstance(v, dict) else pack(v) for k, v in flat.items()
    }
    raw, average = (traverse_util.unflatten_dict(t, sep="/") for t in (raw, average))
    zeros = lambda tree: {
        k: zeros(v)
        if isinstance(v, dict)
        else {n: np.zeros_like(v) for n in ("grad_ema", "grad_sq_ema")}
        for k, v in tree.items()
    }
    return {
        "step": ndarray(np.int32(1300000)),
        "optimizer": {
            "target": pack(raw),
            "state": {"step": ndarray(np.int32(1300000)), "param_states": pack(zeros(raw))},
        },
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.999,
        "params_ema": pack(average),
        "rng": ndarray(np.array([0, 42], np.uint32)),
    }
