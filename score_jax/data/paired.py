"""A source whose examples carry what a network is conditioned on: a vector, or a field."""

from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from score_jax._check import check
from score_jax.data.sources import Description, Examples, describe, take


@dataclass(frozen=True, eq=False)
class Paired:
    """The examples of a source, each with the x of the same number in another as its "cond".

    Raises ValueError unless both have as many examples.

    >>> forecasts = Paired(read_zarr("later.zarr"), read_zarr("earlier.zarr"))
    """

    source: Any
    conditions: Any

    def __post_init__(self) -> None:
        n, m = len(self.source), len(self.conditions)
        check("conditions", m, n == m, f"as many as the {n} examples of the source")

    @property
    def description(self) -> Description:
        """That of the source."""
        return describe(self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> Examples:
        return {**self.source[index], "cond": self.conditions[index]["x"]}

    def __getitems__(self, indices: Any) -> Examples:
        """The examples of these numbers, stacked."""
        index = np.asarray(indices)
        return {**take(self.source, index), "cond": take(self.conditions, index)["x"]}
