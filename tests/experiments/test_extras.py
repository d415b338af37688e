"""Missing extras: every command names one before its work begins, and only those that it needs."""

import contextlib
import dataclasses
import importlib.machinery
import importlib.util
import io
import sys
import types
from unittest import mock

import numpy as np
import pytest

from experiments import cli
from experiments.__main__ import commands, main
from experiments.parts.extras import EXTRAS
from tests.helpers.tiny_runs import tiny, write_run

DIGITS = ("sklearn", "array_record")
# (command and options, the packages that it needs); {digits}, {points} and {series} are runs.
CASES = [
    ("train --config digits_vp", (*DIGITS, "matplotlib")),
    (
        "train --config two_moons_vp --log tensorboard wandb",
        ("sklearn", "matplotlib", "tensorboardX", "wandb"),
    ),
    ("train --data.name parquet --data.path x.parquet", ("pyarrow",)),
    ("train --data.name zarr --data.path x.zarr", ("zarr",)),
    ("train --data.name hdf5 --data.path x.h5", ("h5py",)),
    ("train --config digits_vp --dry-run", ()),
    ("train_classifier --workdir {digits}", DIGITS),
    ("sample --workdir {digits}", ()),
    ("sample --workdir {points}", ("matplotlib",)),
    ("sample --workdir {points} --num 9 --format npz --out o", ()),
    ("sample --workdir {digits} --seeds 0-3 --out o", ()),
    ("sample --workdir {digits} --film mp4", ("imageio_ffmpeg",)),
    ("restore --workdir {digits} --task inpaint --test 2 --method dps", DIGITS),
    ("restore --workdir {digits} --task inpaint --images a.png --method dps", ()),
    ("restore --workdir {digits} --task inpaint --images a.png", DIGITS),
    (
        "restore --workdir {series} --task inpaint --images a.npy --method mmps",
        ("matplotlib",),
    ),
    ("encode --workdir {digits} --test 2", DIGITS),
    ("encode --workdir {points} --images a.npy", ("matplotlib",)),
    ("interpolate --workdir {digits} --seeds 0-1 --film mp4", ("imageio_ffmpeg",)),
    ("evaluate --workdir {digits}", DIGITS),
    ("evaluate --samples d --reference e --features math:sqrt --out m.json", ()),
    ("compare --workdir {digits}", (*DIGITS, "matplotlib")),
    ("posterior --problems two_modes", ("matplotlib",)),
    ("posterior --problems digits_half", (*DIGITS, "matplotlib")),
    ("bounds --workdirs {digits} --out o", (*DIGITS, "matplotlib")),
    ("statistics --features math:sqrt --out s.npz", DIGITS),
    ("statistics --features math:sqrt --samples d --out s.npz", ()),
    ("average --workdir {digits}", ()),
    ("convert --to diffusers --file o --workdir {digits}", ("safetensors",)),
    ("convert --to score_sde_pytorch --file o --workdir {digits}", ()),
    ("convert --from edm --file a.npy --config digits_edm --workdir o", ()),
    ("push --workdir {digits} --repo me/run", ("huggingface_hub",)),
    ("push --workdir {digits} --to o", ()),
    ("demo", ("mlxtend", "sklearn", "matplotlib")),
    ("demo --config digits_vp", (*DIGITS, "matplotlib")),
    ("prepare --from x.zarr --out o", ("zarr", "array_record")),
    ("prepare --check o", ("array_record",)),
]
# These do no work that could be lost, and import nothing optional.
NONE = {"completion", "info", "presets"}
MODULES = tuple(dict.fromkeys(name for names in EXTRAS.values() for name in names))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Runs by the names in the table, in the folder of the commands."""
    home = tmp_path_factory.mktemp("extras")
    series = np.random.default_rng(0).normal(size=(40, 12, 2)).astype(np.float32)
    np.save(home / "a.npy", series)
    (home / "x.zarr").mkdir()
    data = dataclasses.replace(tiny().data, name="array", path=str(home / "a.npy"))
    runs = {"digits": tiny(), "points": tiny("two_moons_vp"), "series": tiny(data=data)}
    return {"home": home} | {k: write_run(home / k, config) for k, config in runs.items()}


class Begun(Exception):
    """The command has begun its work."""


@contextlib.contextmanager
def without(names):
    """Of all optional modules only these cannot be found, whatever is installed here."""
    change = dict.fromkeys(names)
    for name in MODULES:
        if name not in change and importlib.util.find_spec(name) is None:
            change[name] = types.ModuleType(name)
            change[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    kept = {name: sys.modules[name] for name in change if name in sys.modules}
    sys.modules.update(change)
    try:
        yield
    finally:
        for name in change:
            del sys.modules[name]
        sys.modules.update(kept)


def outcome(line, absent):
    """What a command says without these packages, or "begun"."""
    out, err = io.StringIO(), io.StringIO()
    begin = mock.patch.object(cli.runtime, "tune_cpu", side_effect=Begun)
    with (
        begin,
        without(absent),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(line.split())
        except Begun:
            return "begun"
        except SystemExit as exit:
            return f"{exit.code}: {err.getvalue()}"
    return "ended"


@pytest.mark.parametrize(("line", "needed"), CASES, ids=[line for line, _ in CASES])
def test_missing_packages_are_named_before_the_work(line, needed, places, monkeypatch):
    monkeypatch.chdir(places["home"])
    line = line.format(**places)
    for name in needed:
        said = outcome(line, [name])
        assert said.startswith("2: ") and said.count("\n") == 1 and name in said, said
        extra = said.rpartition('pip install "score_jax[')[2].partition("]")[0]
        assert name in EXTRAS[extra], said
    if line.startswith("prepare") or "--data.path" in line:
        return  # the files are not there
    assert outcome(line, set(MODULES) - set(needed)) == "begun"


def test_every_command_is_in_the_table():
    assert {line.split()[0] for line, _ in CASES} | NONE == set(commands())
