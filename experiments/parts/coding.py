"""The options that `encode` and `interpolate` share: examples of a run, and how they are encoded."""

import dataclasses
import math
from typing import Annotated, Literal

import tyro

from . import rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Examples of a run, and how they become latents."""

    # Folder of a run made by experiments.train.
    workdir: str
    # Pictures, or .npy files of examples in the data's own units.
    images: tuple[str, ...] = ()
    # Number of examples of the run's test split to take instead.
    test: int | None = None
    # How latents are found: by an ODE solver of the probability flow, exact to --tol (ode), or by
    # DDIM backwards (ddim).
    by: Literal["ode", "ddim"] = "ode"
    # Tolerance of the ODE.
    tol: float = 1e-4
    # Steps of DDIM.
    steps: int = 200
    # Class of the data, for networks that are conditioned on it (default: unknown).
    label: Annotated[int | None, tyro.conf.arg(aliases=("--class",))] = None
    # Crop the middle of pictures of other sizes and resize it, instead of refusing them.
    resize: bool = False
    # Examples handled at once; the results do not depend on it.
    chunk: int = 64
    # Write over files that are there.
    overwrite: bool = False

    def check(self) -> None:
        """Raise ValueError naming the first option with an invalid value."""
        rules.check_flags(self, test=1, steps=1, chunk=1)
        if not (math.isfinite(self.tol) and self.tol > 0):
            raise ValueError(f"--tol must be finite and > 0, got {self.tol}")
