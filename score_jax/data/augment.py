r"""Augmentation of images inside the training step: random crops, and EDM's that does not leak.

EDM (arXiv:2206.00364, appendix F.2, table 6) moves a training image by

    (1)  G = T A R S F_y F_x

flips, scaling by 2^{0.2 a}, rotation, anisotropic scaling by 2^{0.2 a} along one axis and its inverse
across, and translation by a / 8 of the image, each drawn with a probability and otherwise left out; the
flip of x is always drawn. The network is given a vector of 9 numbers that is zero exactly where nothing
was moved. Samples drawn with the vector zero are therefore as the images before augmentation.

The moved image is read off by cubic interpolation (Keys 1981) between the pixels, and mirrored beyond
its edges. EDM filters by wavelets at twice the resolution instead.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from score_jax._check import check

AUGMENT_SIZE = 9  # of the vector that the network is given
_ZOOM, _SHIFT = 2**0.2, 1 / 8

Matrix = tuple[Any, Any, Any, Any]  # by rows, on (x, y)


class Augmentation(NamedTuple):
    """The parameters of (1), one number or (b,) each; all zero: nothing is moved.

    flip_x, flip_y: 1 mirrors; scale: log of the factor to the base 2^0.2; rotation: angle in radians;
    anisotropy: as scale, along `axis`, an angle in radians; shift_x, shift_y: in eighths of the image.
    """

    flip_x: Num[Array, "*b"]
    flip_y: Num[Array, "*b"]
    scale: Float[Array, "*b"]
    rotation: Float[Array, "*b"]
    axis: Float[Array, "*b"]
    anisotropy: Float[Array, "*b"]
    shift_x: Float[Array, "*b"]
    shift_y: Float[Array, "*b"]

    @property
    def vector(self) -> Float[Array, "*b 9"]:
        """What the network is given: zero exactly where all parameters are zero."""
        parts = (
            self.flip_x, self.flip_y, self.scale,
            jnp.cos(self.rotation) - 1, jnp.sin(self.rotation),
            self.anisotropy * jnp.cos(self.axis), self.anisotropy * jnp.sin(self.axis),
            self.shift_x, self.shift_y,
        )  # fmt: skip
        return jnp.stack(parts, axis=-1)


def random_augmentation(key: Key[Array, ""], p: float) -> Augmentation:
    """Draw the parameters of one image, each transformation but the flip of x with probability p.

    Raises ValueError unless 0 <= p <= 1.

    >>> random_augmentation(jax.random.key(0), 0.12).vector.shape
    (9,)
    """
    check("p", p, 0 <= p <= 1, "in [0, 1]")
    used, flips, normals, angles = jax.random.split(key, 4)
    on = jax.random.bernoulli(used, p, (5,)).astype(jnp.float32)
    flip_x, flip_y = jax.random.bernoulli(flips, 0.5, (2,)).astype(jnp.float32)
    scale, anisotropy, shift_x, shift_y = jax.random.normal(normals, (4,))
    rotation, axis = jax.random.uniform(angles, (2,), minval=-jnp.pi, maxval=jnp.pi)
    return Augmentation(
        flip_x, on[0] * flip_y, on[1] * scale, on[2] * rotation, on[3] * axis,
        on[3] * anisotropy, on[4] * shift_x, on[4] * shift_y,
    )  # fmt: skip


def augment(x: Float[Array, "b h w c"], parameters: Augmentation) -> Float[Array, "b h w c"]:
    """Move every image by (1) with its own parameters (b,).

    >>> drawn = jax.vmap(lambda key: random_augmentation(key, 0.12))(keys)
    >>> moved, given = augment(x, drawn), drawn.vector
    """
    return jax.vmap(_moved)(x, parameters)


def random_crop(key: Key[Array, ""], image: Any, size: tuple[int, int]) -> Any:
    """Cut the same random part of size (h, w) out of the arrays (H, W, c) of one image, a pytree.

    Raises ValueError unless they are at least as large.

    >>> random_crop(key, {"x": x, "mask": mask}, (32, 32))
    """
    shape = jax.tree.leaves(image)[0].shape
    room = (shape[0] - size[0], shape[1] - size[1])
    check("size", size, min(room) >= 0, f"at most that of the image, {shape[:2]}")
    corner = jax.random.randint(key, (2,), 0, jnp.asarray(room) + 1)
    start = (corner[0], corner[1], 0)
    return jax.tree.map(
        lambda part: jax.lax.dynamic_slice(part, start, (*size, part.shape[-1])), image
    )


def _moved(x: Float[Array, "h w c"], p: Augmentation) -> Float[Array, "h w c"]:
    """(1) of one image: every pixel is looked up where G came from."""
    h, w, _ = x.shape
    middle = ((w - 1) / 2, (h - 1) / 2)
    col = (jnp.arange(w) - middle[0] - _SHIFT * w * p.shift_x)[None, :]
    row = (jnp.arange(h) - middle[1] - _SHIFT * h * p.shift_y)[:, None]
    wide, along = _ZOOM**-p.scale, _ZOOM**-p.anisotropy
    back = _product(_rotation(p.axis), _product((along, 0, 0, 1 / along), _rotation(-p.axis)))
    back = _product(_rotation(-p.rotation), back)
    a, b, c, d = _product((wide * (1 - 2 * p.flip_x), 0, 0, wide * (1 - 2 * p.flip_y)), back)
    return _interpolated(x, c * col + d * row + middle[1], a * col + b * row + middle[0])


def _rotation(angle: Any) -> Matrix:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos, -sin, sin, cos


def _product(p: Matrix, q: Matrix) -> Matrix:
    # Written out: products of matrices may be of low precision on accelerators.
    (a, b, c, d), (e, f, g, h) = p, q
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def _interpolated(
    x: Float[Array, "h w c"], rows: Float[Array, "h w"], cols: Float[Array, "h w"]
) -> Float[Array, "h w c"]:
    """x at places between its pixels, from 4 x 4 of them."""
    top, left = jnp.floor(rows), jnp.floor(cols)
    down, across = _cubic(rows - top), _cubic(cols - left)
    found = jnp.zeros_like(x)
    for i in range(4):
        row = _mirrored(top.astype(jnp.int32) + i - 1, x.shape[0])
        for j in range(4):
            col = _mirrored(left.astype(jnp.int32) + j - 1, x.shape[1])
            found += (down[i] * across[j])[..., None].astype(x.dtype) * x[row, col]
    return found


def _cubic(t: Array) -> tuple[Array, Array, Array, Array]:
    """Weights of the pixels at -1, 0, 1 and 2 for a place t in [0, 1)."""
    return (
        -t / 2 + t**2 - t**3 / 2,
        1 - 5 / 2 * t**2 + 3 / 2 * t**3,
        t / 2 + 2 * t**2 - 3 / 2 * t**3,
        -(t**2) / 2 + t**3 / 2,
    )


def _mirrored(index: Array, n: int) -> Array:
    """Indices beyond the edges, mirrored into 0 ... n - 1."""
    within = index % (2 * n)
    return jnp.where(within < n, within, 2 * n - 1 - within)
