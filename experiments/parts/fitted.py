"""What `experiments.compare` fits to a run: files in its folder, which sampling reads."""

from __future__ import annotations

import functools
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

from score_jax._files import reading, write_npz

from ..late import late

with late():
    import numpy as np

    from score_jax import samplers

if TYPE_CHECKING:
    from score_jax.samplers import ModelStatistics, StepCosts

COMMAND = "python -m experiments.compare --workdir RUN"


class Fitted(NamedTuple):
    """The files of a run folder, or None where nothing was fitted.

    grid: costs of steps, for --grid fitted; statistics: of the model, for --sampler dpm_solver_v3.
    """

    grid: pathlib.Path | None = None
    statistics: pathlib.Path | None = None


NOTHING = Fitted()
FILES = {"grid": "fitted_grid.npz", "statistics": "model_statistics.npz"}
STATISTICS = ("levels", "linear", "growth", "shift")


def found_in(workdir: pathlib.Path) -> Fitted:
    """What the folder of a run holds."""
    paths = {field: workdir / name for field, name in FILES.items()}
    return Fitted(**{field: path for field, path in paths.items() if path.is_file()})


def save_costs(workdir: pathlib.Path, costs: StepCosts) -> None:
    """Write the costs of a fitted grid, from which the grid of any number of steps is made."""
    _save(workdir / FILES["grid"], costs._asdict())


def save_statistics(workdir: pathlib.Path, statistics: ModelStatistics) -> None:
    """Write the statistics of a model, which any number of steps takes."""
    _save(workdir / FILES["statistics"], {name: getattr(statistics, name) for name in STATISTICS})


def _save(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    write_npz(path, **{name: np.asarray(v, np.float32) for name, v in arrays.items()})


def costs(file: pathlib.Path | None) -> StepCosts:
    """The costs in a file; ValueError where there is none, or the file holds something else."""
    if file is None:
        raise ValueError(f"grid fitted needs a run with a fitted grid: {COMMAND} --fit-grid")
    with reading(file, "a fitted grid"):
        return samplers.StepCosts(**_arrays(file, samplers.StepCosts._fields))


def statistics(file: pathlib.Path | None) -> ModelStatistics:
    """The statistics in a file: the same object each time, as programs are kept by it.

    Raises ValueError as `costs` does.
    """
    if file is None:
        raise ValueError(
            "sampler dpm_solver_v3 needs a run with model statistics: "
            f"{COMMAND} --fit-statistics 1024"
        )
    return _statistics(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _statistics(file: pathlib.Path, written: int) -> ModelStatistics:
    with reading(file, "model statistics"):
        return samplers.ModelStatistics(**_arrays(file, STATISTICS))


def _arrays(file: pathlib.Path, names: tuple[str, ...]) -> dict[str, Any]:
    # NumPy leaves a file open that it cannot read, if it has opened it.
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
        return {name: found[name] for name in names}
