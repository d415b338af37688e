"""Checks of the arguments that samplers share: each error says what was meant."""

import inspect
from typing import Any

import jax
import numpy as np

from score_jax.types import SDE, Sampler, Step

_ORDER = "sample(key, sde, score, shape, *, sampler, grid)"


def check_key(key: Any) -> None:
    """Raise ValueError unless key is one typed key."""
    typed = isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.ndim:
        raise ValueError(
            f"key must be one typed key, such as jax.random.key(0), got {_short(key)}; the order is "
            f"{_ORDER}"
        )


def check_sde(sde: Any) -> None:
    """Raise ValueError unless sde has the methods of an `SDE`."""
    if not isinstance(sde, SDE) or isinstance(sde, type):
        raise ValueError(
            f"sde must be an SDE, such as VP(), got {_short(sde)}; the order is {_ORDER}"
        )


def check_score(score: Any) -> None:
    """Raise ValueError for a score that is no function of (x, t), such as a network's apply."""
    if not callable(score):
        raise ValueError(
            f"score must be a function (x, t) -> array, got {_short(score)}; the order is {_ORDER}"
        )
    if inspect.ismethod(score) and score.__name__ == "apply":
        raise ValueError(
            f"score must be a function (x, t) -> array, got {type(score.__self__).__name__}.apply, "
            "which needs parameters: use model.score(params), or score_fn(sde, net.apply, params, ...)"
        )


def check_sampler(sampler: Any) -> None:
    """Raise ValueError unless sampler is a `Sampler` or a factory of steps."""
    meant = "a Sampler or a factory of steps, such as score_jax.samplers.dpmpp_2m"
    if isinstance(sampler, str):
        raise ValueError(
            f"sampler must be {meant}, got {sampler!r}: pass score_jax.samplers.{sampler}, without quotes"
        )
    if isinstance(sampler, Step):
        raise ValueError(f"sampler must be {meant}, got a Step: pass the factory that made it")
    if not (isinstance(sampler, Sampler) or callable(sampler)):
        raise ValueError(f"sampler must be {meant}, got {_short(sampler)}")


def check_array(name: str, value: Any) -> None:
    """Raise ValueError for a list or tuple in the place of an array."""
    if isinstance(value, list | tuple):
        raise ValueError(f"{name} must be an array, got a {type(value).__name__}: use jnp.asarray")


def _short(value: Any) -> str:
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
