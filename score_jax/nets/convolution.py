r"""Convolutions whose gradients stay fast inside `lax.scan` on a CPU.

XLA:CPU brings the gradients of a convolution to its fast form only outside of loops: a training step
inside `lax.scan` took 20 times as long as alone. So on a CPU a convolution brings its own derivatives,
made of what is fast everywhere. In training, where only reverse mode is met, both gradients are plain
NHWC convolutions: for y = conv(x, w) with stride s, input dilation u, kernel dilation r, kernel size k
and padding l left,

    (1)  dL/dx = conv(g, flip(w)^T)  stride u, dilations s and r, padding (k - 1) r - l on the left
    (2)  dL/dw = conv(x^T, g^T)      batch and channels exchanged, stride r, kernel dilation s

Elsewhere the tangent is a sum of matrix products, one for every entry of the kernel:

    (3)  dy = sum_p shift_p(dx) w_p + shift_p(x) dw_p

which JAX turns round by itself, so that forward and reverse mode, any order of both and `vmap` work:
guidance and inverse problems differentiate networks inside scanned samplers. Likelihoods need forward
mode alone, in which the plain convolution is twice as fast: they say so by `score_jax._xla.forward_mode`.
(`jax.custom_derivatives.linear_call` would make (1) and (2) serve there too, but has no batching rule.)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from score_jax._xla import wants_own_derivatives

Pads = tuple[tuple[int, int], ...]
Image = Float[Array, "_ _ _ _"]


class Geometry(NamedTuple):
    """Stride, dilation of the input, padding ((top, bottom), (left, right)), that of the kernel."""

    stride: int
    dilation: int
    padding: Pads
    kernel_dilation: int = 1


def conv(x: Image, w: Float[Array, "k k i o"], geometry: Geometry, *, train: bool = False) -> Image:
    """Convolve (b, h, w, i) with (k, k, i, o); with `train` for reverse mode alone, and faster so."""
    if not wants_own_derivatives():
        return _plain(x, w, geometry)
    return (_trained if train else _either)(x, w, geometry)


def as_dots(
    x: Array, w: Array, stride: tuple[int, ...], padding: Pads, dilation: int = 1, spacing: int = 1
) -> Array:
    """The convolution as a sum of matrix products, one for every entry of the kernel.

    Of (b, *d, i) with (*k, i, o): `stride` and `padding` have an entry for every axis of d, `dilation`
    is that of the input, `spacing` that of the kernel.
    """
    d = x.ndim - 2
    x = lax.pad(
        x,
        jnp.zeros((), x.dtype),
        ((0, 0, 0), *((low, high, dilation - 1) for low, high in padding), (0, 0, 0)),
    )
    sizes = [
        (n - 1 - spacing * (k - 1)) // s + 1
        for n, k, s in zip(x.shape[1:-1], w.shape, stride, strict=False)
    ]

    def term(place: tuple[int, ...]) -> Array:
        first = [spacing * p for p in place]
        last = [f + (n - 1) * s + 1 for f, n, s in zip(first, sizes, stride, strict=True)]
        seen = lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *stride, 1))
        return seen @ w[place]

    one, *rest = map(term, np.ndindex(*w.shape[:d]))
    return sum(rest, one)


def _plain(x: Array, w: Array, geometry: Geometry) -> Array:
    return lax.conv_general_dilated(
        x, w, (geometry.stride,) * 2, geometry.padding,
        lhs_dilation=(geometry.dilation,) * 2, rhs_dilation=(geometry.kernel_dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _transposed(geometry: Geometry, k: int, x: Array, g: Array) -> Geometry:
    """Geometry of eq. (1): it takes g, of the output's size, back to the size of x."""
    s, u, r = geometry.stride, geometry.dilation, geometry.kernel_dilation
    pads = []
    for axis in (0, 1):
        left = (k - 1) * r - geometry.padding[axis][0]
        dilated = (g.shape[1 + axis] - 1) * s + 1
        pads.append((left, (x.shape[1 + axis] - 1) * u + (k - 1) * r + 1 - left - dilated))
    return Geometry(u, s, (pads[0], pads[1]), r)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _either(x: Array, w: Array, geometry: Geometry) -> Array:
    return _plain(x, w, geometry)


@functools.partial(_either.defjvp, symbolic_zeros=True)
def _tangent(geometry: Geometry, primals: tuple[Array, Array], tangents: Any) -> Any:
    """Eq. (3), without the half whose input does not vary."""
    (x, w), (dx, dw) = primals, tangents
    y = _either(x, w, geometry)
    dots = functools.partial(
        as_dots, stride=(geometry.stride,) * 2, padding=geometry.padding,
        dilation=geometry.dilation, spacing=geometry.kernel_dilation,
    )  # fmt: skip
    zero = lambda v: isinstance(v, SymbolicZero)
    parts = [] if zero(dx) else [dots(dx, w)]
    parts += [] if zero(dw) else [dots(x, dw)]
    return y, sum(parts[1:], parts[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _trained(x: Array, w: Array, geometry: Geometry) -> Array:
    return _plain(x, w, geometry)


def _trained_forward(x: Array, w: Array, geometry: Geometry) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, w, geometry), (x, w)


def _trained_backward(
    geometry: Geometry, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    x, w = saved
    k, s, u, r = w.shape[0], geometry.stride, geometry.dilation, geometry.kernel_dilation
    dx = _plain(g, jnp.swapaxes(w[::-1, ::-1], 2, 3), _transposed(geometry, k, x, g))
    pads = []
    for axis in (0, 1):
        left = geometry.padding[axis][0]
        size = (x.shape[1 + axis] - 1) * u + 1
        pads.append((left, (k - 1) * r + 1 + (g.shape[1 + axis] - 1) * s - size - left))
    dw = _plain(
        jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(g, (1, 2, 0, 3)),
        Geometry(r, u, (pads[0], pads[1]), s),
    )  # fmt: skip
    return dx, jnp.transpose(dw, (1, 2, 0, 3))


_trained.defvjp(_trained_forward, _trained_backward)
