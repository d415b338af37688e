"""Scheduler configurations of diffusers: the SDE of a network, and what the network returns."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from score_jax._check import brief, check, is_number
from score_jax.parametrization import (
    DENOISED,
    LARGE,
    LEARNED,
    LEARNED_RANGE,
    NOISE,
    SMALL,
    Parametrization,
    V,
    Variance,
)
from score_jax.sde import VE, VP, CosineBetas, NoiseSchedule, from_betas
from score_jax.sde.schedules import MOST_TIMESTEPS
from score_jax.types import SDE

# (start, end, n) -> betas. Those of diffusers do not depend on n at the ends.
BETAS: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "linear": np.linspace,
    "scaled_linear": lambda a, b, n: np.linspace(math.sqrt(a), math.sqrt(b), n) ** 2,
    "squaredcos_cap_v2": lambda a, b, n: CosineBetas(n).betas,
    "sigmoid": lambda a, b, n: a + (b - a) / (1 + np.exp(-np.linspace(-6, 6, n))),
}
SDES = {
    "ScoreSdeVeScheduler": {"sigma_min": 0.01, "sigma_max": 1348.0, "snr": 0.15},
    "ScoreSdeVpScheduler": {"beta_min": 0.1, "beta_max": 20.0},
}
PREDICTIONS = {"epsilon": NOISE, "sample": DENOISED, "v_prediction": V}
VARIANCES = {
    "fixed_small": SMALL, "fixed_small_log": SMALL, "fixed_large": LARGE, "fixed_large_log": LARGE,
    "learned": LEARNED, "learned_range": LEARNED_RANGE,
}  # fmt: skip


CLASSES = {"ScoreSdeVeScheduler": VE, "ScoreSdeVpScheduler": VP}


class Process(NamedTuple):
    """The SDE of a scheduler; the parametrization and the variance if it is a noise schedule."""

    sde: SDE
    parametrization: Parametrization | None
    variance: Variance | None
    info: dict[str, Any]  # the configuration's numbers


def _number(config: Mapping[str, Any], key: str, default: float, where: Any) -> float:
    value = config.get(key, default)
    if not is_number(value):
        raise ValueError(f"{key} of {where} must be a number, got {brief(value)}")
    return float(value)


def _choose(field: str, value: Any, known: Mapping[str, Any], where: Any) -> None:
    ok = isinstance(value, str) and value in known
    if not ok:
        raise ValueError(f"{field} of {where} must be one of {list(known)}, got {brief(value)}")


def read_scheduler(config: Mapping[str, Any], where: Any) -> Process:
    """The process that a scheduler's configuration describes.

    `info` has {"sigma_min", "sigma_max", "snr"} of VE, {"beta_min", "beta_max"} of VP, or {"betas"
    (float64), "prediction_type", "variance_type"} of a noise schedule. Absent fields have the
    defaults of diffusers. Raises ValueError for an unknown schedule, prediction or variance.
    """
    number = lambda key, default: _number(config, key, default, where)
    name = config.get("_class_name")
    if isinstance(name, str) and name in SDES:
        ends = {key: number(key, value) for key, value in SDES[name].items()}
        if "snr" in ends:
            return Process(VE(ends["sigma_min"], ends["sigma_max"]), None, None, ends)
        return Process(VP(**ends), None, None, ends)
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(f"rescale_betas_zero_snr of {where} must be false")
    given = config.get("trained_betas")
    if given is None:
        schedule = config.get("beta_schedule", "linear")
        _choose("beta_schedule", schedule, BETAS, where)
        n = config.get("num_train_timesteps", 1000)
        ok = type(n) is int and 1 <= n <= MOST_TIMESTEPS
        check(
            f"num_train_timesteps of {where}", n, ok, f"a whole number from 1 to {MOST_TIMESTEPS}"
        )
        given = BETAS[schedule](number("beta_start", 1e-4), number("beta_end", 0.02), n)
    elif not isinstance(given, list) or not all(map(is_number, given)):
        raise ValueError(f"trained_betas of {where} must be a list of numbers, got {brief(given)}")
    info: dict[str, Any] = {
        "betas": np.asarray(given, np.float64),
        "prediction_type": config.get("prediction_type", "epsilon"),
        "variance_type": config.get("variance_type", "fixed_small"),
    }
    for field, known in (("prediction_type", PREDICTIONS), ("variance_type", VARIANCES)):
        _choose(field, info[field], known, where)
    try:
        schedule = from_betas(info["betas"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Process(
        schedule, PREDICTIONS[info["prediction_type"]],
        VARIANCES[info["variance_type"]], info,
    )  # fmt: skip


def scheduler_of(sde: SDE, parametrization: Parametrization, variance: Variance) -> dict[str, Any]:
    """The configuration of a scheduler of which `read_scheduler` makes this process.

    parametrization and variance are those of a noise schedule. Raises ValueError for an SDE or an output
    that diffusers does not have.
    """
    for name, kind in CLASSES.items():
        if type(sde) is kind:
            own = {key: getattr(sde, key) for key in SDES[name] if hasattr(sde, key)}
            return {"_class_name": name} | SDES[name] | own
    if not isinstance(sde, NoiseSchedule):
        raise ValueError(f"sde must be a noise schedule, a VE or a VP for diffusers, got {sde!r}")
    outputs = {kind.name: name for name, kind in PREDICTIONS.items()}
    kinds = {kind.name: name for name, kind in reversed(VARIANCES.items())}
    own_output = parametrization.name
    check(
        "parametrization",
        own_output,
        own_output in outputs,
        f"one of {list(outputs)} for diffusers",
    )
    first, last, n = float(sde.betas[0]), float(sde.betas[-1]), sde.n
    fits = lambda make: np.array_equal(make(first, last, n), sde.betas)
    found = next((name for name, make in BETAS.items() if fits(make)), None)
    betas = {"trained_betas": sde.betas.tolist()} if found is None else {"beta_schedule": found}
    return {
        "_class_name": "DDPMScheduler", "num_train_timesteps": n, "beta_start": first,
        "beta_end": last, "prediction_type": outputs[own_output],
        "variance_type": kinds[variance.name],
    } | betas  # fmt: skip
