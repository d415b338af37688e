"""Data sets in memory: from arrays, from files of arrays, and two moons."""

import dataclasses
import os
import pathlib
import zipfile

import numpy as np
from numpy.typing import ArrayLike

from score_jax._check import check, check_count


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in memory: x (n, *d), optional labels y (n,) int32, grey levels (None: continuous).

    x is uint8 if `levels` is given (values below it) and float32 otherwise.
    """

    x: np.ndarray
    y: np.ndarray | None
    levels: int | None
    name: str


def from_arrays(
    x: ArrayLike, y: ArrayLike | None = None, *, levels: int | None = None, name: str = "array"
) -> Dataset:
    """Make a `Dataset` of x (n, *d) and labels y (n,).

    uint8 data have levels (256 by default); floating-point data are continuous.

    Raises ValueError for other dtypes, empty or non-finite data, values beyond `levels`, fewer than
    two axes, and labels that are not integers >= 0 or have another length.

    >>> from_arrays(np.zeros((10, 8, 8, 1), np.uint8), levels=17)
    """
    x = np.asarray(x)
    check("x", x.shape, x.ndim >= 2 and 0 not in x.shape, "of shape (n, *d) with no empty axis")
    if x.dtype == np.uint8:
        levels = 256 if levels is None else levels
        most = int(x.max())
        allowed = f"in [2, 256] and above every value of x, of which the largest is {most}"
        check("levels", levels, 2 <= levels <= 256 and most < levels, allowed)
    elif np.issubdtype(x.dtype, np.floating):
        check("levels", levels, levels is None, f"None for data of dtype {x.dtype} (not uint8)")
        if not np.isfinite(x).all():
            raise ValueError("x must be finite, got NaN or infinity")
        x = x.astype(np.float32)
    else:
        raise ValueError(f"x must be uint8 (levels) or floating (continuous), got {x.dtype}")
    if y is not None:
        y = np.asarray(y)
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise ValueError(
                f"y must be integers >= 0 of shape ({len(x)},), got {y.dtype} of shape {y.shape}"
            )
        y = y.astype(np.int32)
    return Dataset(x, y, levels, name)


def load_array(path: str | os.PathLike[str], *, levels: int | None = None) -> Dataset:
    """Read a .npy file, or a .npz file that holds "x" and optionally "y", or a single array.

    Pickled objects are never read. Raises ValueError naming the file for anything it cannot use and
    FileNotFoundError if it is missing.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: must be a .npy or .npz file")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"x": loaded}
        else:
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as an array file: {error}") from None
    if "x" not in arrays:
        if len(arrays) != 1:
            raise ValueError(f"{path}: must hold an array named 'x', found {sorted(arrays)}")
        arrays = {"x": next(iter(arrays.values()))}
    try:
        return from_arrays(arrays["x"], arrays.get("y"), levels=levels, name=path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def two_moons(n: int, *, seed: int = 0, noise: float = 0.07) -> Dataset:
    """Draw n points of scikit-learn's two moons, centred and scaled to unit size: (n, 2), labelled.

    Raises ValueError unless n >= 1 and noise >= 0.
    """
    from sklearn.datasets import make_moons

    check_count(n=n)
    check("noise", noise, noise >= 0, ">= 0")
    x, y = make_moons(n, noise=noise, random_state=seed)
    # Constants, not the mean and spread of this draw: every draw has the same distribution.
    return from_arrays((x - [0.5, 0.25]) / [0.87, 0.5], y, name="two_moons")
