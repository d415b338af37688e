"""How samples are drawn."""

import dataclasses
from typing import Literal

from experiments.configs.fields import check


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn, unless the command line says otherwise."""

    # Predictor-corrector, probability-flow ODE, or the reverse SDE by Euler-Maruyama.
    sampler: Literal["pc", "ode", "em"] = "pc"
    # For "pc": the predictor, and the corrector that runs before it.
    predictor: Literal["reverse_diffusion", "euler_maruyama", "ancestral", "none"] = (
        "reverse_diffusion"
    )
    corrector: Literal["langevin", "annealed", "none"] = "langevin"
    # Steps of the fixed-step samplers.
    steps: int = 125
    # Signal-to-noise ratio of the Langevin corrector.
    snr: float = 0.1
    # Corrector moves per step.
    corrector_steps: int = 1
    # Time at which sampling ends (and a last denoising step is taken).
    t0: float = 1e-3
    # Tolerances of the ODE solver.
    rtol: float = 1e-3
    atol: float = 1e-3

    def __post_init__(self) -> None:
        check("sample", self.steps >= 1, "steps", self.steps, "at least 1")
        check("sample", self.corrector_steps >= 1, "corrector_steps", self.corrector_steps, ">= 1")
        check("sample", 0 < self.t0 < 1, "t0", self.t0, "in (0, 1)")
        for name in ("snr", "rtol", "atol"):
            check("sample", getattr(self, name) > 0, name, getattr(self, name), "> 0")
