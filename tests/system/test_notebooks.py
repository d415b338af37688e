"""Every notebook runs from top to bottom, with few steps, in a folder of its own.

The cells run in this process: a kernel for each notebook would import JAX and compile everything anew.
`python -m docs.notebooks` runs the whole notebooks in kernels.
"""

import json
import re

import pytest

from tests.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path):
    """The sources of the code cells of a notebook, without IPython's commands."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [re.sub(r"^( *)%.*$", r"\1pass", source, flags=re.M) for source in sources]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:too few particles")  # the short forms have few
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    import jax
    import matplotlib.pyplot as plt

    monkeypatch.setenv("SCORE_JAX_FAST", "1")
    # A notebook may set these for itself.
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    cells = code_cells(path)
    assert len(cells) < 15
    space = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"):  # as users have it
        for i, source in enumerate(cells):
            exec(compile(source, f"{path.name}, code cell {i}", "exec"), space)
    plt.close("all")
