"""Resizings of images before a feature network; each gives another FID.

`TF1`          bilinear, source coordinate i * W / size, then (x - 128) / 128: the original TTUR code,
               torch-fidelity, the evaluator of ADM, NVIDIA (StyleGAN, EDM)
`PYTORCH_FID`  bilinear, half-pixel centres, then x / 127.5 - 1: pytorch-fid
`CLEAN`        bicubic with antialiasing, clipped, then (x - 128) / 128: clean-fid, arXiv:2104.11222
`DGM_EVAL`     Pillow's bicubic on bytes, ImageNet's mean and deviation: FD-DINOv2, arXiv:2306.04675
`EDM2`         bicubic with antialiasing in floating point, the same normalization: EDM2

All are linear along each axis, so each is a product with two matrices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

INCEPTION_SIZE, DINO_SIZE = 299, 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PILLOW_BITS = 22  # of the fractions that Pillow resizes bytes with

Images = UInt8[Array | np.ndarray, "b h w 3"]
Matrix = Callable[[int, int], np.ndarray]  # (from, to) -> (to, from)


class Resizing(NamedTuple):
    """A name for the records, and the map from bytes (b, h, w, 3) to the input of the network."""

    name: str
    apply: Callable[[Any], Any]


def _scatter(index: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """The matrix (n, size) with weights (n, taps) at index (n, taps), indices clipped to the edge."""
    matrix = np.zeros((len(index), size))
    rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
    np.add.at(matrix, (rows, np.clip(index, 0, size - 1)), weights)
    return matrix


def _linear(source: np.ndarray, size: int) -> np.ndarray:
    """Bilinear weights at the source coordinates (n,): (n, size)."""
    low = np.floor(source).astype(int)
    part = source - low
    return _scatter(np.stack([low, low + 1], 1), np.stack([1 - part, part], 1), size)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def tf1_matrix(size: int, new: int) -> np.ndarray:
    """Bilinear weights (new, size) of TensorFlow 1, whose pixel i lies at i * size / new, in float32."""
    source = np.arange(new, dtype=np.float32) * np.float32(size / new)
    return _linear(source.astype(np.float64), size)


def half_pixel_matrix(size: int, new: int) -> np.ndarray:
    """Bilinear weights (new, size) with half-pixel centres and without antialiasing."""
    return _linear(np.maximum((np.arange(new) + 0.5) * (size / new) - 0.5, 0), size)


def antialiased_cubic_matrix(size: int, new: int) -> np.ndarray:
    """Bicubic weights (new, size) with antialiasing, of Pillow (a = -0.5)."""
    scale = size / new
    width = max(scale, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * scale
    first = np.maximum((center - 2 * width + 0.5).astype(int), 0)
    last = np.minimum((center + 2 * width + 0.5).astype(int), size)
    at = np.arange(size)[None]
    weights = _cubic((at + 0.5 - center) / width, -0.5) * ((at >= first) & (at < last))
    return weights / weights.sum(1, keepdims=True)


def cubic_matrix(size: int, new: int, scale: float) -> np.ndarray:
    """Bicubic weights (new, size) without antialiasing, of PyTorch (a = -0.75); step `scale`."""
    source = (np.arange(new) + 0.5) * scale - 0.5
    index = np.floor(source).astype(int)[:, None] + np.arange(-1, 3)
    return _scatter(index, _cubic(index - source[:, None], -0.75), size)


def resize(x: Any, matrix: Matrix, new: int) -> Float[Array, "b n n c"]:
    """Resize x (b, h, w, c), of numbers, to (b, new, new, c) in float32."""
    rows, columns = (jnp.asarray(matrix(n, new), jnp.float32) for n in x.shape[1:3])
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    wide = product("ij,bhjc->bhic", columns, jnp.asarray(x, jnp.float32))
    return product("ij,bjwc->biwc", rows, wide)


def resize_bytes(x: Images, new: int) -> UInt8[Array, "b n n 3"]:
    """Resize as Pillow does bytes by its bicubic filter: to bytes after each axis, bit for bit."""
    half, unit = 1 << (PILLOW_BITS - 1), 1 << PILLOW_BITS
    values = jnp.asarray(x, jnp.int32)
    for axis in (2, 1):
        if x.shape[axis] == new:
            continue
        weights = antialiased_cubic_matrix(x.shape[axis], new) * unit
        fixed = jnp.asarray(np.trunc(weights + np.copysign(0.5, weights)), jnp.int32)
        form = "ij,bhjc->bhic" if axis == 2 else "ij,bjwc->biwc"
        values = jnp.clip((jnp.einsum(form, fixed, values) + half) >> PILLOW_BITS, 0, 255)
    return values.astype(jnp.uint8)


def _imagenet(x: Any) -> Any:
    mean, std = (
        jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (x.astype(jnp.float32) / 255 - mean) / std


def _tf1(x: Images) -> Any:
    return (resize(x, tf1_matrix, INCEPTION_SIZE) - 128) / 128


def _pytorch_fid(x: Images) -> Any:
    return resize(x, half_pixel_matrix, INCEPTION_SIZE) / 127.5 - 1


def _clean(x: Images) -> Any:
    return (jnp.clip(resize(x, antialiased_cubic_matrix, INCEPTION_SIZE), 0, 255) - 128) / 128


def _dgm_eval(x: Images) -> Any:
    return _imagenet(resize_bytes(x, DINO_SIZE))


def _edm2(x: Images) -> Any:
    return _imagenet(resize(x, antialiased_cubic_matrix, DINO_SIZE))


TF1 = Resizing("tf1", _tf1)
PYTORCH_FID = Resizing("pytorch_fid", _pytorch_fid)
CLEAN = Resizing("clean", _clean)
DGM_EVAL = Resizing("dgm_eval", _dgm_eval)
EDM2 = Resizing("edm2", _edm2)
INCEPTION_RESIZINGS = {r.name: r for r in (TF1, PYTORCH_FID, CLEAN)}
DINO_RESIZINGS = {r.name: r for r in (DGM_EVAL, EDM2)}
