r"""Measurements of physics: convolution, Fourier samples (MRI), line integrals (CT).

A periodic convolution is diagonal in Fourier space, with the kernel's transform H: singular values
|H|. Fourier samples of real images come in conjugate pairs, k and -k; with a mask M of what is
measured A^T A is diagonal there too, (M(k) + M(-k)) / 2, and of complex images M(k).
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_jax.inverse.operators import (
    Examples,
    LinearOperator,
    Outputs,
    Shape,
    SpectralOperator,
    Values,
    known,
    on_values,
    record,
)


def gaussian_kernel(size: int, std: float, ndim: int = 2) -> np.ndarray:
    """A Gaussian of this std on `size` places along each of `ndim` axes, of sum 1.

    Raises ValueError unless size >= 1 and std > 0.
    """
    if size < 1 or not std > 0:
        raise ValueError(f"size must be at least 1 and std > 0, got {size=}, {std=}")
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / std) ** 2)
    kernel = np.ones((1,) * ndim)
    for axis in range(ndim):
        kernel = kernel * line.reshape([-1 if i == axis else 1 for i in range(ndim)])
    return (kernel / kernel.sum()).astype(np.float32)


def _space(x: Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


@record("cutoff")
@dataclasses.dataclass(frozen=True, eq=False)
class Blur(SpectralOperator):
    """Convolution over space with a kernel whose middle is its entry size // 2, edges joined.

    Frequencies that it weakens below `cutoff` times the strongest count as lost. Raises ValueError
    for a kernel with more axes than space, when used, or a cutoff outside [0, 1).

    >>> operator = Blur(gaussian_kernel(5, 1.0))
    """

    kernel: Any
    cutoff: float = 1e-2

    def __post_init__(self) -> None:
        if isinstance(self.cutoff, int | float) and not 0 <= self.cutoff < 1:
            raise ValueError(f"cutoff must be in [0, 1), got {self.cutoff}")

    def _response(self, x: Examples) -> Array:
        space, kernel = x.shape[1:-1], jnp.asarray(self.kernel, x.dtype)
        if kernel.ndim != len(space) or any(
            k > s for k, s in zip(kernel.shape, space, strict=True)
        ):
            raise ValueError(
                f"the kernel {kernel.shape} must have the axes of space {space} and not exceed them"
            )
        padded = jnp.pad(kernel, [(0, s - k) for k, s in zip(kernel.shape, space, strict=True)])
        centred = jnp.roll(padded, [-(k // 2) for k in kernel.shape], axis=range(len(space)))
        return jnp.fft.fftn(centred)[None, ..., None]

    def forward(self, x: Examples) -> Outputs:
        """The blurred x, of its shape."""
        response = self._response(x)
        return jnp.fft.ifftn(jnp.fft.fftn(x, axes=_space(x)) * response, axes=_space(x)).real

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """In Fourier space."""
        values = jnp.abs(self._response(x))
        kept = on_values(f, values, self.cutoff * values.max())
        return jnp.fft.ifftn(jnp.fft.fftn(x, axes=_space(x)) * kept, axes=_space(x)).real


@record("complex_image")
@dataclasses.dataclass(frozen=True, eq=False)
class Fourier(SpectralOperator):
    """Some Fourier coefficients over space (MRI): mask, boolean, of the shape of space, True: measured.

    mask[0, 0] is the mean (shift yours by `np.fft.ifftshift`); the transform keeps norms. y is the real
    and the imaginary part on a last axis of its own, (*space, c, 2), 0 where not measured. With
    `complex_image` the two channels of x are real and imaginary part, and y is (*space, 2).

    Raises ValueError for a mask that is not boolean or of another shape.
    """

    mask: Any
    complex_image: bool = False

    def __post_init__(self) -> None:
        if known(self.mask) and self.mask.dtype != bool:
            raise ValueError(f"mask must be boolean, got dtype {self.mask.dtype}")

    def _transform(self, x: Examples) -> Array:
        if x.shape[1:-1] != self.mask.shape:
            raise ValueError(f"mask has shape {self.mask.shape}, but space is {x.shape[1:-1]}")
        if self.complex_image:
            if x.shape[-1] != 2:
                raise ValueError(f"complex images have 2 channels, got {x.shape[-1]}")
            x = jax.lax.complex(x[..., :1], x[..., 1:])
        return jnp.fft.fftn(x, axes=_space(x), norm="ortho")

    def forward(self, x: Examples) -> Outputs:
        """The measured coefficients."""
        k = jnp.where(self.mask[None, ..., None], self._transform(x), 0)
        y = jnp.stack([k.real, k.imag], axis=-1)
        return y[..., 0, :] if self.complex_image else y

    def data_shape(self, out: Shape) -> Shape:
        """That of the image."""
        return out if self.complex_image else out[:-1]

    def measured(self, v: Outputs) -> Outputs:
        """The measured coefficients."""
        mask = jnp.asarray(self.mask)
        return jnp.where(mask.reshape(1, *mask.shape, *(1,) * (v.ndim - 1 - mask.ndim)), v, 0)

    def filter_data(self, x: Examples, f: Values) -> Examples:
        """In Fourier space."""
        share = jnp.asarray(self.mask, x.dtype)
        if not self.complex_image:
            axes = tuple(range(share.ndim))
            share = 0.5 * (share + jnp.roll(jnp.flip(share, axes), [1] * share.ndim, axes))
        kept = on_values(f, jnp.sqrt(share))[None, ..., None]
        back = jnp.fft.ifftn(self._transform(x) * kept, axes=_space(x), norm="ortho")
        if self.complex_image:
            return jnp.concatenate([back.real, back.imag], axis=-1)
        return back.real


@record("angles", "size")
@dataclasses.dataclass(frozen=True)
class Radon(LinearOperator):
    """Sums along parallel lines (CT) of square images (size, size, c): y (angles, detectors, c).

    `angles` in degrees, between the rows of detectors and the last axis of space; lines are one
    pixel apart, points on them too, read by linear interpolation, 0 outside the image. There are
    ceil(sqrt(2) size) detectors. `as_matrix` makes methods faster, and able to take noise.

    Raises ValueError for no angles or a size below 1.
    """

    angles: Any
    size: int

    def __post_init__(self) -> None:
        if isinstance(self.angles, Iterable) and not isinstance(self.angles, tuple):
            object.__setattr__(self, "angles", tuple(float(a) for a in self.angles))
        if isinstance(self.size, int) and (self.size < 1 or not self.angles):
            raise ValueError(f"size must be at least 1 and angles given, got {self.size}")

    @property
    def detectors(self) -> int:
        """How many lines an angle has."""
        return math.ceil(math.sqrt(2) * self.size)

    def data_shape(self, out: Shape) -> Shape:
        """(size, size, c)."""
        return (self.size, self.size, out[-1])

    def forward(self, x: Examples) -> Outputs:
        """The line integrals: (b, angles, detectors, c)."""
        if x.shape[1:3] != (self.size, self.size) or x.ndim != 4:
            raise ValueError(f"Radon is for images of size {self.size}, got shape {x.shape[1:]}")
        at = np.arange(self.detectors) - (self.detectors - 1) / 2
        theta = np.deg2rad(np.asarray(self.angles))[:, None, None]
        along, across = at[None, None, :], at[None, :, None]
        rows = across * np.sin(theta) + along * np.cos(theta)
        columns = across * np.cos(theta) - along * np.sin(theta)
        return line_sums(x, rows, columns)


def line_sums(x: Examples, rows: np.ndarray, columns: np.ndarray) -> Outputs:
    """Sums along lines of images x (b, h, w, c): (b, angles, detectors, c).

    rows and columns (angles, detectors, points) are counted from the middle; values between pixels are
    interpolated linearly, those outside are 0.
    """
    shape = np.broadcast(rows, columns).shape
    places = [
        jnp.asarray(np.broadcast_to(v, shape) + (size - 1) / 2, x.dtype)
        for v, size in zip((rows, columns), x.shape[1:3], strict=True)
    ]

    def project(image: Array) -> Array:
        read = jax.scipy.ndimage.map_coordinates(image, places, order=1, mode="constant")
        return read.sum(axis=2)

    return jax.vmap(jax.vmap(project, -1, -1))(x)
