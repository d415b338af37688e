r"""Halving and doubling of resolution: FIR filters, averages and copies.

The FIR forms are StyleGAN2's (arXiv:1912.04958): with a separable kernel k, normalised to sum 1,

    up    y = FIR(zeros between the entries of x, 4 k)        down   y = every second entry of FIR(x, k)

each one grouped convolution with an input dilation or a stride, so no custom kernel is needed.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_jax.nets.convolution import Geometry, Image, conv, depthwise

DEFAULT_KERNEL = (1, 3, 3, 1)


def fir_kernel(taps: tuple[int, ...], gain: float = 1.0) -> Array:
    """Outer product of the taps with themselves, of sum `gain`, as convolution wants it: (k, k)."""
    outer = np.outer(taps, taps).astype(np.float32)
    return jnp.asarray(outer[::-1, ::-1] / outer.sum() * gain)


def _pads(before: int, after: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return ((before, after), (before, after))


def fir_up(x: Image, taps: tuple[int, ...] = DEFAULT_KERNEL, *, train: bool = False) -> Image:
    """Double the resolution: (b, h, w, c) -> (b, 2h, 2w, c)."""
    k = len(taps)
    # After zeros are put between the entries the last one lacks its zero: one more on the right.
    geometry = Geometry(1, 2, _pads((k - 1) // 2 + 1, (k - 2) // 2 + 1))
    return depthwise(x, fir_kernel(taps, 4.0), geometry, train=train)


def fir_down(x: Image, taps: tuple[int, ...] = DEFAULT_KERNEL, *, train: bool = False) -> Image:
    """Halve the resolution: (b, h, w, c) -> (b, h/2, w/2, c)."""
    p = len(taps) - 2
    geometry = Geometry(2, 1, _pads((p + 1) // 2, p // 2))
    return depthwise(x, fir_kernel(taps), geometry, train=train)


def fir_conv_down(
    x: Image, w: Float[Array, "k k i o"], taps: tuple[int, ...], *, train: bool = False
) -> Image:
    """Filter, then convolve with stride 2: (b, h, w, i) -> (b, h/2, w/2, o)."""
    p = len(taps) - 2 + w.shape[0] - 1
    smooth = Geometry(1, 1, _pads((p + 1) // 2, p // 2))
    x = depthwise(x, fir_kernel(taps), smooth, train=train)
    return conv(x, w, Geometry(2, 1, _pads(0, 0)), train=train)


def fir_conv_up(
    x: Image, w: Float[Array, "k k i o"], taps: tuple[int, ...], *, train: bool = False
) -> Image:
    """Convolve the input with zeros between its entries, then filter: (b, 2h, 2w, o)."""
    k = w.shape[0]
    x = conv(x, w, Geometry(1, 2, _pads(k - 1, k - 1)), train=train)
    p = len(taps) - 2 - (k - 1)
    smooth = Geometry(1, 1, _pads((p + 1) // 2 + 1, p // 2 + 1))
    return depthwise(x, fir_kernel(taps, 4.0), smooth, train=train)


def nearest_up(x: Image) -> Image:
    """Double the resolution by copies: (b, h, w, c) -> (b, 2h, 2w, c)."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def average_down(x: Image) -> Image:
    """Halve the resolution by averages of 2 x 2: (b, h, w, c) -> (b, h/2, w/2, c)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
