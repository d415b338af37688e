"""Paths, modules, commands and flags that the guides name exist."""

import contextlib
import functools
import glob
import importlib
import io
import itertools
import os
import re
from unittest import mock

import pytest

from docs import build, transcripts
from tests.helpers import ROOT

GUIDES = [path.relative_to(ROOT).as_posix() for path in build.guides()]
FOLDERS = "score_jax|experiments|tests|docs|benchmarks|notebooks"
# These flags decide which others a command has.
CHOICES = ("--config", "--net.kind", "--sde.kind", "--loss.kind")


def paths(text):
    """Paths below the folders of the repository; `...` and <name> are places for the reader's own."""
    found = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./*-]*)", text)
    return {path.rstrip(".-") for path in found if "..." not in path}


def dotted(text):
    """Names such as score_jax.sde.VP in code."""
    code = re.findall(r"`[^`\n]+`", text)
    found = (re.findall(r"(?<![\w./])((?:score_jax|experiments)(?:\.\w+)+)", part) for part in code)
    return {name for names in found for name in names if not name.endswith((".py", ".egg"))}


def commands(text):
    """(module, arguments) of every `python -m module ...`, continued lines included."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"python3? -m ([\w.]+)([^\n`|;&#>]*)", text)
    return [(module, given.split()) for module, given in found]


def missing_path(path):
    """Whether nothing in the repository has this path."""
    return not glob.glob(str(ROOT / path))


def missing_name(name):
    """Whether a dotted name is neither a module nor an attribute, followed from the left."""
    # The commands are installed under this name.
    parts = name.replace("score_jax.commands", "experiments").split(".")
    for n in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        try:
            functools.reduce(getattr, parts[n:], value)
        except AttributeError:
            return parts[n:] != ["__main__"]
        return False
    return True


@functools.cache
def help_of(module, choices):
    """What a command of experiments prints for --help."""
    out = io.StringIO()
    command = transcripts.program(module)
    with (
        contextlib.redirect_stdout(out),
        mock.patch.dict(os.environ, {"COLUMNS": "300"}),
        pytest.raises(SystemExit),
    ):
        command.main([*choices, "--help"])
    return out.getvalue()


def missing_flags(module, given):
    """Flags of a command line that its program does not know."""
    flags = {part.strip("\"'()[],").split("=")[0] for part in given}
    flags = {flag.replace("_", "-") for flag in flags if flag.startswith("--")}
    if module.startswith("experiments."):
        split = [part for word in given for part in word.split("=", 1)]
        pairs = [pair for pair in itertools.pairwise(split) if pair[0] in CHOICES]
        text = help_of(module, tuple(part for pair in pairs if pair[1].islower() for part in pair))
        known = {flag.replace("_", "-") for flag in re.findall(r"--[\w.-]+", text)}
        # A command that starts from a run knows the flags of its sampler by the longer name too.
        known |= {flag.replace("--", "--sample.") for flag in known}
    else:
        known = set(
            re.findall(r"--[\w-]+", (ROOT / (module.replace(".", "/") + ".py")).read_text())
        )
    return flags - known - {"--help"}


@pytest.mark.parametrize("name", GUIDES)
def test_paths_exist(name):
    assert [path for path in sorted(paths((ROOT / name).read_text())) if missing_path(path)] == []


@pytest.mark.parametrize("name", GUIDES)
def test_names_in_code_exist(name):
    assert [n for n in sorted(dotted((ROOT / name).read_text())) if missing_name(n)] == []


@pytest.mark.parametrize("name", GUIDES)
def test_commands_and_their_flags_exist(name):
    text = (ROOT / name).read_text()
    # An option that is on or off has no value: --data.no-resume.
    faults = re.findall(r"(?<![\w-])--[\w.-]+ (?:True|False)\b", text)
    for module, given in commands(text):
        if not module.startswith(("experiments", "benchmarks", "docs", "tests")):
            continue
        if all(missing_path(module.replace(".", "/") + end) for end in (".py", "/__main__.py")):
            faults.append(f"no command {module}")
        else:
            faults += [f"{module} has no {flag}" for flag in missing_flags(module, given)]
    assert faults == []


def test_flags_in_text_exist():
    texts = {name: (ROOT / name).read_text() for name in GUIDES}
    modules = {module for text in texts.values() for module, _ in commands(text)}
    helps = [help_of(module, ()) for module in modules if module.startswith("experiments.")]
    known = {flag for text in helps for flag in re.findall(r"--[\w.-]+", text)}
    for name, text in texts.items():
        assert set(re.findall(r"`(--[a-z][\w.-]*\w)", text)) <= known, name


@pytest.mark.parametrize("name", GUIDES)
def test_targets_of_make_exist(name):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"(?:^|`)make (\w+)", (ROOT / name).read_text(), re.M)
    assert set(named) <= targets


def test_what_is_missing_is_found():
    text = (
        "`score_jax/no_such.py`, `score_jax.sde.NoSuch`\n```bash\npython -m experiments.train \\\n"
    )
    text += "  --config digits_vp --optim.lr 1e-3 --optim.nothing 1 # --comment\n```\n"
    assert paths(text) == {"score_jax/no_such.py"} and missing_path("score_jax/no_such.py")
    assert dotted(text) == {"score_jax.sde.NoSuch"} and missing_name("score_jax.sde.NoSuch")
    assert not missing_name("score_jax.sde.VP") and not missing_path("score_jax/*/__init__.py")
    ((module, given),) = commands(text)
    assert missing_flags(module, given) == {"--optim.nothing"}
