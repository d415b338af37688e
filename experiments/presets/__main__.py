"""List the presets: `python -m experiments.presets cifar10`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from .. import cli
from ..parts import flags
from ..reports import tables
from .figures import PARAMETERS

DATA = {"array": "an array file"}


@dataclasses.dataclass(frozen=True)
class Args:
    """List the presets in a table: their data, network, process and steps of training."""

    # Only presets with this word in their name, data, network or process.
    word: Annotated[str | None, tyro.conf.Positional] = None


def row(name: str, tree: dict[str, Any]) -> list[str]:
    """One preset as a row of the table."""
    data, size = tree["data"], PARAMETERS.get(name)
    shown = data["builder"] or DATA.get(data["name"], data["name"])
    return [
        name, shown, tree["net"]["kind"], tree["sde"]["kind"],
        f"{tree['train']['steps']:,}", "" if size is None else f"{size / 1e6:.1f} M",
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m experiments.presets`."""
    args = cli.parse(Args, "experiments.presets", argv)
    rows = [row(name, flags.preset(name)) for name in flags.presets()]
    word = (args.word or "").lower()
    found = [cells for cells in rows if any(word in cell.lower() for cell in cells[:4])]
    if not found:
        raise ValueError(f"no preset has {args.word!r} in its name, data, network or process")
    print(tables.table([["preset", "data", "network", "process", "steps", "parameters"], *found]))
    print(f"\n{len(found)} of {len(rows)} presets; {cli.program('train')} --config PRESET --help")


if __name__ == "__main__":
    cli.main(main)
