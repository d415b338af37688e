r"""Convolutions whose gradients stay fast inside `lax.scan` on a CPU.

XLA:CPU brings the gradients of a convolution to its fast form only outside of loops: a training step
inside `lax.scan` took 20 times as long as alone. The cure is to write both gradients as plain NHWC
convolutions: for y = conv(x, w) with stride s, input dilation u, kernel dilation r, kernel size k and
padding l left,

    (1)  dL/dx = conv(g, flip(w)^T)  stride u, dilations s and r, padding (k - 1) r - l on the left
    (2)  dL/dw = conv(x^T, g^T)      batch and channels exchanged, stride r, kernel dilation s

A function with its own reverse rule has no forward rule, and likelihoods need `jax.jvp`. So the rule
serves where only reverse mode is met, in training, and only on a CPU; elsewhere the plain convolution
is both right and fast. (`jax.custom_derivatives.linear_call` under a `custom_jvp` serves both modes
as fast, but has no batching rule: `vmap` of a network would fail.)
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]
Image = Float[Array, "_ _ _ _"]


class Geometry(NamedTuple):
    """Stride, dilation of the input, padding ((top, bottom), (left, right)), that of the kernel."""

    stride: int
    dilation: int
    padding: Pads
    kernel_dilation: int = 1


def wants_loop_gradients(train: bool) -> bool:
    """Say whether the explicit gradients are wanted: when training on a CPU."""
    return train and jax.default_backend() == "cpu"


def conv(x: Image, w: Float[Array, "k k i o"], geometry: Geometry, *, train: bool = False) -> Image:
    """Convolve (b, h, w, i) with (k, k, i, o); `train` chooses the gradients of this module."""
    return (_conv if wants_loop_gradients(train) else _plain)(x, w, geometry)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, w: Array, geometry: Geometry) -> Array:
    return _plain(x, w, geometry)


def _conv_forward(x: Array, w: Array, geometry: Geometry) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, w, geometry), (x, w)


def _conv_backward(geometry: Geometry, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
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


_conv.defvjp(_conv_forward, _conv_backward)
