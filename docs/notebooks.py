"""Run the notebooks and store them with their outputs: `python -m docs.notebooks [FILES]`.

Pictures are reduced to 64 colours, so that a notebook stays small.
"""

import base64
import io
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import nbformat
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]


def smaller(png: str) -> str:
    """A picture in base64 with 64 colours."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    out = io.BytesIO()
    image.quantize(64).save(out, format="PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def tidy(notebook: Any) -> Any:
    """The notebook without what differs from run to run, with small pictures."""
    keep = ("kernelspec", "colab")
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k in keep}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        # Progress bars and warnings are not results.
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            data = output.get("data", {})
            data.pop("image/jpeg", None)
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
    return notebook


def run(path: pathlib.Path) -> Any:
    """The notebook after a run from top to bottom, in a folder of its own."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    return notebook


def main(argv: Sequence[str]) -> None:
    """Run and store the notebooks of these paths, by default all."""
    for name in argv or sorted(map(str, (ROOT / "notebooks").glob("*.ipynb"))):
        path = pathlib.Path(name)
        nbformat.write(tidy(run(path)), path)
        print(f"stored {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
