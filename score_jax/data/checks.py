"""Checks of arrays that become data: their layout, their values, their labels, and what they are cast to.

The faults that are looked for train without any error and give a useless model: grey levels stored as
floating-point numbers, masks of 0 and 1 taken as 256 grey levels, channels in front of the pixels.
`as_is` says that such data are meant.
"""

from typing import Any, NamedTuple

import numpy as np

from score_jax._check import check, check_count
from score_jax.data.sources import INT_LEVELS, MOST_LEVELS

MOST_CHANNELS = 4  # of an image: more are not taken for channels
CONFIRM = "pass as_is=True if they are meant"
MOST_LABEL = np.iinfo(np.int32).max


class Form(NamedTuple):
    """The type that examples are cast to, and their levels (None: continuous)."""

    dtype: str
    levels: int | None


def form_of(name: str, dtype: np.dtype, levels: int | None) -> Form:
    """How data of a type are kept: uint8 or uint16 with levels, float32 where they are continuous.

    Whole numbers of other types need `levels`. Raises ValueError for levels of floating-point data and
    for other types.
    """
    if np.issubdtype(dtype, np.floating):
        check("levels", levels, levels is None, f"None for data of dtype {dtype} (not uint8)")
        return Form("float32", None)
    whole = np.issubdtype(dtype, np.integer)
    if not whole or (levels is None and dtype.name not in INT_LEVELS):
        hint = " (with levels, if they are grey levels)" if whole else ""
        raise ValueError(
            f"{name} must be uint8 or uint16 (levels) or floating (continuous), got {dtype}{hint}"
        )
    most = INT_LEVELS.get(dtype.name, MOST_LEVELS)
    levels = most if levels is None else levels
    check_count(2, levels=levels)
    check("levels", levels, levels <= most, f"in [2, {most}] for {dtype}")
    kept = dtype.name if dtype.name in INT_LEVELS else "uint8" if levels <= 256 else "uint16"
    return Form(kept, levels)


def check_layout(name: str, shape: tuple[int, ...], *, as_is: bool) -> None:
    """Raise ValueError unless examples (n, *d) have two axes or more, none empty, channels last."""
    check(name, shape, len(shape) >= 2 and 0 not in shape, "of shape (n, *d) with no empty axis")
    first = len(shape) >= 3 and shape[1] <= MOST_CHANNELS < min(shape[2:])
    if first and not as_is:
        raise ValueError(
            f"{name} of shape {shape} seems to have its channels first: they must be last, "
            f"np.moveaxis({name}, 1, -1); {CONFIRM}"
        )


def check_values(name: str, x: np.ndarray, given: int | None, *, as_is: bool) -> None:
    """Raise ValueError for values that do not fit what they would be taken for.

    x (n, *d) may be a part of the data; `given` is what the user said of the levels. Refused are 0 and 1
    alone as 256 levels, and, in data of three axes or more, grey levels as floating-point numbers.
    """
    if as_is or not x.size:
        return
    low, high = x.min(), x.max()
    if not np.issubdtype(x.dtype, np.floating):
        if given is None and low >= 0 and high <= 1 and low != high:
            raise ValueError(
                f"{name} is {x.dtype} with the values 0 and 1 alone: pass levels=2 if these are all, "
                f"or levels={INT_LEVELS.get(x.dtype.name, MOST_LEVELS)}"
            )
        return
    # Images of one to four channels may have been resized: their values are then not whole.
    image = x.ndim >= 4 and x.shape[-1] <= MOST_CHANNELS and high >= 128
    if x.ndim >= 3 and low >= 0 and 2 <= high <= 255 and (image or (x == np.rint(x)).all()):
        raise ValueError(
            f"{name} seems to hold grey levels (from {low:g} to {high:g}) as {x.dtype}: pass them as "
            f"uint8, np.uint8(np.rint({name})); {CONFIRM}"
        )


def cast(name: str, x: np.ndarray, form: Form, *, missing: bool) -> np.ndarray:
    """Examples as they are kept; `missing` allows NaN.

    Raises ValueError for values below 0 or beyond the levels, and for numbers that are not finite once
    they are cast.
    """
    if form.levels is not None:
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= form.levels:
            raise ValueError(
                f"levels must be above every value of {name}, of which the smallest is {low} and the "
                f"largest {high}, got {form.levels}"
            )
        return x.astype(form.dtype, copy=False)
    with np.errstate(over="ignore"):
        kept = x.astype(form.dtype, copy=False)
    if np.isfinite(kept).all():
        return kept
    if np.isinf(kept).any():
        most = float(np.abs(x[~np.isnan(x)]).max())
        raise ValueError(f"{name} must be finite in {form.dtype}, got infinity or {most:g}")
    if not missing:
        raise ValueError(f"{name} must be finite, got NaN: allow missing entries by `missing`")
    return kept


def check_labels(name: str, y: Any, n: int) -> np.ndarray:
    """Labels as int32 (n,); ValueError unless they are whole numbers in [0, 2^31), one an example."""
    y = np.asarray(y)
    ok = y.shape == (n,) and np.issubdtype(y.dtype, np.integer) and y.min() >= 0
    if not ok:
        raise ValueError(
            f"{name} must be integers >= 0 of shape ({n},), got {y.dtype} of shape {y.shape}"
        )
    check(name, int(y.max()), y.max() <= MOST_LABEL, "integers below 2^31")
    return y.astype(np.int32)
