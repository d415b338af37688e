"""A source of the centres of the images of another one."""

from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np

from score_jax._check import check
from score_jax.data.sources import Description, Examples, describe, take


@dataclass(frozen=True, eq=False)
class Cropped:
    """The examples of a source of images (H, W, c), each reduced to its centre of size (h, w).

    What has the size of the image is cut alike: the mask, and a field that the network is conditioned on.
    Raises ValueError unless the images are at least as large.

    >>> Cropped(read_folder("photos"), (64, 64))
    """

    source: Any
    size: tuple[int, int]

    def __post_init__(self) -> None:
        shape = describe(self.source).shape
        ok = len(shape) == 3 and self.size[0] <= shape[0] and self.size[1] <= shape[1]
        check("size", self.size, ok, f"at most that of images, which have the shape {shape}")

    @property
    def description(self) -> Description:
        """That of the source, with the smaller shape."""
        form = describe(self.source)
        return replace(form, shape=(*self.size, form.shape[-1]))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        return self._cut(dict(self.source[index]), 0)

    def __getitems__(self, indices: Any) -> Examples:
        """The examples of these numbers, stacked."""
        return self._cut(take(self.source, indices), 1)

    def _cut(self, examples: Examples, first: int) -> Examples:
        """Cut arrays whose height is the axis `first`."""
        size = np.shape(examples["x"])[first : first + 2]
        top, left = ((a - b) // 2 for a, b in zip(size, self.size, strict=True))
        within = (slice(None),) * first + (
            slice(top, top + self.size[0]),
            slice(left, left + self.size[1]),
        )
        whole = lambda v: np.ndim(v) == first + 3 and np.shape(v)[first : first + 2] == size
        return {k: v[within] if whole(v) else v for k, v in examples.items()}
