"""How samples are drawn."""

import dataclasses
from typing import Literal

from experiments.parts.fields import check


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn, unless the command line says otherwise."""

    # Which sampler: docs/samplers.md says what each is for.
    sampler: Literal[
        "pc", "song", "em", "reverse_diffusion", "ancestral", "langevin", "euler", "ddim", "heun", "edm",
        "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "sde_dpmpp", "unipc", "adaptive", "ode", "table_ancestral",
        "table_ddim",
    ] = "pc"  # fmt: skip
    # For "pc" and "song" (the authors' program): the predictor, and the corrector run before it.
    predictor: Literal["reverse_diffusion", "euler_maruyama", "ancestral", "none"] = (
        "reverse_diffusion"
    )
    corrector: Literal["langevin", "annealed", "none"] = "langevin"
    # Steps of the fixed-step samplers.
    steps: int = 125
    # How their times are spread; "usual" is each sampler's own.
    grid: Literal["usual", "uniform", "quadratic", "log_snr", "karras", "song"] = "usual"
    # Signal-to-noise ratio of the Langevin corrector.
    snr: float = 0.1
    # Corrector moves per step ("langevin": moves at every level).
    corrector_steps: int = 1
    # Time at which sampling ends.
    t0: float = 1e-3
    # What is done there with the noise that is left: the mean of x0 given x (one evaluation more),
    # the last step without its noise, or nothing.
    finish: Literal["tweedie", "mean", "none"] = "tweedie"
    # Average the corrector's norms over the samples drawn at once, as the authors do, and take the
    # same adaptive steps for all: pictures then depend on the chunk.
    together: bool = False
    # Tolerances of the adaptive samplers.
    rtol: float = 1e-3
    atol: float = 1e-3
    # Keep the estimate of x0 in the range of the data: not, by clipping, or by its own quantile.
    threshold: Literal["none", "static", "dynamic"] = "none"
    # For "ddim": 0 draws no noise, 1 as much as ancestral sampling.
    eta: float = 0.0
    # For "unipc": its order.
    order: int = 2
    # For "edm": S_churn, S_min, S_max and S_noise of the paper.
    churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003
    # For "langevin": the step size at the last level.
    epsilon: float = 2e-5

    def __post_init__(self) -> None:
        for name in ("steps", "corrector_steps"):
            check("sample", getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check("sample", 0 < self.t0 < 1, "t0", self.t0, "in (0, 1)")
        check("sample", 0 <= self.eta <= 1, "eta", self.eta, "in [0, 1]")
        check("sample", self.order in (1, 2, 3), "order", self.order, "1, 2 or 3")
        check("sample", self.churn >= 0, "churn", self.churn, "at least 0")
        ok = 0 <= self.s_min <= self.s_max
        check("sample", ok, "s_min", self.s_min, f"in [0, s_max={self.s_max}]")
        for name in ("snr", "rtol", "atol", "s_noise", "epsilon"):
            check("sample", getattr(self, name) > 0, name, getattr(self, name), "> 0")
