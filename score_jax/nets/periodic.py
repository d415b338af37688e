"""Convolution of fields that are periodic along some axes, such as longitude or a simulation's box.

Along a periodic axis of length n the entry n is the entry 0. Convolutions and filters then see no edge,
and a shift of the input by a multiple of the network's total stride shifts the output alike. The other
axes are padded with zeros.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from score_jax._check import check
from score_jax.nets.convolution import Pads, Volume

Padding = Literal["zeros", "circular"]
Periodic = tuple[bool, ...]  # of every axis of space; empty if none is periodic
ZEROS: tuple[Padding, ...] = ("zeros",)


def periodic_axes(padding: tuple[Padding, ...], dims: int) -> Periodic:
    """Which of `dims` axes of space are periodic: `padding` is one kind for all axes, or one for each.

    Raises ValueError for another number of kinds, and for unknown ones.

    >>> periodic_axes(("zeros", "circular"), 2)
    (False, True)
    """
    known = all(kind in get_args(Padding) for kind in padding)
    ok = known and len(padding) in (1, dims)
    check("padding", padding, ok, f"'zeros' or 'circular', once or for each of {dims} axes")
    found = tuple(kind == "circular" for kind in padding) * (dims // len(padding))
    return found if any(found) else ()


def _around(x: Volume, pads: Pads) -> Volume:
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), mode="wrap")


def wrap(x: Volume, pads: Pads, periodic: Periodic) -> tuple[Volume, Pads]:
    """Continue x along the periodic axes by as much as `pads` says: (x, the zeros still to be added)."""
    if not periodic:
        return x, pads
    each = list(zip(pads, periodic, strict=True))
    around = tuple(pad if on else (0, 0) for pad, on in each)
    return _around(x, around), tuple((0, 0) if on else pad for pad, on in each)


def continued(move: Callable[[Array], Array], x: Volume, periodic: Periodic, reach: int) -> Volume:
    """A linear map that pads with zeros, applied as if x went on along the periodic axes.

    The map changes lengths by a whole factor, and an output depends on at most `reach` inputs on
    either side.
    """
    if not periodic:
        return move(x)
    reach += reach % 2  # a whole number of outputs where the length is halved
    y = move(_around(x, tuple((reach, reach) if on else (0, 0) for on in periodic)))
    for axis, on in enumerate(periodic, start=1):
        if on:
            length = x.shape[axis] + 2 * reach
            cut = reach * y.shape[axis] // length
            y = lax.slice_in_dim(y, cut, y.shape[axis] - cut, axis=axis)
    return y


def filter_reach(taps: int, size: int, up: bool) -> int:
    """The reach of FIR resampling by so many taps with a convolution of a size (1: without one)."""
    return (taps + size) // 4 + 1 if up else (taps + size - 2) // 2
