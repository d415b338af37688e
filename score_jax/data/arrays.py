"""Data sets in memory: from arrays, from files of arrays, and two moons."""

import dataclasses
import functools
import operator
import os
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from score_jax._check import check, check_count
from score_jax.data.checks import cast, check_labels, check_layout, check_values, form_of
from score_jax.data.shards import read_arrays
from score_jax.data.sources import Description, Examples, describe, take
from score_jax.types import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A source in memory: x (n, *d), optional labels y (n,) int32, levels (None: continuous).

    x is uint8 or uint16 if `levels` is given (values below it) and float32 otherwise.
    """

    x: np.ndarray
    y: np.ndarray | None
    levels: int | None
    name: str
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        i = operator.index(index)
        return {"x": self.x[i]} | ({} if self.y is None else {"y": self.y[i]})

    def __getitems__(self, indices: Any) -> Examples:
        """The examples of these numbers (a sequence, an array or a slice), stacked."""
        rows = indices if isinstance(indices, slice) else np.asarray(indices)
        return {"x": self.x[rows]} | ({} if self.y is None else {"y": self.y[rows]})

    @functools.cached_property
    def description(self) -> Description:
        """What an example looks like; without names, the classes end at the largest label."""
        names = self.class_names
        classes = None if self.y is None else len(names or ()) or int(self.y.max()) + 1
        return Description(
            self.x.shape[1:], self.x.dtype.name, self.levels, classes, names,
            made={"name": self.name},
        )  # fmt: skip


def from_arrays(
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    levels: int | None = None,
    name: str = "array",
    class_names: Sequence[str] | None = None,
    as_is: bool = False,
    missing: bool = False,
) -> Dataset:
    """Make a `Dataset` of x (n, *d) and labels y (n,).

    Whole numbers have levels, by default all of uint8 (256) or uint16 (65,536); floating-point data are
    continuous. `as_is` accepts data that look wrong (grey levels as floats, channels first);
    `missing` allows NaN.

    Raises ValueError for other dtypes, empty data, data that are not finite once they are float32,
    values beyond `levels`, fewer than two axes, data that look wrong, and labels that are not integers
    in [0, 2^31), one for each example, each with a name if there are `class_names`.

    >>> from_arrays(np.zeros((10, 8, 8, 1), np.uint8), levels=17)
    """
    x = np.asarray(x)
    check_layout("x", x.shape, as_is=as_is)
    form = form_of("x", x.dtype, levels)
    check_values("x", x, levels, as_is=as_is)
    x = cast("x", x, form, missing=missing)
    names = None if class_names is None else tuple(class_names)
    if y is not None:
        y = check_labels("y", y, len(x))
        most = int(y.max())
        check(
            "class_names", names, names is None or most < len(names), f"at least {most + 1} names"
        )
    return Dataset(x, y, form.levels, name, None if y is None else names)


def load_array(
    path: str | os.PathLike[str],
    *,
    levels: int | None = None,
    as_is: bool = False,
    missing: bool = False,
) -> Dataset:
    """Load what `read_arrays` reads: a .npy or .npz file, or a folder of them: `Dataset`.

    Options and errors are those of `read_arrays`.
    """
    return in_memory(read_arrays(path, levels=levels, as_is=as_is, missing=missing))


def in_memory(source: Source) -> Dataset:
    """Read all examples of a source into a `Dataset`.

    >>> in_memory(read_records("data/mine"))
    """
    form = describe(source)
    batch = take(source, np.arange(len(source)))
    name = str(form.made.get("name", "source"))
    return from_arrays(
        batch["x"], batch.get("y"), levels=form.levels, name=name, class_names=form.class_names,
        as_is=True, missing=True,
    )  # fmt: skip


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
