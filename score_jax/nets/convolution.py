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

A linear map is the same form with a kernel that has no axis of space. Its places stay axes of their own:
devices that share images would have to gather them before they could be flattened.

Kernels keep their own type, and dT/dw is made in it: where a network computes in bfloat16, the gradients
of its float32 kernels are never rounded to bfloat16, and their sum over devices is float32
(docs/adr/0025). The precision of the products is that of `jax.default_matmul_precision` where a
convolution is traced, also for its derivatives.
"""

import functools
import math
from collections.abc import Callable, Iterator
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
Kernel = Float[Array | np.ndarray, "*k i o"]  # loaded weights may be NumPy's
Volume = Float[Array, "_ *_"]  # (b, l, c), (b, h, w, c) or (b, d, h, w, c)

# The operands of each face, and the index that each operand shares with the result: b is the batch,
# i and o are the channels. Under `vmap` of one operand the mapped axis is folded into that index.
OPERANDS = {"g": ("x", "w"), "x": ("w", "g"), "w": ("x", "g")}
SHARED = {frozenset("xg"): "b", frozenset("xw"): "i", frozenset("wg"): "o"}


class Geometry(NamedTuple):
    """What is fixed when a convolution is traced; each tuple has one entry per spatial axis.

    `x_size` and `w_size` are the spatial sizes of x and w, `w_dtype` is the type of w and of its
    gradient, `precision` that of the products. The operands have `maps` leading axes in common, over
    which everything is mapped.
    """

    x_size: Sizes
    w_size: Sizes
    stride: Sizes
    padding: Pads
    dilation: Sizes
    spacing: Sizes
    w_dtype: Any
    precision: str | None
    maps: int = 0


Form = Callable[[Array, Array, Geometry], Array]


def conv(
    x: Float[Array, "b *d i"],
    w: Kernel,
    padding: tuple[int, int] | Pads,
    *,
    stride: int | Sizes = 1,
    dilation: int | Sizes = 1,
    spacing: int = 1,
) -> Float[Array, "b *e o"]:
    """Convolve x with w along one, two or three axes; of a matrix w, x @ w at every place.

    Args:
      x: data, channels last. The result has its type.
      w: kernel; its gradient has its type.
      padding: zeros before and after, for every axis alike or one pair per axis.
      stride: of the output, for every axis alike or one number per axis.
      dilation: of the input: its entries are this many places apart, with zeros in between; for
        every axis alike or one number per axis.
      spacing: of the kernel: its taps are this many places apart.

    >>> y = conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16)), (1, 1))
    """
    d = w.ndim - 2
    each = lambda n: n if isinstance(n, tuple) else (n,) * d
    geometry = Geometry(
        x.shape[1:-1], w.shape[:-2], each(stride), each_axis(padding, d), each(dilation),
        each(spacing), w.dtype, getattr(jax.config, "jax_default_matmul_precision", None),
    )  # fmt: skip
    x, w = _vary_alike(x, jnp.asarray(w))
    return _conv_p.bind(x, w, role="g", geometry=geometry)


def each_axis(padding: tuple[int, int] | Pads, axes: int) -> Pads:
    """One pair (before, after) for each axis, where all may have been given one alike."""
    alike = not all(isinstance(pair, tuple) for pair in padding)
    return (padding,) * axes if alike else padding  # type: ignore[return-value]


def _vary_alike(*operands: Array) -> list[Array]:
    """Inside `shard_map`, mark all operands as varying over the mesh axes of each of them."""
    axes = [jax.typeof(v).manual_axis_type.varying for v in operands]
    every = frozenset().union(*axes)
    cast = lambda v, own: lax.pcast(v, tuple(every - own), to="varying") if every - own else v
    return [cast(v, own) for v, own in zip(operands, axes, strict=True)]


def _plain(
    x: Array, w: Array, stride: Sizes, padding: Pads, dilation: Sizes, spacing: Sizes,
    dtype: Any = None,
) -> Array:  # fmt: skip
    axes = "DHW"[3 - len(stride) :]
    return lax.conv_general_dilated(
        x, w, stride, padding, dilation, spacing, preferred_element_type=dtype,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )  # fmt: skip


def _forward(x: Array, w: Array, n: Geometry) -> Array:
    return _plain(x, w, n.stride, n.padding, n.dilation, n.spacing)


def _taps(x: Array, n: Geometry) -> Iterator[tuple[Sizes, Array]]:
    """Each tap of the kernel, and the part of x that it is multiplied with."""
    if not n.w_size:
        yield (), x
        return
    gaps = ((low, high, u - 1) for (low, high), u in zip(n.padding, n.dilation, strict=True))
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))
    for tap in np.ndindex(*n.w_size):
        first = [r * p for r, p in zip(n.spacing, tap, strict=True)]
        ends = zip(first, x.shape[1:-1], n.w_size, n.spacing, strict=True)
        last = [f + size - (k - 1) * r for f, size, k, r in ends]
        yield tap, lax.slice(x, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *n.stride, 1))


def _products(x: Array, w: Array, n: Geometry) -> Array:
    """The convolution as a sum of matrix products, one for each tap of the kernel."""
    return functools.reduce(jnp.add, (seen @ w[tap] for tap, seen in _taps(x, n)))


def _products_w(x: Array, g: Array, n: Geometry) -> Array:
    """The gradient of `_products`: one product for each tap."""
    every = tuple(range(g.ndim - 1))
    wide = jnp.promote_types(x.dtype, n.w_dtype)
    product = lambda seen: jnp.tensordot(seen, g, (every, every), preferred_element_type=wide)
    each = jnp.stack([product(seen) for _, seen in _taps(x, n)])
    return each.reshape(*n.w_size, x.shape[-1], g.shape[-1])


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


def _w_pads(g: Array, n: Geometry) -> Pads:
    """The padding of x in eq. (2)."""
    pads = []
    for a, (left, _) in enumerate(n.padding):
        reach = (n.w_size[a] - 1) * n.spacing[a]
        size = (n.x_size[a] - 1) * n.dilation[a] + 1
        dilated = (g.shape[1 + a] - 1) * n.stride[a] + 1
        pads.append((left, reach + dilated - size - left))
    return tuple(pads)


def _explicit_w(x: Array, g: Array, n: Geometry) -> Array:
    """Eq. (2)."""
    wide, pads = jnp.promote_types(x.dtype, n.w_dtype), _w_pads(g, n)
    x, g = jnp.swapaxes(x, 0, -1), jnp.moveaxis(g, 0, -2)
    return jnp.moveaxis(_plain(x, g, n.spacing, pads, n.dilation, n.stride, wide), 0, -2)


def _native_w(x: Array, g: Array, n: Geometry, *, wide: bool = True) -> Array:
    """Eq. (2) as XLA's own transpose, whose operands stay as they are; in the type of w if `wide`."""
    axes = "DHW"[3 - len(n.stride) :]
    return lax.conv_general_dilated(
        x, g, n.spacing, _w_pads(g, n), n.dilation, n.stride,
        dimension_numbers=(f"C{axes}N", f"I{axes}O", f"{axes}NC"),
        preferred_element_type=jnp.promote_types(x.dtype, n.w_dtype) if wide else None,
    )  # fmt: skip


def _transposed_x(forward: Form, w: Array, g: Array, n: Geometry) -> Array:
    """The gradient as JAX's transpose of the forward form."""
    x = jax.ShapeDtypeStruct((g.shape[0], *n.x_size, w.shape[-2]), g.dtype)
    return jax.linear_transpose(lambda x: forward(x, w, n), x)(g)[0]


def _rounded_once(form: Form) -> Form:
    """The form in float32 or better, so that a sum over taps in half precision is rounded once."""

    def wide(a: Array, b: Array, n: Geometry) -> Array:
        dtype = jnp.promote_types(a.dtype, jnp.float32)
        return form(a.astype(dtype), b.astype(dtype), n).astype(a.dtype)

    return wide


Forms = dict[str, Form]
EXPLICIT: Forms = {"g": _forward, "x": _explicit_x, "w": _explicit_w}
PRODUCTS: Forms = {
    "g": _products, "x": functools.partial(_transposed_x, _products), "w": _products_w,
}  # fmt: skip
VOLUMES: Forms = PRODUCTS | {role: _rounded_once(PRODUCTS[role]) for role in "gx"}
NATIVE: Forms = {
    "g": _forward, "x": functools.partial(_transposed_x, _forward), "w": _native_w,
}  # fmt: skip
# GPU libraries have no bfloat16 convolution with a float32 result; XLA would first copy the operands.
GPU: Forms = NATIVE | {"w": functools.partial(_native_w, wide=False)}
# The forms along one or two axes, and along three.
PLATFORMS: dict[str, tuple[Forms, Forms]] = {
    "cpu": (EXPLICIT, VOLUMES), "cuda": (GPU, GPU), "rocm": (GPU, GPU),
}  # fmt: skip


def _form(role: str, axes: int, platform: str) -> Form:
    """The form of a face that suits the platform."""
    images, volumes = PLATFORMS.get(platform, (NATIVE, NATIVE))
    return (PRODUCTS if axes == 0 else volumes if axes == 3 else images)[role]


def _mapped(form: Form, a: Array, b: Array, n: Geometry) -> Array:
    """The form for each entry of the leading axes that both operands have."""
    each: Callable[[Array, Array], Array] = lambda a, b: form(a, b, n)
    for _ in range(n.maps):
        each = jax.vmap(each)
    return each(a, b)


def _lowered(a: Array, b: Array, *, role: str, geometry: Geometry, platform: str = "tpu") -> Array:
    """What a face is compiled to: the kernel is given in the type of the data."""
    if role != "w":
        kernel = OPERANDS[role].index("w")
        a, b = (a, b.astype(a.dtype)) if kernel else (a.astype(b.dtype), b)
    form = _form(role, len(geometry.stride), platform)
    with jax.default_matmul_precision(geometry.precision):
        y = _mapped(form, a, b, geometry)
    return y.astype(geometry.w_dtype) if role == "w" else y


@functools.lru_cache(maxsize=1024)  # networks have few shapes, each many times
def _abstract(a: Any, b: Any, *, role: str, geometry: Geometry) -> Any:
    of = functools.partial(_lowered, role=role, geometry=geometry, platform="cpu")
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
mlir.register_lowering(_conv_p, mlir.lower_fun(_lowered, multiple_results=False))
for _platform in PLATFORMS:
    _face = functools.partial(_lowered, platform=_platform)
    mlir.register_lowering(
        _conv_p, mlir.lower_fun(_face, multiple_results=False), platform=_platform
    )
