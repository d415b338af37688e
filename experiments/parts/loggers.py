"""Where training logs to, beside metrics.jsonl: the values of --log."""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from score_jax._files import write_text

from ..late import late

with late():
    from score_jax.training import Report


def _tensorboard(workdir: pathlib.Path, config: Mapping[str, Any], log_every: int) -> Report:
    """Event files in the folder tensorboard of the run."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(workdir / "tensorboard"))

    def write(step: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, step)

    return Report(write, log_every, writer.close)


def _wandb(workdir: pathlib.Path, config: Mapping[str, Any], log_every: int) -> Report:
    """A run of Weights & Biases by the name of the folder, which resumes with the folder."""
    import wandb

    # A file keeps the identity of the run, so that a resumed run goes on where it was.
    path = workdir / "wandb_id.txt"
    name = path.read_text().strip() if path.is_file() else secrets.token_hex(4)
    write_text(path, f"{name}\n")
    run = wandb.init(
        project="score_jax", name=workdir.name, dir=str(workdir), id=name, resume="allow",
        config=dict(config),
    )  # fmt: skip
    write = lambda step, row: run.log(row, step=step)
    return Report(write, log_every, run.finish)


LOGGERS: dict[str, Callable[[pathlib.Path, Mapping[str, Any], int], Any]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
