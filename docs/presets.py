"""The table of the published presets, for docs/weights.md: `python -m docs.presets` writes it there."""

import pathlib

from experiments import presets
from experiments.presets.figures import PARAMETERS, PUBLISHED

PAGE = pathlib.Path(__file__).with_name("weights.md")
START, END = "<!-- presets -->", "<!-- end of presets -->"
# Folders of the authors' configurations: "_" in a preset's name stands for "/" there.
FOLDERS = ("vp_ddpm", "ve_ncsnv2", "ve_ncsn", "subvp", "vp", "ve")
COLUMNS = ("preset", "network", "parameters", "FID", "IS", "FID (ODE)", "bits/dim", "source")


def source(name: str) -> str:
    """The source of the run: a file of score_sde, or the README of improved-diffusion."""
    for folder in FOLDERS:
        if name.startswith(f"{folder}_"):
            rest = name.removeprefix(f"{folder}_")
            return f"score_sde: `{folder.replace('_', '/')}/{rest}.py`"
    if name in ("cifar10_edm_jcm", "cifar10_consistency"):
        return "openai/consistency_models_cifar10: `configs/`"
    if "_edm2_" in name:
        return "edm2: `train_edm2.py`"
    return "edm: `train.py`" if "_edm_" in name else "improved-diffusion: README"


def table() -> str:
    """The rows of all presets of published runs, as Markdown; "-": not reported by the authors."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for name, size in sorted(
        PARAMETERS.items(), key=lambda item: list(presets.CONFIGS).index(item[0])
    ):
        found = PUBLISHED.get(name)
        values = found[1:] if found else (None,) * 4
        where = source(name) + (f"; {found.source.split(',')[0].split(' ')[0]}" if found else "")
        figures = ["-" if v is None else f"{v:.2f}" for v in values]
        rows.append(
            (f"`{name}`", type(presets.get(name).net).__name__, f"{size:,}", *figures, where)
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def inserted(text: str) -> str:
    """The page with the current table between its two marks."""
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(inserted(PAGE.read_text()))
