"""Files are written whole, and what a killed writer left does not stay."""

import os
import subprocess

import pytest

from score_jax import _files
from score_jax._files import remove_left, replacing


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_parts_of_killed_writers_are_removed_and_others_stay(tmp_path, dead):
    host = _files._HOST
    left = [f".run.{host}-{dead}.part", f".config.{host}-{dead}.part.json"]
    kept = [
        f".run.{host}-{os.getppid()}.part",
        f".run.other-{dead}.part",
        ".000001.png.part",
        "notes",
    ]
    for name in (*left[:1], *kept[:2]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    for name in (*left[1:], *kept[2:]):
        (tmp_path / name).write_text("x")
    with replacing(tmp_path / "run") as part:
        part.mkdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "run"])
    remove_left(tmp_path, every=True)  # a folder that we hold
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([kept[0], *kept[2:], "run"])
