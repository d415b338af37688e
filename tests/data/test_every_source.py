"""Every kind of file: batches resume with the same bits in the middle of an epoch, by any workers."""

import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from score_jax import data

N = 23
X = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), np.uint8)
Y = (np.arange(N) % 3).astype(np.int32)


def png(x):
    file = io.BytesIO()
    Image.fromarray(x).save(file, "PNG")
    return file.getvalue()


def folder(path):
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        (path / str(y)).mkdir(exist_ok=True)
        (path / str(y) / f"{i:03d}.png").write_bytes(png(x))
    return data.read_folder(path)


def zipped(path):
    with zipfile.ZipFile(path / "x.zip", "w") as file:
        for i, x in enumerate(X):
            file.writestr(f"{i:03d}.png", png(x))
        labels = [[f"{i:03d}.png", int(y)] for i, y in enumerate(Y)]
        file.writestr("dataset.json", json.dumps({"labels": labels}))
    return data.read_zip(path / "x.zip")


def shards(path):
    for i, rows in enumerate((slice(0, 9), slice(9, N))):
        np.savez(path / f"part{i}.npz", x=X[rows], y=Y[rows])
    return data.read_arrays(path)


def idx(path):
    for name, array in (("images-idx3", X[..., 0]), ("labels-idx1", Y.astype(np.uint8))):
        head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        with gzip.open(path / f"train-{name}-ubyte.gz", "wb") as file:
            file.write(head + array.tobytes())
    return data.read_idx(path)


def cifar(path):
    rng = np.random.default_rng(1)
    with tarfile.open(path / "c.tar.gz", "w:gz") as file:
        for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
            rows = rng.integers(0, 256, (5, 3073), np.uint8)
            rows[:, 0] %= 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = rows.size
            file.addfile(member, io.BytesIO(rows.tobytes()))
    return data.read_cifar(path / "c.tar.gz")


def records(path):
    data.write_records({"train": data.from_arrays(X, Y)}, path / "out", shard_size=9)
    return data.read_records(path / "out")


def parquet(path):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    images = [{"bytes": png(x), "path": None} for x in X]
    pq.write_table(pa.table({"image": images, "label": Y}), path / "x.parquet", row_group_size=7)
    return data.read_parquet(path / "x.parquet")


def zarr(path):
    module = pytest.importorskip("zarr")
    group = module.open_group(str(path / "x.zarr"), mode="w")
    group.create_array("x", data=X.astype(np.float32) / 7, chunks=(5, 8, 8, 3))
    group.create_array("y", data=Y)
    return data.read_zarr(path / "x.zarr", as_is=True)


def hdf5(path):
    with pytest.importorskip("h5py").File(path / "x.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(5, 8, 8, 3))
        file.create_dataset("y", data=Y)
    return data.read_hdf5(path / "x.h5")


KINDS = {f.__name__: f for f in (folder, zipped, shards, idx, cifar, records, parquet, zarr, hdf5)}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_every_source_resume_with_the_same_bits(tmp_path, kind):
    for name in "ab":
        (tmp_path / name).mkdir()
    source = KINDS[kind](tmp_path / "a")
    assert isinstance(source.description, data.Description)
    it = data.batches(source, 4, seed=1, workers=2)
    for _ in range(3):
        next(it)  # in the middle of an epoch
    state = json.loads(json.dumps(it.get_state()))
    want = [next(it) for _ in range(5)]
    again = data.batches(KINDS[kind](tmp_path / "b"), 4, seed=1, workers=1)
    again.set_state(state)
    for batch in want:
        found = next(again)
        assert found.keys() == batch.keys() == {"x", "y"}
        np.testing.assert_array_equal(found["x"], batch["x"])
        np.testing.assert_array_equal(found["y"], batch["y"])
    assert want[0]["x"].dtype.name == source.description.dtype


def test_the_same_images_give_the_same_batches_whatever_holds_them(tmp_path):
    want = data.batches(data.from_arrays(X, Y), 4, seed=1)
    others = {}
    for kind in ("zipped", "shards", "records", "parquet", "hdf5"):
        (tmp_path / kind).mkdir()
        others[kind] = data.batches(KINDS[kind](tmp_path / kind), 4, seed=1)
    for _ in range(7):
        batch = next(want)
        for kind, other in others.items():
            found = next(other)
            np.testing.assert_array_equal(found["x"], batch["x"], err_msg=kind)
            np.testing.assert_array_equal(found["y"], batch["y"], err_msg=kind)
