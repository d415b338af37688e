"""Small files of every format that data are read from, written here as other programs write them."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image


def examples(n=24, size=(8, 8), channels=3, classes=3, seed=0):
    """Images (n, *size, channels) of uint8 and labels in increasing order."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *size, channels)).astype(np.uint8)
    return x, np.sort(np.arange(n) % classes).astype(np.int32)


def image(x):
    """Pixels as an image of Pillow."""
    return Image.fromarray(x[..., 0] if x.ndim == 3 and x.shape[-1] == 1 else x)


def encoded(x, form="PNG", **options):
    """The bytes of an image file; x are pixels or an image of Pillow."""
    file = io.BytesIO()
    (image(x) if isinstance(x, np.ndarray) else x).save(file, form, **options)
    return file.getvalue()


def png16(x, kind=2):
    """A PNG of 16 bits a channel; kind: 0 grey, 2 colour, 4 grey and alpha, 6 colour and alpha."""
    chunk = lambda name, body: (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    )
    h, w = x.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in x)
    header = struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff16(x):
    """A TIFF of colours (h, w, 3) of 16 bits a channel."""
    h, w, c = x.shape
    pixels = x.astype("<u2").tobytes()
    bits, entries = 8 + len(pixels), 9
    short, long = 3, 4  # types of a tag
    tags = [
        (256, short, 1, w), (257, short, 1, h), (258, short, c, bits), (259, short, 1, 1),
        (262, short, 1, 2), (273, long, 1, 8), (277, short, 1, c), (278, short, 1, h),
        (279, long, 1, len(pixels)),
    ]  # fmt: skip
    body = pixels + struct.pack("<3H", 16, 16, 16)
    directory = struct.pack("<H", entries) + b"".join(struct.pack("<HHII", *t) for t in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + b"\0" * 4


def write_folder(folder, x, y):
    """PNG files in folders of the classes, "a", "b", ..., in the order of the examples."""
    for i, (pixels, label) in enumerate(zip(x, y, strict=True)):
        path = folder / "abcdefgh"[label] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels))
    return folder


def write_zip(path, files):
    """A zip of {name: content}."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_edm_zip(path, x, y):
    """A zip as EDM's dataset_tool writes it, with its dataset.json."""
    names = [f"{i // 10:05d}/img{i:08d}.png" for i in range(len(x))]
    labels = [[name, int(label)] for name, label in zip(names, y, strict=True)]
    files = {name: encoded(pixels) for name, pixels in zip(names, x, strict=True)}
    return write_zip(path, files | {"dataset.json": json.dumps({"labels": labels})})


def idx_bytes(x, code=0x08):
    """An array of bytes as an IDX file."""
    return struct.pack(f">BBBB{x.ndim}I", 0, 0, code, x.ndim, *x.shape) + x.tobytes()


def write_idx(folder, x, y, start="train"):
    """The two files of a split, compressed."""
    folder.mkdir(exist_ok=True)
    for name, array in (("images-idx3", x[..., 0]), ("labels-idx1", y.astype(np.uint8))):
        path = folder / f"{start}-{name}-ubyte.gz"
        path.write_bytes(gzip.compress(idx_bytes(array)))
    return folder


def python2_pickle(record):
    """A dictionary as Python 2 pickled the batches of CIFAR: strings and bytes are one type."""

    def text(value):
        raw = value if isinstance(value, bytes) else value.encode()
        return b"T" + struct.pack("<i", len(raw)) + raw

    def value(item):
        if isinstance(item, np.ndarray):
            dtype = b"cnumpy\ndtype\n(" + text("u1") + b"K\x00K\x01tR("
            dtype += b"K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = b"".join(b"M" + struct.pack("<H", n) for n in item.shape)
            new = (
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t"
                + text("b")
                + b"tR"
            )
            return new + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + text(item.tobytes()) + b"tb"
        if isinstance(item, list):
            each = (text(v) if isinstance(v, str) else b"K" + bytes([v]) for v in item)
            return b"](" + b"".join(each) + b"e"
        return text(item)

    pairs = b"".join(text(k) + value(v) for k, v in record.items())
    return b"\x80\x02}(" + pairs + b"u."


def write_tar(path, files):
    """A compressed tar archive of {name: content}."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def planes(x):
    """Images (n, 32, 32, 3) as CIFAR stores them, (n, 3072)."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(len(x), -1)


def write_cifar10(path, x, y, names=("cat", "dog", "owl")):
    """The python version: batches of a pickle each, all but the last 2 examples for training."""
    batch = lambda part: python2_pickle({"data": planes(x[part]), "labels": y[part].tolist()})
    n = len(x) - 2
    return write_tar(
        path,
        {
            "cifar-10-batches-py/data_batch_1": batch(slice(0, n // 2)),
            "cifar-10-batches-py/data_batch_2": batch(slice(n // 2, n)),
            "cifar-10-batches-py/test_batch": batch(slice(n, None)),
            "cifar-10-batches-py/batches.meta": python2_pickle({"label_names": list(names)}),
        },
    )


def write_cifar100_binary(path, x, coarse, fine):
    """The binary version: records of coarse label, fine label, pixels, in one training batch."""
    rows = np.concatenate([coarse[:, None], fine[:, None], planes(x)], 1).astype(np.uint8)
    names = "\n".join(f"name{i}" for i in range(100)).encode()
    folder = "cifar-100-binary"
    return write_tar(
        path,
        {f"{folder}/train.bin": rows.tobytes(), f"{folder}/fine_label_names.txt": names},
    )
