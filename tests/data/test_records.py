"""Prepared records: written whole or not at all, continued after a kill, checked when they are read."""

import json
import resource
import shutil

import numpy as np
import pytest

from score_jax import data
from score_jax.data.records import DESCRIPTION_FILE
from tests.helpers import data_files as files

X, Y = files.examples()


class Watched:
    """A source that notes which examples are taken, and cannot read some."""

    def __init__(self, bad=()):
        self.inner = data.from_arrays(X, Y, class_names=("a", "b", "c"))
        self.description, self.bad, self.seen = self.inner.description, bad, []

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, i):
        self.seen.append(i)
        if i in self.bad:
            raise ValueError(f"photo{i}.png is empty")
        return self.inner[i]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of records with two splits."""
    out = tmp_path_factory.mktemp("records") / "mine"
    source = Watched()
    train, test = (data.Subset(source, np.sort(p.indices)) for p in data.split(source, 0.25))
    data.write_records({"train": train, "test": test}, out, shard_size=5, options={"size": 8})
    return out


def test_the_description_says_what_there_is(written):
    record = json.loads((written / DESCRIPTION_FILE).read_text())
    assert record["description"]["class_names"] == ["a", "b", "c"]
    assert record["description"]["shape"] == [8, 8, 3] and record["options"] == {"size": 8}
    counts = {k: [s["count"] for s in v] for k, v in record["splits"].items()}
    assert counts == {"train": [5, 5, 5, 3], "test": [5, 1]}
    both = [sum(record["classes"][k].get(c, 0) for k in counts) for c in "012"]
    assert both == np.bincount(Y).tolist()
    assert {p.name for p in written.iterdir()} == {
        DESCRIPTION_FILE, *(s["file"] for v in record["splits"].values() for s in v),
    }  # fmt: skip
    assert not list(written.parent.glob(".*"))


def test_the_splits_are_all_the_examples_once_and_in_order(written):
    sources = [data.read_records(written, name) for name in ("train", "test")]
    parts = [data.take(source, range(len(source))) for source in sources]
    rows = lambda x: {tuple(v) for v in x.reshape(len(x), -1)}
    assert rows(parts[0]["x"]) | rows(parts[1]["x"]) == rows(X)
    assert len(parts[0]["x"]) + len(parts[1]["x"]) == len(X)
    for part in parts:
        assert (np.diff(part["y"]) >= 0).all()  # as the labels were


def test_leaves_beside_x_and_y_are_kept(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype(np.float32)
    x[2, 0, 0] = np.nan
    source = data.Paired(
        data.from_arrays(x, missing=True), data.from_arrays(np.arange(12.0).reshape(6, 2))
    )
    data.write_records({"train": source}, tmp_path / "r")
    batch = data.take(data.read_records(tmp_path / "r"), [2, 5])
    np.testing.assert_array_equal(batch["x"], x[[2, 5]])
    np.testing.assert_array_equal(batch["cond"], [[4, 5], [10, 11]])


def test_a_call_that_was_killed_is_continued(tmp_path):
    source, lines = Watched(), []
    write = lambda **k: data.write_records({"train": source}, tmp_path / "out", shard_size=6, **k)
    done = []

    def kill(count):
        done.append(count)
        if sum(done) >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(progress=kill)
    assert not (tmp_path / "out").exists()
    source.seen.clear()
    done.clear()
    write(progress=done.append, say=lines.append)
    assert set(source.seen) == {0, *range(12, 24)} and sum(done) == 24
    assert "continues" in lines[0]
    whole = data.read_records(tmp_path / "out", verify=True)
    np.testing.assert_array_equal(data.take(whole, range(24))["x"], X)
    with pytest.raises(ValueError, match="out must be a new folder"):
        write()


def test_other_options_start_again(tmp_path):
    def stop(count):
        if count:
            raise KeyboardInterrupt

    write = lambda **k: data.write_records({"train": Watched()}, tmp_path / "out", **k)
    with pytest.raises(KeyboardInterrupt):
        write(options={"size": 8}, progress=stop)
    lines = []
    write(options={"size": 9}, say=lines.append)
    assert "other data or options: starts again" in lines[0]


def test_examples_that_cannot_be_read_stop_it_or_are_left_out(tmp_path):
    write = lambda source, **k: data.write_records(
        {"train": source}, tmp_path / "out", shard_size=6, **k
    )
    with pytest.raises(
        data.Unreadable, match=r"2 examples .*photo3.png is empty; photo20.png is empty"
    ):
        write(Watched(bad=(3, 20)))
    assert not (tmp_path / "out").exists()
    # What could be read is not read again.
    source = Watched(bad=(3, 20))
    found = write(source, skip=True)
    assert set(source.seen) == {0, *range(6), *range(18, 24)}
    assert found.counts == {"train": 22} and found.skipped == [
        "photo3.png is empty", "photo20.png is empty",
    ]  # fmt: skip
    np.testing.assert_array_equal(data.read_records(tmp_path / "out")[3]["x"], X[4])
    with pytest.raises(data.Unreadable, match=r"24 examples.*and 4 more"):
        data.write_records({"train": Watched(bad=range(24))}, tmp_path / "none", skip=True)


@pytest.mark.slow
def test_processes_write_the_same_files(tmp_path, written):
    source = data.from_arrays(X, Y, class_names=("a", "b", "c"))
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, workers in zip(folders, (0, 1), strict=True):
        data.write_records({"train": source}, folder, shard_size=12, workers=workers)
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_a_full_disk_is_named(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        large = data.from_arrays(np.zeros((60, 1000), np.float32))
        with pytest.raises(OSError, match=r"cannot be written: .*File too large"):
            data.write_records({"train": large}, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not (tmp_path / "out").exists()


def test_examples_of_another_form_are_named(tmp_path):
    class Mixed(Watched):
        def __getitem__(self, i):
            return {"x": self.inner[i]["x"][: 8 - (i == 9)]}

    with pytest.raises(data.Unreadable, match=r"example 9 of train has the leaves .*\(7, 8, 3\)"):
        data.write_records({"train": Mixed()}, tmp_path / "out")


def damaged(kind, folder):
    shard = sorted(folder.glob("train-00001*"))[0]
    raw = shard.read_bytes()
    if kind == "cut":
        shard.write_bytes(raw[:-9])
    elif kind == "changed":
        place = raw.index(data.read_records(folder)[5]["x"].tobytes()[:16])
        shard.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
    elif kind == "missing":
        shard.unlink()
    elif kind == "swapped":
        shutil.copy(sorted(folder.glob("train-00000*"))[0], shard)
    else:
        (folder / DESCRIPTION_FILE).write_text('{"format": "other"}')


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("cut", "train-00001-of-00004.array_record has .* bytes, but description.json says"),
        ("changed", "train-00001-of-00004.array_record has the sha256"),
        ("swapped", "train-00001-of-00004.array_record has the sha256"),
        ("missing", "train-00001-of-00004.array_record is missing"),
        ("other", "description.json cannot be read: .* its format is 'other'"),
    ],
)
def test_a_damaged_folder_is_named(written, tmp_path, kind, named):
    folder = tmp_path / "copy"
    shutil.copytree(written, folder)
    damaged(kind, folder)
    with pytest.raises(ValueError, match=named):
        data.read_records(folder, verify=True)
    if kind == "changed":  # without `verify`, where it is read
        with pytest.raises(ValueError, match=r"train-00001-of-00004.array_record cannot be read"):
            data.read_records(folder)[5]


def test_wrong_use_is_named(written, tmp_path):
    with pytest.raises(ValueError, match=r"split must be one of \('train', 'test'\)"):
        data.read_records(written, "validation")
    with pytest.raises(FileNotFoundError, match=r"no description.json"):
        data.read_records(tmp_path)
    other = data.from_arrays(X[:, :4], Y)
    with pytest.raises(ValueError, match="shape of 'test' must be that of the first split"):
        data.write_records({"train": Watched(), "test": other}, tmp_path / "a")
