"""Which kinds of networks fit data, which one is usual, and what their fields follow from."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from ..config import DataConfig
from ..late import late

with late():
    from score_jax import data
    from score_jax.convert import records
    from score_jax.parametrization import LevelInput

    from ..run_config import Config
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


def resolved(config: Config, source: datasets.RunData, classes: int | None) -> Any:
    """The network with the fields filled in that follow from the data and the process."""
    net: Any = config.net
    kind, known = type(net).__name__, {f.name for f in dataclasses.fields(net)}
    check_fit(net, source.shape)
    if classes is not None and "num_classes" not in known:
        raise ValueError(f"net.kind={kind!r} cannot be conditioned on classes")
    cond = None if source.cond is None else source.cond.shape
    needs = None if cond is None else "cond_size" if len(cond) == 1 else "super_resolution"
    if needs is not None and needs not in known:
        what = "a vector" if needs == "cond_size" else "a field"
        fit = kinds_for(source.shape, needs)
        raise ValueError(f"net.kind={kind!r} cannot be conditioned on {what}: use one of {fit}")
    if config.data.augment and "augment_size" not in known:
        fit = kinds_for(source.shape, "augment_size")
        raise ValueError(f"net.kind={kind!r} cannot be given data.augment: use one of {fit}")
    if config.data.augment and not getattr(net, "noise_conditional", True):
        raise ValueError(
            "data.augment needs net.noise_conditional: it is given beside the noise input"
        )
    if config.learns_variance and "out_channels" not in known:
        raise ValueError(
            f"variance={config.variance and config.variance.name!r} needs twice the channels, which "
            f"net.kind={kind!r} cannot return: use net.kind 'UNet', or variance 'small' or 'large'"
        )
    values: dict[str, Any] = {
        "num_classes": classes,
        "out_channels": source.shape[-1] * (2 if config.learns_variance else 1),
        "dims": len(source.shape) - 1,
        "centered": config.data.range[0] < 0,
        "super_resolution": config.data.low_res_factor is not None or needs == "super_resolution",
        "cond_size": cond[0] if cond is not None and needs == "cond_size" else None,
        "augment_size": data.AUGMENT_SIZE if config.data.augment else 0,
    }
    if isinstance(config.noise_input, LevelInput):
        sde: Any = config.sde
        values["num_levels"] = config.noise_input.n
        if getattr(net, "scale_by_sigma", False):
            values["sigmas"] = (sde.sigma_max, sde.sigma_min, config.noise_input.n)
    elif "num_levels" in known:
        raise ValueError(f"net.kind={kind!r} needs noise levels: use noise_input.kind 'LevelInput'")
    return net.clone(**{k: v for k, v in values.items() if k in known})
