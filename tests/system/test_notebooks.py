"""Every notebook runs from top to bottom, with few steps, in a folder of its own."""

import os

import pytest

from tests.helpers import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
# The kernel's sockets and its event loop warn on their own account, not on ours.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("SCORE_JAX_FAST", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    assert os.environ["SCORE_JAX_FAST"]
    notebook = nbformat.read(path, as_version=4)
    assert len([c for c in notebook.cells if c.cell_type == "code"]) < 15
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
