r"""One convolution that is fast in forward mode, in reverse mode, and inside `lax.scan` on a CPU.

Inside a loop XLA:CPU does not bring the gradients of `lax.conv_general_dilated` to their fast form: a
training step inside `lax.scan` took 20 times as long as alone. The convolution is therefore a JAX
primitive of its own. It is bilinear, and its three faces are the derivatives of one trilinear form,

    T(x, w, g) = <g, conv(x, w)>:    dT/dg = conv(x, w),    dT/dx,    dT/dw

Each of them is linear in its two operands, and transposing one gives another. Tangents are therefore
plain convolutions, and derivatives of any order, in any mode, are made of these three. On a CPU the two
gradients are compiled as plain convolutions with channels last: with stride s, input dilation u, kernel
dilation r, kernel size k and left padding l,

    (1)  dT/dx = conv(g, flip(w)^T)   stride u, dilations s and r, padding (k - 1) r - l on the left
    (2)  dT/dw = conv(x^T, g^T)       batch and channels exchanged, stride r, kernel dilation s

Along three axes sums of matrix products are faster there. On other platforms the gradients are XLA's
own transposes. The platform is that for which a program is compiled.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]
Image = Float[Array, "_ _ _ _"]  # (b, h, w, c)
Volume = Float[Array, "_ *_"]  # (b, l, c), (b, h, w, c) or (b, d, h, w, c)

# The operands of each face, and the index that each operand shares with the result: b is the batch,
# i and o are the channels. Under `vmap` of one operand the mapped axis is folded into that index.
OPERANDS = {"g": ("x", "w"), "x": ("w", "g"), "w": ("x", "g")}
SHARED = {frozenset("xg"): "b", frozenset("xw"): "i", frozenset("wg"): "o"}


class Geometry(NamedTuple):
    """What is fixed when a convolution is traced; each tuple has one entry per spatial axis.

    `x_size` and `w_size` are the spatial sizes of x and w. The operands have `maps` leading axes in
    common, over which everything is mapped.
    """

    x_size: Sizes
    w_size: Sizes
    stride: Sizes
    padding: Pads
    dilation: Sizes
    spacing: Sizes
    maps: int = 0


Form = Callable[[Array, Array, Geometry], Array]


def conv(
    x: Float[Array, "b *d i"],
    w: Float[Array, "*k i o"],
    padding: tuple[int, int] | Pads,
    *,
    stride: int | Sizes = 1,
    dilation: int | Sizes = 1,
    spacing: int = 1,
) -> Float[Array, "b *e o"]:
    """Convolve x with w along one, two or three axes.

    Args:
      x: data, channels last.
      w: kernel.
      padding: zeros before and after, for every axis alike or one pair per axis.
      stride: of the output, for every axis alike or one number per axis.
      dilation: of the input: its entries are this many places apart, with zeros in between; for
        every axis alike or one number per axis.
      spacing: of the kernel: its taps are this many places apart.

    >>> y = conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16)), (1, 1))
    """
    d = x.ndim - 2
    each = lambda n: n if isinstance(n, tuple) else (n,) * d
    geometry = Geometry(
        x.shape[1:-1], w.shape[:-2], each(stride), each_axis(padding, d), each(dilation),
        each(spacing),
    )  # fmt: skip
    x, w = _vary_alike(x, w)
    return _conv_p.bind(x, w, role="g", geometry=geometry)


def each_axis(padding: tuple[int, int] | Pads, axes: int) -> Pads:
    """One pair (before, after) for each axis, where all may have been given one alike."""
    return padding if isinstance(padding[0], tuple) else (padding,) * axes  # type: ignore[return-value]


def _vary_alike(*operands: Array) -> list[Array]:
    """Inside `shard_map`, mark all operands as varying over the mesh axes of each of them."""
    axes = [jax.typeof(v).manual_axis_type.varying for v in operands]
    every = frozenset().union(*axes)
    cast = lambda v, own: lax.pcast(v, tuple(every - own), to="varying") if every - own else v
    return [cast(v, own) for v, own in zip(operands, axes, strict=True)]


def _plain(
    x: Array, w: Array, stride: Sizes, padding: Pads, dilation: Sizes, spacing: Sizes
) -> Array:
    axes = "DHW"[3 - len(stride) :]
    return lax.conv_general_dilated(
        x, w, stride, padding, lhs_dilation=dilation, rhs_dilation=spacing,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )  # fmt: skip


def _forward(x: Array, w: Array, n: Geometry) -> Array:
    return _plain(x, w, n.stride, n.padding, n.dilation, n.spacing)


def _products(x: Array, w: Array, n: Geometry) -> Array:
    """The convolution as a sum of matrix products, one for each tap of the kernel."""
    gaps = ((low, high, u - 1) for (low, high), u in zip(n.padding, n.dilation, strict=True))
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))

    def term(tap: Sizes) -> Array:
        first = [r * p for r, p in zip(n.spacing, tap, strict=True)]
        ends = zip(first, x.shape[1:-1], n.w_size, n.spacing, strict=True)
        last = [f + size - (k - 1) * r for f, size, k, r in ends]
        seen = lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *n.stride, 1))
        return seen @ w[tap]

    return functools.reduce(jnp.add, map(term, np.ndindex(*n.w_size)))


def _explicit_x(w: Array, g: Array, n: Geometry) -> Array:
    """Eq. (1)."""
    d = len(n.stride)
    pads = []
    for a, (left, _) in enumerate(n.padding):
        reach = (n.w_size[a] - 1) * n.spacing[a]
        size = (n.x_size[a] - 1) * n.dilation[a] + 1
        dilated = (g.shape[1 + a] - 1) * n.stride[a] + 1
        pads.append((reach - left, size + left - dilated))
    turned = jnp.swapaxes(jnp.flip(w, range(d)), -1, -2)
    return _plain(g, turned, n.dilation, tuple(pads), n.stride, n.spacing)


def _explicit_w(x: Array, g: Array, n: Geometry) -> Array:
    """Eq. (2)."""
    pads = []
    for a, (left, _) in enumerate(n.padding):
        reach = (n.w_size[a] - 1) * n.spacing[a]
        size = (n.x_size[a] - 1) * n.dilation[a] + 1
        dilated = (g.shape[1 + a] - 1) * n.stride[a] + 1
        pads.append((left, reach + dilated - size - left))
    x, g = jnp.swapaxes(x, 0, -1), jnp.moveaxis(g, 0, -2)
    return jnp.moveaxis(_plain(x, g, n.spacing, tuple(pads), n.dilation, n.stride), 0, -2)


def _transposed(forward: Form, role: str, a: Array, b: Array, n: Geometry) -> Array:
    """The gradient as JAX's transpose of the forward form."""
    if role == "x":
        shape, of = (b.shape[0], *n.x_size, a.shape[-2]), lambda x: forward(x, a, n)
    else:
        shape, of = (*n.w_size, a.shape[-1], b.shape[-1]), lambda w: forward(a, w, n)
    return jax.linear_transpose(of, jax.ShapeDtypeStruct(shape, b.dtype))(b)[0]


EXPLICIT: dict[str, Form] = {"g": _forward, "x": _explicit_x, "w": _explicit_w}


def _form(role: str, axes: int, cpu: bool) -> Form:
    """The form of a face that suits the platform. Along three axes a CPU prefers products."""
    if cpu and axes < 3:
        return EXPLICIT[role]
    forward = _products if cpu else _forward
    return forward if role == "g" else functools.partial(_transposed, forward, role)


def _mapped(form: Form, a: Array, b: Array, n: Geometry) -> Array:
    """The form for each entry of the leading axes that both operands have."""
    each: Callable[[Array, Array], Array] = lambda a, b: form(a, b, n)
    for _ in range(n.maps):
        each = jax.vmap(each)
    return each(a, b)


def _lowered(a: Array, b: Array, *, role: str, geometry: Geometry, cpu: bool) -> Array:
    return _mapped(_form(role, len(geometry.stride), cpu), a, b, geometry)


def _abstract(a: Any, b: Any, *, role: str, geometry: Geometry) -> Any:
    of = lambda a, b: _mapped(EXPLICIT[role], a, b, geometry)
    return jax.make_jaxpr(of)(a, b).out_avals[0]


def _transpose(operand: int, c: Array, a: Any, b: Any, *, role: str, geometry: Geometry) -> Array:
    """The face that returns this operand, given the cotangent c and the other operand."""
    values = dict(zip(OPERANDS[role], (a, b), strict=True)) | {role: c}
    wanted = OPERANDS[role][operand]
    first, second = (values[name] for name in OPERANDS[wanted])
    return _conv_p.bind(first, second, role=wanted, geometry=geometry)


def _axis(name: str, shared: str, ndim: int, maps: int) -> int:
    """Where the index `shared` stands in x, w or g."""
    return maps if shared == "b" else ndim - 1 - (name == "w" and shared == "i")


def _batch(values: Any, dims: Any, *, role: str, geometry: Geometry) -> tuple[Array, int]:
    maps, bind = geometry.maps, functools.partial(_conv_p.bind, role=role)
    if None not in dims:
        values = [jnp.moveaxis(v, d, 0) for v, d in zip(values, dims, strict=True)]
        return bind(*values, geometry=geometry._replace(maps=maps + 1)), 0
    which = int(dims[0] is None)
    name, v = OPERANDS[role][which], values[which]
    shared = SHARED[frozenset((name, role))]
    axis = _axis(name, shared, v.ndim - 1, maps)
    v = jnp.moveaxis(v, dims[which], axis)
    folded = v.reshape(*v.shape[:axis], math.prod(v.shape[axis : axis + 2]), *v.shape[axis + 2 :])
    y = bind(
        *(folded if i == which else other for i, other in enumerate(values)), geometry=geometry
    )
    place = _axis(role, shared, y.ndim, maps)
    return y.reshape(*y.shape[:place], v.shape[axis], -1, *y.shape[place + 1 :]), place


_conv_p = Primitive("score_jax_conv")
_conv_p.def_abstract_eval(_abstract)
_conv_p.def_impl(jax.jit(_conv_p.bind, static_argnames=("role", "geometry")))
ad.defbilinear(_conv_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))
batching.primitive_batchers[_conv_p] = _batch
for _platform in (None, "cpu"):
    _face = functools.partial(_lowered, cpu=_platform is not None)
    mlir.register_lowering(
        _conv_p, mlir.lower_fun(_face, multiple_results=False), platform=_platform
    )
