"""Which kinds of networks fit data of a shape, and which one is usual."""

from __future__ import annotations

import sys
from typing import Any

from ..config import DataConfig
from ..late import late

with late():
    from score_jax.convert import records

    from . import datasets

# Axes of an example, the channels included, that the networks take; those not named take any.
AXES = {
    "SeriesUNet": (1, 2), "UNet": (2, 3, 4), "NCSNpp": (2, 3, 4), "DDPM": (2, 3, 4), "NCSN": (3,),
    "NCSNv2": (3,), "EDM2": (2, 3, 4), "DiT": (2, 3, 4),
}  # fmt: skip
NAMES = {1: "vectors", 2: "series", 3: "images", 4: "volumes"}
# The usual network by the number of axes; data of others are taken as vectors.
USUAL = {2: "SeriesUNet", 3: "NCSNpp", 4: "UNet"}


def usual_kind(shape: tuple[int, ...]) -> str:
    """The kind of network that data of a shape usually get."""
    return USUAL.get(len(shape), "MLP")


def kinds_for(shape: tuple[int, ...], field: str | None = None) -> str:
    """The kinds of networks that take data of a shape, and have a field, as text."""
    fit = [kind for kind in records.NETS if len(shape) in AXES.get(kind, (len(shape),))]
    return ", ".join(k for k in fit if field is None or field in records.fields_of(records.NETS[k]))


def check_fit(net: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError, with the kinds that fit, for a network that cannot take data of a shape."""
    kind = type(net).__name__
    if len(shape) not in AXES.get(kind, (len(shape),)):
        what = NAMES.get(len(shape), "data")
        raise ValueError(
            f"net.kind={kind!r} does not take {what} of shape {shape}: use one of {kinds_for(shape)}"
        )


def kind_for(data: DataConfig, own: DataConfig, net: str) -> str | None:
    """The kind of network for data in place of a config's own, or None to keep that of its `net`.

    It is kept for data with as many axes; otherwise the usual one is taken, and said.
    """
    shape = datasets.form_of(data).shape
    kind = usual_kind(shape)
    if kind == net or len(datasets.form_of(own).shape) == len(shape):
        return None
    print(f"net.kind {kind}, the usual one for data of shape {shape}", file=sys.stderr)
    return kind
