"""Every command line of the README and the guides is accepted, up to where its work would begin."""

import contextlib
import importlib
import io
import re
from unittest import mock

import pytest

from docs import checks
from experiments import cli
from tests.docs.test_named_things import GUIDES, commands
from tests.helpers import ROOT

# What is said of files that only the reader has.
MISSING = (
    r"holds no run|No such file|does not exist|there is no|cannot be imported|prepared data set"
)


class Begun(Exception):
    """The command has read its options."""


def begin(*workdirs, **needs):
    raise Begun


def lines(name):
    """(module, arguments) of the complete command lines of a guide that stand in blocks of code."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S))
    for module, given in commands(blocks):
        # Words in capitals are places for the reader's own.
        own = [
            word for word in given if word in ("...", "…") or re.search(r"\b[A-Z]{3,}\b|\$", word)
        ]
        if module.startswith("experiments.") and not own:
            yield module, [word.strip("'\"") for word in given]


def refused(module, given):
    """What a command says of its options, None if it begins to work or looks for the files of a run."""
    command = importlib.import_module(module)
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            mock.patch.object(cli, "start", begin),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            command.main(given)
    except Begun:
        return None
    except SystemExit as exit:
        return None if not exit.code else f"{module} {' '.join(given)}: {err.getvalue()}"
    except (ValueError, OSError) as error:
        missing = re.search(MISSING, str(error))
        return None if missing else f"{module} {' '.join(given)}: {error}"
    return None


@pytest.mark.parametrize("name", GUIDES)
def test_the_commands_of_a_guide_are_accepted(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [refused(module, given) for module, given in lines(name)]
    assert [fault for fault in found if fault] == []
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--steps" in refused(
        "experiments.encode", ["--workdir", "x", "--test", "1", "--steps", "3"]
    )
    assert refused("experiments.encode", ["--workdir", "x", "--test", "1"]) is None


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_are_stored_with_their_outputs(path):
    assert checks.check([path]) == []
