"""Images as bytes, for networks that give features: of samples on disk, and of a run's data."""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from score_jax import data, viz
from score_jax.data import describe, take

from . import folders

_READ = 256  # images that are read at once


class Images(NamedTuple):
    """Images number 0, ..., n - 1 of a source, in its own numbers; `levels` and `cells` as `to_bytes`."""

    source: Any
    n: int
    levels: int = 256
    cells: bool = False

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The images of an interval of numbers as arrays (b, h, w, c) of uint8."""
        for first in range(start, stop, _READ):
            yield self.some(np.arange(first, min(first + _READ, stop)))

    def some(self, numbers: np.ndarray) -> np.ndarray:
        """The images of these numbers as bytes."""
        return to_bytes(take(self.source, numbers)["x"], self.levels, self.cells)

    def sha256(self) -> str:
        """The SHA-256 of all bytes in order: the same whichever file holds the images."""
        digest = hashlib.sha256()
        for part in self.read(0, self.n):
            digest.update(part.tobytes())
        return digest.hexdigest()


def to_bytes(x: Any, levels: int, cells: bool) -> np.ndarray:
    """Grey levels as bytes, by `viz.to_uint8` of what the network is trained on.

    That is the middle of a level's cell if `cells` (dequantised data), otherwise the level as a point.
    256 levels stay as they are.
    """
    x = np.asarray(x)
    if levels == 256 and x.dtype == np.uint8:
        return x
    shift, width = (0.5, levels) if cells else (0.0, levels - 1)
    return viz.to_uint8((x.astype(np.float64) + shift) / width, (0.0, 1.0))


def of_split(source: Any, split: str) -> Images:
    """The images of a split of a run's data; ValueError for data without grey levels."""
    if source.levels is None or len(source.shape) != 3 or source.shape[-1] not in (1, 3):
        raise ValueError(
            "features need images of 1 or 3 channels with grey levels, and the data are of shape "
            f"{source.shape} " + ("without levels" if source.levels is None else "")
        )
    examples = source.split(split)
    return Images(examples, len(examples), source.levels, source.config.dequantize)


def of_path(path: str, num: int | None = None, name: str = "--samples") -> Images:
    """The images of a folder or zip of image files, of .npy or .npz files, or a folder of such.

    Raises FileNotFoundError or ValueError for files that cannot be read, for other types than uint8,
    for images of different sizes, and for fewer than `num` images.
    """
    source = _open(pathlib.Path(path))
    found = describe(source)
    images = len(found.shape) == 3 and found.shape[-1] in (1, 3)
    if found.levels != 256 or not images:
        raise ValueError(
            f"{name} {path!r} must hold images (h, w, 1 or 3) of uint8, got {found.dtype} of shape "
            f"{found.shape}: round floats once, by score_jax.viz.to_uint8"
        )
    if num is not None and num > len(source):
        raise ValueError(f"--num must be at most the {len(source)} images of {path!r}, got {num}")
    return Images(source, len(source) if num is None else num)


def _open(path: pathlib.Path) -> Any:
    if path.is_dir():
        single = [path / f"samples.{ending}" for ending in ("zip", "npz")]
        path = next((p for p in single if p.is_file()), path)
    if path.suffix == ".zip":
        return data.read_zip(path, labels=data.no_labels)
    arrays = path.is_dir() and any(p.suffix in (".npy", ".npz") for p in path.iterdir())
    if path.is_dir() and not arrays:
        return data.read_folder(path, labels=data.no_labels)
    return data.read_arrays(path, as_is=True)


def record(path: str) -> dict[str, Any] | None:
    """The settings with which `experiments.sample` drew the samples at a path, or None."""
    found = folders.read_record(pathlib.Path(path))
    return None if found is None else found["settings"]
