"""Scheduler configurations of diffusers as numbers: a table of betas, or the parameters of an SDE."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Betas = Callable[[float, float, int], np.ndarray]


def _cosine(start: float, end: float, steps: int) -> np.ndarray:
    """1 - a(t + 1/n) / a(t), at most 0.999, with a(t) = cos^2((t + 0.008)/1.008 pi/2): 2102.09672."""
    t = np.linspace(0, 1, steps + 1)
    alpha_bar = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _sigmoid(start: float, end: float, steps: int) -> np.ndarray:
    return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))


BETAS: dict[str, Betas] = {
    "linear": np.linspace,
    "scaled_linear": lambda a, b, n: np.linspace(math.sqrt(a), math.sqrt(b), n) ** 2,
    "squaredcos_cap_v2": _cosine,
    "sigmoid": _sigmoid,
}
SDES = {
    "ScoreSdeVeScheduler": {"sigma_min": 0.01, "sigma_max": 1348.0, "snr": 0.15},
    "ScoreSdeVpScheduler": {"beta_min": 0.1, "beta_max": 20.0},
}


def read_scheduler(config: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """What a scheduler's configuration says of the forward process.

    {"sigma_min", "sigma_max", "snr"} of VE, {"beta_min", "beta_max"} of VP, or {"betas" (float64),
    "prediction_type", "variance_type"} of a table; absent fields have the defaults of diffusers.
    Raises ValueError for a schedule that is not known.
    """
    name = config.get("_class_name")
    if name in SDES:
        return {key: float(config.get(key, value)) for key, value in SDES[str(name)].items()}
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(f"rescale_betas_zero_snr of {where} must be false")
    given = config.get("trained_betas")
    if given is None:
        schedule = config.get("beta_schedule", "linear")
        if schedule not in BETAS:
            raise ValueError(
                f"beta_schedule of {where} must be one of {list(BETAS)}, got {schedule!r}"
            )
        start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
        given = BETAS[schedule](start, end, int(config.get("num_train_timesteps", 1000)))
    return {
        "betas": np.asarray(given, np.float64),
        "prediction_type": config.get("prediction_type", "epsilon"),
        "variance_type": config.get("variance_type", "fixed_small"),
    }
