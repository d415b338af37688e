"""Every command line of the README and the guides is accepted, up to where its work would begin."""

import contextlib
import io
import re
import shutil
import types
from unittest import mock

import numpy as np
import pytest

from docs import checks, transcripts
from experiments import cli
from experiments.parts import sampling
from score_jax import inverse
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
    command = transcripts.program(module)
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


# Commands whose work takes long even when it is small, and the tests that do it.
ELSEWHERE = {
    r"^train (?!--help)": "tests/experiments/test_info_commands.py",
    r"^train_classifier|--guidance-interval|by_classifier": "tests/experiments/test_guided_commands.py",
    r"^(compare|bounds)": "tests/experiments/test_table_commands.py",
    r"^posterior": "tests/experiments/test_posterior_command.py",
    r"^evaluate .*--bpd": "tests/experiments/test_bits_command.py",
    r"^evaluate --workdir \S+ --num 4 --draws 0": "tests/experiments/test_evaluate_features.py",
    r"^encode|^interpolate (?!.*ddim)": "tests/experiments/test_daily_commands.py",
    r"^(sample|restore) --workdir runs/(c|classes) |runs/prepared|runs/weather": "tests/experiments",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What the pages name, with runs that are not trained."""
    home = tmp_path_factory.mktemp("pages") / "world"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        transcripts.world(home)
        transcripts.runs(home)
    return home


def drawn(key, sde, score, shape, *, save_every=None, **options):
    """Stands for `sample`: noise."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    steps = None if save_every is None else np.stack([x, x])
    return types.SimpleNamespace(
        x=x, nfe=np.full(len(x), 3.0), seconds=0.1, compile_seconds=0.1, trajectory=steps
    )


def restored(key, sde, score, measurement, method, **options):
    """Stands for `posterior_sample`."""
    mask, seen = getattr(measurement.operator, "mask", None), measurement.y.shape
    shape = SHAPES[seen[1:]] if mask is None else mask.shape
    return drawn(key, sde, score, (len(measurement.y), *shape))


def summary(key, sde, score, measurement, *args, num, **options):
    """Stands for `posterior_summary`."""
    mean = np.zeros(measurement.y.shape)
    return inverse.Summary(mean, mean + 1, num, np.stack([mean - 1, mean + 1]))


# What small and grey images are measured of.
SHAPES = {(4, 4, 1): (8, 8, 1), (8, 8, 1): (8, 8, 3)}


# The commands of docs/how-to are those of the guides with other options, which are read above.
RUN = [page for page in transcripts.PAGES if "/how-to/" not in page]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_guide_run(page, world, tmp_path, monkeypatch):
    """In their order, with drawing replaced by noise; `python -m docs.transcripts` draws, too."""
    found = transcripts.in_order(page, (ROOT / page).read_text(encoding="utf-8"))
    place = tmp_path / "page"
    shutil.copytree(world, place)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(sampling, "sample", drawn)
    monkeypatch.setattr(inverse, "posterior_sample", restored)
    monkeypatch.setattr(inverse, "posterior_summary", summary)
    faults, space, whole = [], {"__name__": "__main__"}, True
    for step in found:
        if isinstance(step, transcripts.Code):
            # Code may need the files of the commands before it.
            faults.append(transcripts.run_code(step, space) if whole else None)
        elif step.left_out or any(re.search(p, step.line) for p in ELSEWHERE):
            whole = whole and step.words[0] == "train"  # the run is there
        else:
            faults.append(transcripts.here(step))
    assert [fault for fault in faults if fault] == []


def test_every_reason_for_leaving_a_command_out_is_needed():
    lines = [
        command
        for page in transcripts.PAGES
        for command in transcripts.shown(page, (ROOT / page).read_text(encoding="utf-8"))
    ]
    reasons = {command.left_out for command in lines} - {None}
    assert reasons == {*transcripts.LEFT_OUT.values(), *transcripts.LATER.values()}
    for pattern, test in ELSEWHERE.items():
        assert any(re.search(pattern, command.line) for command in lines), pattern
        assert (ROOT / test).exists()
    assert transcripts.needed(lines) == list(transcripts.RUNS)
    assert transcripts.needed([transcripts.Shown("p", ("info", "runs/digits"))]) == ["x"]
    long = "python -m experiments.sample --workdir RUN --num 50000"
    assert [c.line for c in transcripts.shown("p", long, full=True)] == [
        "sample --workdir runs/x --num 50000"
    ]
    assert [c.line for c in transcripts.shown("p", long, full=True, steps=3)] == [
        "sample --workdir runs/x --num 100"
    ]
    assert transcripts.changed(["a", "--b", "1", "--c"], ["--b", "2", "3", "--d"]) == (
        "a", "--b", "2", "3", "--c", "--d",
    )  # fmt: skip
