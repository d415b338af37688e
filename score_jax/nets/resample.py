r"""Halving and doubling of resolution: FIR filters, averages and copies.

The FIR forms are StyleGAN2's (arXiv:1912.04958): with separable taps k, normalised to sum 1,

    up    y = FIR(zeros between the entries of x, 4 k)        down   y = every second entry of FIR(x, k)

They are sums of shifted slices, one axis after the other. In `up` every second output uses every
second tap, so the zeros are never stored. On a CPU this takes 1/15 to 1/250 of the time of a grouped
convolution, in loops too, and all derivatives are of the same kind. On a TPU a convolution with a group
for every channel moves a third of the bytes from 128 channels on, and is used there (docs/adr/0010).
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from score_jax.nets.convolution import Kernel, Pads, Volume, conv
from score_jax.nets.layers import factors

DEFAULT_KERNEL = (1, 3, 3, 1)
LANES = 128  # channels that a TPU's vector units process at once


def normalised(taps: tuple[int, ...], gain: float) -> list[float]:
    """The taps in the order of correlation, with sum `gain`; ValueError if that is impossible."""
    if len(taps) < 2 or sum(taps) == 0:
        raise ValueError(f"FIR taps must be two or more, of sum not 0, got {taps}")
    return [t / sum(taps) * gain for t in reversed(taps)]


def _filter(
    x: Array, axis: int, taps: list[float], before: int, after: int, step: int = 1
) -> Array:
    """Pad `axis` with zeros (crop if negative), correlate with the taps, keep every `step`-th."""
    sizes = [(0, 0, 0)] * x.ndim
    sizes[axis] = (before, after, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), sizes)
    last = (x.shape[axis] - len(taps)) // step * step
    shifted = [lax.slice_in_dim(x, j, j + last + 1, step, axis) for j in range(len(taps))]
    return sum((t * s for t, s in zip(taps[1:], shifted[1:], strict=True)), taps[0] * shifted[0])


def _before(taps: list[float]) -> int:
    """The zeros before an axis that is doubled."""
    return (len(taps) - 1) // 2 + 1


def _double(x: Array, axis: int, taps: list[float]) -> Array:
    """Double one axis: zeros between the entries, then FIR, without making the zeros."""
    left = _before(taps)
    phases = []
    for phase in (0, 1):
        first = (left - phase) % 2
        seen = taps[first::2]
        before = (left - phase - first) // 2
        phases.append(_filter(x, axis, seen, before, len(seen) - 1 - before))
    shape = [*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :]]
    return jnp.stack(phases, axis + 1).reshape(shape)


def _resampled(x: Volume) -> list[int]:
    """The axes whose length changes."""
    return [axis for axis, factor in enumerate(factors(x.ndim - 2), start=1) if factor > 1]


def _pads(x: Volume, size: int, pad: int) -> Pads:
    """`pad` on both sides of the axes whose length changes; as needed to keep that of the others."""
    keep, changed = (size // 2, size - 1 - size // 2), _resampled(x)
    return tuple((pad, pad) if axis in changed else keep for axis in range(1, x.ndim - 1))


def _slices(
    x: Array, taps: list[float], pads: tuple[int, int], step: int = 1, up: bool = False
) -> Array:
    """FIR along the axes whose length changes, as sums of shifted slices."""
    for axis in _resampled(x):
        x = _double(x, axis, taps) if up else _filter(x, axis, taps, *pads, step)
    return x


def _grouped(
    x: Array, taps: list[float], pads: tuple[int, int], step: int = 1, up: bool = False
) -> Array:
    """The same as one convolution with a group for every channel."""
    axes, c = _resampled(x), x.shape[-1]
    each = [np.asarray(taps if a in axes else [1.0]) for a in range(1, x.ndim - 1)]
    kernel = functools.reduce(np.multiply.outer, each)[..., None, None]
    only = lambda found, other: [found if a in axes else other for a in range(1, x.ndim - 1)]
    names = "DHW"[3 - len(each) :]
    return lax.conv_general_dilated(
        x, jnp.broadcast_to(jnp.asarray(kernel, x.dtype), (*kernel.shape[:-1], c)),
        only(step, 1), only(pads, (0, 0)), lhs_dilation=only(2 if up else 1, 1),
        dimension_numbers=(f"N{names}C", f"{names}IO", f"N{names}C"), feature_group_count=c,
        precision=lax.Precision.HIGHEST,  # as exact as the sums
    )  # fmt: skip


def _fir(
    x: Volume, taps: list[float], pads: tuple[int, int], step: int = 1, up: bool = False
) -> Volume:
    """FIR along the axes whose length changes, in the form that suits the platform compiled for."""
    slices = lambda v: _slices(v, taps, pads, step, up)
    if x.shape[-1] < LANES:
        return slices(x)
    grouped = lambda v: _grouped(v, taps, pads, step, up)
    return lax.platform_dependent(x, tpu=grouped, default=slices)


def fir_up(x: Volume, taps: tuple[int, ...] = DEFAULT_KERNEL) -> Volume:
    """Double the resolution: (b, h, w, c) -> (b, 2h, 2w, c). ValueError for less than two taps.

    Of three axes of space, only the last two are doubled, here and in the functions below.
    """
    each = normalised(taps, 2.0)
    left = _before(each)
    return _fir(x, each, (left, len(each) - left), up=True)


def fir_down(x: Volume, taps: tuple[int, ...] = DEFAULT_KERNEL) -> Volume:
    """Halve the resolution: (b, h, w, c) -> (b, h/2, w/2, c). ValueError for less than two taps."""
    each, p = normalised(taps, 1.0), len(taps) - 2
    return _fir(x, each, ((p + 1) // 2, p // 2), step=2)


def fir_conv_down(x: Volume, w: Kernel, taps: tuple[int, ...]) -> Volume:
    """Filter, then convolve with stride 2: (b, h, w, i) -> (b, h/2, w/2, o)."""
    each, p = normalised(taps, 1.0), len(taps) - 2 + w.shape[0] - 1
    x = _fir(x, each, ((p + 1) // 2, p // 2))
    return conv(x, w, _pads(x, w.shape[0], 0), stride=factors(x.ndim - 2))


def fir_conv_up(x: Volume, w: Kernel, taps: tuple[int, ...]) -> Volume:
    """Convolve the input with zeros between its entries, then filter: (b, 2h, 2w, o)."""
    k = w.shape[0]
    x = conv(x, w, _pads(x, k, k - 1), dilation=factors(x.ndim - 2))
    each, p = normalised(taps, 2.0), len(taps) - 2 - (k - 1)
    return _fir(x, each, ((p + 1) // 2 + 1, p // 2 + 1))


def double(x: Volume) -> Volume:
    """Double the resolution by copies; of three axes, only the last two."""
    for axis, factor in enumerate(factors(x.ndim - 2), start=1):
        wide = jnp.expand_dims(x, axis + 1)
        wide = jnp.broadcast_to(wide, (*x.shape[: axis + 1], factor, *x.shape[axis + 1 :]))
        x = wide.reshape(*x.shape[:axis], factor * x.shape[axis], *x.shape[axis + 1 :])
    return x


def halve(x: Volume) -> Volume:
    """Halve the resolution by averages; of three axes, only the last two."""
    each = factors(x.ndim - 2)
    pairs = [n for size, f in zip(x.shape[1:-1], each, strict=True) for n in (size // f, f)]
    split = x.reshape(x.shape[0], *pairs, x.shape[-1])
    return split.mean(axis=tuple(range(2, 2 * len(each) + 1, 2)))
