"""Install the compiler for TPUs into .cache/libtpu: `python -m tests.helpers.libtpu`, from `make test`.

It lies in a folder of its own, never in the environment that users train in, where JAX would look for a
TPU. Where it cannot be installed, a line says so, the exit code is 0 and the tests are skipped. Standard
library only.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys

from benchmarks.clusters import FOLDER

SECONDS = 300  # for 200 MB over the network


def requirement() -> str:
    """The libtpu that the installed JAX asks for in its extra "tpu"."""
    wanted = importlib.metadata.requires("jax") or []
    found = next(line for line in wanted if line.startswith("libtpu"))
    return re.sub(r"[\s()]", "", found.partition(";")[0])


def main() -> None:
    """Install it unless it is there."""
    want = requirement()
    mark = FOLDER / "installed"
    if mark.is_file() and mark.read_text(encoding="utf-8") == want:
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    uv = shutil.which("uv")
    pip = [uv, "pip", "install"] if uv else [sys.executable, "-m", "pip", "install"]
    try:
        subprocess.run(
            [*pip, "--quiet", "--no-deps", "--target", str(FOLDER), want],
            check=True, timeout=SECONDS, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(FOLDER, ignore_errors=True)
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        print(f"{want} cannot be installed, tests/test_tpu.py is skipped: {lines[-1]}")
        return
    mark.write_text(want, encoding="utf-8")


if __name__ == "__main__":
    main()
