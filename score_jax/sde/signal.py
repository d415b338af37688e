"""Shim: `log_snr` and `time_of_log_snr` are methods of an SDE."""  # shim: remove at the end

from typing import Any

from score_jax.types import SDE


def log_snr(sde: SDE, t: Any) -> Any:
    """Shim of `sde.log_snr(t)`."""
    return sde.log_snr(t)


def time_of_log_snr(sde: SDE, value: Any) -> Any:
    """Shim of `sde.time_of_log_snr(value)`."""
    return sde.time_of_log_snr(value)
