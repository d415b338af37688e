"""Install a compiler for absent chips into .cache: `python -m tests.helpers.compilers libtpu`.

| name | for | used by |
|---|---|---|
| libtpu | TPUs | `make test`, `benchmarks.scale` |
| cuda | NVIDIA GPUs, 3.5 GB | `benchmarks.scale` |

They lie in folders of their own, never in the environment that users train in, where JAX would look for
such chips. Where one cannot be installed, a line says so and the exit code is 0; the tests that need it
are skipped. Standard library only.
"""

import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys

from benchmarks.clusters import CUDA, FOLDER

SECONDS = {"libtpu": 300, "cuda": 1800}
NVIDIA = (
    "nvidia-cuda-nvcc-cu12==12.9.*", "nvidia-cudnn-cu12==9.*", "nvidia-cublas-cu12==12.9.*",
    "nvidia-nvjitlink-cu12==12.9.*", "nvidia-cuda-runtime-cu12==12.9.*", "nvidia-nccl-cu12==2.*",
)  # fmt: skip


def requirements(name: str) -> list[str]:
    """The packages of a compiler for the installed JAX."""
    if name == "cuda":
        version = importlib.metadata.version("jax")
        return [f"jax-cuda12-plugin=={version}", f"jax-cuda12-pjrt=={version}", *NVIDIA]
    wanted = importlib.metadata.requires("jax") or []
    found = next(line for line in wanted if line.startswith("libtpu"))
    return [re.sub(r"[\s()]", "", found.partition(";")[0])]


def install(name: str, folder: pathlib.Path) -> None:
    """Install a compiler unless it is there."""
    wanted, mark = requirements(name), folder / "installed"
    if mark.is_file() and mark.read_text(encoding="utf-8").split() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv")
    pip = [uv, "pip", "install"] if uv else [sys.executable, "-m", "pip", "install"]
    try:
        # In one command, because a later one would replace the shared folder "nvidia".
        subprocess.run(
            [*pip, "--quiet", "--no-deps", "--target", str(folder), *wanted],
            check=True, timeout=SECONDS[name], capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        print(f"{wanted[0]} cannot be installed, what needs it is skipped: {lines[-1]}")
        return
    mark.write_text("\n".join(wanted), encoding="utf-8")


if __name__ == "__main__":
    install(sys.argv[1], {"libtpu": FOLDER, "cuda": CUDA}[sys.argv[1]])
