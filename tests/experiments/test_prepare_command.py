"""The command prepare: from every format to records that a run reads; one line for bad input."""

import json
import re
import sys

import numpy as np
import pytest

from experiments import cli, prepare
from experiments.data_config import DataConfig
from experiments.parts import opening
from score_jax import data
from tests.helpers import data_files as files

X, Y = files.examples(n=30)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The same examples as a folder, an array file and a zip."""
    at = tmp_path_factory.mktemp("inputs")
    files.write_folder(at / "images", X, Y)
    files.write_edm_zip(at / "edm.zip", X, Y)
    np.savez(at / "a.npz", x=X, y=Y)
    return at


def run(*arguments):
    prepare.main([*map(str, arguments), "--workers", "0"])


def test_every_format_is_found_and_gives_the_same_records(inputs, tmp_path, capsys):
    for name in ("images", "edm.zip", "a.npz"):
        run("--from", inputs / name, "--out", tmp_path / name)
    said = capsys.readouterr().out
    assert "folder, 27 for train and 3 for test (test: 0.1 of all, the same in every run)" in said
    assert "train with --data.name records --data.path" in said
    for split in ("train", "test"):
        sources = [data.read_records(tmp_path / n, split) for n in ("images", "edm.zip", "a.npz")]
        batches = [data.take(source, range(len(source))) for source in sources]
        for batch in batches[1:]:
            np.testing.assert_array_equal(batch["x"], batches[0]["x"])
            np.testing.assert_array_equal(batch["y"], batches[0]["y"])
    # Records are data of a run, with the split that was written, and can be prepared again.
    c = DataConfig(name="records", path=str(tmp_path / "images"))
    found = opening.open_splits(c)
    assert found.sizes == (27, 3) and found.description.class_names == ("a", "b", "c")
    run("--from", tmp_path / "images", "--out", tmp_path / "again")
    run("--check", tmp_path / "again")
    assert "train, 27 examples in 1 files: as written" in capsys.readouterr().out


def test_options_are_kept_and_separate_test_data_are_used(inputs, tmp_path):
    files.write_folder(tmp_path / "held", X[-4:], Y[-4:])
    run(
        "--from", inputs / "images", "--test-from", tmp_path / "held", "--out", tmp_path / "out",
        "--size", "4", "6", "--resize", "plain",
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "description.json").read_text())
    assert record["options"]["size"] == [4, 6] and record["options"]["resize"] == "plain"
    assert record["description"]["shape"] == [4, 6, 3]
    test = data.read_records(tmp_path / "out", "test")
    assert [int(test[i]["y"]) for i in range(4)] == Y[-4:].tolist()
    run("--from", inputs / "images", "--out", tmp_path / "all", "--test-fraction", "0")
    assert data.record_splits(tmp_path / "all") == ["train"]


def test_unreadable_files_are_named_and_left_out_if_asked(tmp_path, capsys):
    folder = files.write_folder(tmp_path / "images", X, Y)
    (folder / "b" / "011.png").write_bytes(b"")
    arguments = ("--from", folder, "--out", tmp_path / "out", "--test-fraction", "0")
    with pytest.raises(ValueError, match=r"1 examples cannot be read: .*b/011.png is empty"):
        run(*arguments)
    run(*arguments, "--on-error", "skip")
    assert "b/011.png is empty" in capsys.readouterr().out
    assert len(data.read_records(tmp_path / "out")) == 29


BAD = {
    "nothing": (("--from", "nowhere", "--out", "o"), "there is no file or folder nowhere"),
    "no out": (("--from", "images"), "--from and --out are needed"),
    "text": (("--from", "x.txt", "--out", "o"), "the form of x.txt cannot be seen: give --format"),
    "empty": (("--from", "empty", "--out", "o"), "empty has no images"),
    "exists": (("--from", "images", "--out", "images"), "out must be a new folder"),
    "smaller": (("--from", "images", "--out", "o", "--size", "9"), "000.png is 8 x 8 .*smaller"),
    "few": (("--from", "one", "--out", "o"), "fraction must be"),
    "traversal": (("--from", "t.zip", "--out", "o"), "t.zip holds the name '../x.png'"),
    "unchecked": (("--check", "images"), "images has no description.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_2(case, inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(inputs / "images")
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    files.write_folder(tmp_path / "one", X[:1], Y[:1])
    files.write_zip(tmp_path / "t.zip", {"../x.png": files.encoded(X[0])})
    before = sorted(p.name for p in tmp_path.iterdir())
    arguments, named = BAD[case]
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, "--workers", "0"])
    with pytest.raises(SystemExit) as stopped:
        cli.main(prepare.main)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ")
    assert re.search(named, err), err
    assert sorted(p.name for p in tmp_path.iterdir()) == before
