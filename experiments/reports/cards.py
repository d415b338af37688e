"""A comparison as three files: its numbers, its text, and its picture."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from score_jax._files import write_text

from ..late import late
from ..parts import outputs

with late():
    from . import pictures

ENDINGS = (".json", ".md", ".png")


def check(out: pathlib.Path, name: str, *, overwrite: bool) -> None:
    """Raise ValueError if one of the files is there and not to be replaced."""
    outputs.free([out / f"{name}{e}" for e in ENDINGS], overwrite=overwrite, out=str(out))


def as_json(result: dict[str, Any]) -> str:
    """JSON with a line for each value, and one for each row of `rows`."""
    lines = []
    for key, value in result.items():
        if key == "rows":
            value = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        else:
            value = json.dumps(value)
        lines.append(f"{json.dumps(key)}: {value}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(
    out: pathlib.Path, name: str, result: dict[str, Any], text: str, card: Callable[[], Any]
) -> None:
    """Write NAME.json, NAME.md and NAME.png to the folder, and print the text and the files."""
    out.mkdir(parents=True, exist_ok=True)
    record, page, png = (out / f"{name}{ending}" for ending in ENDINGS)
    write_text(record, as_json(result))
    write_text(page, text)
    print("\n" + text)
    written = [record, page, *([png] if pictures.written(png, card) else [])]
    print(f"wrote {outputs.listed(written)}")
