"""What `pip install score_jax` brings: the library, and the commands under its name."""

import configparser
import os
import re
import subprocess
import sys

import pytest

from experiments.__main__ import commands
from experiments.parts.extras import EXTRAS
from tests.helpers import ROOT


def settings():
    """The contents of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def packages(folder, name):
    """The packages in a folder, with its own name replaced by `name`."""
    inner = (
        p.parent.relative_to(ROOT / folder).parts for p in (ROOT / folder).rglob("__init__.py")
    )
    return {".".join((name, *parts)) for parts in inner}


def test_every_package_is_installed():
    listed = settings()["options"]["packages"].split()
    assert len(listed) == len(set(listed))
    assert set(listed) == packages("score_jax", "score_jax") | packages(
        "experiments", "score_jax.commands"
    )


@pytest.mark.slow
def test_a_wheel_has_the_commands_and_runs_anywhere(tmp_path):
    """Built and installed without the network, then started in another folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("score_jax", "experiments", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    target = tmp_path / "site"
    install = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--target", target]
    subprocess.run([*pip, *install, source], check=True, capture_output=True)
    assert not (target / "experiments").exists()
    env = {**os.environ, "PYTHONPATH": str(target), "COLUMNS": "80"}
    run = lambda *args: subprocess.run(
        [target / "bin" / "score-jax", *args], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    out = run()
    assert out.returncode == 0 and out.stdout.startswith("usage: score-jax COMMAND"), out.stderr
    assert [name for name in commands() if f"  {name} " not in out.stdout] == []
    out = run("train", "--help")
    assert out.returncode == 0 and out.stdout.startswith("usage: score-jax train"), out.stderr
    out = run("sampel")
    assert out.returncode == 2 and "did you mean 'sample'?" in out.stderr


def test_the_core_is_lean_and_extras_bring_what_commands_ask_for():
    names = lambda text: {re.split(r"[<>=\[]", line)[0] for line in text.split()}
    core = names(settings()["options"]["install_requires"])
    assert {"jax", "jaxlib", "flax", "optax", "diffrax", "orbax-checkpoint"} < core
    assert "tensorflow-datasets" in core
    optional = {"matplotlib", "scikit-learn", "safetensors", "tensorboardX", "wandb"}
    assert not core & optional
    extras = settings()["options.extras_require"]
    distribution = {"sklearn": "scikit-learn", "imageio_ffmpeg": "imageio-ffmpeg"}
    for extra, modules in EXTRAS.items():
        wanted = {distribution.get(name, name) for name in modules}
        assert wanted == names(extras[extra]), extra


@pytest.mark.slow
def test_the_library_needs_no_extra():
    """Everything that `import score_jax` offers, and the parts that training uses."""
    code = """
import sys
for name in ("matplotlib", "sklearn", "safetensors", "array_record", "pyarrow", "zarr", "h5py"):
    sys.modules[name] = None
import score_jax
dir(score_jax)
from score_jax import checkpoints, data, nets, training
from experiments import runs
print(runs.Config().net.channels)
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout == "32\n", out.stderr
