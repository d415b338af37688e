r"""Data: arrays and tensorflow-datasets without TensorFlow, batches that resume exactly, scaling.

Integer data with L levels are dequantised and scaled by

    (1)  x = low + (high - low) (k + u) / L,     k in {0, ..., L - 1}, u uniform on [0, 1)

so that a level is (high - low) / L wide and `quantize`, the floor of the inverse, undoes it exactly;
`score_jax.likelihood.bits_per_dim` is the change of variables of (1).
"""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

Interval = tuple[float, float]


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
    x: Any, y: Any = None, *, levels: int | None = None, name: str = "array"
) -> Dataset:
    """Make a `Dataset` of arrays; uint8 means levels (256 unless said), floats mean continuous.

    Raises ValueError for other dtypes, empty or non-finite data, values beyond `levels`, fewer than two
    axes, and labels that are no integers >= 0 or of another length.

    >>> from_arrays(np.zeros((10, 8, 8, 1), np.uint8), levels=17)
    """
    x = np.asarray(x)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"x must be (n, *d) with no empty axis, got shape {x.shape}")
    if x.dtype == np.uint8:
        levels = 256 if levels is None else levels
        if not 2 <= levels <= 256 or int(x.max()) >= levels:
            raise ValueError(
                f"levels must be in [2, 256] and above every value of x, got levels={levels} and a "
                f"largest value of {int(x.max())}"
            )
    elif np.issubdtype(x.dtype, np.floating):
        if levels is not None:
            raise ValueError(f"levels={levels} needs uint8 data, got {x.dtype}")
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
    """Read a .npy file, or a .npz file with "x" and perhaps "y" (or a single array).

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

    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not noise >= 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    x, y = make_moons(n, noise=noise, random_state=seed)
    # The moons' own mean and spread, not the draw's: every draw has the same distribution.
    return from_arrays((x - [0.5, 0.25]) / [0.87, 0.5], y, name="two_moons")


def load_digits(split: str = "train", *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load scikit-learn's 8 x 8 digits through tensorflow-datasets: 1,500 train or 297 test.

    Values 0 to 16 (17 levels) and labels 0 to 9. Prepared once in `data_dir`, by default
    $SCORE_JAX_DATA or ~/.cache/score_jax/tfds.
    """
    from score_jax import _digits

    x, y = _digits.read(split, default_data_dir() if data_dir is None else pathlib.Path(data_dir))
    return from_arrays(x, y, levels=17, name="digits")


def default_data_dir() -> pathlib.Path:
    """Folder of prepared data sets: $SCORE_JAX_DATA or ~/.cache/score_jax/tfds."""
    given = os.environ.get("SCORE_JAX_DATA")
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache" / "score_jax" / "tfds"


def load_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str],
    image_key: str = "image",
    label_key: str | None = "label",
) -> Dataset:
    """Read a split of any data set that tensorflow-datasets has prepared as array_record.

    No TensorFlow is needed to read it. Raises ValueError naming the data set if it is not there or has
    no such feature.
    """
    from score_jax import _digits

    x, y = _digits.read_prepared(name, split, pathlib.Path(data_dir), image_key, label_key)
    return from_arrays(x, y, name=name)


class _BatchSource:
    """Grain source whose item i is the whole batch i of an endless run of shuffled epochs."""

    def __init__(self, data: Dataset, size: int, seed: int, index: int, count: int):
        self._data, self._size, self._seed = data, size, seed
        self._index, self._count = index, count
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, i: Any) -> dict[str, np.ndarray]:
        n = len(self._data.x)
        place = int(i) * self._size + np.arange(self._size)
        epoch, within = place // n, place % n
        rows = np.empty(self._size, np.int64)
        for e in np.unique(epoch):
            rows[epoch == e] = self._order(int(e))[within[epoch == e]]
        share = self._size // self._count
        rows = rows[self._index * share : (self._index + 1) * share]
        batch = {"x": self._data.x[rows]}
        return batch if self._data.y is None else batch | {"y": self._data.y[rows]}

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            rng = np.random.default_rng((self._seed, epoch))
            self._orders[epoch] = rng.permutation(len(self._data.x))
        return self._orders[epoch]


def batches(
    data: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Any:
    """Endless shuffled batches {"x": (b, *d), "y": (b,)} as a Grain iterator with exact state.

    Every epoch is a new permutation, no example is dropped: batches run on over the epochs' ends. The
    whole batch is shuffled first and then cut into `process_count` equal parts, so that the data, and
    their places in the batch, do not depend on the number of hosts. `get_state()` and `set_state()`
    resume exactly.

    Raises ValueError unless 1 <= batch_size, divisible by process_count.

    >>> batch = next(batches(load_digits(), 128, seed=0))
    """
    import grain

    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size must be at least 1 and divisible by {process_count} processes, "
            f"got {batch_size}"
        )
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    source = _BatchSource(data, batch_size, seed, process_index, process_count)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def eval_batches(data: Dataset, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """All examples in order, once; the last batch may be shorter."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for i in range(0, len(data.x), batch_size):
        batch = {"x": data.x[i : i + batch_size]}
        yield batch if data.y is None else batch | {"y": data.y[i : i + batch_size]}


def _check_levels(levels: int, range: Interval) -> None:
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    if not range[0] < range[1]:
        raise ValueError(f"range must be (low, high) with low < high, got {range}")


def scale(x: Array, range: Interval = (-1.0, 1.0)) -> Float[Array, "..."]:
    """Take [0, 1] to the range; `unscale` is its inverse. Raises ValueError for integers."""
    if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating):
        raise ValueError(f"x must be floating, got {jnp.asarray(x).dtype}: use dequantize")
    return range[0] + (range[1] - range[0]) * x


def unscale(x: Float[Array, "..."], range: Interval = (-1.0, 1.0)) -> Float[Array, "..."]:
    """Take the range to [0, 1]."""
    return (x - range[0]) / (range[1] - range[0])


def dequantize(
    key: Key[Array, ""],
    x: Array | np.ndarray,
    *,
    levels: int = 256,
    range: Interval = (-1.0, 1.0),
) -> Float[Array, "..."]:
    """Eq. (1) of this module: integers in [0, levels) to uniform draws of their cells in the range.

    Raises ValueError for floating-point x.
    """
    _check_levels(levels, range)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"x must be integers in [0, {levels}), got {x.dtype}")
    k = x.astype(jnp.zeros(0).dtype)
    # Below 1 by more than rounding of k + u: quantize must find k again.
    u = jax.random.uniform(key, x.shape, k.dtype, maxval=1 - 1e-4)
    return scale((k + u) / levels, range)


def quantize(
    x: Array, *, levels: int = 256, range: Interval = (-1.0, 1.0)
) -> Integer[Array, "..."]:
    """Undo `dequantize` exactly: the integer in [0, levels) whose cell holds x, clipped, uint8.

    Raises ValueError for integers.
    """
    _check_levels(levels, range)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must be floating, got {x.dtype}")
    k = jnp.floor(unscale(x, range) * levels + 5e-5)
    return jnp.clip(k, 0, levels - 1).astype(jnp.uint8)


def random_flip(key: Key[Array, ""], x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Mirror each image from left to right with probability one half."""
    flip = jax.random.bernoulli(key, shape=(x.shape[0],))
    return jnp.where(flip[:, None, None, None], x[:, :, ::-1], x)
