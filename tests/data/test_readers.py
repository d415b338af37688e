"""Readers: the same examples in the same order from every format, and one clear line for bad files."""

import cloudpickle
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zarr
from PIL import Image

from score_jax import data
from score_jax.types import Source
from tests.helpers import data_files as files

X, Y = files.examples()
N = len(X)


def write_parquet(path, x, y, rows=5):
    """Images as bytes, as the hub stores them."""
    cells = [{"bytes": files.encoded(pixels), "path": None} for pixels in x]
    made = pa.table({"image": cells, "label": y.astype(np.int64)})
    pyarrow.parquet.write_table(made, path, row_group_size=rows)
    return path


def write_zarr(path, x, y=None, chunk=5, **attributes):
    group = zarr.open_group(str(path), mode="w")
    array = group.create_array("x", shape=x.shape, dtype=x.dtype, chunks=(chunk, *x.shape[1:]))
    array[:] = x
    array.attrs.update(attributes)
    if y is not None:
        group.create_array("y", shape=y.shape, dtype=y.dtype)[:] = y
    return path


def write_hdf5(path, x, y):
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = x, y
    return path


def folder(at):
    return data.read_folder(files.write_folder(at / "images", X, Y))


def zipped_folder(at):
    names = [f"all/{'abc'[y]}/{i:03d}.png" for i, y in enumerate(Y)]
    content = {n: files.encoded(x) for n, x in zip(names, X, strict=True)}
    return data.read_zip(files.write_zip(at / "a.zip", content | {"__MACOSX/x.png": b""}))


def edm_zip(at):
    return data.read_zip(files.write_edm_zip(at / "edm.zip", X, Y))


def named_files(at):
    (at / "named").mkdir()
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        (at / "named" / f"{'abc'[y]}_{i:03d}.bmp").write_bytes(files.encoded(x, "BMP"))
    return data.read_folder(at / "named", labels=data.labels_of_names)


def npz(at):
    np.savez(at / "a.npz", x=X, y=Y)
    return data.read_arrays(at / "a.npz")


def compressed_npz(at):
    np.savez_compressed(at / "c.npz", arr_0=X, arr_1=Y)
    return data.read_arrays(at / "c.npz")


def shards(at):
    (at / "shards").mkdir()
    for i, part in enumerate((slice(0, 10), slice(10, 11), slice(11, None))):
        np.save(at / "shards" / f"x_{i}.npy", np.asfortranarray(X[part]) if i else X[part])
        np.save(at / "shards" / f"y_{i}.npy", Y[part])
    return data.read_arrays(at / "shards")


def parquet(at):
    (at / "hub").mkdir()
    write_parquet(at / "hub" / "train-00000-of-00002.parquet", X[:13], Y[:13])
    write_parquet(at / "hub" / "train-00001-of-00002.parquet", X[13:], Y[13:])
    write_parquet(at / "hub" / "test-00000-of-00001.parquet", X[:2], Y[:2])
    return data.read_parquet(at / "hub", "train")


def parquet_lists(at):
    kind = pa.list_(pa.list_(pa.list_(pa.uint8())))
    made = pa.table({"x": pa.array(X.tolist(), kind), "y": Y})
    pyarrow.parquet.write_table(made, at / "lists.parquet")
    return data.read_parquet(at / "lists.parquet")


def parquet_tensors(at):
    made = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(X), "y": Y})
    pyarrow.parquet.write_table(made, at / "tensors.parquet")
    return data.read_parquet(at / "tensors.parquet")


class HubRows:
    """A split of Hugging Face's `datasets`, as far as a source needs it."""

    class Label:
        names = ("a", "b", "c")

    features = {"img": object(), "label": Label()}  # noqa: RUF012

    def __len__(self):
        return N

    def __getitem__(self, i):
        if isinstance(i, slice):
            return {"label": Y[i].tolist()}
        return {"img": Image.fromarray(X[i]), "label": int(Y[i])}

    def select_columns(self, name):
        return self


def rows_of_images(at):
    return data.as_source(HubRows())


def zarr_store(at):
    return data.read_zarr(write_zarr(at / "a.zarr", X, Y))


def hdf5(at):
    return data.read_hdf5(write_hdf5(at / "a.h5", X, Y))


def records(at):
    source = data.from_arrays(X, Y, class_names=list("abc"))
    data.write_records({"train": source}, at / "records", shard_size=7)
    return data.read_records(at / "records", verify=True)


MAKERS = (
    folder, zipped_folder, edm_zip, named_files, npz, compressed_npz, shards, parquet, parquet_lists,
    parquet_tensors, rows_of_images, zarr_store, hdf5, records,
)  # fmt: skip
NAMED = {"folder", "zipped_folder", "named_files", "rows_of_images", "records"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same examples in every format."""
    at = tmp_path_factory.mktemp("formats")
    return {make.__name__: make(at) for make in MAKERS}


@pytest.mark.parametrize("name", [make.__name__ for make in MAKERS])
def test_every_format_gives_the_same_examples_in_the_same_order(sources, name):
    source = sources[name]
    assert isinstance(source, Source) and len(source) == N
    form = source.description
    assert (form.shape, form.dtype, form.levels, form.num_classes) == ((8, 8, 3), "uint8", 256, 3)
    assert form.class_names == (("a", "b", "c") if name in NAMED else None)
    order = np.random.default_rng(1).permutation(N)
    batch = data.take(source, order)
    np.testing.assert_array_equal(batch["x"], X[order])
    np.testing.assert_array_equal(batch["y"], Y[order])
    assert batch["y"].dtype == np.int32
    np.testing.assert_array_equal(source[-1]["x"], X[-1])
    with pytest.raises(IndexError):
        source[N]
    # Worker processes are given a copy.
    again = cloudpickle.loads(cloudpickle.dumps(source))
    np.testing.assert_array_equal(data.take(again, [20, 3])["x"], X[[20, 3]])


def test_objects_of_datasets_are_sources():
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=list("abc"))
    for feature, column in (
        (datasets.Image(), [Image.fromarray(x) for x in X]),
        (datasets.Array3D((8, 8, 3), "uint8"), X),
    ):
        features = datasets.Features({"image": feature, "label": names})
        rows = datasets.Dataset.from_dict({"image": column, "label": Y}, features=features)
        source = data.as_source(rows)
        np.testing.assert_array_equal(data.take(source, [4, 9])["x"], X[[4, 9]])
        assert source.description.class_names == ("a", "b", "c")
        assert source.y is not None and source.y.tolist() == Y.tolist()


def test_files_of_another_split_are_left_out(tmp_path):
    write_parquet(tmp_path / "part-0.parquet", X[:5], Y[:5])
    write_parquet(tmp_path / "test-0.parquet", X[5:], Y[5:])
    assert [len(data.read_parquet(tmp_path, k)) for k in ("train", "test", None)] == [5, N - 5, 5]


def test_idx_files_are_read_by_split(tmp_path):
    x = X[..., :1]
    at = files.write_idx(tmp_path / "idx", x, Y)
    files.write_idx(at, x[:4], Y[:4], start="t10k")
    for split, n in (("train", N), ("test", 4)):
        found = data.read_idx(at, split)
        np.testing.assert_array_equal(found.x, x[:n])
        np.testing.assert_array_equal(found.y, Y[:n])
    plain = tmp_path / "x.idx"
    plain.write_bytes(files.idx_bytes(np.arange(6, dtype=">f4").reshape(3, 2), 0x0D))
    np.testing.assert_array_equal(data.read_idx(plain).x, np.arange(6).reshape(3, 2))


def test_cifar_is_read_from_both_versions_without_running_a_pickle(tmp_path):
    x, y = files.examples(n=8, size=(32, 32))
    python = files.write_cifar10(tmp_path / "cifar-10-python.tar.gz", x, y)
    train, test = (data.read_cifar(python, split) for split in ("train", "test"))
    np.testing.assert_array_equal(np.concatenate([train.x, test.x]), x)
    np.testing.assert_array_equal(np.concatenate([train.y, test.y]), y)
    assert train.class_names == ("cat", "dog", "owl")
    fine = np.arange(8) * 11
    binary = files.write_cifar100_binary(tmp_path / "c100.tar.gz", x, y, fine)
    found, coarse = (data.read_cifar(binary, coarse=c) for c in (False, True))
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, fine)
    np.testing.assert_array_equal(coarse.y, y)
    assert found.description.num_classes == 100


def test_classes_of_test_data_have_the_numbers_of_the_training_data(tmp_path):
    train = data.read_folder(files.write_folder(tmp_path / "train", X, Y))
    only_c = files.write_folder(tmp_path / "test", X[:3], np.full(3, 2))
    test = data.read_folder(only_c, class_names=train.description.class_names)
    assert test.y.tolist() == [2, 2, 2]
    assert test.description.class_names == train.description.class_names
    with pytest.raises(ValueError, match=r"test has the classes \['c'\], which are not in"):
        data.read_folder(only_c, class_names=("a", "b"))
    # One class says nothing.
    assert data.read_folder(only_c).y is None


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    content = {f"{k}/1.png": files.encoded(X[0]) for k in (10, 9, 100)}
    assert data.read_zip(files.write_zip(tmp_path / "a.zip", content)).description.class_names == (
        "9", "10", "100",
    )  # fmt: skip


def test_continuous_stores_have_moments_and_complex_numbers_two_channels(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(10, 6, 4, 1)) + 1j * rng.normal(size=(10, 6, 4, 1))
    path = write_zarr(tmp_path / "c.zarr", z, mean=[1.0, 2.0], std=[2.0, 4.0])
    source = data.read_zarr(path)
    assert source.description.shape == (6, 4, 2) and source.description.dtype == "float32"
    assert source.description.scale == (0.5, 0.25) and source.description.shift == (-0.5, -0.5)
    x = data.take(source, [7, 2])["x"]
    np.testing.assert_allclose(x[..., 0] + 1j * x[..., 1], z[[7, 2], ..., 0], rtol=1e-6)
    # Without an axis of channels the parts get one.
    write_zarr(tmp_path / "d.zarr", np.tile(z[..., 0], 2))
    assert data.read_zarr(tmp_path / "d.zarr").description.shape == (6, 8, 2)


def test_missing_entries_are_refused_where_they_are_read(tmp_path):
    x = np.ones((600, 2), np.float32)
    x[500, 1] = np.nan
    path = write_zarr(tmp_path / "n.zarr", x, chunk=100)
    assert np.isnan(data.read_zarr(path, missing=True)[500]["x"]).sum() == 1
    with pytest.raises(ValueError, match=r"n.zarr: x, examples from 0 on must be finite, got NaN"):
        data.read_zarr(path)[500]


def test_blocks_that_do_not_fit_are_reported(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("score_jax.data._handles.BUDGET", 1000)
    data.read_zarr(write_zarr(tmp_path / "a.zarr", np.zeros((3000, 100)), chunk=1500))
    assert "a.zarr: x: reading it at random is slow" in caplog.text and "prepare" in caplog.text


def test_a_cache_keeps_the_last_blocks():
    from score_jax.data._handles import Cache

    cache, read = Cache(2), []
    for key in (1, 2, 1, 3, 1, 2):
        assert cache.get(key, lambda key=key: (read.append(key) or key, 1)) == key
    assert read == [1, 2, 3, 2]


# Bad files: a function writes each one and reads it.


def no_images(at):
    (at / "empty").mkdir()
    (at / "empty" / "notes.txt").write_text("x")
    data.read_folder(at / "empty")


def no_folder(at):
    data.read_folder(at / "nowhere")


def splits_as_classes(at):
    files.write_folder(at / "s" / "train", X[:2], Y[:2])
    files.write_folder(at / "s" / "test", X[:2], Y[:2])
    data.read_folder(at / "s")


def zero_bytes(at):
    path = files.write_folder(at / "z", X[:2], Y[:2]) / "a" / "001.png"
    path.write_bytes(b"")
    data.read_folder(at / "z")[1]


def smaller(at):
    data.read_folder(files.write_folder(at / "s", X, Y), data.ImageOptions(size=(9, 4)))[0]


def traversal(at):
    data.read_zip(files.write_zip(at / "t.zip", {"../a/x.png": files.encoded(X[0])}))


def no_zip(at):
    (at / "n.zip").write_text("x")
    data.read_zip(at / "n.zip")


def cut_member(at):
    path = files.write_edm_zip(at / "m.zip", X, Y)
    raw = path.read_bytes()
    place = raw.index(b"IDAT") + 20
    path.write_bytes(raw[:place] + b"\0\1\2\3" + raw[place + 4 :])
    data.read_zip(path)[0]


def labels_file(labels):
    content = {"dataset.json": labels, "a.png": files.encoded(X[0])}
    return lambda at: data.read_zip(files.write_zip(at / "l.zip", content))


def mixed_shards(at):
    np.save(at / "a.npy", X)
    np.save(at / "b.npy", X[:, :4])
    data.read_arrays(at)


def half_labelled(at):
    np.savez(at / "a.npz", x=X, y=Y)
    np.savez(at / "b.npz", x=X)
    data.read_arrays(at)


def cut_npy(at):
    np.save(at / "a.npy", X)
    (at / "a.npy").write_bytes((at / "a.npy").read_bytes()[:-5])
    data.read_arrays(at / "a.npy")


def cut_compressed(at):
    np.savez_compressed(at / "c.npz", x=X)
    raw = bytearray((at / "c.npz").read_bytes())
    raw[200:220] = bytes(20)
    (at / "c.npz").write_bytes(raw)
    data.read_arrays(at / "c.npz")


def objects(at):
    np.savez(at / "o.npz", x=np.array([{}, None], object))
    data.read_arrays(at / "o.npz")


def late_nan(at):
    x = np.zeros((2000, 2))
    x[1999] = np.nan
    np.save(at / "n.npy", x)
    data.read_arrays(at / "n.npy")[1999]


def cut_gzip(at):
    folder = files.write_idx(at / "i", X[..., :1], Y)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    data.read_idx(folder)


def cut_idx(at):
    (at / "c.idx").write_bytes(files.idx_bytes(X[..., 0])[:-1])
    data.read_idx(at / "c.idx")


def no_idx(at):
    (at / "n.idx").write_text("text")
    data.read_idx(at / "n.idx")


def fewer_labels(at):
    data.read_idx(files.write_idx(at / "f", X[..., :1], Y[:5]))


def evil_cifar(at):
    evil = b"\x80\x02cposix\nsystem\nU\x04true\x85R."
    path = files.write_tar(at / "e.tar.gz", {"cifar-10-batches-py/data_batch_1": evil})
    data.read_cifar(path)


def other_tar(at):
    data.read_cifar(files.write_tar(at / "o.tar.gz", {"photos/a.png": b""}))


def short_cifar(at):
    data.read_cifar(files.write_tar(at / "s.tar.gz", {"cifar-100-binary/train.bin": b"\0" * 99}))


def no_image_column(at):
    pyarrow.parquet.write_table(pa.table({"text": ["a"]}), at / "t.parquet")
    data.read_parquet(at / "t.parquet")


def only_paths(at):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    made = pa.table({"image": pa.array([{"bytes": None, "path": "x.png"}], kind)})
    pyarrow.parquet.write_table(made, at / "p.parquet")
    data.read_parquet(at / "p.parquet")


def no_parquet(at):
    (at / "n.parquet").write_text("x")
    data.read_parquet(at / "n.parquet")


def broken_cell(at):
    made = pa.table({"image": [files.encoded(X[0]), b"broken"], "label": [0, 1]})
    pyarrow.parquet.write_table(made, at / "b.parquet")
    data.read_parquet(at / "b.parquet")[1]


def no_store(at):
    (at / "n.zarr").mkdir()
    data.read_zarr(at / "n.zarr")


def no_hdf5(at):
    (at / "n.h5").write_text("x")
    data.read_hdf5(at / "n.h5")


def no_array(at):
    with h5py.File(at / "n.h5", "w") as file:
        file["a"], file["b"] = X, X
    data.read_hdf5(at / "n.h5")


def no_spread(at):
    data.read_zarr(write_zarr(at / "s.zarr", np.ones((9, 2)), mean=0.0, std=0.0))


BAD = {
    "no images": (no_images, r"empty has no images .* among its 1 other files"),
    "no folder": (no_folder, "there is no folder .*nowhere"),
    "splits as classes": (splits_as_classes, r"\['test', 'train'\], which seem to be splits"),
    "zero bytes": (zero_bytes, r"a/001.png is empty"),
    "smaller": (smaller, r"a/000.png is 8 x 8 pixels .* smaller than 9 x 4"),
    "traversal": (traversal, r"t.zip holds the name '../a/x.png', which leads out"),
    "no zip": (no_zip, "n.zip cannot be read as a zip"),
    "cut member": (cut_member, r"m.zip: 00000/img00000000.png cannot be read"),
    "labels no json": (labels_file("{"), "l.zip: dataset.json is not JSON"),
    "labels no object": (labels_file("[]"), "l.zip: dataset.json must be an object"),
    "labels no list": (labels_file('{"labels": 3}'), r"must be a list of \[name, number\]"),
    "labels no number": (labels_file('{"labels": [["a.png", "cat"]]}'), "no number for 'a.png'"),
    "labels missing": (labels_file('{"labels": []}'), "no number for 'a.png': found None"),
    "mixed shards": (mixed_shards, r"b.npy has examples \(4, 8, 3\) .*a.npy has \(8, 8, 3\)"),
    "half labelled": (half_labelled, "labels must be in every file, got '1 of 2 files'"),
    "cut npy": (cut_npy, "a.npy cannot be read: it has"),
    "cut compressed": (cut_compressed, "c.npz cannot be read as an array file"),
    "objects": (objects, "o.npz: x holds Python objects"),
    "late nan": (late_nan, "n.npy must be finite, got NaN"),
    "cut gzip": (cut_gzip, "train-images-idx3-ubyte.gz cannot be read as gzip"),
    "cut idx": (cut_idx, "c.idx has .* bytes, but its header needs"),
    "no idx": (no_idx, "n.idx is not an IDX file"),
    "fewer labels": (fewer_labels, r"train-images.*: y must be integers >= 0 of shape \(24,\)"),
    "evil cifar": (evil_cifar, "e.tar.gz: cifar-10-batches-py/data_batch_1 .* posix.system"),
    "other tar": (other_tar, "o.tar.gz is no archive of CIFAR"),
    "short cifar": (short_cifar, "s.tar.gz: cifar-100-binary/train.bin has 99 bytes"),
    "no image column": (no_image_column, r"t.parquet has no column image .* it has \['text'\]"),
    "only paths": (only_paths, "p.parquet: the first image has no bytes, only the path 'x.png'"),
    "no parquet": (no_parquet, "n.parquet cannot be read as Parquet"),
    "broken cell": (broken_cell, "b.parquet, row 1 .* is not an image"),
    "no store": (no_store, "n.zarr cannot be read as a zarr store"),
    "no hdf5": (no_hdf5, "n.h5 cannot be read as HDF5"),
    "no array": (no_array, r"n.h5 has no array 'x': it has \['a', 'b'\]"),
    "no spread": (no_spread, "s.zarr: x: std must be > 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_in_one_line(tmp_path, case):
    read, named = BAD[case]
    with pytest.raises((ValueError, FileNotFoundError), match=named) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)
