"""The forward processes: an SDE, or the beta table of Improved DDPM."""

import dataclasses
from typing import Literal

from experiments.parts.fields import check


@dataclasses.dataclass(frozen=True)
class SDEConfig:
    """A forward SDE."""

    # Variance preserving (linear or cosine schedule), sub-VP, variance exploding, or EDM's VE.
    kind: Literal["vp", "subvp", "ve", "cosine", "edm"] = "vp"
    # Noise rate at t = 0 and t = 1 (vp, subvp).
    beta_min: float = 0.1
    beta_max: float = 20.0
    # Noise level at t = 0 and t = 1 (ve).
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    # Noise levels of a network trained on a table of them (vp, ve); none: continuous time.
    levels: int | None = None
    # Smallest time in training and likelihood: below it the score is not learned.
    t0: float = 1e-5

    def __post_init__(self) -> None:
        check("sde", 0 < self.t0 < 1, "t0", self.t0, "in (0, 1)")
        ok = self.levels is None or (self.levels >= 2 and self.kind in ("vp", "ve"))
        check("sde", ok, "levels", self.levels, "none, or at least 2 with sde.kind vp or ve")


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """Gaussian diffusion on a beta table, as DDPM and Improved DDPM have it."""

    kind: Literal["diffusion"] = "diffusion"
    # The betas: linear from 1e-4 to 0.02 at 1,000 steps and rescaled to others, or cosine.
    schedule: Literal["linear", "cosine"] = "cosine"
    # Steps of the table.
    steps: int = 1_000
    # What the network predicts.
    predicts: Literal["noise", "x0", "previous", "v"] = "noise"
    # Variance of a step: the posterior's (small), beta (large), or learned by twice the channels.
    variance: Literal["learned_range", "learned", "small", "large"] = "learned_range"
    # Tell the network indices scaled to 1,000, whatever the number of steps.
    rescale_labels: bool = True
    # Smallest time of the likelihood's ODE, in units of the whole table.
    t0: float = 1e-3

    def __post_init__(self) -> None:
        check("sde", self.steps >= 2, "steps", self.steps, "at least 2")
        check("sde", 0 < self.t0 < 1, "t0", self.t0, "in (0, 1)")


ProcessConfig = SDEConfig | DiffusionConfig
