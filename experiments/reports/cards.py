"""A comparison as three files: its numbers, its text, and its picture where matplotlib is installed."""

import pathlib
from collections.abc import Callable
from typing import Any

from score_jax import viz
from score_jax._files import write_json, write_text


def write(
    out: pathlib.Path, name: str, result: dict[str, Any], text: str, card: Callable[[], Any]
) -> None:
    """Write NAME.json, NAME.md and NAME.png to the folder, and print the text and the files."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{name}.json", result)
    write_text(out / f"{name}.md", text)
    print("\n" + text)
    written = [f"{name}.json", f"{name}.md"]
    try:
        viz.save_image(card(), out / f"{name}.png")
        written.append(f"{name}.png")
    except ImportError:
        print('no picture: it needs matplotlib, pip install "score_jax[plots]"')
    print("wrote " + ", ".join(str(out / file) for file in written))
