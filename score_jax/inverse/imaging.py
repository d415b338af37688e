r"""Scanners and cameras: multi-coil MRI, fan-beam CT, phase retrieval, quantisation as in JPEG."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_jax._check import check, check_count, check_interval
from score_jax.inverse.operators import (
    Examples,
    LinearOperator,
    Nonlinear,
    Outputs,
    Shape,
    known,
    record,
)
from score_jax.inverse.transforms import line_sums


@record()
@dataclasses.dataclass(frozen=True, eq=False)
class MultiCoil(LinearOperator):
    """Fourier coefficients of a complex image, seen by several coils (parallel MRI).

    x (h, w, 2) is real and imaginary part; coil j sees F(sensitivities[j] x) where `mask` (h, w) is
    True, 0 elsewhere: y (coils, h, w, 2). sensitivities are complex, (coils, h, w). The transform keeps
    norms, and mask[0, 0] is the mean. Pruessmann et al. (1999).

    Raises ValueError for a mask that is not boolean, or sensitivities that are not complex or of another
    shape.

    >>> operator = MultiCoil(mask, sensitivities)  # (64, 64), (8, 64, 64)
    """

    mask: Any
    sensitivities: Any

    def __post_init__(self) -> None:
        if known(self.mask) and known(self.sensitivities):
            check("dtype of mask", self.mask.dtype, self.mask.dtype == bool, "boolean")
            dtype, shape = self.sensitivities.dtype, self.sensitivities.shape
            check("dtype of sensitivities", dtype, jnp.iscomplexobj(self.sensitivities), "complex")
            fits = len(shape) == 3 and shape[1:] == self.mask.shape
            check("sensitivities", shape, fits, f"(coils, h, w) with (h, w) = {self.mask.shape}")

    def data_shape(self, out: Shape) -> Shape:
        """(h, w, 2)."""
        return (*self.mask.shape, 2)

    def measured(self, v: Outputs) -> Outputs:
        """The measured coefficients of every coil."""
        return jnp.where(jnp.asarray(self.mask)[None, None, :, :, None], v, 0)

    def forward(self, x: Examples) -> Outputs:
        """The Fourier coefficients seen by every coil."""
        if x.shape[1:] != (*self.mask.shape, 2):
            raise ValueError(
                f"the scanner is for complex images {(*self.mask.shape, 2)}, the data have {x.shape[1:]}"
            )
        image = jax.lax.complex(x[..., 0], x[..., 1])
        seen = jnp.asarray(self.sensitivities, image.dtype)[None] * image[:, None]
        k = jnp.fft.fft2(seen, norm="ortho")
        k = jnp.where(self.mask[None, None], k, 0)
        return jnp.stack([k.real, k.imag], axis=-1)


@record("angles", "size", "source", "count", "spacing")
@dataclasses.dataclass(frozen=True)
class FanBeam(LinearOperator):
    """Sums along the lines from a point source to a row of detectors (CT): y (angles, detectors, c).

    Images are square, (size, size, c), with the axis of rotation in the middle. The source is `source`
    pixels from it; the detectors are `count` places, `spacing` pixels apart, on a line through the middle
    across the central ray (scale the real row of detectors to there). angles in degrees. Points on the
    lines are one pixel apart and interpolated linearly. With a far source it is `Radon`.

    Raises ValueError for no angles, counts below 1, or a source inside the image.

    >>> operator = FanBeam(range(0, 360, 10), size=32, source=60.0, count=64)
    """

    angles: Any
    size: int
    source: float
    count: int
    spacing: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.angles, Iterable) and not isinstance(self.angles, tuple):
            object.__setattr__(self, "angles", tuple(float(a) for a in self.angles))
        if isinstance(self.size, int):
            check("angles", self.angles, bool(self.angles), "given")
            check_count(size=self.size, count=self.count)
            check("source", self.source, self.source > self.size / 2**0.5, "outside the image")
            check("spacing", self.spacing, self.spacing > 0, "> 0")

    def data_shape(self, out: Shape) -> Shape:
        """(size, size, c)."""
        return (self.size, self.size, out[-1])

    def forward(self, x: Examples) -> Outputs:
        """The line integrals: (b, angles, detectors, c)."""
        if x.ndim != 4 or x.shape[1:3] != (self.size, self.size):
            raise ValueError(f"FanBeam is for images of size {self.size}, got shape {x.shape[1:]}")
        theta = np.deg2rad(np.asarray(self.angles))[:, None, None]
        place = ((np.arange(self.count) - (self.count - 1) / 2) * self.spacing)[None, :, None]
        reach = math.ceil(math.sqrt(2) * self.size)
        steps = (np.arange(reach) - (reach - 1) / 2)[None, None]
        # A ray in the frame of the scanner: from (-source, 0) through (0, place), 0 nearest the middle.
        length = np.hypot(self.source, place)
        nearest = self.source * self.source / length
        along = -self.source + (nearest + steps) * self.source / length
        across = (nearest + steps) * place / length
        rows = across * np.sin(theta) + along * np.cos(theta)
        columns = across * np.cos(theta) - along * np.sin(theta)
        return line_sums(x, rows, columns)


def phase_retrieval(shape: Sequence[int], *, oversampling: int = 2) -> Nonlinear:
    """Magnitudes of the Fourier transform of images (h, w, c), padded by zeros: y of (n h, n w, c).

    The image and its mirror image, shifted images and their negatives have the same magnitudes, so that
    the posterior has several modes. The transform keeps norms.

    Raises ValueError for other shapes, or oversampling below 1.

    >>> operator = phase_retrieval((8, 8, 1))
    """
    check_count(oversampling=oversampling)
    shape = tuple(shape)
    check("shape", shape, len(shape) == 3, "(h, w, c)")
    size = (oversampling * shape[0], oversampling * shape[1])

    def magnitudes(x: Array) -> Array:
        k = jnp.fft.fftn(x, s=size, axes=(1, 2), norm="ortho")
        # The root of 0 has no slope.
        return jnp.sqrt(jnp.square(k.real) + jnp.square(k.imag) + 1e-12)

    return Nonlinear(magnitudes, shape)


# Steps of luminance at quality 50: ITU-T T.81, table K.1.
_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


def quantization(
    shape: Sequence[int], *, quality: int = 50, range: tuple[float, float] = (-1.0, 1.0)
) -> Nonlinear:
    """What JPEG of grey images keeps: the cosines of 8x8 blocks, rounded to steps, as an image again.

    Of every channel of (h, w, c) by itself, h and w multiples of 8, values in `range` instead of 0 to
    255. Rounding has no slope; its derivative is taken as 1, so that gradients lead towards images of
    the same cell. Give the measurement a noise_std of about the deviation of the rounding.

    Raises ValueError for other shapes, quality outside [1, 100], or a range that is not (low, high).

    >>> operator = quantization((8, 8, 1), quality=20)
    """
    shape = tuple(shape)
    fits = len(shape) == 3 and not (shape[0] % 8 or shape[1] % 8)
    check("shape", shape, fits, "(h, w, c) with h and w multiples of 8")
    check_count(quality=quality)
    check("quality", quality, quality <= 100, "in [1, 100]")
    check_interval("range", range)
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = np.clip(np.floor((np.asarray(_STEPS) * percent + 50) / 100), 1, 255)
    steps = steps * (range[1] - range[0]) / 255
    places = np.outer(np.arange(8) + 0.5, np.arange(8))
    cosines = np.cos(np.pi * places / 8) * np.where(np.arange(8) == 0, 8**-0.5, 0.5)[None]
    middle = (range[0] + range[1]) / 2

    def kept(x: Array) -> Array:
        basis, step = jnp.asarray(cosines, x.dtype), jnp.asarray(steps, x.dtype)
        blocks = (x - middle).reshape(x.shape[0], shape[0] // 8, 8, shape[1] // 8, 8, shape[2])
        size = jnp.einsum("biujvc,up,vq->bipjqc", blocks, basis, basis)
        size = size / step[None, None, :, None, :, None]
        size = size + jax.lax.stop_gradient(jnp.round(size) - size)
        size = size * step[None, None, :, None, :, None]
        return jnp.einsum("bipjqc,up,vq->biujvc", size, basis, basis).reshape(x.shape) + middle

    return Nonlinear(kept, shape)
