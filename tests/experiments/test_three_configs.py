"""The configs of a folder, of its newest checkpoint and of a command, in every combination."""

import dataclasses
import json
import shutil

import pytest

from experiments import runs
from experiments.run_config import to_json
from tests.helpers.tiny_runs import tiny, write_run

A, B, C = (dataclasses.replace(tiny(), seed=seed) for seed in range(3))
# The configs of the folder and of the command, where the checkpoint has A; what is said.
CASES = [
    (A, A, None),
    (A, B, "holds a run with another config.*seed: 0 -> 1"),
    (B, A, "not the config of its newest checkpoint.*seed: 0 -> 1"),
    (B, B, "not the config of its newest checkpoint.*seed: 0 -> 1"),
    (B, C, "not the config of its newest checkpoint.*seed: 0 -> 1"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose config and checkpoint are A."""
    return write_run(tmp_path_factory.mktemp("three") / "run", A)


@pytest.mark.parametrize(("folder", "command", "named"), CASES, ids=["AA", "AB", "BA", "BB", "BC"])
def test_a_difference_is_refused_or_printed(run, tmp_path, capsys, folder, command, named):
    workdir = shutil.copytree(run, tmp_path / "run")
    (workdir / "config.json").write_text(to_json(folder))
    before = (workdir / "config.json").read_text()
    if named is None:
        runs.save_config(workdir, command)
        assert capsys.readouterr().err == ""
    else:
        with pytest.raises(ValueError, match=f"{named}.*--allow-changes"):
            runs.save_config(workdir, command)
        assert (workdir / "config.json").read_text() == before
        # The change that goes on is said, also where folder and command agree.
        runs.save_config(workdir, command, allow_changes=True)
        assert "seed: 0 -> 1" in capsys.readouterr().err
    assert json.loads((workdir / "config.json").read_text())["seed"] == command.seed


def test_the_other_commands_mention_an_edited_config(run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    runs.load(workdir)
    assert capsys.readouterr().err == ""
    (workdir / "config.json").write_text(to_json(B))
    runs.load(workdir)
    err = capsys.readouterr().err
    assert err.startswith("note: ") and err.count("\n") == 1 and "seed: 0 -> 1" in err
